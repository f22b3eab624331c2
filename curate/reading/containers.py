"""How each kind of file gives batches: line files, JSON files, csv, Parquet, Arrow."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Final

import xxhash

from curate import formats
from curate.formats.draft import Refused
from curate.formats.strict import Broken, loads
from curate.reading.arrays import Elements
from curate.reading.decode import Decoder
from curate.reading.model import Batch, Quarantined, Raw, Unit, escape
from curate.reading.streams import BOM, Chunk, Cut, LongLine, blocks, chunks, line_ends
from curate.record import SCHEMA
from curate.sources import ReadSettings

Blocks = Iterator[bytes]


def read(unit: Unit, settings: ReadSettings, *, exact: bool = False) -> Iterator[Batch]:
    """The batches of a unit, in row order, in memory bounded by `batch_bytes` and the largest row.

    `exact` reads every row by the exact path; the records are the same (it is for tests and comparisons).
    """
    decoder = Decoder(unit, settings, exact=exact)
    yield from READERS[unit.container.partition(".")[0]](unit, settings, decoder)


def packing(unit: Unit) -> str:
    """The compression of a unit: "", "gz" or "zst"."""
    return unit.container.partition(".")[2]


def _stream(unit: Unit, settings: ReadSettings) -> Blocks:
    """The unit's bytes without a byte-order mark."""
    source = blocks(Path(unit.path), packing(unit), settings, unit.start, unit.stop)
    if unit.start == 0:
        first = b""
        while len(first) < len(BOM) and (block := next(source, None)) is not None:
            first += block
        source = chain([first.removeprefix(BOM)], source)
    yield from source


def _bad(unit: Unit, row: int, offset: int | None, reason: str, raw: bytes = b"") -> Batch:
    item = Quarantined(unit.file, row, offset, reason, escape(raw))
    return Batch(SCHEMA.empty_table(), [item], 1, Counter(), Counter())


def _lines(unit: Unit, settings: ReadSettings, decoder: Decoder) -> Iterator[Batch]:
    yield from _line_batches(unit, settings, decoder, _stream(unit, settings))


def _line_batches(unit: Unit, settings: ReadSettings, decoder: Decoder, source: Blocks) -> Iterator[Batch]:
    row, offset = unit.first_row, unit.start
    try:
        for chunk in chunks(source, settings, unit.first_row, unit.start):
            if isinstance(chunk, LongLine):
                reason = f"line over {settings.max_line_bytes:,} bytes: {chunk.size:,}, xxh3_128 {chunk.digest}"
                yield _bad(unit, chunk.row, chunk.offset, reason, chunk.head)
                row, offset = chunk.row + 1, chunk.offset + chunk.size
                continue
            for piece in _pieces(chunk, settings.batch_bytes):
                yield decoder.lines(piece.data, piece.row, piece.offset)
                row, offset = piece.row + decoder.ends + 1, piece.offset + len(piece.data)
    except Cut as cut:
        yield _bad(unit, row, offset, f"the rest of the file cannot be read: {cut}")


def _pieces(chunk: Chunk, target: int) -> Iterator[Chunk]:
    """Cut a chunk at line ends into pieces of about `target` bytes, so that batches keep their size."""
    data, start, row = chunk.data, 0, chunk.row
    while len(data) - start > target + target // 2:
        stop = data.rfind(b"\n", start, start + target) + 1 or data.find(b"\n", start + target) + 1
        if not stop:
            break
        yield Chunk(data[start:stop], row, chunk.offset + start)
        row, start = row + line_ends(data, start, stop), stop
    if start == 0:
        yield chunk
    elif start < len(data):
        yield Chunk(data[start:], row, chunk.offset + start)


def _json(unit: Unit, settings: ReadSettings, decoder: Decoder) -> Iterator[Batch]:
    """An array, one object, an object with one list of objects inside, or JSON Lines under another name."""
    source = _stream(unit, settings)
    head = b""
    cut = ""
    try:
        while not head.strip() and (block := next(source, None)) is not None:
            head += block
    except Cut as found:
        cut = str(found)
    bare = head.lstrip()
    if not bare:
        if cut:
            yield _bad(unit, 0, 0, f"the rest of the file cannot be read: {cut}")
        return
    if bare.startswith(b"["):
        yield from _array(unit, settings, decoder, chain([head], source))
        return
    try:
        while b"\n" not in head.lstrip() and len(head) <= settings.max_line_bytes:
            block = next(source, None)
            if block is None:
                break
            head += block
    except Cut:
        pass
    line, _, rest = head.lstrip().partition(b"\n")
    if rest.strip() and _parses(line):
        yield from _line_batches(unit, settings, decoder, chain([head], source))
        return
    yield from _object(unit, settings, decoder, head, source)


def _parses(line: bytes) -> bool:
    try:
        loads(line)
    except Broken as error:
        return not error.syntax
    return True


def _array(unit: Unit, settings: ReadSettings, decoder: Decoder, source: Blocks) -> Iterator[Batch]:
    elements = Elements(source, settings.max_line_bytes, settings.batch_bytes)
    row = 0
    for found in elements:
        batch, cut = decoder.elements(found, row)
        if batch.rows:
            yield batch
        if cut is not None:
            yield _rest(
                unit,
                settings,
                row + cut,
                found.offset + int(found.starts[cut]),
                "malformed JSON: the rest of the array",
            )
            return
        row += len(found.starts)
    if elements.problem:
        yield _rest(unit, settings, row, elements.end, f"malformed JSON: {elements.problem}")


def _rest(unit: Unit, settings: ReadSettings, row: int, start: int, reason: str) -> Batch:
    """The bytes of a file from `start` on as one quarantined row: the first are kept, all are counted and digested."""
    state, size, kept = xxhash.xxh3_128(), 0, b""
    place = 0
    try:
        for block in _stream(unit, settings):
            part = block[max(start - place, 0) :]
            place += len(block)
            if part and place > start:
                state.update(part)
                size += len(part)
                kept += part[: settings.raw_bytes - len(kept)]
    except Cut as cut:
        reason += f"; {cut}" if str(cut) not in reason else ""
    if size > len(kept):
        reason += f" ({size:,} bytes, xxh3_128 {state.hexdigest()}, the first {len(kept):,} kept)"
    return _bad(unit, row, start, reason, kept)


def _object(unit: Unit, settings: ReadSettings, decoder: Decoder, head: bytes, source: Blocks) -> Iterator[Batch]:
    parts, size = [head], len(head)
    try:
        for block in source:
            parts.append(block)
            size += len(block)
            if size > settings.max_line_bytes:
                yield _rest(unit, settings, 0, 0, f"one JSON object of over {settings.max_line_bytes:,} bytes")
                return
    except Cut as cut:
        yield _rest(unit, settings, 0, 0, f"the file cannot be read: {cut}")
        return
    data = b"".join(parts)
    try:
        value = loads(data)
    except Broken as error:
        yield _rest(unit, settings, 0, 0, str(error))
        return
    lists = [key for key, item in value.items() if _rows_inside(item)] if isinstance(value, dict) else []
    if len(lists) == 1 and not _recognised(value, decoder):
        notes = Counter({f"key {key[:40]!r} beside the list not kept": 1 for key in value if key != lists[0]})
        batch = decoder.values([Raw(row, None, b"", item) for row, item in enumerate(value[lists[0]])])
        batch.notes.update(notes)
        yield batch
        return
    yield decoder.values([Raw(0, 0, data, value)])


def _rows_inside(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _recognised(value: dict[str, object], decoder: Decoder) -> bool:
    try:
        formats.convert(value, decoder.unit.settings, decoder.preference)
    except Refused as error:
        return not str(error).startswith(("no known format", "missing column"))
    return True


def _csv(unit: Unit, settings: ReadSettings, decoder: Decoder) -> Iterator[Batch]:
    """Rows under the header's names; every value is text."""
    csv.field_size_limit(settings.max_line_bytes)
    taken: list[bytes] = []
    place, held_bytes = [0], [0]

    def texts() -> Iterator[str]:
        for line in _physical(_stream(unit, settings), settings.max_line_bytes):
            taken.append(line)
            held_bytes[0] += len(line)
            if held_bytes[0] > settings.max_line_bytes:  # quoted line ends: one row may span lines without end
                raise Cut(f"a row is over {settings.max_line_bytes:,} bytes")
            yield line.decode("utf-8", "surrogateescape")

    reader = csv.reader(texts(), delimiter="\t" if unit.container.startswith("tsv") else ",", strict=True)
    header: list[str] | None = None
    row, size = 0, 0
    held: list[Raw] = []
    while True:
        taken.clear()
        held_bytes[0] = 0
        problem, cells = "", None
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            problem = f"malformed csv: {error}"
        except Cut as cut:
            problem = f"the rest of the file cannot be read: {cut}"
        data = b"".join(taken)
        offset = place[0]
        place[0] += len(data)
        if header is None and cells:
            header = cells
            if len(set(header)) < len(header):
                yield _rest(unit, settings, 0, 0, "malformed csv: a column name appears twice")
                return
            continue
        if not problem and not cells:
            continue
        held.append(_csv_row(row, offset, data, header, cells or [], problem))
        row, size = row + 1, size + len(data)
        if size > settings.batch_bytes:
            yield decoder.values(held)
            held, size = [], 0
        if problem.startswith("the rest"):
            break
    if held:
        yield decoder.values(held)


def _csv_row(row: int, offset: int, data: bytes, header: list[str] | None, cells: list[str], problem: str) -> Raw:
    if not problem and len(cells) != len(header or []):
        problem = f"malformed csv: {len(cells)} fields under a header of {len(header or [])}"
    if not problem:
        try:
            data.decode("utf-8")
        except UnicodeDecodeError as error:
            problem = f"invalid UTF-8 at byte {error.start}"
    return Raw(row, offset, data, dict(zip(header or [], cells, strict=False)), problem)


def _physical(source: Blocks, limit: int) -> Iterator[bytes]:
    """Lines with their ends; the last may have none. Raises `Cut` when one is over `limit` bytes."""
    held = b""
    for block in source:
        lines = io.BytesIO(held + block).readlines()
        held = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
        yield from lines
        if len(held) > limit:
            raise Cut(f"a line is over {limit:,} bytes")
    if held:
        yield held


def _tables(unit: Unit, settings: ReadSettings, decoder: Decoder) -> Iterator[Batch]:
    from curate.reading.tables import read_tables

    yield from read_tables(unit, settings, decoder)


READERS: Final[dict[str, Callable[[Unit, ReadSettings, Decoder], Iterator[Batch]]]] = {
    "jsonl": _lines,
    "ndjson": _lines,
    "json": _json,
    "csv": _csv,
    "tsv": _csv,
    "parquet": _tables,
    "arrow": _tables,
}
