"""The ledger read back: why a record went (explain), whether everything is still there (verify).

Cost: explain scans the id column of the folder's Parquet files; verify reads every file once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate import account
from curate.curated import open_folder
from curate.facts import shorten
from curate.foundation.console import printable
from curate.foundation.errors import UsageError
from curate.record import from_row, record_id
from curate.stages.verdict import VERDICT_FIELDS
from curate.tables import batches

SHOWN = 600


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


def explain(root: Path, ident: str) -> dict[str, Any]:
    """Where a record is and why: kept, removed (by which stage, rule, value, threshold, twin), flagged."""
    _, manifest = open_folder(root)
    rows = find(root, manifest, ident)
    if not rows:
        raise UsageError(
            f"{ident}: no record of {root} has that id or content digest",
            hint="ids are in the `id` column of records/ and removed/",
        )
    out = []
    for row in rows:
        entry = {"id": row["id"], "in": row["in"], "source": row["source"]}
        if "messages" in row:
            entry |= {"content": row["content"], "file": row["origin"]["file"], "row": row["origin"]["row"]}
            entry |= {"part": row["origin"]["part"], "messages": row["messages"], "tools": row["tools"]}
        top = row["in"].split("/")[0]
        entry["state"] = {"records": "kept", "removed": "removed", "flags": "flagged"}[top]
        if "stage" in row:
            verdict = {field.name: row[field.name] for field in VERDICT_FIELDS if row[field.name] is not None}
            if "evidence" in verdict:
                verdict["evidence"] = json.loads(verdict["evidence"])
            entry["verdict"] = verdict
            if verdict.get("twin_id"):
                twins = [twin for twin in find(root, manifest, verdict["twin_id"]) if "messages" in twin]
                entry["twin"] = [
                    {"id": twin["id"], "in": twin["in"], "source": twin["source"], **twin["origin"]}
                    | {"messages": twin["messages"]}
                    for twin in twins
                ]
        out.append(entry)
    return {"matches": out}


def explain_text(found: dict[str, Any]) -> str:
    """The explanation for people: origin, verdict, and the two texts under each other."""
    lines = []
    for entry in found["matches"]:
        where = f"{entry['file']}, row {entry['row']}, part {entry['part']}" if "file" in entry else ""
        lines.append(
            f"{entry['id']}  {entry['state'].upper()}  source {printable(entry['source'])}  {printable(where)}"
        )
        lines.append(f"  stored in {entry['in']}")
        if verdict := entry.get("verdict"):
            rule = (
                verdict["rule"]
                if verdict["rule"].startswith(verdict["stage"])
                else f"{verdict['stage']}.{verdict['rule']}"
            )
            lines.append(f"  rule {rule}")
            for key in ("value", "threshold", "similarity", "twin_id"):
                if key in verdict:
                    lines.append(f"  {key} {verdict[key]}")
            if "evidence" in verdict:
                lines.append(f"  evidence {printable(json.dumps(verdict['evidence'], ensure_ascii=False))}")
        lines += _messages(entry.get("messages", []), "  | ")
        for twin in entry.get("twin", []):
            lines.append(
                f"  twin {twin['id']}  source {printable(twin['source'])}  {printable(twin['file'])}, row {twin['row']}"
            )
            lines += _messages(twin["messages"], "  = ")
    return "\n".join(lines)


def _messages(messages: list[dict[str, Any]], mark: str) -> list[str]:
    out = []
    for message in messages:
        text = shorten(message["content"] or message["tool_calls"] or "", SHOWN)
        for number, line in enumerate(printable(text).split("\n") or [""]):
            out.append(f"{mark}{message['role'] + ':' if number == 0 else '':<11}{line}")
    return out


def verify(root: Path, *, deep: bool = True) -> list[str]:
    """Check digests, then recount the law from the data itself; one line for each problem found.

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
    return problems + _recount(manifest, counts)


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
