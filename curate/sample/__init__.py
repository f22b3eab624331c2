"""The embedded sample: a corpus we generate, with planted flaws and the truth about them.

`raw/` holds word problems and general chats in six schemas and six containers. Beside it, in `raw-truth/`, lie the held-out
evaluation sets, the leaked ones, and `truth.json`: what was planted, by kind, file and row (from 0; the physical line in
line files, the record in others). Same seed, same bytes; 30,000 rows take about two seconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from curate.foundation.store import Store
from curate.sample.corpus import Row, clean, evaluation, planted
from curate.sample.draw import Draw
from curate.sample.files import TARGETS, Target, encode, fits
from curate.sample.problems import Problem

ROWS: Final = 30_000
TRUTH: Final = "truth.json"
EVALS: Final = {"pairs": "heldout_pairs.jsonl", "templates": "heldout_templates.jsonl"}
LEAKED: Final = "leaked.jsonl"

__all__ = ["EVALS", "LEAKED", "ROWS", "TRUTH", "truth_folder", "write_sample"]


def truth_folder(raw: Path) -> Path:
    """Where the truth about a sample lies: beside it, so that it is never read as data."""
    return raw.with_name(f"{raw.name}-truth")


def write_sample(raw: Path, seed: int = 0, rows: int | None = None) -> dict[str, Any]:
    """Write a corpus of `rows` clean rows (30,000) plus planted ones under `raw`, and return the truth about it."""
    count = ROWS if rows is None else rows
    scored, leaked = evaluation(seed)
    base = clean(Draw(seed, "clean"), count)
    flawed = planted(Draw(seed, "planted"), base, leaked, count / ROWS)
    placed = _place(Draw(seed, "places"), base, flawed)
    store = Store(raw, "raw")
    for target, held in placed.items():
        store.write_bytes(target.path, encode(target, held))
    truth = _truth(seed, placed)
    beside = Store(truth_folder(raw), "raw")
    for name, items in scored.items():
        beside.write_bytes(EVALS[name], _items(items))
    beside.write_bytes(LEAKED, _items([*leaked["pairs"], *leaked["templates"]]))
    beside.write_bytes(TRUTH, (json.dumps(truth, indent=1, sort_keys=True) + "\n").encode())
    return {key: truth[key] for key in ("seed", "rows", "counts", "files", "by_level")}


def _place(draw: Draw, base: list[Row], flawed: list[Row]) -> dict[Target, list[Row]]:
    """Deal rows to files by share, flaws anywhere among them."""
    rows = [*base, *flawed]
    draw.shuffle(rows)
    deck = [target for target in TARGETS for _ in range(target.share)]
    placed: dict[Target, list[Row]] = {target: [] for target in TARGETS}
    for row in rows:
        target = draw.pick(deck)
        while not fits(target, row):
            target = draw.pick(deck)
        placed[target].append(row)
    return placed


def _truth(seed: int, placed: dict[Target, list[Row]]) -> dict[str, Any]:
    where = {id(row): (target.path, at) for target, rows in placed.items() for at, row in enumerate(rows)}
    found: list[dict[str, Any]] = []
    levels: dict[str, int] = {}
    for target, rows in placed.items():
        for at, row in enumerate(rows):
            levels[str(row.level)] = levels.get(str(row.level), 0) + 1
            if row.kind:
                entry: dict[str, Any] = {"kind": row.kind, "file": target.path, "row": at}
                if row.twin is not None:
                    file, place = where[id(row.twin)]
                    entry["twin"] = {"file": file, "row": place}
                found.append(entry)
    counts: dict[str, int] = {}
    for entry in found:
        counts[entry["kind"]] = counts.get(entry["kind"], 0) + 1
    return {
        "seed": seed,
        "rows": sum(len(rows) for rows in placed.values()),
        "by_level": levels,
        "counts": counts,
        "files": {target.path: len(rows) for target, rows in placed.items()},
        "planted": found,
    }


def _items(items: Iterable[Problem]) -> bytes:
    rows = ({"prompt": item.question, "answer": str(item.answer), "level": item.level} for item in items)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
