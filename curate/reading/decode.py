"""Raw rows to a batch: the fast path for what is simple, the exact path for everything else, in row order."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from curate import formats, record
from curate.formats.draft import Refused
from curate.formats.strict import Broken, loads
from curate.reading import fast
from curate.reading.model import Batch, Quarantined, Raw, Unit, quarantine
from curate.record import Record
from curate.sources import ReadSettings


class Decoder:
    """Turns the rows of one unit into batches; `exact` alone switches the fast path off (tests compare both)."""

    def __init__(self, unit: Unit, read: ReadSettings, *, exact: bool = False) -> None:
        self.unit = unit
        self.read = read
        self.preference = unit.settings.preference or read.preference
        self.fast = unit.settings.plain and not exact
        self.shapes: dict[tuple[str, ...], fast.Shape | None] = {}

    def lines(self, lines: Sequence[bytes], row: int, offset: int, block: bytes) -> Batch:
        """A batch from physical lines; blank ones are not rows but keep their number."""
        offsets = list(accumulate(map(len, lines), lambda done, size: done + size + 1, initial=0))
        batch, _ = self._run(lines, block, offsets[:-1], [row + n for n in range(len(lines))], offset, syntax=False)
        return batch

    def elements(self, found: Sequence[tuple[int, bytes]], row: int) -> tuple[Batch, int | None]:
        """A batch from array elements (offset, bytes); also the position of the first that is not JSON at all."""
        texts = [text for _, text in found]
        starts = list(accumulate(map(len, texts), lambda done, size: done + size + 1, initial=0))
        numbers = [row + n for n in range(len(texts))]
        places = [offset for offset, _ in found]
        return self._run(texts, b"\n".join(texts), starts[:-1], numbers, places, syntax=True)

    def _run(
        self,
        lines: Sequence[bytes],
        block: bytes,
        starts: list[int],
        numbers: list[int],
        offset: int | list[int],
        *,
        syntax: bool,
    ) -> tuple[Batch, int | None]:
        values: list[Any] = [None] * len(lines)
        slow: list[int] = []
        groups: dict[tuple[str, ...], list[int]] = {}
        blank: set[int] = set()
        decode = orjson.loads
        for index, line in enumerate(lines):
            try:
                value = decode(line)
                if type(value) is dict and self.fast:
                    values[index] = value
                    groups.setdefault(tuple(value), []).append(index)
                    continue
            except orjson.JSONDecodeError:
                if not syntax and not line.strip():
                    blank.add(index)
                    continue
            slow.append(index)
        colons = fast.key_colons(block, np.array(starts, dtype=np.int64)).tolist() if groups else []
        tables, orders = [], []
        seen: Counter[str] = Counter()
        for keys, at in groups.items():
            if keys not in self.shapes:
                self.shapes[keys] = fast.shape_of(keys)
            shape = self.shapes[keys]
            if shape is None:
                slow += at
                continue
            found, back = fast.simple(shape, at, [values[index] for index in at], colons)
            slow += back
            for columns in found:
                seen[columns.format] += len(columns.at)
                places = [numbers[index] for index in columns.at]
                tables.append(fast.to_table(columns, self.unit.source, self.unit.file, places))
                orders.append(columns.at)
        del values
        at_offset = [offset + start for start in starts] if isinstance(offset, int) else offset
        raws: list[Raw] = []
        cut: int | None = None
        for index in sorted(slow):
            raw = Raw(numbers[index], at_offset[index], lines[index])
            try:
                raw.value = loads(lines[index])
            except Broken as error:
                raw.problem = str(error)
                if syntax and error.syntax:
                    cut = index
                    break
            raws.append(raw)
        if cut is not None and any(index > cut for order in orders for index in order):
            # What follows a broken element was cut at guessed bounds: it is not read.
            before, _ = self._run(lines[:cut], block, starts[:cut], numbers[:cut], at_offset[:cut], syntax=True)
            return before, cut
        batch = self._merge(tables, orders, raws, numbers, seen)
        batch.rows = (len(lines) if cut is None else cut) - len(blank)
        return batch, cut

    def values(self, raws: list[Raw]) -> Batch:
        """A batch from rows that are values already (tables, csv)."""
        batch = self._merge([], [], raws, [], Counter())
        batch.rows = len(raws)
        return batch

    def _merge(
        self,
        tables: list[pa.Table],
        orders: list[list[int]],
        raws: list[Raw],
        numbers: list[int],
        seen: Counter[str],
    ) -> Batch:
        notes: Counter[str] = Counter()
        records, bad = self._exact(raws, seen, notes)
        if records:
            tables.append(record.to_table(records))
            first = numbers[0] if numbers else 0
            orders.append([item.row - first for item in records])
        if not tables:
            return Batch(record.SCHEMA.empty_table(), bad, 0, seen, notes)
        table = tables[0]
        if len(tables) > 1:
            order = np.argsort(np.concatenate([np.array(order) for order in orders]), kind="stable")
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
