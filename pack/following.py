"""`pack explain`: a record followed to its rows, or to the reason why it is in none.

Cost: the `segments` column of the memory-mapped parts, and `removed/`; the curated folder only for an id that the
shards do not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate.foundation.console import printable
from curate.foundation.errors import DataError, UsageError
from curate.foundation.store import Store
from pack.gather import removed_table
from pack.shards import ShardManifest

Said = tuple[Any, str]
LINES: Final = 12


def places(shards: ShardManifest, ident: str) -> list[dict[str, Any]]:
    """Every place of a record: split, part, row, start and length of each of its segments."""
    found = []
    for split in shards.splits:
        for path, first, batch in shards.open(split).batches():
            column = batch.column("segments")
            hits = np.flatnonzero(pc.equal(column.values.field("id"), ident).to_numpy(zero_copy_only=False))
            rows = np.searchsorted(column.offsets.to_numpy(), hits, side="right") - 1
            for hit, local in zip(hits.tolist(), rows.tolist(), strict=True):
                part = path.relative_to(shards.root).as_posix()
                found.append({"split": split, "part": part, "row": first + local, **column.values[hit].as_py()})
    return found


def removed(shards: ShardManifest, ident: str) -> list[dict[str, Any]]:
    """Where a record lies in `removed/` and why."""
    found = []
    for name in shards.facts["files"]:
        if not name.startswith("removed/"):
            continue
        try:
            table = removed_table(shards.root / name, ("id", "source", "origin", "reason"))
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(
                f"{name}: not readable ({error})", hint=f"find what is damaged: pack verify {shards.root}"
            ) from error
        for hit in table.filter(pc.equal(table.column("id"), ident)).to_pylist():
            found.append({"file": name, "fate": name.split("/")[1], **hit})
    return found


def explain(root: Path, ident: str, records: Path) -> Said:
    """Follow a record to its rows, or to the reason it is not there; an unknown id is a UsageError."""
    shards = ShardManifest.read(root)
    here, gone = places(shards, ident), removed(shards, ident)
    if not here and not gone:
        raise UsageError(
            f"{ident}: not in {root}; {_elsewhere(shards, ident, records)}",
            hint=f"look there: curate explain {ident} {records}",
        )
    stages = {
        stage["split"]: len({p["epoch"] for p in here if p["split"] == stage["split"]}) for stage in shards.stages
    }
    held = any(place["split"] == "eval" for place in here)
    source = next((str(entry["source"]) for entry in (*here, *gone)), "")
    lines = [*_summary(shards, source, stages, held, gone), *_rows(here)]
    if here:
        lines.append(f"look: pack show {root} --split {here[0]['split']} --row {here[0]['row']}")
    data = {
        "id": ident,
        "source": source,
        "placed": here,
        "removed": gone,
        "epochs": {} if held or gone else stages,
        "held_for_eval": held,
    }
    return data, "\n".join(lines)


def _summary(
    shards: ShardManifest, source: str, stages: dict[str, int], held: bool, gone: Sequence[dict[str, Any]]
) -> list[str]:
    """What became of the record as a whole."""
    name = printable(source)
    if gone:
        return [
            f"source {name}; not packed ({entry['fate']}): {printable(entry['reason'])}; kept whole in {entry['file']}"
            for entry in gone
        ]
    if held:
        return [f"source {name}; held for eval, by the digest of its content: no stage trains on it"]
    lines = []
    for stage in shards.stages:
        times, split = stages[stage["split"]], stage["split"]
        whole = (stage.get("sources") or {}).get(source, {}).get("epochs")
        of = f"; its source is drawn for {whole:g} epochs" if whole is not None else ""
        drawn = f"drawn {times} time{'s' * (times != 1)}" if times else "not drawn"
        lines.append(f"source {name}; {split}: {drawn}{of}")
    return lines


def _rows(here: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        f"{place['split']} row {place['row']} ({place['part']}), tokens {place['start']} to "
        f"{place['start'] + place['length']}, {place['trained']} trained, epoch {place['epoch']}"
        for place in here[:LINES]
    ]
    return lines + ([f"and {len(here) - LINES:,} more places (--json lists all)"] if len(here) > LINES else [])


def _elsewhere(shards: ShardManifest, ident: str, records: Path) -> str:
    """What the curated folder knows of an id that the shards have never seen."""
    import pyarrow.parquet as pq

    if not records.is_dir():
        return f"and {records}, where its record would be, is no folder (--records OUT names it)"
    manifest = Store(records, "records").manifest()
    for name in sorted(manifest["files"]):
        top = name.split("/")[0]
        if top not in ("records", "removed") or not name.endswith(".parquet"):
            continue
        if pc.any(pc.equal(pq.read_table(records / name, columns=["id"]).column("id"), ident)).as_py():
            if top == "removed":
                return f"curation removed it ({name.split('/')[1]}), {records / name}"
            same = manifest["digest"] == (shards.facts.get("input") or {}).get("digest")
            other = "" if same else f"; {records} is not the folder the shards were made from"
            return f"it lies in {records / name}{other}"
    return f"nor among the records that {records} kept or removed"


def find_row(shards: ShardManifest, ident: str, split: str | None) -> tuple[str, int]:
    """The first row that holds a record."""
    for place in places(shards, ident):
        if split in (None, place["split"]):
            return place["split"], place["row"]
    gone = removed(shards, ident)
    reason = f": {gone[0]['fate']}, {printable(gone[0]['reason'])}" if gone else ""
    raise UsageError(f"{ident} is in no row of {shards.root}{reason}", hint=f"see: pack explain {ident} {shards.root}")
