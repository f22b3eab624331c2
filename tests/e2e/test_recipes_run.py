"""`gristmill run`: a recipe goes from its sources to the table, redoes nothing, and a missed floor is exit 1 with all written."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from curate.foundation.console import Console
from curate.foundation.errors import DataError
from train import river
from train.resolving import resolve


def rows(numbers):
    """Questions with worked answers, all different."""
    for n in numbers:
        words = hashlib.blake2b(str(n).encode(), digest_size=8).hexdigest()
        question = f"In the {words} mill there are {n} sacks, and {n % 7} more come. How many sacks are there?"
        yield {"question": question, "answer": f"There are {n} + {n % 7} = {n + n % 7} sacks.\n#### {n + n % 7}"}


def write(path, numbers):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(numbers)))
    return path


def gristmill(*words):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-P", "-m", "train.suite", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=env, check=False)


class Heard(Console):
    """A console that keeps what is said and what results."""

    def __init__(self):
        super().__init__(quiet=True)
        self.said, self.results = [], []

    def say(self, text):
        self.said.append(text)

    def result(self, data, text):
        self.results.append(data)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """gsm8k-lora-socratic on made data, its source and its test split apart."""
    root = tmp_path_factory.mktemp("recipes")
    source = write(root / "source.jsonl", range(300))
    for split, numbers in (("test", range(1000, 1020)), ("train", range(2000, 2010))):
        write(root / "held" / f"{split}.jsonl", numbers)
    sets = [f"sources.gsm8k.path={source}", f"eval.data.gsm8k={root / 'held'}"]
    facts, text = river.run(resolve("gsm8k-lora-socratic", sets, smoke=True), root / "river", Heard())
    return root / "river", sets, facts, text


def test_it_goes_from_raw_rows_to_four_rows_of_one_table(ran):
    folder, _, facts, text = ran
    assert list(facts["tasks"]) == ["zero-shot", "one-shot", "zero-shot-instructed", "one-shot-instructed"]
    for name, task in facts["tasks"].items():
        files = [folder / when / f"{name}.responses.jsonl" for when in ("before", "after")]
        asked = [[json.loads(line)["item"] for line in file.open()] for file in files]
        assert asked[0] == asked[1] and len(asked[0]) == 4 == task["before"]["total"]
        assert name in text
    prompts = {task["after"]["row"]["prompt"] for task in facts["tasks"].values()}
    assert prompts == {"0-shot", "1-shot", "0-shot with instruction", "1-shot with instruction"}
    assert (folder / "run" / "README.md").read_text().count("one-shot-instructed") >= 2  # before and after


def test_the_source_was_decontaminated_against_what_is_asked_and_nothing_else(ran):
    folder, _, _, _ = ran
    manifest = json.loads((folder / "out" / "manifest.json").read_bytes())
    assert manifest["totals"]["removed"] == 0
    assert manifest["recipe"]["curate"]["decontaminate"]["against"] == [str(folder.parent / "held" / "test.jsonl")]
    assert (manifest["decontamination"]["evals"], manifest["decontamination"]["items"]) == (1, 20)


def test_a_rerun_redoes_nothing_and_says_the_same(ran):
    folder, sets, facts, _ = ran
    files = [folder / "run" / "metrics.jsonl", *(folder / "shards" / "train").glob("*"), *(folder / "after").glob("*")]
    stamps = [path.stat().st_mtime_ns for path in files]
    again, _ = river.run(resolve("gsm8k-lora-socratic", sets, smoke=True), folder, Heard())
    assert again == facts
    assert [path.stat().st_mtime_ns for path in files] == stamps


def test_another_floor_or_task_makes_neither_records_nor_shards_nor_the_run_again(ran, tmp_path):
    folder, sets, facts, _ = ran
    copy = tmp_path / "river"
    shutil.copytree(folder, copy)
    made = [copy / part / "manifest.json" for part in ("out", "shards")] + [copy / "run" / "metrics.jsonl"]
    stamps = [path.stat().st_mtime_ns for path in made]
    more = [*sets, "eval.expect.zero-shot=0.0", "eval.tasks.zero-shot.n=3"]
    found, _ = river.run(resolve("gsm8k-lora-socratic", more, smoke=True), copy, Heard())
    assert [path.stat().st_mtime_ns for path in made] == stamps
    assert found["results"] == facts["results"] and found["tasks"]["zero-shot"]["after"]["total"] == 3


def test_what_is_lost_is_made_again_and_a_missed_floor_is_exit_1_with_everything_written(ran, tmp_path):
    folder, sets, facts, _ = ran
    copy = tmp_path / "river"
    shutil.copytree(folder, copy)
    for part in ("run", "after"):
        shutil.rmtree(copy / part)
    floors = resolve("gsm8k-lora-socratic", [*sets, "eval.expect.zero-shot=0.99"], smoke=True)
    heard = Heard()
    with pytest.raises(DataError, match=r"zero-shot: accuracy 0[.]000 is under its floor, 0[.]99") as caught:
        river.run(floors, copy, heard)
    assert caught.value.exit_code == 1
    (found,) = heard.results
    assert found["results"] == facts["results"] and found["missed"]
    assert not any(line.startswith("before") for line in heard.said)  # scored already
    for part in ("out", "shards", "run"):
        assert (copy / part / "README.md").is_file()


def test_a_mix_is_four_times_the_tokens_of_its_first_source_and_prints_the_epochs(tmp_path):
    sets = [f"sources.muInstruct.path={write(tmp_path / 'mu.jsonl', range(20))}", "sources.camel-math.fields=null"]
    sets += [f"sources.camel-math.path={write(tmp_path / 'camel.jsonl', range(100, 300))}"]
    exam = tmp_path / "exam.jsonl"
    exam.write_text('{"question": "What is a mill?"}\n{"question": "What is a sack?"}\n')
    found = resolve("math-mix-4x", [*sets, f"eval.data.hungarian-exam={exam}"], smoke=True)
    heard = Heard()
    facts, text = river.run(found, tmp_path / "river", heard)
    (stage,) = json.loads((tmp_path / "river" / "shards" / "manifest.json").read_bytes())["stages"]
    drawn = {name: entry["tokens"] for name, entry in stage["sources"].items()}
    assert sum(drawn.values()) == pytest.approx(4 * drawn["muInstruct"], rel=0.01)
    assert stage["sources"]["muInstruct"]["epochs"] == 10
    assert any("epochs" in line and "camel-math" in line for line in heard.said)
    assert facts["results"]["eval_loss_last"] is not None and "hand grading" in text  # the exam is graded by hand
    assert len((tmp_path / "river" / "after" / "hungarian-exam.responses.jsonl").read_text().splitlines()) == 2


@pytest.mark.shared
def test_the_halves_of_gsm8k_socratic_are_shown_apart_by_our_own_decontaminator(shared, tmp_path):
    """One question of the first half is told again in the second with another number asked for; that one goes."""
    lines = (shared / "data" / "eval" / "gsm8k" / "test_socratic.jsonl").read_text().splitlines(keepends=True)
    source = tmp_path / "half.jsonl"
    (tmp_path / "held").mkdir()
    source.write_text("".join(lines[::2]))
    (tmp_path / "held" / "test.jsonl").write_text("".join(lines[1::2]))
    sets = [f"sources.gsm8k.path={source}", f"eval.data.gsm8k={tmp_path / 'held'}"]
    root = tmp_path / "river"
    found = resolve("gsm8k-full-socratic", sets, smoke=True)
    out = river.curated(river.prepared(found, root), root, Heard())
    manifest = json.loads((out / "manifest.json").read_bytes())
    assert manifest["decontamination"]["items"] == 659
    assert (manifest["totals"]["records"], manifest["totals"]["removed"]) == (660, 1)


def test_a_dry_run_writes_nothing_and_counts_the_tokens(tmp_path):
    done = gristmill("run", "math-instruct-7b", tmp_path / "new", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "1,048,576 tokens" in done.stdout and "(524 M)" in done.stdout
    assert not (tmp_path / "new").exists()


def test_offline_it_says_at_once_what_to_name(tmp_path):
    began = time.perf_counter()
    done = gristmill("run", "gsm8k-full-main", tmp_path / "new")
    spent = time.perf_counter() - began
    assert done.returncode == 3
    assert "--set sources.gsm8k.path=" in done.stderr and "Traceback" not in done.stderr
    assert spent < 10  # a second on a quiet machine; never a download's retries
    assert not (tmp_path / "new").exists()


def test_the_list_names_model_and_needs():
    done = gristmill("recipes", "--json")
    listed = {row["name"]: row for row in json.loads(done.stdout)["recipes"]}
    assert len(listed) >= 11
    row = listed["gsm8k-lora-main"]
    assert row["model"] == "google/gemma-2b-it"
    assert {"hf://openai/gsm8k", "google/gemma-2b-it", "eval set gsm8k", "the extra lora"} <= set(row["needs"])


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    done = gristmill("run", "gsm8k-full-main", tmp_path, "--smoke")
    assert done.returncode == 2 and "thesis.tex" in done.stderr
