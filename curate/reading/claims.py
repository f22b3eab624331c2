"""What a Parquet or Arrow file claims, checked before it is trusted.

Arrow's readers take offsets and lengths at their word: a record batch whose offsets point outside its buffers ends the
process when it is looked at. `sound` has every offset and every text checked first. Parquet's readers take the footer's
row count at its word: a count that is too low silently drops rows. `Tally` compares it with the values that the pages
say they hold (page headers of the Parquet format, in Thrift's compact protocol) and with the values that were decoded.

Cost: validation runs at memory speed; the page headers are a seek a page (about 1 MB of data each).
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import pyarrow as pa

from curate.reading.thrift import struct

ROWS_FLOOR: Final = 1 << 20
_HEADER: Final = 1 << 14  # bytes looked at first for a page header; one with long statistics needs more
_LONGEST: Final = 1 << 24
_DATA_PAGES: Final = {0: 5, 3: 8}  # page type -> the field of its own header


def sound(batch: pa.RecordBatch) -> None:
    """Check every buffer, offset and index of a batch, but not that its texts are UTF-8; raises `pa.ArrowInvalid`."""
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid:
        # Texts that are not UTF-8 spoil one row each: everything else must hold when they are taken for bytes.
        batch.validate()
        for column in batch.columns:
            column.view(_as_bytes(column.type)).validate(full=True)
    if batch.num_rows > max(batch.get_total_buffer_size(), ROWS_FLOOR):
        raise pa.ArrowInvalid("more rows than bytes")


def _as_bytes(kind: pa.DataType) -> pa.DataType:
    """The type with its texts taken for bytes."""
    if pa.types.is_string(kind):
        return pa.binary()
    if pa.types.is_large_string(kind):
        return pa.large_binary()
    if pa.types.is_struct(kind):
        return pa.struct([_field(kind.field(index)) for index in range(kind.num_fields)])
    if pa.types.is_list(kind):
        return pa.list_(_field(kind.value_field))
    if pa.types.is_large_list(kind):
        return pa.large_list(_field(kind.value_field))
    return kind


def _field(field: pa.Field) -> pa.Field:
    return field.with_type(_as_bytes(field.type))


def shown(batch: pa.RecordBatch) -> dict[str, str]:
    """One row that Python cannot hold, column by column as text: bytes that are not UTF-8 escaped."""
    out = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            value = column.view(_as_bytes(column.type)).to_pylist()[0]
        except (ValueError, ArithmeticError, LookupError, pa.ArrowException):
            value = f"a {column.type} that cannot be read"
        out[name] = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
    return out


class Tally:
    """Counts the values decoded from some row groups, and says at the end where the file's own counts differ."""

    def __init__(self, metadata: Any, groups: range, ratio: int, file: IO[bytes] | str) -> None:
        self.groups = [metadata.row_group(index) for index in groups]
        self.metadata = metadata
        self.last = groups.stop == metadata.num_row_groups
        self.rows = 0
        self.levels: list[int] | None = [0] * metadata.num_columns
        every = _chunks(_footer(file), metadata.num_row_groups, metadata.num_columns)
        self.chunks = [every[index] for index in groups]
        size = sum(chunk.size for group in self.chunks for chunk in group)
        claimed = sum(group.num_rows for group in self.groups)
        if claimed < 0 or claimed > max(ROWS_FLOOR, ratio * max(size, 1)):
            raise pa.ArrowInvalid(f"{claimed:,} rows in {size:,} bytes")

    def _columns(self) -> range:
        return range(self.metadata.num_columns)

    def add(self, batch: pa.RecordBatch) -> None:
        """Count one decoded batch."""
        self.rows += batch.num_rows
        if self.levels is not None:
            found = [entries(column) for column in batch.columns]
            flat = [count for part in found if part is not None for count in part]
            known = None not in found and len(flat) == len(self.levels)
            self.levels = [a + b for a, b in zip(self.levels, flat, strict=True)] if known else None

    def problem(self, file: IO[bytes] | str) -> str:
        """What does not add up, or ""."""
        claimed = sum(group.num_rows for group in self.groups)
        if claimed != self.rows:
            return f"the file promises {claimed:,} rows here and holds {self.rows:,}"
        every = sum(self.metadata.row_group(index).num_rows for index in range(self.metadata.num_row_groups))
        if self.last and self.metadata.num_rows != every:
            return f"the file promises {self.metadata.num_rows:,} rows and its parts {every:,}"
        for index in self._columns():
            promised = sum(group[index].values for group in self.chunks)
            if self.levels is not None and promised != self.levels[index]:
                return f"column {index} promises {promised:,} values, {self.levels[index]:,} belong to the rows"
            held = _values_in_pages([group[index] for group in self.chunks], file)
            if held is not None and held != promised:
                return f"column {index} promises {promised:,} values and its pages hold {held:,}"
        return ""


def entries(column: pa.Array) -> list[int] | None:
    """How many values (nulls and empty lists too) Parquet stores for each leaf of a column; None for other types.

    The definition and repetition levels of the Dremel encoding: an empty or null list takes one entry in every leaf.
    """
    kind = column.type
    if pa.types.is_struct(kind):
        parts = [entries(column.field(index)) for index in range(kind.num_fields)]
        return None if None in parts else [count for part in parts if part is not None for count in part]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        import pyarrow.compute as pc

        lengths = pc.fill_null(column.value_lengths(), 0)
        bare = pc.sum(pc.equal(lengths, 0)).as_py() or 0
        below = entries(column.flatten())
        return None if below is None else [count + bare for count in below]
    return None if pa.types.is_nested(kind) or pa.types.is_dictionary(kind) else [len(column)]


class Chunk(NamedTuple):
    """What the footer says of a column chunk: values, compressed bytes, where its first page begins."""

    values: int
    size: int
    place: int


def _footer(file: IO[bytes] | str) -> bytes:
    """The bytes of the footer, which Arrow has found readable; raises `pa.ArrowInvalid`."""
    if isinstance(file, str):
        with Path(file).open("rb") as source:
            return _footer(source)
    end = file.seek(0, 2)
    file.seek(max(0, end - 8))
    size = int.from_bytes(file.read(4), "little")
    if size > end - 8:
        raise pa.ArrowInvalid("the footer is longer than the file")
    file.seek(end - 8 - size)
    return file.read(size)


@lru_cache(maxsize=1)
def _chunks(footer: bytes, groups: int, columns: int) -> list[list[Chunk]]:
    """The column chunks of each row group (fields of FileMetaData, RowGroup, ColumnChunk and ColumnMetaData).

    Read here and not by pyarrow, whose view of a chunk ends the process where its statistics are not those of its type.
    """
    try:
        found = [[_chunk(chunk[3]) for chunk in group[1]] for group in struct(footer)[0][4]]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise pa.ArrowInvalid("the footer cannot be read") from error
    if len(found) != groups or any(len(group) != columns for group in found):
        raise pa.ArrowInvalid("a row group has other columns than the schema")
    return found


def _chunk(meta: dict[int, int]) -> Chunk:
    starts = [place for place in (meta.get(11), meta.get(9)) if place]  # of the dictionary page, of the data pages
    found = Chunk(int(meta[5]), int(meta[7]), min(starts, default=0))
    if min(found) < 0:
        raise ValueError("a negative size or place")
    return found


def _values_in_pages(chunks: list[Chunk], file: IO[bytes] | str) -> int | None:
    """The values that the page headers of column chunks claim; None where a header is not understood."""
    if isinstance(file, str):
        with Path(file).open("rb") as source:
            return _values_in_pages(chunks, source)
    total = 0
    for chunk in chunks:
        place, stop = chunk.place, chunk.place + chunk.size
        while place < stop:
            found = _page(file, place)
            if found is None:
                return None
            used, header = found
            if header.get(1) in _DATA_PAGES:
                total += int(header.get(_DATA_PAGES[header[1]], {}).get(1, 0))
            if header.get(3, -1) < 0:
                return None
            place += used + int(header[3])
    return total


def _page(file: IO[bytes], place: int) -> tuple[int, dict[int, Any]] | None:
    """Size and fields of the page header at a place."""
    size = _HEADER
    while size <= _LONGEST:
        file.seek(place)
        data = file.read(size)
        try:
            header, used = struct(data)
            return used, header
        except IndexError:
            if len(data) < size:
                return None
            size *= 32
        except ValueError:
            return None
    return None
