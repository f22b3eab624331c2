"""Two evaluations are compared pair by pair: known intervals, exact tests, refusals, examples that are safe to print."""

import itertools
import json
import math

import pytest

from curate.foundation.errors import DataError, UsageError
from train.comparing import Paired, compare, paired, shown


def test_the_interval_is_newcombes_method_10():
    """The worked example 36, 12, 2, 0 of Newcombe (1998), table II."""
    found = Paired(36, 2, 12, 0)
    low, high = found.interval
    assert found.difference == pytest.approx(0.2) and (round(low, 4), round(high, 4)) == (0.0569, 0.3404)


def test_the_p_value_is_scipys_binomial():
    stats = pytest.importorskip("scipy.stats")
    for first, second in itertools.product(range(12), repeat=2):
        expected = stats.binomtest(min(first, second), first + second, 0.5).pvalue if first + second else 1.0
        assert Paired(3, first, second, 4).p_value == pytest.approx(expected)


def test_the_interval_holds_the_truth_about_95_times_in_100():
    """Exact coverage over every outcome of 12 pairs, for a few true shares."""
    outcomes = [o for o in itertools.product(range(13), repeat=4) if sum(o) == 12]
    for shares in ((0.4, 0.1, 0.3, 0.2), (0.1, 0.05, 0.25, 0.6), (0.25, 0.25, 0.25, 0.25)):
        truth, covered = shares[2] - shares[1], 0.0
        for outcome in outcomes:
            low, high = Paired(*outcome).interval
            if low <= truth <= high:
                ways = math.factorial(12) / math.prod(map(math.factorial, outcome))
                covered += ways * math.prod(p**n for p, n in zip(shares, outcome, strict=True))
        assert 0.92 < covered < 0.995


def test_it_is_antisymmetric_and_agrees_with_a_bootstrap():
    import numpy as np

    found, turned = Paired(50, 10, 25, 15), Paired(50, 25, 10, 15)
    assert found.interval == pytest.approx([-turned.interval[1], -turned.interval[0]])
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(100, [0.5, 0.1, 0.25, 0.15], size=20_000)
    low, high = np.quantile((drawn[:, 2] - drawn[:, 1]) / 100, [0.025, 0.975])
    assert found.interval == pytest.approx([low, high], abs=0.015)


def rows(*flags, **more):
    return {str(n): {"item": str(n), "correct": flag, "prompt": "p", **more} for n, flag in enumerate(flags)}


def test_other_items_or_unjudged_ones_are_refused():
    assert paired(rows(True, False), rows(False, False)) == Paired(0, 1, 0, 1)
    with pytest.raises(DataError, match="1 only the second"):
        paired(rows(True), rows(True, True))
    with pytest.raises(DataError, match="not judged"):
        paired(rows(None), rows(None))
    with pytest.raises(DataError, match="same items"):
        paired({}, {})


def write(path, found):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in found.values()))
    return path


def test_folders_are_compared_by_what_they_share_and_examples_are_safe(tmp_path):
    nasty = "mail me: someone@example.com \x1b[2J \u202e and a very long tail " + "x" * 400
    a, b = rows(True, False, False), rows(True, True, False, extracted="3")
    for found in (a, b):
        for row in found.values():
            row |= {"prompt": nasty, "reference": "3", "outcome": "correct"}
    write(tmp_path / "a" / "evaluations" / "sums.responses.jsonl", a)
    write(tmp_path / "b" / "evaluations" / "sums.responses.jsonl", b)
    facts, text = compare(tmp_path / "a", tmp_path / "b")
    assert facts["sums"]["second"] == 1 and facts["sums"]["wins"] == ["1"] and facts["sums"]["losses"] == []
    assert "+33.3 points" in text and "[e-mail]" in text and "\x1b" not in text and "\u202e" not in text
    assert max(map(len, text.splitlines())) < 400 and len(shown("y" * 999)) == 160
    assert compare(tmp_path / "a", tmp_path / "b") == (facts, text)
    with pytest.raises(UsageError, match="share no evaluation called other"):
        compare(tmp_path / "a", tmp_path / "b", "other")
    with pytest.raises(UsageError, match="no responses"):
        compare(tmp_path / "a", tmp_path / "none")


def test_broken_responses_name_their_line(tmp_path):
    good = write(tmp_path / "a.jsonl", rows(True))
    (tmp_path / "b.jsonl").write_text('{"item": "0", "correct": true}\n{"item"\n')
    with pytest.raises(DataError, match="line 2: not a response"):
        compare(good, tmp_path / "b.jsonl")
    (tmp_path / "b.jsonl").write_text('{"item": "0", "correct": true}\n{"item": "0"}\n')
    with pytest.raises(DataError, match="answered before"):
        compare(good, tmp_path / "b.jsonl")
