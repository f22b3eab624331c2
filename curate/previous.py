"""Earlier outputs as something to compare with: what they kept.

What an earlier output kept always wins and never goes. A folder that stored no sketches of a stage (it ran without the
stage, or without its `keep_sketches`) is sketched afresh from its records, into files that are gone afterwards; what
goes is the same.

Cost: the ids of its records are read; sketching afresh reads the records once, at 0.2 GB/s or more.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curate.foundation.errors import DataError, UsageError
from curate.foundation.store import Store
from curate.tables import batches, read_arrow


@dataclass(frozen=True, slots=True)
class Previous:
    """An earlier output: its folder as it was named, and its manifest."""

    folder: str
    root: Path
    manifest: dict[str, Any]

    def facts(self) -> dict[str, Any]:
        """What the manifest of the new run says of it."""
        kept = self.manifest["totals"]["kept"]
        return {"folder": self.folder, "digest": self.manifest["digest"], "records": kept}


@dataclass(frozen=True, slots=True)
class OldSketch:
    """A sketch of an earlier output's unit, the positions in it that were not kept, and its file of records."""

    folder: str
    path: Path
    gone: NDArray[np.int64]
    records: Path


def open_previous(folders: Sequence[str]) -> list[Previous]:
    """Open complete earlier outputs, each checked against the digest of its manifest; raises UsageError."""
    from curate.curated import open_folder

    found = []
    for folder in dict.fromkeys(folders):
        _, manifest = open_folder(Path(folder))
        found.append(Previous(folder, Path(folder), manifest))
    return found


def check_previous(out: Path, folders: Sequence[str]) -> None:
    """Refuse earlier outputs that are not there, not complete, or the output itself; raises UsageError."""
    for old in open_previous(folders):
        if old.root.resolve() == out.resolve():
            raise UsageError(
                f"--previous {old.folder} is the output itself", hint="give the new records a folder of their own"
            )


def old_sketches(stage: Any, previous: Sequence[Previous], scratch: Any) -> Iterator[OldSketch]:
    """The sketches of earlier outputs for a stage, in their order; fresh ones are written to the folder `scratch`."""
    for old in previous:
        files = old.manifest["files"]
        for name in sorted(name for name in files if name.startswith("records/")):
            records = old.root / name
            stored = _stored(stage.name, name)
            _check(old, [name, stored] if stored in files else [name])
            if stored in files:
                path = old.root / stored
                yield OldSketch(old.folder, path, _not_kept(path, records), records)
            else:
                yield OldSketch(old.folder, _afresh(stage, records, scratch), np.zeros(0, np.int64), records)


def _stored(stage: str, records: str) -> str:
    return f"sketches/{stage}/{Path(records).stem}.arrow"


def said_afresh(folders: Sequence[str], stage: str) -> list[str]:
    """What to say of earlier outputs that must be sketched afresh for a stage; one line each."""
    said = []
    for old in open_previous(folders):
        files = old.manifest["files"]
        if any(name.startswith("records/") and _stored(stage, name) not in files for name in files):
            number = old.manifest["totals"]["kept"]
            said.append(f"{stage}: {old.folder} stores no sketches; its {number:,} records are sketched afresh")
    return said


def _check(old: Previous, names: Sequence[str]) -> None:
    """Refuse files of an earlier output that are not the ones its manifest lists."""
    store = Store(old.root, "records")
    for name in names:
        if not store.path(name).is_file() or store.entry(name) != old.manifest["files"][name]:
            raise DataError(f"{old.root / name}: damaged or gone", hint=f"look closer: curate verify {old.folder}")


def _not_kept(path: Path, records: Path) -> NDArray[np.int64]:
    """The positions of a sketch whose records are no longer there."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    kept = pq.read_table(records, columns=["id"]).column("id")
    sketch = read_arrow(path).select(["id", "position"])
    return np.asarray(sketch.filter(pc.invert(pc.is_in(sketch.column("id"), kept))).column("position").to_numpy())


def _afresh(stage: Any, records: Path, scratch: Any) -> Path:
    """Sketch a file of records into the folder `scratch`."""
    path = Path(tempfile.mkstemp(prefix="sketch-", suffix=".arrow", dir=scratch)[1])
    empty = stage.sketch(_nothing(), 0)
    with pa.ipc.new_file(str(path), empty.schema) as writer:
        start = 0
        for table in batches(records):
            writer.write_table(stage.sketch(table, start))
            start += table.num_rows
    return path


def _nothing() -> pa.Table:
    from curate.record import SCHEMA

    return SCHEMA.empty_table()


def own_twins(resolved: pa.Table) -> Any:
    """The source of each twin, null where it is another output's: no loss that a source's own records explain."""
    import pyarrow.compute as pc

    return pc.if_else(pc.is_null(resolved.column("twin_folder")), resolved.column("twin_source"), None)
