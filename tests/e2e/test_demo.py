"""`gristmill demo --quick`: the whole river, in one process, with an honest table; a rerun redoes nothing."""

import json
import os
import subprocess
import sys

import pytest


def demo(folder, *more):
    command = [sys.executable, "-P", "-m", "train.suite", "demo", str(folder), "--quick", "--json", "--quiet", *more]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=env, check=False)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("river") / "demo"
    done = demo(folder)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def test_the_table_says_what_was_planted_and_what_was_found(ran):
    folder, facts = ran
    truth = json.loads((folder / "raw-truth" / "truth.json").read_bytes())
    kinds = facts["planted"]["kinds"]
    assert {name: kind["planted"] for name, kind in kinds.items()} == truth["counts"]
    for name in ("broken_json", "mojibake", "unfinished", "exact_duplicate", "over_long"):
        assert kinds[name]["found"] == kinds[name]["planted"], name
    assert facts["planted"]["not_planted"] == 0


def test_stages_that_do_not_run_are_not_said_to_find_nothing(ran):
    folder, facts = ran
    ran_stages = {stage["name"] for stage in json.loads((folder / "out" / "manifest.json").read_bytes())["stages"]}
    for kind in facts["planted"]["kinds"].values():
        if kind["stage"] not in ("quarantine", "pack"):
            assert (kind["found"] is None) == (kind["stage"] not in ran_stages)


def test_it_scores_both_held_out_sets_before_and_after_beside_the_majority_answer(ran):
    _, facts = ran
    assert facts["problems"] == []
    assert set(facts["exact_match"]) == {"pairs", "templates"}
    for row in facts["exact_match"].values():
        assert row["items"] > 0
        assert 0 <= row["majority"] < 0.2
        assert {"before", "after", "worst"} <= set(row)


def test_every_folder_has_its_card_and_the_model_serves(ran):
    folder, _ = ran
    for name in ("out", "shards", "runs/seed-0"):
        assert (folder / name / "README.md").is_file()
    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(folder / "runs" / "seed-0" / "final").config.vocab_size == 2_048


def test_a_rerun_gives_the_same_answer_without_training_again(ran):
    folder, facts = ran
    metrics = folder / "runs" / "seed-0" / "metrics.jsonl"
    stamp = metrics.stat().st_mtime_ns
    again = demo(folder)
    assert json.loads(again.stdout) == facts
    assert metrics.stat().st_mtime_ns == stamp


def test_a_seed_under_the_floor_is_named_and_one_on_it_is_not():
    from train.demo import below

    assert below({"exact_match": {"pairs": {"worst": 0.6}}}) == []
    (line,) = below({"exact_match": {"pairs": {"worst": 0.595}}})
    assert "59.5%" in line
    assert "60%" in line


def test_a_folder_with_a_demo_of_another_size_is_refused(ran):
    folder, _ = ran
    command = [sys.executable, "-P", "-m", "train.suite", "demo", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["thesis.txt", "notes"])
def test_a_folder_that_holds_something_else_is_refused_and_left_alone(tmp_path, name):
    from curate.foundation.console import Console
    from curate.foundation.errors import UsageError
    from train.demo import demo as run_demo

    (tmp_path / name).mkdir()
    with pytest.raises(UsageError, match=name):
        run_demo(tmp_path, 1, Console(quiet=True), quick=True)
    assert [path.name for path in tmp_path.iterdir()] == [name]
