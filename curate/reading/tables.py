"""Parquet and Arrow files as rows of values; memory is bounded by slices of about `batch_bytes`.

Values JSON has no form for are written as text: dates in ISO form, decimals as digits, bytes in base64, NaN and
infinities by name. The last three are counted as notes.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import math
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from curate.reading.claims import Tally, shown, sound
from curate.reading.decode import Decoder
from curate.reading.model import Batch, Quarantined, Raw, Unit
from curate.reading.streams import Cut, blocks
from curate.record import SCHEMA
from curate.sources import ReadSettings

MOST: Final = 65_536  # rows of a batch at most
UNREADABLE: Final = (ValueError, ArithmeticError, LookupError, pa.ArrowException)


def read_tables(unit: Unit, settings: ReadSettings, decoder: Decoder) -> Iterator[Batch]:
    """Batches of a Parquet or Arrow unit; a damaged file gives what could be read and one quarantined row."""
    row = unit.first_row
    packing = unit.container.partition(".")[2]
    try:
        with tempfile.TemporaryFile() as spool:
            file: IO[bytes] | str = unit.path
            if packing:
                for block in blocks(Path(unit.path), packing, settings):
                    spool.write(block)
                spool.seek(0)
                file = spool
            for table in _slices(file, unit, settings):
                twice = [name for name, count in Counter(table.schema.names).items() if count > 1]
                batch = _doubled(table, row, unit.file, twice[0]) if twice else _batch(table, row, decoder)
                row += table.num_rows
                yield batch
    except (pa.ArrowException, OSError, Cut, UnicodeDecodeError) as error:  # the last: names of columns
        reason = f"the rest of the file cannot be read: {error if isinstance(error, Cut) else type(error).__name__}"
        bad = Quarantined(unit.file, row, None, reason, "")
        yield Batch(SCHEMA.empty_table(), [bad], 1, Counter(), Counter())


def _slices(file: IO[bytes] | str, unit: Unit, settings: ReadSettings) -> Iterator[pa.RecordBatch]:
    """Checked pieces of the unit's rows, each of about `batch_bytes`; raises `Cut` where counts do not add up."""
    if unit.container.startswith("parquet"):
        with pq.ParquetFile(file) as source:
            stop = unit.stop if unit.stop >= 0 else source.num_row_groups
            groups = range(unit.start, stop)
            tally = Tally(source.metadata, groups, settings.max_ratio, file)
            size = sum(group.total_byte_size for group in tally.groups)
            rows = sum(group.num_rows for group in tally.groups)
            number = max(1, int(settings.batch_bytes * rows / max(size, 1)))
            for batch in source.iter_batches(batch_size=min(number, MOST), row_groups=list(groups)) if rows else ():
                sound(batch)
                tally.add(batch)
                yield batch
        if problem := tally.problem(file):
            raise Cut(problem)
        return
    with arrow_batches(file) as batches:
        for batch in batches:
            sound(batch)
            step = max(1, min(MOST, int(settings.batch_bytes * batch.num_rows / max(batch.nbytes, 1))))
            for start in range(0, batch.num_rows, step):
                yield batch.slice(start, step)


class arrow_batches:
    """The record batches of an Arrow IPC file or stream."""

    def __init__(self, file: IO[bytes] | str) -> None:
        self.file = pa.memory_map(file) if isinstance(file, str) else pa.PythonFile(file, "r")

    def __enter__(self) -> Iterator[Any]:
        try:
            reader = pa.ipc.open_file(self.file)
        except pa.ArrowInvalid:
            self.file.seek(0)
            return iter(pa.ipc.open_stream(self.file))
        return (reader.get_batch(index) for index in range(reader.num_record_batches))

    def __exit__(self, *_: object) -> None:
        self.file.close()


def _doubled(table: pa.RecordBatch, first: int, file: str, name: str) -> Batch:
    """Rows of a table with two columns of one name: which one is meant is not ours to say."""
    values = [[plain(value, Counter()) for value in column.to_pylist()] for column in table.columns]
    bad = [
        Quarantined(
            file,
            first + index,
            None,
            f"two columns are named {name!r}",
            json.dumps([list(pair) for pair in zip(table.schema.names, row, strict=True)], ensure_ascii=False),
        )
        for index, row in enumerate(zip(*values, strict=True))
    ]
    return Batch(SCHEMA.empty_table(), bad, len(bad), Counter(), Counter())


def _batch(table: pa.RecordBatch, first: int, decoder: Decoder) -> Batch:
    notes: Counter[str] = Counter()
    simple = all(map(_is_plain, table.schema.types))
    try:
        rows: list[Any] = table.to_pylist()
        raws = [Raw(first + index, None, b"", row if simple else plain(row, notes)) for index, row in enumerate(rows)]
    except UNREADABLE:
        raws = [_one(table.slice(index, 1), first + index, notes) for index in range(table.num_rows)]
    batch = decoder.values(raws)
    batch.notes.update(notes)
    return batch


def _one(table: pa.RecordBatch, row: int, notes: Counter[str]) -> Raw:
    """One row of a batch that holds something Python cannot: a text that is not UTF-8, a date past the year 9999."""
    try:
        return Raw(row, None, b"", plain(table.to_pylist()[0], notes))
    except UNREADABLE as error:
        reason = "invalid UTF-8" if isinstance(error, UnicodeDecodeError) else "a value out of range"
        return Raw(row, None, json.dumps(shown(table), ensure_ascii=False).encode("utf-8"), None, reason)


def _is_plain(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_plain(kind.value_type)
    if pa.types.is_struct(kind):
        return all(_is_plain(kind.field(index).type) for index in range(kind.num_fields))
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean, pa.types.is_null)
    return any(test(kind) for test in tests)


def plain(value: Any, notes: Counter[str]) -> Any:
    """A value of a table as JSON has it; what JSON cannot hold becomes text, counted."""
    if isinstance(value, dict):
        return {str(key): plain(item, notes) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, notes) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        notes["NaN or infinity written as text"] += 1
        return json.dumps(value)
    if isinstance(value, bytes):
        notes["bytes written as base64 text"] += 1
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, decimal.Decimal):
        notes["decimals written as text"] += 1
        return str(value)
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    return value if value is None or isinstance(value, (str, bool, int, float)) else str(value)
