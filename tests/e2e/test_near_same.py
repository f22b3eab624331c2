"""Who survives near-duplicate removal follows from the records: not from workers, nor from how files hold them."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

WORDS = [f"{a}{b}{c}" for a in "bdklmnprst" for b in "aeiou" for c in "bdklmnprst"]
RECIPE = "name: same\nsources: {s: {score_field: grade}}\ncurate: {stages: [minhash]}\n"


def write(raw: Path, rows: list[dict], files: list[str]) -> Path:
    """Deal rows to files of the source `s`, in runs; files come into being in a random order."""
    (raw / "s").mkdir(parents=True)
    share = -(-len(rows) // len(files))
    for at in random.Random(2).sample(range(len(files)), len(files)):
        part = rows[at * share : (at + 1) * share]
        (raw / "s" / f"{files[at]}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    return raw


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    """Clusters of texts that resemble each other by chains, each row with a score of its own."""
    draw = random.Random(4)
    texts = []
    for _ in range(120):
        text = draw.choices(WORDS, k=70)
        for _ in range(draw.randrange(1, 7)):
            texts.append(" ".join(text))
            text = list(text)
            text[draw.randrange(len(text))] = draw.choice(WORDS)
    draw.shuffle(texts)
    grades = draw.sample(range(len(texts)), len(texts))
    return [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "so it is"}], "grade": grade}
        for text, grade in zip(texts, grades, strict=True)
    ]


def run(raw: Path, out: Path, workers: int) -> dict[str, str]:
    """Curate; digests of all files by name."""
    recipe = out.with_suffix(".yaml")
    recipe.write_text(RECIPE)
    command = [sys.executable, "-P", "-m", "curate", "filter", str(raw), str(out), "--recipe", str(recipe)]
    done = subprocess.run([*command, "--workers", str(workers)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = sorted(path for path in out.rglob("*.parquet"))
    return {path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in names}


def survivors(out: Path) -> list[str]:
    """The texts that were kept, in alphabetical order."""
    tables = [pq.read_table(path, columns=["messages"]) for path in (out / "records").iterdir()]
    return sorted(row[0]["content"] for table in tables for row in table.column("messages").to_pylist())


def test_survivors_do_not_depend_on_workers_or_on_how_files_hold_the_rows(rows: list[dict], tmp_path: Path):
    raw = write(tmp_path / "raw", rows, ["a", "b", "c", "d", "e"])
    wanted = run(raw, tmp_path / "one", 1)
    for workers in (2, 4):
        assert run(raw, tmp_path / f"by{workers}", workers) == wanted
    mixed = write(tmp_path / "mixed", random.Random(8).sample(rows, len(rows)), ["z", "y", "x"])
    run(mixed, tmp_path / "other", 2)
    kept = survivors(tmp_path / "one")
    assert 120 <= len(kept) < len(rows) - 100
    assert survivors(tmp_path / "other") == kept
