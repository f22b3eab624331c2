"""Early stopping, the best model, stages and their state in the checkpoint: a run cut anywhere goes on to the same bytes."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[1]))
from shards_fixture import write_shards

from curate.foundation.console import Console
from curate.foundation.errors import DataError, Interrupted, UsageError
from curate.foundation.store import Store
from train import checkpoint, loop
from train.config import EarlyStopping, TinySettings, TrainConfig
from train.data import Shards
from train.plan import make_plan
from train.running import train
from train.schedules import make_scheduler
from train.watching import judge

QUIET = Console(quiet=True)
SMALL = TinySettings(layers=1, hidden=16, heads=2)
BASE = TrainConfig(tiny=SMALL, batch=4, micro_batch=2, smoke_tokens=4, keep=2)
# At this rate the held-out loss goes up and down: there is something to stop, and a best step before it.
HOT = BASE.model_copy(update={"lr": 0.3, "max_steps": 20, "eval_steps": 2, "save_steps": 50, "schedule": "constant"})
EARLY = HOT.model_copy(update={"early_stopping": EarlyStopping(patience=2, min_delta=0.05), "best": True})


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("resume") / "shards")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, shards):
    """A run that stopped early, undisturbed."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    return run, train(EARLY, shards, run, QUIET, batch_chosen=True)


def lines(run):
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "rates"} for line in found]


def cut(monkeypatch, step):
    """Let a run be asked to stop within a step, as by Ctrl-C."""
    real = loop.Trainer._step

    def asked(self, stopping):
        stopping.asked = stopping.asked or self.progress.step == step
        return real(self, stopping)

    monkeypatch.setattr(loop.Trainer, "_step", asked)


def test_a_run_that_gets_worse_stops_early_and_final_is_the_best_model(stopped):
    run, manifest = stopped
    losses = {line["step"]: line["eval_loss"] for line in lines(run) if "eval_loss" in line and line["step"]}
    best = min(losses, key=losses.get)
    progress = manifest["progress"]
    assert progress["stopped"] and progress["step"] < 20 and progress["best_step"] == best < progress["step"]
    assert manifest["results"]["best_step"] == best and progress["best_loss"] == losses[best]
    assert manifest["results"]["eval_loss_last"] == losses[best], "the card speaks of the model in final/"
    kept = [int(path.name[5:]) for path in checkpoint.saved(run)]
    assert best in kept and len(kept) <= 3
    best_one = checkpoint.best(run, checkpoint.Progress(**progress))
    final, saved = (load_file(path / "model.safetensors") for path in (run / "final", best_one))
    assert all((saved[name] == value).all() for name, value in final.items())


def test_early_stopping_is_that_of_transformers():
    """Against its own callback, on a made series of held-out losses."""
    from transformers import EarlyStoppingCallback, TrainerControl, TrainerState, TrainingArguments

    series = [3.0, 2.5, 2.4995, 2.6, 2.3, 2.2995, 2.299, 2.31, 2.0, 2.1, 2.1, 2.1]
    config = TrainConfig(early_stopping=EarlyStopping(patience=3, min_delta=0.001), lora=None)
    ours = checkpoint.Progress()
    theirs, control, state = EarlyStoppingCallback(3, 0.001), TrainerControl(), TrainerState()
    arguments = TrainingArguments(
        metric_for_best_model="loss", greater_is_better=False, use_cpu=True, eval_strategy="steps", eval_steps=1,
        load_best_model_at_end=False, output_dir="unused",
    )  # fmt: skip
    for step, loss in enumerate(series, 1):
        ours.step = step
        judge(ours, loss, config)
        theirs.on_evaluate(arguments, state, control, {"eval_loss": loss})
        if state.best_metric is None or loss < state.best_metric:
            state.best_metric = loss
        assert (ours.worse, ours.stopped) == (theirs.early_stopping_patience_counter, control.should_training_stop), (
            step
        )
        if ours.stopped:
            break
    assert ours.stopped


@pytest.mark.parametrize("step", [9, 10, 13])
def test_a_run_cut_before_it_stops_early_goes_on_to_the_same_bytes(step, tmp_path, shards, stopped, monkeypatch):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        cut(patch, step)
        with pytest.raises(Interrupted, match=f"step {step} of 20"):
            train(EARLY, shards, run, QUIET, batch_chosen=True)
    train(EARLY, shards, run, QUIET, batch_chosen=True)
    assert (run / "final" / "model.safetensors").read_bytes() == (
        stopped[0] / "final" / "model.safetensors"
    ).read_bytes()
    assert lines(run) == lines(stopped[0])


def test_a_stop_within_an_evaluation_takes_it_again_on_resume(tmp_path, shards, stopped, monkeypatch):
    run, real = tmp_path / "run", loop.Trainer._eval_sums

    def asked(self, split, numbers, stopping):
        stopping.asked = self.progress.step == 4
        return real(self, split, numbers, stopping)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "_eval_sums", asked)
        with pytest.raises(Interrupted, match="step 4 of 20"):
            train(EARLY, shards, run, QUIET, batch_chosen=True)
    train(EARLY, shards, run, QUIET, batch_chosen=True)
    assert lines(run) == lines(stopped[0])


def test_a_run_killed_after_it_stopped_early_does_not_train_on(tmp_path, shards, stopped):
    run = tmp_path / "run"
    shutil.copytree(stopped[0], run)
    (run / "manifest.json").unlink()
    shutil.rmtree(run / "final")
    train(EARLY, shards, run, QUIET, batch_chosen=True)
    assert lines(run) == lines(stopped[0])
    assert (run / "final" / "model.safetensors").read_bytes() == (
        stopped[0] / "final" / "model.safetensors"
    ).read_bytes()


def test_a_best_checkpoint_that_is_gone_is_an_error_and_no_other_model_is_passed_off(tmp_path, shards, stopped):
    run = tmp_path / "run"
    shutil.copytree(stopped[0], run)
    (run / "manifest.json").unlink()
    shutil.rmtree(checkpoint.best(run, checkpoint.Progress(**stopped[1]["progress"])))
    with pytest.raises(DataError, match="gone or damaged"):
        train(EARLY, shards, run, QUIET, batch_chosen=True)


def test_what_the_held_out_loss_decides_needs_an_eval_split_and_fixed_evaluations(tmp_path, shards):
    none = write_shards(tmp_path / "none", held=0)
    with pytest.raises(UsageError, match="no eval split"):
        train(EARLY, none, tmp_path / "run", QUIET, batch_chosen=True)
    assert "eval_steps" in EARLY.trajectory() and "eval_steps" not in HOT.trajectory()


def write_stages(root):
    """Two stages of other lengths, and an eval split, in one folder."""
    first, second = write_shards(root / "a", ctx=32, train=120, held=0), write_shards(root / "b", ctx=64, seed=3)
    store = Store(second, "shards")
    facts = {key: value for key, value in store.manifest().items() if key not in ("files", "digest", "kind", "format")}
    (second / "stages").mkdir()
    rows = {}
    for name, folder, split in (("short", first, "stages/0-short"), ("long", second, "stages/1-long")):
        (second / split).mkdir()
        shutil.copy(folder / "train" / "part-00000.arrow", second / split / "part-00000.arrow")
        rows[name] = Store(folder, "shards").manifest()["splits"]["train"]["rows"]
        facts["splits"][split] = {
            "rows": rows[name],
            "parts": [f"{split}/part-00000.arrow"],
            "ctx": 32 if name == "short" else 64,
        }
    shutil.rmtree(second / "train")
    del facts["splits"]["train"]
    places = {"short": "stages/0-short", "long": "stages/1-long"}
    facts["stages"] = [
        {"name": name, "split": places[name], "ctx": 32 if name == "short" else 64, "rows": rows[name]} for name in rows
    ]
    store.commit(facts, [name for name in store.names() if name != "manifest.json"])
    return second, rows


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    return write_stages(tmp_path_factory.mktemp("stages"))


STAGED = BASE.model_copy(update={"batch": 8, "eval_steps": 100, "save_steps": 100, "schedule": "warmup_stable_decay"})


def test_stages_run_in_order_under_one_schedule_and_one_optimizer(tmp_path, stages):
    root, rows = stages
    run = tmp_path / "run"
    manifest = train(STAGED, root, run, QUIET, batch_chosen=True)
    steps = [line for line in lines(run) if "loss" in line]
    count = {name: -(-number // 8) for name, number in rows.items()}
    assert [line["stage"] for line in steps] == ["short"] * count["short"] + ["long"] * count["long"]
    assert manifest["progress"]["samples"] == sum(rows.values()), "every row of every stage once"
    total = sum(count.values())
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=STAGED.learning_rate)
    scheduler = make_scheduler(STAGED, optimizer, total)
    for line in steps:
        assert line["lr"] == scheduler.get_last_lr()[0]
        optimizer.step()
        scheduler.step()
    state = load_file(checkpoint.saved(run)[-1] / "state.safetensors")
    assert {int(value) for name, value in state.items() if name.startswith("step/")} == {total}


@pytest.mark.parametrize("past", [0, 1, -1])
def test_a_run_cut_at_the_boundary_of_stages_goes_on_to_the_same_bytes(past, tmp_path, stages, monkeypatch):
    root, rows = stages
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(STAGED, root, whole, QUIET, batch_chosen=True)
    with monkeypatch.context() as patch:
        cut(patch, -(-rows["short"] // 8) + past)
        with pytest.raises(Interrupted):
            train(STAGED, root, run, QUIET, batch_chosen=True)
    train(STAGED, root, run, QUIET, batch_chosen=True)
    assert (run / "final" / "model.safetensors").read_bytes() == (whole / "final" / "model.safetensors").read_bytes()
    assert lines(run) == lines(whole)


def test_steps_in_all_are_shared_among_stages_as_their_rows_are(stages):
    root, rows = stages
    plan = make_plan(TrainConfig(max_steps=9, batch=2), Shards(root), chosen=True)
    share = 9 * rows["short"] // sum(rows.values())
    assert [one.steps for one in plan.stretches] == [share, 9 - share] and plan.stretches[1].first == share
    assert [one.ctx for one in plan.stretches] == [32, 64]
    assert plan.all_tokens == sum(one.samples * one.ctx for one in plan.stretches)
