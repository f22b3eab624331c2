"""Raw rows to a batch: the fast path for what is simple, the exact path for everything else, in row order."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from curate import formats, record
from curate.formats.draft import Refused
from curate.formats.strict import Broken, loads
from curate.reading import direct, fast
from curate.reading.arrays import Block, Elements
from curate.reading.model import Batch, Quarantined, Raw, Unit, quarantine
from curate.reading.scan import Ints
from curate.reading.shapes import Shape, shape_of
from curate.record import Record
from curate.sources import ReadSettings


@dataclass(frozen=True, slots=True)
class Rows:
    """Bytes that hold rows [start, stop), the number of the first, the offset of each in the file, and `scan` marks."""

    block: bytes
    starts: Ints
    stops: Ints
    first: int
    places: Ints
    marks: Ints

    def bytes(self, index: int) -> bytes:
        """The bytes of one row."""
        return self.block[self.starts[index] : self.stops[index]]

    def before(self, index: int) -> Rows:
        """The rows before one of them."""
        return Rows(self.block, self.starts[:index], self.stops[:index], self.first, self.places[:index], self.marks)

    def colons(self, at: list[int]) -> dict[int, int]:
        """`fast.key_colons` of some rows, by position."""
        texts = [self.bytes(index) for index in at]
        starts = list(accumulate(map(len, texts), lambda done, size: done + size + 1, initial=0))[:-1]
        counts = fast.key_colons(b"\n".join(texts), np.array(starts, dtype=np.int64))
        return dict(zip(at, counts.tolist(), strict=True))


class Decoder:
    """Turns the rows of one unit into batches; `exact` alone switches the fast paths off (tests compare them)."""

    def __init__(self, unit: Unit, read: ReadSettings, *, exact: bool = False) -> None:
        self.unit = unit
        self.read = read
        self.preference = unit.settings.preference or read.preference
        self.fast = unit.settings.plain and not exact
        self.shapes: dict[tuple[str, ...], Shape | None] = {}
        self.scratch = direct.Scratch()
        self.ends = 0  # line ends of the last block of lines

    def lines(self, block: bytes, row: int, offset: int) -> Batch:
        """A batch from physical lines; blank ones are not rows but keep their number."""
        marks = self.scratch.marks(block)
        ends = marks[:-2][np.frombuffer(block, np.uint8)[marks[:-2]] == 10]
        self.ends = len(ends)
        starts, stops = np.append(0, ends + 1), np.append(ends, len(block))
        batch, _ = self._run(Rows(block, starts, stops, row, starts + offset, marks), syntax=False)
        return batch

    def elements(self, found: Block, row: int) -> tuple[Batch, int | None]:
        """A batch from elements of an array; also the position of the first that is not JSON at all."""
        rows = Rows(found.block, found.starts, found.stops, row, found.starts + found.offset, found.marks)
        return self._run(rows, syntax=True)

    def _run(self, rows: Rows, *, syntax: bool) -> tuple[Batch, int | None]:
        tables: list[pa.Table] = []
        orders: list[Ints] = []
        seen: Counter[str] = Counter()
        left: Sequence[int] = range(len(rows.starts))
        if self.fast:
            found = direct.Found(rows.block, rows.marks, rows.starts, rows.stops, self.shapes)
            seen.update(found.formats)
            if len(found.at):
                numbers = np.arange(rows.first, rows.first + len(rows.starts))
                tables.append(found.table(self.unit.source, self.unit.file, numbers, self.scratch))
                orders.append(found.at)
            left = np.flatnonzero(found.chosen < 0).tolist()
        slow, blank = self._columns(rows, left, tables, orders, seen, syntax=syntax)
        raws: list[Raw] = []
        cut: int | None = None
        for index in sorted(slow):
            data = rows.bytes(index)
            raw = Raw(rows.first + index, int(rows.places[index]), data)
            try:
                raw.value = loads(data)
            except Broken as error:
                raw.problem = str(error)
                if syntax and error.syntax:
                    cut = index
                    break
            raws.append(raw)
        if cut is not None and any(order[-1] > cut for order in orders):
            # What follows a broken element was cut at guessed bounds: it is not read.
            before, _ = self._run(rows.before(cut), syntax=True)
            return before, cut
        batch = self._merge(tables, orders, raws, rows.first, seen)
        batch.rows = (len(rows.starts) if cut is None else cut) - blank
        return batch, cut

    def _columns(
        self,
        rows: Rows,
        left: Sequence[int],
        tables: list[pa.Table],
        orders: list[Ints],
        seen: Counter[str],
        *,
        syntax: bool,
    ) -> tuple[list[int], int]:
        """Decode rows and turn those of simple shapes into tables; gives the others and how many lines are blank."""
        values: dict[int, Any] = {}
        slow: list[int] = []
        groups: dict[tuple[str, ...], list[int]] = {}
        blank = 0
        for index in left:
            line = rows.bytes(index)
            try:
                value = orjson.loads(line)
                if type(value) is dict and self.fast:
                    values[index] = value
                    groups.setdefault(tuple(value), []).append(index)
                    continue
            except orjson.JSONDecodeError:
                if not syntax and not line.strip():
                    blank += 1
                    continue
            slow.append(index)
        for keys, at in groups.items():
            if keys not in self.shapes:
                self.shapes[keys] = shape_of(keys)
            shape = self.shapes[keys]
            if shape is None:
                slow += at
                continue
            found, back = fast.simple(shape, at, [values[index] for index in at], rows.colons(at))
            slow += back
            for columns in found:
                seen[columns.format] += len(columns.at)
                places = [rows.first + index for index in columns.at]
                tables.append(fast.to_table(columns, self.unit.source, self.unit.file, places))
                orders.append(np.array(columns.at))
        return slow, blank

    def values(self, raws: list[Raw]) -> Batch:
        """A batch from rows that are values already (tables, csv)."""
        batch = self._merge([], [], raws, 0, Counter())
        batch.rows = len(raws)
        return batch

    def _merge(
        self,
        tables: list[pa.Table],
        orders: list[Ints],
        raws: list[Raw],
        first: int,
        seen: Counter[str],
    ) -> Batch:
        notes: Counter[str] = Counter()
        records, bad = self._exact(raws, seen, notes)
        if records:
            tables.append(record.to_table(records))
            orders.append(np.array([item.row - first for item in records]))
        if not tables:
            return Batch(record.SCHEMA.empty_table(), bad, 0, seen, notes)
        table = tables[0]
        if len(tables) > 1:
            order = np.argsort(np.concatenate(orders), kind="stable")
            table = pa.concat_tables(tables).combine_chunks().take(pa.array(order))
        return Batch(table, bad, 0, seen, notes)

    def _exact(
        self, raws: list[Raw], seen: Counter[str], notes: Counter[str]
    ) -> tuple[list[Record], list[Quarantined]]:
        unit, out, bad = self.unit, [], []
        for raw in raws:
            reason = raw.problem
            if not reason:
                try:
                    found = formats.convert(raw.value, unit.settings, self.preference)
                    made = formats.records(found, raw.value, unit.source, unit.file, raw.row, unit.settings)
                except Refused as error:
                    reason = str(error)
                except Broken as error:
                    reason = f"inside a text of JSON: {error}"
                except RecursionError:
                    reason = "nested too deep"
            if reason:
                if not raw.data and raw.value is not None:
                    raw.data = json.dumps(raw.value, ensure_ascii=False, default=str).encode(
                        "utf-8", "backslashreplace"
                    )
                bad.append(quarantine(unit.file, raw, reason, self.read.raw_bytes))
                continue
            out += made
            seen[found.format] += 1
            notes.update(found.notes)
        return out, bad


def warm() -> None:
    """Compile the kernels of reading, once a machine, before several workers would each do it."""
    for block in Elements(iter([b'[{"prompt": "q", "completion": "a", "n": 1}]']), 1024, 1024):
        found = direct.Found(block.block, block.marks, block.starts, block.stops, {})
        found.table("", "", np.arange(len(block.starts)), direct.Scratch())
