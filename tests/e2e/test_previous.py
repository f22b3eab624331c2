"""`--previous`: new records against what an earlier output kept, as if both had been curated together, old ones first."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

WORDS = [f"{a}{b}{c}" for a in "bdklmnprst" for b in "aeiou" for c in "bdklmnprst"]
KEEP = ("--set", "exact.keep_sketches=true", "--set", "minhash.keep_sketches=true")


def curate(*words: object, check: int = 0) -> str:
    command = [sys.executable, "-P", "-m", "curate", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == check, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def filtered(raw: Path, out: Path, *words: object, check: int = 0) -> str:
    return curate("filter", raw, out, "--workers", 1, "--allow-wipeout", *words, check=check)


def write(path: Path, texts: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "ok then"}]})
        for text in texts
    ]
    path.write_text("\n".join(lines) + "\n")


def edited(draw: random.Random, text: str, words: int) -> str:
    split = text.split()
    for _ in range(words):
        split[draw.randrange(len(split))] = draw.choice(WORDS)
    return " ".join(split)


def rows(out: Path, folder: str = "records") -> list[dict]:
    files = sorted((out / folder).rglob("*.parquet"))
    return pa.concat_tables([pq.read_table(file) for file in files]).to_pylist() if files else []


def ids(out: Path, source: str) -> set[str]:
    return {row["id"] for row in rows(out) if row["source"] == source}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Two old files, an output of them, and a new file with copies, near copies, and news of its own."""
    place = tmp_path_factory.mktemp("previous")
    draw = random.Random(3)
    old = [" ".join(draw.choices(WORDS, k=60)) for _ in range(80)]
    old += [edited(draw, text, 1) for text in old[:20]]  # some go, some of the new ones resemble only those
    new = old[:10] + [edited(draw, text, 1) for text in old[5:60]] + [edited(draw, text, 6) for text in old[:40]]
    new += [" ".join(draw.choices(WORDS, k=60)) for _ in range(20)] + [edited(draw, new[70], 1), new[-1]]
    for root in (place / "old", place / "all"):
        write(root / "a.jsonl", old[:50])
        write(root / "b.jsonl", old[50:])
    for root in (place / "new", place / "all"):
        write(root / "c.jsonl", new)
    filtered(place / "old", place / "out", *KEEP)
    return place


def test_new_records_go_as_they_would_beside_the_old_ones_at_top_priority(place: Path):
    filtered(place / "all", place / "together", "--set", "priority={a: 2, b: 2, c: 1}")
    filtered(place / "new", place / "fresh", "--previous", place / "out")
    assert ids(place / "fresh", "c") == ids(place / "together", "c")
    assert {row["source"] for row in rows(place / "fresh")} == {"c"}
    for stage, least in (("exact", 5), ("minhash", 30)):
        found = rows(place / "fresh", f"removed/{stage}")
        folders = [json.loads(row["evidence"])["twin"].get("folder") for row in found]
        assert folders.count(str(place / "out")) >= least
        kept = {row["id"] for row in rows(place / "out")}
        assert all(row["twin_id"] in kept for row, folder in zip(found, folders, strict=True) if folder)
        wanted = {row["id"]: row["similarity"] for row in rows(place / "together", f"removed/{stage}")}
        assert all(wanted[row["id"]] == row["similarity"] for row in found)
    manifest = json.loads((place / "fresh/manifest.json").read_text())
    (said,) = manifest["previous"]
    old = json.loads((place / "out/manifest.json").read_text())
    assert said == {"folder": str(place / "out"), "digest": old["digest"], "records": old["totals"]["kept"]}
    assert manifest["alarms"] == []  # a source whose twins are elsewhere lost nothing of its own


def test_stage_commands_compare_with_an_earlier_output_too(place: Path):
    filtered(place / "new", place / "plain", "--skip", "exact", "--skip", "minhash")
    curate("exact", place / "plain", place / "e", "--previous", place / "out", "--allow-wipeout")
    curate("minhash", place / "e", place / "m", "--previous", place / "out", "--allow-wipeout")
    assert ids(place / "m", "c") == ids(place / "fresh", "c")


def test_a_changed_earlier_output_is_looked_at_again(place: Path, tmp_path: Path):
    shutil.copytree(place / "out", tmp_path / "out")
    filtered(place / "new", tmp_path / "fresh", "--previous", tmp_path / "out")
    before = ids(tmp_path / "fresh", "c")
    write(tmp_path / "raw/a.jsonl", ["nothing that anyone has said before or will say after this"])
    filtered(tmp_path / "raw", tmp_path / "out", "--overwrite")
    filtered(place / "new", tmp_path / "fresh", "--previous", tmp_path / "out")
    assert before < ids(tmp_path / "fresh", "c")


def test_sketches_are_kept_only_when_asked_and_what_goes_is_the_same_either_way(place: Path, tmp_path: Path):
    shutil.copytree(place / "out", tmp_path / "out")  # one folder name: it is in the evidence
    asked = filtered(place / "new", tmp_path / "asked", "--previous", tmp_path / "out")
    assert "afresh" not in asked
    filtered(place / "old", tmp_path / "out", "--overwrite")
    assert {path.parent.name for path in (place / "out/sketches").rglob("*.arrow")} == {"exact", "minhash"}
    assert not (tmp_path / "out/sketches").exists()
    said = filtered(place / "new", tmp_path / "fresh", "--previous", tmp_path / "out")
    assert [line for line in said.splitlines() if "afresh" in line] == [
        f"{stage}: {tmp_path / 'out'} stores no sketches; its {len(rows(place / 'out'))} records are sketched afresh"
        for stage in ("exact", "minhash")
    ]
    assert not (tmp_path / "fresh/.work").exists()
    for folder in ("records", "removed/exact", "removed/minhash"):
        assert rows(tmp_path / "fresh", folder) == rows(tmp_path / "asked", folder)


def test_other_schemes_and_folders_that_are_no_outputs_are_refused_with_a_hint(place: Path, tmp_path: Path):
    said = filtered(place / "new", tmp_path / "x", "--previous", place / "out", "--set", "minhash.ngram=4", check=2)
    assert "hint:" in said
    assert "--ngram" in said
    said = filtered(place / "new", tmp_path / "y", "--previous", place / "out", "--set", "exact.key=prompt", check=2)
    assert "hint:" in said
    assert "curate exact" in said
    assert "hint:" in filtered(place / "new", tmp_path / "z", "--previous", place / "old", check=2)
    assert "hint:" in filtered(place / "old", place / "out", "--previous", place / "out", check=2)
