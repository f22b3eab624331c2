"""`select` judges twice, conditions as rows are read and scores over all of them; what either removed is there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

RECIPE = """
name: twice
sources: {a: {score_field: grade}}
curate: {stages: [select], select: {where: {drop: [{field: extra.kind, is: bad}]}, score: {low: 0.5}}}
"""


def curate(*words: object) -> str:
    command = [sys.executable, "-P", "-m", "curate", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_conditions_and_scores_that_remove_from_one_file_lose_no_row(tmp_path: Path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    rows = [
        {"instruction": f"number {at}", "output": "yes", "grade": at, "kind": "bad" if at % 5 == 0 else "good"}
        for at in range(20)
    ]
    (raw / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (tmp_path / "twice.yaml").write_text(RECIPE)
    curate("filter", raw, out, "--recipe", tmp_path / "twice.yaml", "--allow-wipeout")
    manifest = json.loads((out / "manifest.json").read_text())
    files = [pq.read_table(file) for file in sorted((out / "removed").rglob("*.parquet"))]
    found = Counter(rule.split(" ")[0] for rule in pa.concat_tables(files).column("rule").to_pylist())
    assert found == {"where.drop": 4, "score.low": 8}
    assert manifest["totals"]["removed"] == 12
    curate("verify", out)
    back = curate("restore", out, "--rule", "select.score.low", "--json")
    assert json.loads(back)["restored"] == 8
