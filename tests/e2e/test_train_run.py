"""`train run` from packed shards to a folder that serves: killed, resumed, shared among processes, refused."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[1]))
from shards_fixture import write_shards

from curate.foundation.console import Console
from curate.foundation.errors import DataError, LockHeld, MachineError, UsageError
from curate.foundation.store import Store
from pack.following import places
from pack.shards import ShardManifest
from train import checkpoint
from train.config import TinySettings, TrainConfig
from train.running import train
from train.stopping import Stopping

SMALL = TinySettings(layers=1, hidden=16, heads=2)
CONFIG = TrainConfig(
    tiny=SMALL, max_steps=12, batch=4, micro_batch=2, save_steps=3, eval_steps=6, keep=9, smoke_tokens=4
)
FLAGS = ["--max-steps", "12", "--batch", "4", "--micro-batch", "2", "--save-steps", "3", "--eval-steps", "6"]
SIZE = ["tiny.layers=1", "tiny.hidden=16", "tiny.heads=2", "keep=9", "smoke_tokens=4"]
BEFORE_AFTER = [("before", 0.0), ("after", 0.5)]
ENV = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("e2e") / "shards")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, shards):
    """A run of 12 steps that nothing disturbed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    train(CONFIG, shards, run, Console(quiet=True), batch_chosen=True)
    return run


def command(shards, run, *more):
    sets = [word for value in SIZE for word in ("--set", value)]
    return [sys.executable, "-P", "-m", "train", "run", str(shards), str(run), *FLAGS, *sets, "--json", *more]


def weights(run):
    return (run / "final" / "model.safetensors").read_bytes()


def lines(run):
    """metrics.jsonl without what the clock says."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "rates"} for line in found]


def until(condition, process, seconds=60):
    """Wait for something a process does, watching the process itself."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        try:
            process.wait(0.01)
        except subprocess.TimeoutExpired:
            pass


def test_a_killed_run_resumes_to_the_same_bytes(tmp_path, shards, whole, capsys):
    run = tmp_path / "run"
    process = subprocess.Popen(command(shards, run), env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(lambda: checkpoint.saved(run), process)
    process.kill()
    process.communicate()
    reached = int(checkpoint.saved(run)[-1].name[5:])
    if reached == 12:  # it was faster than the kill: take away what came after step 6
        (run / "manifest.json").unlink(missing_ok=True)
        for path in checkpoint.saved(run)[2:]:
            shutil.rmtree(path)
    train(CONFIG, shards, run, Console(), batch_chosen=True)
    assert "going on from step-" in capsys.readouterr().err
    assert weights(run) == weights(whole)
    assert lines(run) == lines(whole)


def test_an_interrupt_saves_a_checkpoint_and_exits_130(tmp_path, shards, monkeypatch, capsys):
    from curate.foundation.console import run as run_app
    from train.cli import app

    run, done = tmp_path / "run", threading.Event()

    def interrupt():
        while not done.wait(0.01):
            if (run / "metrics.jsonl").is_file() and len(lines(run)) > 3:
                os.kill(os.getpid(), signal.SIGINT)
                return

    long = command(shards, run, "--max-steps", "5000", "--save-steps", "5000", "--eval-steps", "2")
    monkeypatch.setattr(sys, "argv", ["train", *long[4:]])
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(SystemExit) as stopped:
            run_app(app)
    finally:
        done.set()
        thread.join()
        signal.signal(signal.SIGTERM, before)
    assert stopped.value.code == 130 and "a checkpoint is saved" in capsys.readouterr().err
    assert len(checkpoint.saved(run)) == 1 and not (run / ".lock").exists()


def test_sigterm_is_a_wish_too_and_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with Stopping() as stopping:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopping.asked
    assert signal.getsignal(signal.SIGTERM) is before


def test_final_serves_as_it_is(whole, shards):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(whole / "final")
    tokenizer = AutoTokenizer.from_pretrained(whole / "final")
    assert model.generation_config.eos_token_id == [3] and model.generation_config.pad_token_id == 0
    assert tokenizer.chat_template and tokenizer.convert_ids_to_tokens(3) == "<|end|>"
    manifest = Store(whole, "run").manifest()
    assert manifest["smoke"]["loads"] and manifest["selfcheck"]["passed"]
    assert Store(whole, "run").verify() == [] and (whole / "README.md").is_file()
    assert {"final/model.safetensors", "final/generation_config.json", "metrics.jsonl"} <= set(manifest["files"])


def test_every_row_of_an_epoch_counts_once(tmp_path, shards, whole):
    manifest = Store(shards, "shards").manifest()
    run = tmp_path / "run"
    config = CONFIG.model_copy(update={"max_steps": None, "epochs": 1.0, "batch": 7})
    found = train(config, shards, run, Console(quiet=True), batch_chosen=True)
    assert found["progress"]["samples"] == manifest["splits"]["train"]["rows"]
    from train.data import Shards

    assert found["progress"]["trained_tokens"] == Shards(shards).train.trained
    first = lines(run)[0]["eval_loss"]
    assert first == lines(whole)[0]["eval_loss"], "the eval loss of the same start does not depend on the batch"


@pytest.fixture(scope="module")
def pair(tmp_path_factory, shards):
    """The same run by two gloo processes, and what it printed."""
    run = tmp_path_factory.mktemp("pair") / "run"
    done = subprocess.run(command(shards, run, "--num-processes", "2"), env=ENV, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return run, done


@pytest.mark.parametrize("to_all", [True, False], ids=["from a terminal", "to the command alone"])
def test_ctrl_c_stops_two_processes_in_order(tmp_path, shards, pair, to_all):
    run, words = tmp_path / "run", ["--num-processes", "2"]
    process = subprocess.Popen(
        command(shards, run, *words), env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    until(lambda: checkpoint.saved(run), process, 300)
    (os.killpg if to_all else os.kill)(process.pid, signal.SIGINT)
    said = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in said[1] and "hint: run the same command" in said[1], said
    assert not (run / "manifest.json").exists() and not (run / ".lock").exists()
    done = subprocess.run(command(shards, run, *words), env=ENV, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert weights(run) == weights(pair[0])


def test_two_processes_killed_on_the_way_go_on_to_the_same_bytes(tmp_path, shards, pair):
    run, words = tmp_path / "run", ["--num-processes", "2"]
    process = subprocess.Popen(command(shards, run, *words), env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(lambda: checkpoint.saved(run), process, 300)
    process.kill()
    process.communicate()
    (run / "manifest.json").unlink(missing_ok=True)
    for path in checkpoint.saved(run)[2:]:  # it was faster than the kill
        shutil.rmtree(path)
    done = subprocess.run(command(shards, run, *words), env=ENV, capture_output=True, text=True)
    assert done.returncode == 0 and "going on from step-" in done.stderr
    assert weights(run) == weights(pair[0]) and lines(run) == lines(pair[0])


def test_two_processes_take_the_steps_of_one(whole, pair):
    """Gradients and losses of 2 x 2 rows equal 1 x 4, with unequal trained-token counts."""
    run, done = pair
    assert json.loads(done.stdout)["world"] == 2
    for ours, theirs in zip(lines(run), lines(whole), strict=True):
        key = "loss" if "loss" in ours else "eval_loss"
        assert ours[key] == pytest.approx(theirs[key], rel=1e-4)
    shared, alone = (load_file(folder / "checkpoints/step-00000003/state.safetensors") for folder in (run, whole))
    assert set(shared) == set(alone) and any(name.startswith("exp_avg/") for name in alone)
    for name, value in alone.items():
        if name.startswith("exp_avg/"):  # Adam's mean of the first three steps' gradients
            assert (shared[name] - value).norm() <= 1e-5 * value.norm(), name


def test_two_processes_that_share_the_parameters_take_the_same_steps(tmp_path, shards, whole):
    """FSDP2 over gloo, which torch runs on CPU: sharded parameters and moments, gathered for checkpoints and final/."""
    run = tmp_path / "run"
    words = ["--num-processes", "2", "--set", "fsdp=true"]
    done = subprocess.run(command(shards, run, *words), env=ENV, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for ours, theirs in zip(lines(run), lines(whole), strict=True):
        key = "loss" if "loss" in ours else "eval_loss"
        assert ours[key] == pytest.approx(theirs[key], rel=1e-4)
    shared, alone = (load_file(path / "final/model.safetensors") for path in (run, whole))
    assert {name: value.shape for name, value in shared.items()} == {name: v.shape for name, v in alone.items()}


def test_a_rerun_of_a_complete_run_changes_nothing_and_a_changed_one_is_refused(shards, whole):
    before = weights(whole)
    assert train(CONFIG, shards, whole, Console(quiet=True), batch_chosen=True) == Store(whole, "run").manifest()
    with pytest.raises(UsageError, match=r"lr was None, is 0\.5"):
        train(CONFIG.model_copy(update={"lr": 0.5}), shards, whole, Console(quiet=True), batch_chosen=True)
    assert weights(whole) == before


def test_a_changed_setting_or_other_shards_are_named_on_resume(tmp_path, shards, whole):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "manifest.json").unlink()
    with pytest.raises(UsageError, match="seed was 0, is 1"):
        train(CONFIG.model_copy(update={"seed": 1}), shards, run, Console(quiet=True), batch_chosen=True)
    other = write_shards(tmp_path / "other", seed=5)
    with pytest.raises(UsageError, match="the shards are others"):
        train(CONFIG, other, run, Console(quiet=True), batch_chosen=True)


def test_a_cheaper_evaluation_moves_no_weight(tmp_path, shards, whole):
    run = tmp_path / "run"
    config = CONFIG.model_copy(update={"eval_rows": 1, "eval_steps": 12})
    train(config, shards, run, Console(quiet=True), batch_chosen=True)
    assert weights(run) == weights(whole)
    evals = [line["eval_loss"] for line in lines(run) if "eval_loss" in line]
    assert len(evals) == 2 and evals[0] != lines(whole)[0]["eval_loss"]


def test_a_damaged_checkpoint_is_passed_over(tmp_path, shards, whole):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "manifest.json").unlink()
    newest = checkpoint.saved(run)[-1] / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    train(CONFIG, shards, run, Console(quiet=True), batch_chosen=True)
    assert weights(run) == weights(whole)


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path, shards, whole):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "manifest.json").unlink()
    for path in checkpoint.saved(run)[2:]:
        shutil.rmtree(path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, limits[1]))
    try:
        with pytest.raises(MachineError, match="the last good one is step-00000006"):
            train(CONFIG, shards, run, Console(quiet=True), batch_chosen=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in (run / "checkpoints").iterdir()].count("step-00000009") == 0
    train(CONFIG, shards, run, Console(quiet=True), batch_chosen=True)
    assert weights(run) == weights(whole)


def test_only_the_newest_checkpoints_are_kept(tmp_path, shards):
    run = tmp_path / "run"
    train(CONFIG.model_copy(update={"keep": 2}), shards, run, Console(quiet=True), batch_chosen=True)
    assert [path.name for path in checkpoint.saved(run)] == ["step-00000009", "step-00000012"]


def test_a_loss_that_is_no_number_names_the_segments(tmp_path, shards):
    with pytest.raises(DataError, match=r"not a number; segments of that batch: [0-9a-f]{32}") as error:
        train(
            CONFIG.model_copy(update={"lr": 1e30, "warmup": 0.0}),
            shards,
            tmp_path / "run",
            Console(quiet=True),
            batch_chosen=True,
        )
    named = re.search(r"pack show (\S+) --id ([0-9a-f]{32});", error.value.hint)
    assert named and places(ShardManifest.read(Path(named[1])), named[2])


def test_two_runs_on_one_folder_and_foreign_folders_are_refused(tmp_path, shards):
    run = tmp_path / "run"
    with Store(run, "run").locked("somebody"), pytest.raises(LockHeld, match="in use by 'somebody'") as error:
        train(CONFIG, shards, run, Console(quiet=True), batch_chosen=True)
    assert error.value.exit_code == 3
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("x")
    with pytest.raises(UsageError, match="holds no run"):
        train(CONFIG, shards, tmp_path / "thesis", Console(quiet=True), overwrite=True)
    with pytest.raises(UsageError, match="holds shards, not run"):
        train(CONFIG, shards, shards, Console(quiet=True), overwrite=True)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["run", "nowhere"], 2, "pack build"),
        (["run", "{shards}", "r", "--lr", "-1"], 2, "train.lr"),
        (["run", "{shards}", "r", "--batch-unit", "bytes"], 2, "trained-tokens"),
        (["run", "{shards}", "r", "--set", "train.momentun=1"], 2, "unknown key"),
        (["run", "{shards}", "r", "--set", "tiny.heads=3"], 2, "heads"),
        (["run", "{shards}", "r", "--model", "./nowhere"], 2, "no such folder"),
        (["eval", "nowhere", "--task", "{task}"], 2, "no such folder"),
        (["eval", "{shards}", "--task", "{task}"], 2, "no model"),
        (["eval", "{shards}", "--task", "nofile"], 2, "no such file"),
    ],
)
def test_a_mistake_gets_a_message_and_no_traceback(tmp_path, shards, words, code, said, monkeypatch, capsys):
    from curate.foundation.console import run
    from train.cli import app

    task = tmp_path / "task.jsonl"
    task.write_text('{"prompt": "1 plus 1", "answer": "2"}\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train", *(word.format(shards=shards, task=task) for word in words)])
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        run(app)
    signal.signal(signal.SIGTERM, before)
    assert stopped.value.code == code and said in capsys.readouterr().err
    assert not (tmp_path / "r" / "manifest.json").exists()


def test_check_and_eval_and_dry_run_answer_as_json(tmp_path, shards, whole, monkeypatch, capsys):
    from train.cli import app

    task = tmp_path / "task.jsonl"
    task.write_text("".join(json.dumps({"prompt": f"{n} plus 1", "answer": n + 1}) + "\n" for n in range(5)))
    words = ["--max-new-tokens", "5", "--responses", str(tmp_path / "r.jsonl")]
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    calls = {
        "check": ["check", str(shards)],
        "eval": ["eval", str(run / "final"), "--task", str(task), "--n", "4", *words],
        "plan": ["run", str(shards), str(tmp_path / "none"), "--dry-run"],
    }
    found = {}
    for name, words in calls.items():
        app([*words, "--json", "--quiet"], standalone_mode=False)
        found[name] = json.loads(capsys.readouterr().out)
    assert found["check"]["passed"] and found["eval"]["total"] == 4 and found["plan"]["steps"] >= 1
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 4
    assert not (tmp_path / "none").exists()
    (row,) = Store(run, "run").manifest()["evaluation"]
    assert row["task"] == "task" and row["model"] == "after" and row["items"] == 4
    assert Store(run, "run").verify() == [] and "Before and after" in (run / "README.md").read_text()


def test_scores_join_the_card_and_never_hide_a_changed_file(tmp_path, whole):
    from train.recording import record_evaluation

    run = tmp_path / "run"
    shutil.copytree(whole, run)
    record_evaluation(run, [{"task": "sums", "model": name, "exact match": share} for name, share in BEFORE_AFTER])
    manifest = record_evaluation(run, [{"task": "sums", "model": "after", "exact match": 0.75, "items": 4}])
    assert [(row["model"], row["exact match"], row["items"]) for row in manifest["evaluation"]] == [
        ("before", 0.0, None),
        ("after", 0.75, 4),
    ]
    assert manifest["config"] == Store(whole, "run").manifest()["config"] and Store(run, "run").verify() == []
    (run / "final" / "config.json").write_text("{}")
    with pytest.raises(DataError, match=r"final/config\.json"):
        record_evaluation(run, [])


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path, shards, whole):
    again, other = tmp_path / "again", tmp_path / "other"
    train(CONFIG, shards, again, Console(quiet=True), batch_chosen=True)
    train(CONFIG.model_copy(update={"seed": 1}), shards, other, Console(quiet=True), batch_chosen=True)
    assert weights(again) == weights(whole) != weights(other)
