"""`pack build --dry-run`: what a build would draw and pack, from real lengths.

Records are encoded into a temporary folder and planned as a build plans them: all of them up to 50,000, else the first
rows of every run of records, in proportion, with absolute amounts scaled down and counts scaled up again.

Cost: the encoding pass of what is measured; nothing is written in SHARDS.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from curate.foundation.console import Console
from curate.foundation.executor import Executor
from pack.build import Build, check_target, encode_all, guarded, units_of
from pack.plan import FATES, Plan, plan
from pack.show import mixture_table
from pack.tokenstore import TokenStore, Unit, renderer

MEASURED: Final = 50_000  # records
BYTES: Final = 12.2  # a token in a row: three int32 and a bit, and the segments


def preview(job: Build, executor: Executor, console: Console) -> dict[str, Any]:
    """The facts of a build that is not made: stages and sources as in its manifest, and what was measured."""
    check_target(job.shards, job.out)
    with tempfile.TemporaryDirectory(prefix="gristmill-") as folder:
        units = units_of(replace(job, shards=Path(folder)), "")
        files: dict[str, int] = {}
        for unit in units:
            files[unit.file] = files.get(unit.file, 0) + unit.last - unit.first
        records = sum(files.values())
        some = _some(units, records)
        measured = sum(unit.last - unit.first for unit in some)
        part = measured / records if records else 1.0
        some = guarded(some, renderer(job.settings))
        encode_all(some, executor, console)
        decided = plan(TokenStore(Path(folder), some), job.config, some, scale=part)
        return {
            "files": files,
            "records": records,
            "measured": measured,
            "exact": measured == records,
            "fates": {fate: round(int((decided.fate == code).sum()) / part) for code, fate in enumerate(FATES)},
            "truncated": round(int(decided.cut.sum()) / part),
            **_stages(decided, part),
            "config": job.config.model_dump(mode="json"),
        }


def _some(units: list[Unit], records: int) -> list[Unit]:
    """The units, each cut to the same share of its rows when there are too many records to encode."""
    if records <= MEASURED:
        return units
    return [
        replace(unit, last=unit.first - (unit.first - unit.last) * MEASURED // records or unit.first + 1)
        for unit in units
    ]


def _stages(decided: Plan, part: float) -> dict[str, Any]:
    stages, size = [], 0.0
    for split in (*decided.stages, decided.held):
        tokens, rows = int(split.lengths.sum()), len(split.rows) - 1
        facts = {
            "name": split.name,
            "ctx": split.ctx,
            "rows": round(rows / part),
            "tokens": round(tokens / part),
            "trained": round(int(split.trained.sum()) / part),
            "fill": round(tokens / (rows * split.ctx), 6) if rows else 0.0,
            "sources": {name: _scaled(entry, part) for name, entry in split.table.items()},
        }
        size += rows * split.ctx * BYTES / part
        stages.append(facts)
    return {"stages": stages[:-1], "eval": stages[-1], "bytes_estimate": round(size)}


def _scaled(entry: Mapping[str, Any], part: float) -> dict[str, Any]:
    return {key: value if key == "epochs" else round(value / part) for key, value in entry.items()}


def said(facts: Mapping[str, Any], shards: Path) -> str:
    """The facts of a preview as the dry run prints them."""
    lines = [f"{count:>10,}  {name}" for name, count in facts["files"].items()]
    share = 100 * facts["measured"] / max(1, facts["records"])
    lines.append(
        f"{facts['records']:>10,}  records; "
        + ("all were encoded to measure them" if facts["exact"] else f"{share:.1f} % were encoded, the rest is scaled")
    )
    lines.append(", ".join(f"{count:,} {fate}" for fate, count in facts["fates"].items() if count))
    for stage in facts["stages"]:
        lines += [*([f"stage {stage['name']}:"] if len(facts["stages"]) > 1 else []), *mixture_table(stage["sources"])]
    about = "" if facts["exact"] else "about "
    for stage in (*facts["stages"], facts["eval"]):
        lines.append(
            f"{stage['name']}: {about}{stage['rows']:,} rows of {stage['ctx']:,}, fill {100 * stage['fill']:.2f} %, "
            f"{stage['tokens']:,} tokens, {stage['trained']:,} trained"
        )
    lines.append(f"about {facts['bytes_estimate'] / 1e6:,.1f} MB; nothing was written in {shards}")
    return "\n".join(lines)
