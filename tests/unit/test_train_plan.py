"""The plan of a run is counted from the shards."""

import math
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from shards_fixture import write_shards

from curate.foundation.errors import UsageError
from train.config import TrainConfig
from train.data import Shards
from train.plan import make_plan


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return Shards(write_shards(tmp_path_factory.mktemp("plan") / "shards", train=2000, held=0))


def test_an_unchosen_batch_leaves_fifty_steps_and_says_so(shards):
    plan = make_plan(TrainConfig(), shards, chosen=False)
    assert plan.steps >= 50 and "not 256" in plan.notes[0]


def test_a_chosen_batch_is_kept_and_few_steps_are_warned_of(shards):
    plan = make_plan(TrainConfig(batch=100), shards, chosen=True)
    assert plan.rows == 100 and plan.steps == math.ceil(len(shards.train) / 100)
    assert any(note.startswith("warning") for note in plan.notes)


def test_a_batch_in_examples_is_converted_by_the_shards_own_counts(shards):
    plan = make_plan(TrainConfig(batch=64, batch_unit="examples"), shards, chosen=True)
    assert plan.rows == round(64 * len(shards.train) / shards.train.examples)
    trained = make_plan(TrainConfig(batch=500, batch_unit="trained-tokens"), shards, chosen=True)
    assert abs(trained.trained_tokens - 500) <= shards.train.trained / len(shards.train) / 2


def test_a_batch_smaller_than_one_row_names_the_least(shards):
    with pytest.raises(UsageError, match="already holds") as error:
        make_plan(TrainConfig(batch=1, batch_unit="trained-tokens"), shards, chosen=True)
    assert "--batch" in error.value.hint


def test_epochs_end_with_a_smaller_step_and_steps_with_whole_ones(shards):
    by_epoch = make_plan(TrainConfig(batch=7, epochs=1.5), shards, chosen=True)
    assert by_epoch.samples == math.ceil(1.5 * len(shards.train))
    assert make_plan(TrainConfig(batch=7, max_steps=9), shards, chosen=True).samples == 63
