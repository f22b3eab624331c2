"""`train eval` and `train compare` on a real small run: tables, files, the card, warnings, the same bytes again."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from shards_fixture import make_tokenizer, write_shards

from curate.foundation.console import Console
from curate.foundation.errors import DataError, UsageError
from curate.foundation.store import Store
from pack.template import Renderer, Tokenizer
from train.config import TinySettings, TrainConfig
from train.running import train

CONFIG = TrainConfig(
    tiny=TinySettings(layers=1, hidden=32, heads=2), batch=4, max_steps=6, lr=5e-3, smoke_tokens=4, device="cpu"
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run on shards that were decontaminated against one eval set."""
    root = tmp_path_factory.mktemp("eval")
    make_tokenizer().save_pretrained(root / "t")
    rendering = Renderer(Tokenizer.load(root / "t"), engine="hf").facts()
    shards = write_shards(
        root / "shards", ctx=128, rendering=rendering, decontamination=["mawps", "humaneval/HumanEval"]
    )
    train(CONFIG, shards, root / "run", Console(quiet=True), batch_chosen=True)
    return root / "run"


@pytest.fixture
def run(tmp_path, whole):
    return Path(shutil.copytree(whole, tmp_path / "run"))


@pytest.fixture
def task(tmp_path):
    folder = tmp_path / "gsm8k"
    folder.mkdir()
    for split, numbers in (("test", range(6)), ("train", range(6, 9))):
        rows = [{"question": f"{n} plus 1", "answer": str(n + 1)} for n in numbers]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def call(capsys, *words):
    """A command's JSON and what it said on stderr."""
    from train.cli import app

    app([*map(str, words), "--json"], standalone_mode=False)
    said = capsys.readouterr()
    return json.loads(said.out), said.err


def test_four_ways_to_ask_are_four_rows_of_one_table(run, task, capsys):
    words = ("eval", run, "--task", "gsm8k", "--data", task, "--n", "4", "--max-new-tokens", "6", "--strategies")
    words += ("--instruction", "what is then")  # words that the toy tokenizer has
    facts, _ = call(capsys, *words)
    assert [row["prompting"] for row in facts["results"]] == [
        *("0-shot", "0-shot with instruction", "1-shot", "1-shot with instruction")
    ]
    assert len({row["items"] for row in facts["results"]}) == 1, "the same items, however they are asked"
    kept = Store(run, "run")
    rows = kept.manifest()["evaluation"]
    assert [row["task"] for row in rows] == [f"gsm8k, {row['prompting']}" for row in facts["results"]]
    assert {row["items"] for row in rows} == {4} and kept.verify() == []
    card = (run / "README.md").read_text()
    assert all(f"gsm8k, {name}" in card for name in ("0-shot", "1-shot with instruction"))
    before = {name: (run / name).read_bytes() for name in kept.names()}
    call(capsys, *words)
    assert before == {name: (run / name).read_bytes() for name in kept.names()}, "the same request, the same bytes"


def test_before_and_after_get_the_same_items_and_a_paired_difference(run, task, capsys):
    from train.cli import app

    app(
        ["eval", str(run), "--task", "gsm8k", "--data", str(task), "--max-new-tokens", "6", "--before", "--quiet"],
        standalone_mode=False,
    )
    text = capsys.readouterr().out
    assert "difference" in text and "McNemar p" in text and "(paired)" in text
    assert [row["model"] for row in Store(run, "run").manifest()["evaluation"]] == ["before", "after"]
    folder = run / "evaluations"
    facts, _ = call(capsys, "compare", folder / "gsm8k.before.responses.jsonl", folder / "gsm8k.responses.jsonl")
    assert facts["gsm8k"]["total"] == 6 and facts["gsm8k"]["low"] <= facts["gsm8k"]["difference"]
    again, _ = call(capsys, "compare", run, run / "final", "--task", "gsm8k")
    assert again["gsm8k"]["difference"] == 0 and again["gsm8k"]["p_value"] == 1
    call(capsys, "eval", run, "--task", "gsm8k", "--data", task, "--n", "3", "--max-new-tokens", "6")
    with pytest.raises(DataError, match="did not answer the same items"):
        call(capsys, "compare", folder / "gsm8k.before.responses.jsonl", folder / "gsm8k.responses.jsonl")


def test_the_model_before_is_the_one_the_run_began_with(whole, run):
    """A random start of the same seed; the weights of `final/` are others."""
    import torch

    from train.data import Shards
    from train.evaluate import load_model
    from train.evaluating import base_of
    from train.model import build_model

    torch.manual_seed(CONFIG.seed)
    fresh = build_model(CONFIG, Shards(whole.parent / "shards")).state_dict()
    base, trained = base_of(run, "cpu").state_dict(), load_model(run, "cpu")[0].state_dict()
    assert all(torch.equal(base[name], fresh[name]) for name in fresh)
    assert any(not torch.equal(trained[name], fresh[name]) for name in fresh)


def test_a_task_that_the_data_was_not_cleaned_of_is_warned_about(run, task, capsys, tmp_path):
    facts, said = call(capsys, "eval", run, "--task", "gsm8k", "--data", task, "--max-new-tokens", "3")
    assert "was decontaminated only against humaneval/HumanEval, mawps" in facts["warning"] and facts["warning"] in said
    (tmp_path / "mawps.jsonl").write_text('{"question": "1 plus 1", "answer": "2"}\n')
    facts, said = call(
        capsys, "eval", run, "--task", "mawps", "--data", tmp_path / "mawps.jsonl", "--max-new-tokens", "3"
    )
    assert "warning" not in facts and "warning" not in said


def test_the_tasks_own_solutions_check_parser_and_sandbox(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [
        {"text": f"give {n}", "code": f"x = {n}", "test_list": [f"assert x == {n}"], "level": n % 2} for n in range(4)
    ]
    Path("own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    facts, _ = call(capsys, "eval", "reference", "--task", "own.jsonl", "--execute")
    assert facts["correct"] == facts["fenced"] == facts["parses"] == 4 and "no network" in facts["sandbox"]
    assert facts["by_level"]["0"]["total"] == 2 and len(Path(facts["responses"]).read_text().splitlines()) == 4
    facts, _ = call(capsys, "eval", "reference", "--task", "own.jsonl")
    assert facts["parses"] == 4 and "accuracy" not in facts, "no pass rate unless it was run"


def test_mistakes_in_a_request_are_told(run, task, capsys):
    with pytest.raises(UsageError, match="asks for no code"):
        call(capsys, "eval", run, "--task", "gsm8k", "--data", task, "--execute")
    with pytest.raises(UsageError, match="is no run"):
        call(capsys, "eval", task, "--task", "gsm8k", "--data", task, "--before")
    with pytest.raises(UsageError, match="the model has 128"):
        call(capsys, "eval", run, "--task", "gsm8k", "--data", task, "--max-new-tokens", "999")


KILLED = """
import json, os, pathlib, signal, sys
from curate.foundation.store import Store, digest_file
from train.recording import OLD, record_evaluation, settle
run = pathlib.Path(sys.argv[1])
replace = pathlib.Path.replace

def recorded(items, left):
    def counted(self, target):
        nonlocal left
        left -= "evaluations" in str(target) or target.name == "manifest.json"
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)
    if (child := os.fork()) == 0:
        pathlib.Path.replace = counted
        answers = {name: f"{items} answers".encode() for name in ("t.json", "t.responses.jsonl")}
        record_evaluation(run, [{"task": "t", "model": "after", "items": items}], answers)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    settle(run)
    store = Store(run, "run")
    assert store.verify() == [] and not (run / OLD).exists(), left
    rows = [row["items"] for row in store.manifest()["evaluation"]]
    return code, rows, {name: digest_file(run / name) for name in store.names()}

found = [recorded(3, 99)]
while len(found) == 1 or found[-1][0]:
    found.append(recorded(4, len(found) - 1))
print(json.dumps(found))
"""


def test_a_recording_that_is_killed_anywhere_leaves_the_earlier_one_whole(run):
    """Killed before each file that it puts in place, the manifest last: the card's scores are those of the answers."""
    command = [sys.executable, "-P", "-c", KILLED, str(run)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    (_, _, earlier), *killed, (_, rows, later) = json.loads(said.stdout)
    assert [code for code, _, _ in killed] == [-signal.SIGKILL] * 3, "before two files and the manifest"
    assert all(rows == [3] and names == earlier for _, rows, names in killed) and rows == [4]
    own = [name for name in earlier if name.startswith("evaluations/")]
    assert len(own) == 2 and all(later[name] != earlier[name] for name in own)


def test_until_every_answer_is_in_an_earlier_evaluation_stays(run, task, capsys, monkeypatch):
    from train import evaluating

    words = ("eval", run, "--task", "gsm8k", "--data", task, "--max-new-tokens", "6", "--strategies")
    words += ("--instruction", "what is then")
    call(capsys, *words, "--n", "3")
    earlier = {name: (run / name).read_bytes() for name in Store(run, "run").names()}
    asked, ask = [], evaluating.ask_all

    def stopped(*args, **kwargs):
        asked.append(len(args[2]))
        if len(asked) == 3:
            raise DataError("the machine went away")
        return ask(*args, **kwargs)

    monkeypatch.setattr(evaluating, "ask_all", stopped)
    with pytest.raises(DataError, match="went away"):
        call(capsys, *words, "--n", "4")
    assert asked == [4, 4, 4]
    assert earlier == {name: (run / name).read_bytes() for name in Store(run, "run").names()}
