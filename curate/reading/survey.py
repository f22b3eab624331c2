"""What a folder holds, per file, before anything is written: `curate formats raw/`.

Files up to `FULL` bytes are read whole; of larger ones the first batches are read and the rows estimated from them,
and the entry says `sampled`. Cost: reading speed, at most `FULL` bytes a file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from curate.reading.containers import read as read_unit
from curate.reading.model import Unit
from curate.reading.plan import discover
from curate.sources import ReadSettings, SourceSettings

FULL: Final = 64 << 20


def survey(raw: Path | str, read: ReadSettings, sources: Mapping[str, SourceSettings]) -> list[dict[str, Any]]:
    """One entry a file: container, rows, formats, quarantined with reasons, licence, or why it is skipped."""
    found, plan = discover(raw, sources)
    entries: list[dict[str, Any]] = [{"file": file, "skipped": reason} for file, reason in plan.skipped]
    for item in found:
        unit = Unit("survey", item.file, str(item.path), item.source, item.container, 0, -1, 0, 0, "", item.settings)
        entry = {"file": item.file, "source": item.source, "container": item.container}
        entries.append(entry | _count(unit, read) | {"licence": plan.licences[item.source]})
    return sorted(entries, key=lambda entry: str(entry["file"]))


def _count(unit: Unit, read: ReadSettings) -> dict[str, Any]:
    size = Path(unit.path).stat().st_size
    sampled = size > FULL
    if sampled and unit.container in ("jsonl", "ndjson"):
        unit = replace(unit, stop=FULL)
    rows, records, bad = 0, 0, 0
    formats: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    held = 0
    for batch in read_unit(unit, read):
        rows += batch.rows
        records += batch.table.num_rows
        bad += len(batch.quarantined)
        formats.update(batch.formats)
        reasons.update(item.reason.partition(":")[0] for item in batch.quarantined)
        held += batch.table.nbytes
        if sampled and held > FULL:
            break
    if sampled and unit.container in ("jsonl", "ndjson"):
        rows = rows * size // FULL
    return {
        "bytes": size,
        "rows": rows,
        "records": records,
        "sampled": sampled,
        "formats": dict(sorted(formats.items())),
        "quarantined": bad,
        "reasons": dict(sorted(reasons.items())),
    }
