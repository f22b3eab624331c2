"""Decisions by hand: `--decisions FILE`, csv or jsonl, one decision a row.

Columns: `id` or `content` (32 hex digits), `decision` (keep or drop), `reviewer`, `why`. A drop is a verdict of
`select`; a keep spares a record from select, length and quality, not from dedup. Where both name a record, its id wins
over its content digest.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curate.foundation.errors import UsageError
from curate.foundation.store import canonical
from curate.stages.verdict import Judgement, Verdict

COLUMNS: Final = ("id", "content", "decision", "reviewer", "why")
DIGEST: Final = re.compile(r"[0-9a-f]{32}")
HINT: Final = "columns: id or content (32 hex digits), decision (keep or drop), reviewer, why"


@dataclass(slots=True, frozen=True)
class Decision:
    """One decision, who took it and why."""

    keep: bool
    reviewer: str = ""
    why: str = ""


@dataclass(slots=True, frozen=True)
class Decisions:
    """Decisions by record id and by content digest."""

    ids: dict[str, Decision] = field(default_factory=dict)
    contents: dict[str, Decision] = field(default_factory=dict)

    def found(self, table: pa.Table) -> dict[int, Decision]:
        """The decisions on the rows of a batch."""
        rows: dict[int, Decision] = {}
        for name, known in (("content", self.contents), ("id", self.ids)):
            if not known:
                continue
            column = table.column(name).combine_chunks()
            mask = pc.is_in(column, pa.array(sorted(known), column.type))
            hits = np.flatnonzero(np.asarray(mask.to_numpy(zero_copy_only=False), dtype=np.bool_))
            for row, key in zip(hits.tolist(), column.take(pa.array(hits)).to_pylist(), strict=True):
                rows[row] = known[key]
        return dict(sorted(rows.items()))

    def kept(self, table: pa.Table) -> NDArray[np.bool_]:
        """Which rows of a batch a decision keeps."""
        mask = np.zeros(table.num_rows, np.bool_)
        mask[[row for row, decision in self.found(table).items() if decision.keep]] = True
        return mask

    def drops(self, table: pa.Table) -> list[Verdict]:
        """The verdicts on the rows of a batch that a decision drops."""
        return [
            Verdict(row, "decision", evidence=canonical({"reviewer": decision.reviewer, "why": decision.why}))
            for row, decision in self.found(table).items()
            if not decision.keep
        ]

    def spare(self, judgement: Judgement) -> Judgement:
        """A judgement without the removals of rows that a decision keeps."""
        if judgement.removals and (self.ids or self.contents):
            kept = self.kept(judgement.table)
            judgement.removals = [verdict for verdict in judgement.removals if not kept[verdict.index]]
        return judgement


def load_decisions(path: Path) -> Decisions:
    """Read a decision file; a row that cannot be understood, or contradicts another, is a `UsageError` with its line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", hint="name a csv or jsonl file with --decisions") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 at byte {error.start}", hint=HINT) from None
    if path.suffix.lower() not in (".csv", ".jsonl"):
        raise UsageError(f"{path}: neither .csv nor .jsonl", hint=HINT)
    rows = _csv_rows(path, text) if path.suffix.lower() == ".csv" else _json_rows(path, text)
    return _collect(path, rows)


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(text.splitlines(keepends=True), strict=True)
    try:
        _check_columns(path, 1, reader.fieldnames or ())
        for row in reader:
            if None in row or None in row.values():
                raise UsageError(f"{path}:{reader.line_num}: not as many fields as columns", hint=HINT)
            yield reader.line_num, row
    except csv.Error as error:
        raise UsageError(f"{path}:{reader.line_num}: {error}", hint=HINT) from None


def _json_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, raw in enumerate(text.split("\n"), 1):
        if not raw.strip():
            continue
        try:
            row = json.loads(raw)
        except ValueError as error:
            raise UsageError(f"{path}:{line}: not JSON ({error})", hint=HINT) from None
        if not isinstance(row, dict):
            raise UsageError(f"{path}:{line}: not a JSON object", hint=HINT)
        _check_columns(path, line, row)
        yield line, row


def _check_columns(path: Path, line: int, names: Iterable[str]) -> None:
    from curate.stages.predicate import nearest

    for name in names:
        if name not in COLUMNS:
            raise UsageError(f"{path}:{line}: unknown column {name!r}", hint=nearest(name, COLUMNS))


def _collect(path: Path, rows: Iterable[tuple[int, dict[str, Any]]]) -> Decisions:
    decisions = Decisions()
    for line, row in rows:
        values = {name: row.get(name) or "" for name in COLUMNS}
        if not all(isinstance(value, str) for value in values.values()):
            raise UsageError(f"{path}:{line}: every value must be a text", hint=HINT)
        id_, content, decision, reviewer, why = (values[name].strip() for name in COLUMNS)
        if decision not in ("keep", "drop"):
            raise UsageError(f"{path}:{line}: decision is {decision!r}, not keep or drop", hint=HINT)
        if bool(id_) == bool(content):
            raise UsageError(f"{path}:{line}: needs an id or a content digest, and only one of them", hint=HINT)
        if not DIGEST.fullmatch(id_ or content):
            raise UsageError(f"{path}:{line}: {id_ or content!r} is not 32 hex digits", hint=HINT)
        known = decisions.ids if id_ else decisions.contents
        earlier = known.setdefault(id_ or content, Decision(decision == "keep", reviewer, why))
        if earlier.keep != (decision == "keep"):
            raise UsageError(f"{path}:{line}: an earlier line decides the other way on {id_ or content}", hint=HINT)
    return decisions
