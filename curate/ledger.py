"""The ledger read back: where a record is (find), whether everything is still there (verify).

Cost: find scans the id column of the folder's Parquet files; verify reads every file once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate import account
from curate.cards.render import stale
from curate.curated import open_folder
from curate.foundation.errors import UsageError
from curate.record import from_row, record_id
from curate.tables import batches


def find(root: Path, manifest: dict[str, Any], ident: str) -> list[dict[str, Any]]:
    """Every row whose id (or content digest) begins with `ident`, with the file of the folder that holds it."""
    if len(ident) < 6 or not all(character in "0123456789abcdef" for character in ident.lower()):
        raise UsageError(f"{ident}: not an id", hint="give at least 6 of its 32 hex characters")
    found: list[dict[str, Any]] = []
    for name in manifest["files"]:
        if name.split("/")[0] not in ("records", "removed", "flags"):
            continue
        path = root / name
        schema = pq.read_schema(path)
        columns = [column for column in ("id", "content") if column in schema.names]
        ids = pq.read_table(path, columns=columns)
        mask = None
        for column in columns:
            hit = pc.starts_with(ids.column(column), ident.lower())
            mask = hit if mask is None else pc.or_(mask, hit)
        if pc.any(mask).as_py():
            table: pa.Table = pq.read_table(path).filter(mask)
            found.extend({"in": name, **row} for row in table.to_pylist())
    return found


def unmatched(root: Path, manifest: dict[str, Any], wanted: set[str]) -> list[str]:
    """Which of some ids and content digests no record of the folder has, kept or removed; sorted."""
    left = set(wanted)
    for name in manifest["files"]:
        if left and name.split("/")[0] in ("records", "removed"):
            for table in pq.ParquetFile(root / name).iter_batches(columns=["id", "content"]):
                left -= set(table.column("id").to_pylist()) | set(table.column("content").to_pylist())
    return sorted(left)


def verify(root: Path, *, deep: bool = True) -> list[str]:
    """Check digests, recount the law from the data itself, compare the card; one line for each problem found.

    With `deep`, every record's id and content digest are computed again from its own fields.
    """
    store, manifest = open_folder(root)
    problems = store.verify()
    if problems:
        return problems
    counts: dict[str, dict[str, Any]] = {
        entry["unit"]: {"rows": set(), "quarantined": 0, "kept": 0, "removed": 0} for entry in manifest["units"]
    }
    seen: set[bytes] = set()
    for name in manifest["files"]:
        top, unit = name.split("/")[0], Path(name).stem
        if top == "quarantine":
            counts[unit]["quarantined"] += sum(1 for _ in store.path(name).open("rb"))
        elif top in ("records", "removed"):
            found = counts[unit]
            for table in batches(store.path(name)):
                found["kept" if top == "records" else "removed"] += table.num_rows
                found["rows"].update(table.column("origin").combine_chunks().field("row").to_pylist())
                problems += _twice(name, table, seen)
                if deep:
                    problems += [line for row in table.to_pylist() for line in _recheck(name, row)]
    return problems + _recount(manifest, counts) + stale(root, manifest)


def _twice(name: str, table: pa.Table, seen: set[bytes]) -> list[str]:
    """Ids that occur a second time; 16 bytes an id are held."""
    out = []
    for text in table.column("id").to_pylist():
        ident = bytes.fromhex(text)
        if ident in seen:
            out.append(f"{name}: id {text} occurs twice")
        seen.add(ident)
    return out


def _recheck(name: str, row: dict[str, Any]) -> list[str]:
    record = from_row(row)
    out = []
    if record_id(record.source, record.file, record.row, record.part) != row["id"]:
        out.append(f"{name}: id {row['id']} is not the digest of its origin")
    if record.content != row["content"]:
        out.append(f"{name}: content digest of {row['id']} is not that of its messages")
    return out


def _recount(manifest: dict[str, Any], counts: dict[str, dict[str, Any]]) -> list[str]:
    gave: dict[str, int] = {}
    inputs = {entry["file"]: {**entry, "quarantined": 0, "kept": 0, "removed": 0} for entry in manifest["inputs"]}
    for entry in manifest["units"]:
        found = counts[entry["unit"]]
        gave[entry["file"]] = gave.get(entry["file"], 0) + len(found["rows"])
        for key in ("quarantined", "kept", "removed"):
            inputs[entry["file"]][key] += found[key]
    return account.law({"inputs": list(inputs.values()), "sources": manifest["sources"]}, gave)
