"""The decontaminate stage in a run: verdicts, evidence, flags, facts, the guard; the same bytes whatever the order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

QUESTION = "Tessa packs 14 crates of pears a day and sells 9 of them; how many crates are left after 6 days of work?"
OTHER = "A ferry crosses the bay in 35 minutes when the tide is low. How long do four crossings and one rest take?"
SHORT = "Who built Carthage?"
STOCK = "Read the following passage with care and then answer the question that comes after it in one sentence. "


@pytest.fixture
def folders(tmp_path):
    """Eval sets and raw data with planted items; every third eval item begins with the same boilerplate."""
    evals, raw = tmp_path / "evals", tmp_path / "raw"
    evals.mkdir()
    raw.mkdir()
    items = [
        {"id": "pears", "question": QUESTION, "answer": "thirty crates are left in the end"},
        {"id": "ferry", "question": OTHER, "answer": "155"},
        {"id": "carthage", "question": SHORT, "answer": "The Phoenicians of Tyre"},
        *({"id": f"stock{n}", "question": STOCK, "answer": str(n)} for n in range(4)),
    ]
    (evals / "quiz.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    edited = QUESTION.replace("pears", "plums").replace("work", "picking")
    rows = [
        ("leak", f"Solve this. {QUESTION}", "thirty crates"),
        ("edited", edited, "x y z"),
        ("half", OTHER[:70], "x y z"),
        ("short", f"Quiz time!\n{SHORT}", "It was the Phoenicians"),
        ("inside", "Tell me who built Carthage harbour", "Someone did"),
        ("stock", STOCK + "The cat sat.", "It sat on a mat"),
        ("reply", "What is 2 and 2?", f"No, first: {QUESTION}"),
        *((f"clean{n}", f"Name {n} colours of autumn leaves", "red and brown and gold") for n in range(40)),
    ]
    (raw / "web.jsonl").write_text("".join(json.dumps({"prompt": p, "completion": c}) + "\n" for _, p, c in rows))
    return evals, raw, [name for name, _, _ in rows], tmp_path


def curate(*arguments, seed="0"):
    command = [sys.executable, "-P", "-m", "curate", *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONHASHSEED": seed}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def verdicts(out, names):
    """By row name: (rule, flag, twin, evidence)."""
    found = {}
    for kind in ("removed", "flags"):
        for path in sorted((out / kind / "decontaminate").glob("*.parquet")):
            table = pq.read_table(path)
            rows = {row["id"]: row for row in pq.read_table(out / "contamination.parquet").to_pylist()}
            for row in table.to_pylist():
                found[row["id"]] = (row["rule"], kind == "flags", row["twin_id"], json.loads(row["evidence"]))
                assert row["id"] in rows
    from curate.record import record_id

    ids = {record_id("web", "web.jsonl", row, 0): name for row, name in enumerate(names)}
    return {ids[ident]: told for ident, told in found.items()}


def test_each_planted_leak_is_found_by_the_rule_that_can_see_it_and_nothing_else_is(folders):
    evals, raw, names, work = folders
    curate("filter", raw, work / "out", "--only", "decontaminate", "--against", evals, "--executor", "inline")
    found = verdicts(work / "out", names)
    assert {name: told[:3] for name, told in found.items()} == {
        "leak": ("ngram", False, "evals/quiz#pears"),
        "edited": ("bigram", False, "evals/quiz#pears"),
        "half": ("ngram", False, "evals/quiz#ferry"),
        "short": ("bigram", False, "evals/quiz#carthage"),
    }
    told = found["leak"][3]
    text = f"Solve this. {QUESTION}"
    assert [(text[a:b], QUESTION[c:d]) for (a, b), (c, d) in ((s["here"], s["item"]) for s in told["spans"])] == [
        (QUESTION[:-1], QUESTION[:-1])
    ]
    assert "thirty crates are left" not in json.dumps(found)
    card = (work / "out" / "README.md").read_text() + (work / "out" / "card.json").read_text()
    assert "thirty crates are left" not in card
    curate("verify", work / "out")


def test_what_no_rule_could_see_is_named_and_boilerplate_is_listed(folders):
    evals, raw, _, work = folders
    curate("filter", raw, work / "out", "--only", "decontaminate", "--against", evals, "--executor", "inline")
    manifest = json.loads((work / "out" / "manifest.json").read_text())
    facts = next(stage["facts"] for stage in manifest["stages"] if stage["name"] == "decontaminate")
    quiz = facts["evals"][0]
    assert (quiz["items"], quiz["undetectable"], quiz["hit_items"], quiz["removed"]) == (7, 4, 3, 4)
    assert quiz["undetectable_items"] == [f"stock{n}" for n in range(4)]
    assert any(
        entry["ngram"].startswith("read the following passage") and entry["items"] == 4
        for entry in facts["boilerplate"]
    )
    assert facts["heatmap"] == {"evals/quiz": {"web": 3}}


def test_report_only_removes_nothing_and_scope_says_whose_turns(folders):
    evals, raw, names, work = folders
    curate("filter", raw, work / "out", "--only", "exact", "--executor", "inline")
    more = ("--against", evals, "--executor", "inline")
    curate("decontaminate", work / "out", work / "said", *more, "--report-only", "--scope", "all")
    manifest = json.loads((work / "said" / "manifest.json").read_text())
    assert manifest["totals"]["removed"] == 0
    rows = pq.read_table(work / "said" / "contamination.parquet").to_pylist()
    assert all(row["flag"] for row in rows)
    assert len({row["id"] for row in rows}) == 5  # the assistant's turn, too
    assert len(names) == manifest["totals"]["kept"]


def test_overrides_speak_for_one_eval_and_a_wrong_name_is_refused(folders):
    evals, raw, names, work = folders
    more = ("--only", "decontaminate", "--against", evals, "--executor", "inline")
    off = (
        "--set",
        "decontaminate.evals.evals/quiz.bigram=off",
        "--set",
        "decontaminate.evals.evals/quiz.ngram.threshold=0.99",
    )
    curate("filter", raw, work / "out", *more, *off)
    assert {name: told[0] for name, told in verdicts(work / "out", names).items() if not told[1]} == {"leak": "ngram"}
    command = [
        sys.executable,
        "-P",
        "-m",
        "curate",
        "filter",
        raw,
        work / "no",
        *more,
        "--set",
        "decontaminate.evals.quis.bigram=off",
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "quiz" in done.stderr


def test_five_hash_seeds_two_workers_and_shuffled_files_give_the_same_bytes(folders):
    evals, raw, _, work = folders
    lines = (raw / "web.jsonl").read_text().splitlines(keepends=True)
    for part in range(3):
        (raw / f"part{part}.jsonl").write_text("".join(lines[part::3]))
    found = set()
    for seed in range(5):
        out = work / f"out{seed}"
        spread = ("--executor", "processes", "--workers", "2") if seed == 4 else ("--executor", "inline")
        curate("filter", raw, out, "--only", "decontaminate", "--against", evals, *spread, seed=str(seed))
        found.add(json.loads((out / "manifest.json").read_text())["digest"])
        for path in sorted(raw.iterdir(), reverse=bool(seed % 2)):  # another order on disk
            data = path.read_bytes()
            path.unlink()
            path.write_bytes(data)
    assert len(found) == 1


def test_changed_eval_sets_are_compared_again_and_the_same_ones_are_not(folders):
    evals, raw, _, work = folders
    more = ("--only", "decontaminate", "--against", evals, "--executor", "inline")
    curate("filter", raw, work / "out", *more)
    marker = next((work / "out" / ".units" / "ingest").iterdir())
    before = marker.stat().st_mtime_ns
    curate("filter", raw, work / "out", *more)
    assert marker.stat().st_mtime_ns == before
    with (evals / "quiz.jsonl").open("a") as file:
        file.write(json.dumps({"id": "new", "question": "Name 7 colours of autumn leaves", "answer": "red"}) + "\n")
    curate("filter", raw, work / "out", *more)
    rows = pq.read_table(work / "out" / "contamination.parquet").to_pylist()
    assert Path(marker).stat().st_mtime_ns != before
    assert "new" in {row["item"] for row in rows}


def test_an_item_in_many_records_is_a_leak_and_a_phrase_in_many_is_boilerplate(tmp_path):
    evals, raw = tmp_path / "evals", tmp_path / "raw"
    evals.mkdir()
    raw.mkdir()
    phrase = "please think about this task for a while and then"
    items = [{"id": "a", "question": f"{phrase} {QUESTION}"}, {"id": "b", "question": OTHER}]
    (evals / "quiz.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    rows = [f"{phrase} sing song number {n} of the blue book" for n in range(30)]
    rows += [f"{n}: {OTHER}" for n in range(30)]
    (raw / "web.jsonl").write_text(
        "".join(json.dumps({"prompt": row, "completion": "so be it"}) + "\n" for row in rows)
    )
    options = ("--against", evals, "--executor", "inline", "--set", "decontaminate.ngram.threshold=0.1")
    curate("filter", raw, tmp_path / "out", "--only", "decontaminate", *options, "--allow-wipeout")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    facts = next(stage["facts"] for stage in manifest["stages"] if stage["name"] == "decontaminate")
    assert manifest["totals"]["removed"] == 30
    assert {entry["records"] for entry in facts["boilerplate"]} == {30}
    assert all(entry["ngram"] in phrase for entry in facts["boilerplate"])


def test_a_missing_model_fails_before_any_record_is_read(folders):
    evals, raw, _, work = folders
    command = [sys.executable, "-P", "-m", "curate", "filter", str(raw), str(work / "out"), "--only", "decontaminate"]
    command += ["--against", str(evals), "--set", "decontaminate.semantic.state=on"]
    command += ["--set", "decontaminate.semantic.model=./no-such-model", "--executor", "inline"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "no-such-model" in done.stderr
    assert "hint:" in done.stderr
    assert not (work / "out" / "records").exists()
    assert not list((work / "out").rglob("*sketch*"))
