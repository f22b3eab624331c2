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
from typing import IO, Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from curate.reading.decode import Decoder
from curate.reading.model import Batch, Quarantined, Raw, Unit
from curate.reading.streams import Cut, blocks
from curate.record import SCHEMA
from curate.sources import ReadSettings


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
    except (pa.ArrowException, OSError, Cut) as error:
        reason = f"the rest of the file cannot be read: {error if isinstance(error, Cut) else type(error).__name__}"
        bad = Quarantined(unit.file, row, None, reason, "")
        yield Batch(SCHEMA.empty_table(), [bad], 1, Counter(), Counter())


def _slices(file: IO[bytes] | str, unit: Unit, settings: ReadSettings) -> Iterator[pa.Table]:
    """Pieces of the unit's rows, each of about `batch_bytes`."""
    if unit.container.startswith("parquet"):
        with pq.ParquetFile(file) as source:
            stop = unit.stop if unit.stop >= 0 else source.num_row_groups
            groups = range(unit.start, stop)
            size = sum(source.metadata.row_group(group).total_byte_size for group in groups)
            rows = sum(source.metadata.row_group(group).num_rows for group in groups)
            number = max(1, int(settings.batch_bytes * rows / max(size, 1)))
            if rows:
                for batch in source.iter_batches(batch_size=min(number, 65_536), row_groups=list(groups)):
                    yield pa.Table.from_batches([batch])
        return
    with arrow_batches(file) as source:
        for batch in source:
            step = max(1, int(settings.batch_bytes * batch.num_rows / max(batch.nbytes, 1)))
            for start in range(0, batch.num_rows, step):
                yield pa.Table.from_batches([batch.slice(start, step)])


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


def _doubled(table: pa.Table, first: int, file: str, name: str) -> Batch:
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


def _batch(table: pa.Table, first: int, decoder: Decoder) -> Batch:
    notes: Counter[str] = Counter()
    rows: list[Any] = table.to_pylist()
    if not all(map(_is_plain, table.schema.types)):
        rows = [plain(row, notes) for row in rows]
    batch = decoder.values([Raw(first + index, None, b"", row) for index, row in enumerate(rows)])
    batch.notes.update(notes)
    return batch


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
