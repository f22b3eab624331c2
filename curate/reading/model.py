"""The types of reading: a unit of work, the plan, a batch, a quarantined row and how its bytes are written as text."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa

from curate.foundation.store import digest_bytes, digest_of
from curate.sources import SourceSettings

_BAD: Final = re.compile("[\udc80-\udcff]")
_ESCAPE: Final = re.compile(r"\\(\\|x[0-9a-f]{2})")


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of a file that one worker reads.

    `start` and `stop` are bytes for line files, row groups for Parquet, record batches for Arrow, and 0 and -1 where
    the file is read whole; `first_row` is the row number of its first row; `digest` is of the bytes that decide it.
    """

    name: str
    file: str
    path: str
    source: str
    container: str
    start: int
    stop: int
    first_row: int
    index: int
    digest: str
    settings: SourceSettings

    def identity(self) -> list[str]:
        """What decides the records read."""
        place = [self.name, self.file, self.source, self.container, self.digest]
        return [*place, f"{self.start}:{self.stop}:{self.first_row}", digest_of(self.settings.model_dump(mode="json"))]


@dataclass
class Plan:
    """The units of a folder in reading order, what is not data and why, and the licence of each source."""

    units: list[Unit] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    licences: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Quarantined:
    """A row that gave no record: `row` counts from 0 (physical lines in line files), `raw` is `escape` of its bytes."""

    file: str
    row: int
    offset: int | None
    reason: str
    raw: str


@dataclass
class Batch:
    """Records under `record.SCHEMA` and the rows they came from: rows = rows that gave records + quarantined."""

    table: pa.Table
    quarantined: list[Quarantined]
    rows: int
    formats: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Raw:
    """One row as found: a number, a byte offset (decompressed) and its bytes or, from tables, its value."""

    row: int
    offset: int | None
    data: bytes
    value: Any = None
    problem: str = ""


def escape(data: bytes) -> str:
    r"""Bytes as text that gives them back: UTF-8 where valid, `\xhh` for other bytes, `\\` for a backslash."""
    text = data.decode("utf-8", "surrogateescape").replace("\\", "\\\\")
    return _BAD.sub(lambda match: f"\\x{ord(match.group()) - 0xDC00:02x}", text)


def unescape(text: str) -> bytes:
    """The bytes that `escape` was given."""
    found = _ESCAPE.sub(lambda m: "\\" if m.group(1) == "\\" else chr(0xDC00 + int(m.group(1)[1:], 16)), text)
    return found.encode("utf-8", "surrogateescape")


def quarantine(file: str, raw: Raw, reason: str, limit: int, size: int | None = None) -> Quarantined:
    """A quarantined row; of more than `limit` bytes the first are kept, with size and digest of the whole."""
    total = len(raw.data) if size is None else size
    if len(raw.data) > limit:
        reason += f" ({total:,} bytes, xxh3_128 {digest_bytes(raw.data)}, the first {limit:,} kept)"
    return Quarantined(file, raw.row, raw.offset, reason, escape(raw.data[:limit]))
