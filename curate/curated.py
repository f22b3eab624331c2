"""A curated folder as input: for stage commands (`curate exact out/ out2/`) and for `curate restore`.

A unit is one part of `records/`, and for a restore also what was removed from that part, merged back into file order,
so that every stage decides again on the same rows in the same order as a run from raw would have seen them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curate.foundation.errors import DataError, UsageError
from curate.foundation.store import Store, digest_file, digest_of, recover
from curate.reading import Batch, Quarantined
from curate.record import SCHEMA
from curate.tables import batches

JOINED = 16_384  # records of the last batch of a unit: a batch as it is read, and what joins it


@dataclass(frozen=True, slots=True)
class CuratedUnit:
    """The files of one unit of a curated folder; `file` names the part, digests say what is in it."""

    name: str
    file: str
    source: str
    root: str
    parts: tuple[str, ...]
    digest: str

    def identity(self) -> list[str]:
        """What decides the bytes read."""
        return [self.name, self.file, self.source, self.digest]


def units(root: Path, manifest: dict[str, Any], *, removed: bool) -> list[CuratedUnit]:
    """The units of a complete curated folder; with `removed`, including every row of the ledger of removals."""
    found: dict[str, list[str]] = {}
    for name in manifest["files"]:
        top, _, rest = name.partition("/")
        if top == "records":
            found.setdefault(Path(rest).stem, []).insert(0, name)
        elif removed and top in ("removed", "quarantine"):
            found.setdefault(Path(rest).stem, []).append(name)
    known = {entry["unit"]: entry for entry in manifest["units"]}
    out = []
    for unit, parts in sorted(found.items(), key=lambda item: list(known).index(item[0])):
        digest = digest_of([[name, manifest["files"][name]["digest"]] for name in parts])
        file = known[unit]["file"] if removed else f"records/{unit}.parquet"
        out.append(CuratedUnit(unit, file, known[unit]["source"], str(root), tuple(parts), digest))
    if not out:
        raise UsageError(f"{root} holds no records", hint="make it with: curate filter RAW " + str(root))
    return out


def open_folder(root: Path) -> tuple[Store, dict[str, Any]]:
    """Open a complete curated folder and check the digest of its manifest."""
    recover(root)
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder", hint=f"make it with: curate filter RAW {root}")
    store = Store(root, "records")
    return store, store.manifest()


def read(unit: CuratedUnit) -> Iterator[Batch]:
    """The records of a unit in file order, in bounded batches; verdict columns are dropped.

    Raises DataError when a file is not what was written.
    """
    root = Path(unit.root)
    _check(unit)
    lines = [part for part in unit.parts if part.startswith("quarantine/")]
    removed = [part for part in unit.parts if part.startswith("removed/")]
    back = [table.select(SCHEMA.names) for part in removed for table in batches(root / part)]
    found = [Quarantined(**json.loads(line)) for name in lines for line in (root / name).read_text().splitlines()]
    waiting = _sorted(pa.concat_tables(back)) if back else SCHEMA.empty_table()
    held: pa.Table | None = None  # one batch is held back, so that what comes after the last record joins it
    for table in batches(root / unit.parts[0]):
        if held is not None:
            yield _batch(held, found)
            found = []
        if waiting.num_rows and table.num_rows:
            last = _places(table.slice(table.num_rows - 1))[0]
            number = sum(place <= last for place in _places(waiting))
            table = _sorted(pa.concat_tables([table, waiting.slice(0, number)])) if number else table
            waiting = waiting.slice(number)
        held = table
    rest = pa.concat_tables([table for table in (held, waiting) if table is not None])
    for start in range(0, max(1, rest.num_rows), JOINED):
        yield _batch(rest.slice(start, JOINED), found)
        found = []


def _check(unit: CuratedUnit) -> None:
    """Refuse files that are not the ones the folder's manifest lists."""
    try:
        found = digest_of([[part, digest_file(Path(unit.root) / part)] for part in unit.parts])
    except FileNotFoundError:
        found = ""
    if found != unit.digest:
        raise DataError(
            f"{unit.root}: what was written of unit {unit.name} is damaged or gone ({', '.join(unit.parts)})",
            hint=f"find which file: curate verify {unit.root}",
        )


def _batch(table: pa.Table, found: list[Quarantined]) -> Batch:
    whole = table.cast(SCHEMA).combine_chunks()
    return Batch(whole, found, table.num_rows + len(found), Counter(), Counter())


def _places(table: pa.Table) -> list[tuple[str, int, int]]:
    origin = table.column("origin").combine_chunks()
    files, rows, parts = (origin.field(name).to_pylist() for name in ("file", "row", "part"))
    return list(zip(files, rows, parts, strict=True))


def _sorted(table: pa.Table) -> pa.Table:
    origin = table.column("origin").combine_chunks()
    keys = pa.table({name: pc.struct_field(origin, name) for name in ("file", "row", "part")})
    return table.take(pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in ("file", "row", "part")]))
