"""Why a record went, with its evidence: `curate explain`.

Every verdict on a record becomes a comparison: the text that was judged, the text it was judged against (its twin, or
the question of an evaluation set; never an answer), and the spans they share. Cost: the id columns of the folder's
Parquet files are scanned, twice for a record with a twin.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate import keytext
from curate.curated import open_folder
from curate.foundation.console import printable
from curate.foundation.errors import GristmillError, UsageError
from curate.ledger import find
from curate.side_by_side import Side, columns
from curate.stages.exempt import full_rule
from curate.stages.verdict import VERDICT_FIELDS

LISTED: Final = 100  # records removed for one record's sake that are listed; all are counted
NAMED: Final = 5  # of them in the text

Row = dict[str, Any]


def explain(root: Path, ident: str) -> dict[str, Any]:
    """Where each record with this id (or prefix, or content digest) is and why; raises UsageError when there is none."""
    _, manifest = open_folder(root)
    rows = find(root, manifest, ident)
    if not rows:
        raise UsageError(
            f"{ident}: no record of {root} has that id or content digest",
            hint="ids are in the `id` column of records/ and removed/",
        )
    by_id: dict[str, list[Row]] = {}
    for row in rows:
        by_id.setdefault(row["id"], []).append(row)
    return {"matches": [_entry(root, manifest, found) for found in by_id.values()]}


def _entry(root: Path, manifest: dict[str, Any], rows: Sequence[Row]) -> Row:
    """One record: its place and texts, the verdict that removed it, its flags, and what went for its sake."""
    whole = next((row for row in rows if "messages" in row), None)
    if whole is None:  # a flag names only the id; the record itself was not asked for by its content digest
        whole = next(row for row in find(root, manifest, rows[0]["id"]) if "messages" in row)
    entry: Row = {"id": whole["id"], "in": whole["in"], "source": whole["source"], "content": whole["content"]}
    entry |= {**whole["origin"], "messages": whole["messages"], "tools": whole["tools"]}
    entry["state"] = "kept" if whole["in"].startswith("records/") else "removed"
    flags = [row for row in rows if row["in"].startswith("flags/")]
    entry["flags"] = [_verdict(row) for row in flags]
    comparisons = [_comparison(whole, flag, None) for flag in entry["flags"]]
    if entry["state"] == "removed":
        verdict = entry["verdict"] = _verdict(whole)
        entry["twin"] = _twins(root, manifest, verdict)
        twin = entry["twin"][0] if entry["twin"] else None
        comparisons.insert(0, _comparison(whole, verdict, twin))
    entry["comparisons"] = [found for found in comparisons if found is not None]
    entry["kept_for"] = _kept_for(root, manifest, whole["id"])
    return entry


def _verdict(row: Row) -> Row:
    """The verdict columns that are set, the evidence as JSON values."""
    verdict = {field.name: row[field.name] for field in VERDICT_FIELDS if row[field.name] is not None}
    if "evidence" in verdict:
        verdict["evidence"] = json.loads(verdict["evidence"])
    return verdict


def _twins(root: Path, manifest: dict[str, Any], verdict: Row) -> list[Row]:
    """The twin, in this folder or in the earlier output that the evidence names; none where that is gone."""
    ident, evidence = verdict.get("twin_id"), _facts(verdict)
    if not ident or "eval" in evidence:
        return []
    folder = (evidence.get("twin") or {}).get("folder")
    if folder is not None:
        root = Path(folder)
        try:
            _, manifest = open_folder(root)
        except GristmillError:
            return []
    return [
        {"id": row["id"], "in": row["in"], "source": row["source"], **row["origin"], "messages": row["messages"]}
        | ({} if folder is None else {"folder": folder})
        for row in find(root, manifest, ident)
        if "messages" in row and row["id"] == ident
    ]


def _facts(verdict: Row) -> Row:
    evidence = verdict.get("evidence")
    return evidence if isinstance(evidence, dict) else {}


def _kept_for(root: Path, manifest: dict[str, Any], ident: str) -> Row:
    """How many records were removed with this one as their twin, and the most similar of them."""
    found: list[Row] = []
    for name in manifest["files"]:
        if name.startswith("removed/"):
            table = pq.read_table(root / name, columns=["id", "source", "stage", "similarity", "twin_id"])
            found += table.filter(pc.equal(table.column("twin_id"), ident)).drop_columns("twin_id").to_pylist()
    found.sort(key=lambda row: (row["stage"], -(row["similarity"] or 0.0), row["id"]))
    return {"removed": len(found), "records": found[:LISTED]}


def _comparison(row: Row, verdict: Row, twin: Row | None) -> Row | None:
    """What was judged and what it was judged against, with shared spans in characters of both; None without a text."""
    evidence = _facts(verdict)
    head: Row = {"stage": verdict["stage"], "rule": verdict["rule"]}
    if "eval" in evidence:
        return head | _contamination(row, evidence)
    if "message" in evidence:
        return head | _own(row, evidence)
    if verdict.get("twin_id") is None:
        return None
    key = str(evidence.get("key") or verdict["rule"])
    compose = keytext.of_exact_key if "spans" not in evidence else keytext.of_key
    here = compose(row["messages"], key)
    there = compose(twin["messages"], key) if twin else None
    pairs = [(span["here"], span["twin"]) for span in evidence.get("spans", ())]
    if "spans" not in evidence and there is not None:  # exact twins: all of it is shared
        pairs = [([0, len(here.text)], [0, len(there.text)])]
    place = twin or evidence.get("twin") or {}
    told = f"{place.get('source', '?')}: {place.get('file', '?')}, row {place.get('row', '?')}"
    told += f", of {place['folder']}" if "folder" in place else ""
    head |= {"key": key, "here": _side(f"this record, {key}", here, [a for a, _ in pairs])}
    if there is None:
        return head | {"there": None, "missing": f"the twin {verdict['twin_id']} ({told}) is not to be found"}
    return head | {"there": _side(f"twin, {told}", there, [b for _, b in pairs]) | {"id": verdict["twin_id"]}}


def _contamination(row: Row, evidence: Row) -> Row:
    """The message that holds an evaluation item, beside the item's question; the evidence has no answer to show."""
    index, offset = int(evidence["message"]), int(evidence.get("offset", 0))
    message = row["messages"][index]
    here = keytext.KeyText(message["content"] or "", ((0, message["role"]),))
    item = keytext.KeyText(str(evidence.get("item_text") or ""), ())
    pairs = [([at - offset for at in span["here"]], span["item"]) for span in evidence.get("spans", ())]
    return {
        "here": _side(f"this record, message {index}", here, [a for a, _ in pairs]),
        "there": _side(f"{evidence['eval']}, item {evidence['item']}", item, [b for _, b in pairs]),
    }


def _own(row: Row, evidence: Row) -> Row:
    """One message of the record with the characters that a rule of its own found."""
    index = int(evidence["message"])
    spans = [list(span) for span in evidence.get("spans", ())]
    message = row["messages"][index]
    text = keytext.KeyText(message["content"] or message["tool_calls"] or "", ((0, message["role"]),))
    return {"here": _side(f"this record, message {index}", text, spans), "there": None}


def _side(title: str, text: keytext.KeyText, spans: Sequence[Sequence[int]]) -> Row:
    labels = [list(label) for label in text.labels]
    return {"title": title, "text": text.text, "labels": labels, "spans": [list(span) for span in spans]}


def explain_text(found: Mapping[str, Any], *, width: int | None = None, colour: bool | None = None) -> str:
    """The explanation for people: place, verdict and flags, then the two texts of each comparison."""
    lines: list[str] = []
    for entry in found["matches"]:
        where = f"{entry['file']}, row {entry['row']}, part {entry['part']}"
        place = f"source {printable(entry['source'])}  {printable(where)}"
        lines += [f"{entry['id']}  {entry['state'].upper()}  {place}", f"  stored in {entry['in']}"]
        if verdict := entry.get("verdict"):
            lines.append(f"  removed by {_told(verdict)}")
        lines += [f"  flagged by {_told(flag)}" for flag in entry["flags"]]
        lines += _sake(entry["kept_for"])
        for item in entry["comparisons"]:
            lines += ["", f"{full_rule(item['stage'], item['rule'])}: {item['missing']}"] if "missing" in item else [""]
            here, there = (_drawn(item[side]) for side in ("here", "there"))
            assert here is not None
            lines.append(columns(here, there, width=width, colour=colour))
        if not entry["comparisons"]:
            text = keytext.compose(entry["messages"])
            lines += ["", columns(Side("this record", text.text, text.labels), None, width=width, colour=colour)]
        lines.append("")
    return "\n".join(lines).rstrip("\n")


def _drawn(side: Row | None) -> Side | None:
    if side is None:
        return None
    labels = [(int(at), str(role)) for at, role in side["labels"]]
    return Side(side["title"], side["text"], labels, [(int(a), int(b)) for a, b in side["spans"]])


def _told(verdict: Row) -> str:
    """A verdict in one line: rule, what was measured, the bound, the twin, and what else the evidence says."""
    parts = [full_rule(verdict["stage"], verdict["rule"])]
    shown = dict(verdict)
    if shown.get("similarity") == shown.get("value"):
        shown.pop("value", None)
    for key in ("value", "similarity", "threshold"):
        if key in shown:
            parts.append(f"{key} {shown[key]:.6g}")
    evidence = _facts(verdict)
    if "eval" in evidence:
        parts.append(f"{evidence['eval']} item {evidence.get('item', '?')}")
    elif "twin_id" in verdict:
        parts.append(f"twin {verdict['twin_id']}")
    hidden = ("spans", "twin", "item_text", "eval", "item", "offset", "rule")
    rest = {key: value for key, value in evidence.items() if key not in hidden}
    if rest:
        parts.append(", ".join(f"{key} {value}" for key, value in rest.items()))
    return printable("; ".join(parts))


def _sake(kept_for: Row) -> list[str]:
    """What was removed because this record was kept."""
    if not kept_for["removed"]:
        return []
    lines = [f"  {kept_for['removed']:,} removed for its sake:"]
    for row in kept_for["records"][:NAMED]:
        alike = f", similarity {row['similarity']:.6g}" if row["similarity"] is not None else ""
        lines.append(f"    {row['id']}  source {printable(row['source'])}, {row['stage']}{alike}")
    more = kept_for["removed"] - min(NAMED, len(kept_for["records"]))
    return [*lines, f"    and {more:,} more (--json lists up to {LISTED})"] if more else lines
