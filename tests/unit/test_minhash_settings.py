"""Bands and rows that follow from a wanted recall."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from curate.foundation.errors import UsageError
from curate.stages.minhash_settings import PERMUTATIONS, MinhashSettings, chance, choose, curve


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 1.0])
@pytest.mark.parametrize("recall", [0.9, 0.99, 0.999])
def test_the_chosen_shape_reaches_the_recall_within_the_permutations(threshold, recall):
    bands, rows, shown = choose(threshold, recall)
    assert chance(threshold, bands, rows) >= recall
    assert bands * rows <= PERMUTATIONS
    assert shown == curve(bands, rows)
    assert bands == 1 or chance(threshold, bands - 1, rows) < recall


def test_no_shape_with_more_rows_would_fit():
    bands, rows, _ = choose(0.8, 0.999)
    assert (bands, rows) == (30, 7)
    needed = next(n for n in range(1, 1000) if chance(0.8, n, rows + 1) >= 0.999)
    assert needed * (rows + 1) > PERMUTATIONS


def test_a_recall_out_of_reach_is_an_error_with_a_hint():
    with pytest.raises(UsageError) as caught:
        choose(0.01, 0.999)
    assert "--recall" in caught.value.hint


def test_the_curve_rises_to_one_and_the_default_is_sure_at_its_threshold():
    shown = curve(40, 6)
    assert [value for _, value in shown] == sorted(value for _, value in shown)
    assert shown[-1] == (1.0, 1.0)
    assert dict(shown)[0.8] > 0.99999


def test_recall_overrides_bands_and_rows():
    assert MinhashSettings().shape == (40, 6)
    assert MinhashSettings(recall=0.999).shape == (30, 7)


@pytest.mark.parametrize("bad", [{"threshold": 0}, {"threshold": 1.1}, {"key": "title"}, {"band": 3}, {"recall": 1.0}])
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(ValidationError):
        MinhashSettings(**bad)
