"""The first reader: rows of simple shapes go from bytes to Arrow without a Python object a row.

`curate.reading.scan` finds the parts of each row, the keys of a layout say (once) what the parts are, and
`curate.reading.emit` writes the columns. Rows that fit no simple shape are left to `curate.reading.fast`, which
decodes them. What is left in Python is two digests a row. Cost, one core: about 2 s a GB of 1.5 KB
chats with the file read, where a loop of `json.loads` takes 3.6; the kernels are compiled once a machine (10 s).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from curate.reading import emit, scan
from curate.reading.scan import Bytes, Ints
from curate.reading.shapes import Shape, shape_of
from curate.record import MESSAGE, ORIGIN, ROLES, SCHEMA

_SCALARS: Final = np.zeros(8, dtype=bool)
_SCALARS[[scan.TEXT, scan.NULL, scan.TRUE, scan.FALSE, scan.INTEGER, scan.DECIMAL]] = True
_ROLE_NAMES: Final = pa.array(ROLES, pa.string())


@dataclass(slots=True)
class Plans:
    """How each layout of a block is written: `rows` of `emit`'s plans, the other keys and the bytes before each."""

    rows: list[list[int]] = field(default_factory=list)
    rest: list[list[int]] = field(default_factory=list)
    keys: bytearray = field(default_factory=bytearray)

    def add(self, keys: tuple[str, ...], shape: Shape) -> None:
        """Plan a layout of these keys."""
        place = {key: at for at, key in enumerate(keys)}
        own = [place[key] for key in shape.columns] + [-1] * 2
        rest = len(self.rest)
        for key in shape.rest:  # sorted already
            start = len(self.keys)
            self.keys += b"," if len(self.rest) > rest else b"{"
            self.keys += json.dumps(key, ensure_ascii=False).encode() + b":"
            self.rest.append([place[key], start, len(self.keys)])
        sides = [own[0], -1, -1, -1] if shape.kind == "list" else [-1, *own[:3]]
        self.rows.append([*sides, rest, len(self.rest)])


class Scratch:
    """Memory that every block of a file uses again, because fresh pages cost more than what is done with them."""

    def __init__(self) -> None:
        self.marks = scan.Marker()
        self.held: Bytes = np.empty(0, np.uint8)

    def canonical(self, size: int) -> Bytes:
        """Room for `size` bytes of canonical JSON; what it held before is gone."""
        if len(self.held) < size:
            self.held = np.empty(size + size // 8, np.uint8)
        return self.held


def _valid(block: bytes) -> bool:
    """Whether the bytes are UTF-8."""
    text = pa.LargeStringArray.from_buffers(1, pa.py_buffer(np.array([0, len(block)])), pa.py_buffer(block))
    try:
        text.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


class Found:
    """The rows [start, stop) of a block: `at` are those of a simple shape, in order, where `chosen` is their plan.

    `shapes` remembers what keys mean, `formats` counts formats.
    """

    def __init__(
        self, block: bytes, marks: Ints, starts: Ints, stops: Ints, shapes: dict[tuple[str, ...], Shape | None]
    ) -> None:
        self.data, self.marks = np.frombuffer(block, np.uint8), marks
        self.chosen = np.full(len(starts), -1, np.int64)
        self.formats: Counter[str] = Counter()
        self.plans = Plans()
        if _valid(block):
            self.layouts, self.firsts, self.fields, self.turns, known = scan.scan(self.data, marks, starts, stops)
            for number, (first, size) in enumerate(known.tolist()):
                spans = self.fields[first : first + size, : scan.KEY_END + 1].tolist()
                keys = tuple(block[start:stop].decode() for start, stop in spans)
                if keys not in shapes:
                    shapes[keys] = shape_of(keys)
                shape = shapes[keys]
                if shape is not None and len(set(keys)) == len(keys):
                    self._choose(number, keys, shape)
        self.at: Ints = np.flatnonzero(self.chosen >= 0)

    def _choose(self, number: int, keys: tuple[str, ...], shape: Shape) -> None:
        """Take the rows of a layout whose values have the types that its shape asks for."""
        rows = np.flatnonzero(self.layouts == number)
        rows = rows[self._fits(keys, shape, self.firsts[rows])]
        if len(rows):
            self.chosen[rows] = len(self.plans.rows)
            self.plans.add(keys, shape)
            self._count(keys.index(shape.columns[0]), shape, self.firsts[rows])

    def _fits(self, keys: tuple[str, ...], shape: Shape, firsts: Ints) -> NDArray[np.bool_]:
        good = np.ones(len(firsts), dtype=bool)
        for at, key in enumerate(keys):
            kinds = self.fields[firsts + at, scan.KIND]
            size = self.fields[firsts + at, scan.STOP] - self.fields[firsts + at, scan.START]
            if key in shape.blank:
                empty = (kinds == scan.TEXT) | (kinds == scan.NULL) | ((kinds == scan.TURNS) & (key == "tools"))
                good &= empty & (size == 0)
            elif key in shape.rest:
                good &= _SCALARS[kinds]
            elif shape.kind == "list":
                good &= (kinds == scan.TURNS) & (size > 0)
            else:
                good &= (kinds == scan.TEXT) | ((kinds == scan.NULL) & (key == "input"))
        return good

    def _count(self, place: int, shape: Shape, firsts: Ints) -> None:
        if shape.kind != "list":
            self.formats[shape.kind] += len(firsts)
            return
        share = int(self.fields[firsts + place, scan.MARK].sum())
        for name, number in (("sharegpt", share), ("messages", len(firsts) - share)):
            if number:
                self.formats[name] += number

    def table(self, source: str, file: str, numbers: Ints, scratch: Scratch) -> pa.Table:
        """The rows at `at` under `record.SCHEMA`; `numbers` are the row numbers of the block's rows, by position."""
        count, size = len(self.at), len(self.data)
        plans = np.array(self.plans.rows, np.int64)
        firsts, chosen = self.firsts[self.at], self.chosen[self.at]
        flat = self._messages(plans, firsts, chosen)
        rest = np.array(self.plans.rest, np.int64).reshape(-1, 3)
        ends = tuple(np.zeros(length + 1, np.int64) for length in (count, flat, count, count))
        roles = np.empty(flat, np.uint8)
        said = np.empty(size, np.uint8)
        hashed = scratch.canonical(size + flat * emit.OVERHEAD + count * emit.FRAME)
        left = np.empty(size + count if len(rest) else 0, np.uint8)
        keys = np.frombuffer(bytes(self.plans.keys), np.uint8)
        emit.emit(
            *(self.data, self.marks, self.fields, self.turns, firsts, chosen, plans, rest, keys),
            *(ends, roles, (said, hashed, left)),
        )
        messages, texts, canon, extras = ends
        contents = pa.LargeStringArray.from_buffers(flat, pa.py_buffer(texts), pa.py_buffer(said[: texts[-1]]))
        has = (plans[:, emit.REST] < plans[:, emit.REST_END])[chosen]
        valid = None if has.all() else pa.py_buffer(np.packbits(has, bitorder="little"))
        extra = pa.LargeStringArray.from_buffers(count, pa.py_buffer(extras), pa.py_buffer(left[: extras[-1]]), valid)
        return assemble(
            source,
            file,
            numbers[self.at],
            (pa.array(messages), _ROLE_NAMES.take(pa.array(roles)), contents),
            _digests(hashed, canon),
            extra,
        )

    def _messages(self, plans: Ints, firsts: Ints, chosen: Ints) -> int:
        """How many messages the rows give."""
        places = plans[chosen, emit.LIST]
        listed = places >= 0
        lists = self.fields[firsts[listed] + places[listed]]
        return int((lists[:, scan.STOP] - lists[:, scan.START]).sum() + 2 * (~listed).sum())


def _digests(data: Bytes, ends: Ints) -> pa.Array:
    """The digests of consecutive pieces of the data."""
    view = memoryview(data)  # type: ignore[arg-type]
    digest: Callable[[memoryview], bytes] = xxhash.xxh3_128_digest
    bounds = ends.tolist()
    return _hex([digest(view[start:stop]) for start, stop in pairwise(bounds)])


def ids(source: str, file: str, numbers: Ints) -> pa.Array:
    """`record.record_id` of the first part of each row."""
    prefix = f"{source}\0{file}\0".encode()
    digest: Callable[[bytes], bytes] = xxhash.xxh3_128_digest
    return _hex([digest(b"%b%d\x000" % (prefix, number)) for number in numbers.tolist()])


def _hex(digests: list[bytes]) -> pa.Array:
    text = b"".join(digests).hex().encode()
    offsets = np.arange(len(digests) + 1, dtype=np.int32) * 32
    return pa.StringArray.from_buffers(len(digests), pa.py_buffer(offsets), pa.py_buffer(text))


def assemble(
    source: str,
    file: str,
    numbers: Ints,
    messages: tuple[pa.Array, pa.Array, pa.Array],
    digests: pa.Array,
    extras: pa.Array,
) -> pa.Table:
    """A table under `record.SCHEMA` of plain conversations: offsets, roles and contents of messages, then by row."""
    offsets, roles, contents = messages
    count, flat = len(numbers), len(roles)
    listed = pa.StructArray.from_arrays(
        [
            *(roles, contents, pa.nulls(flat, pa.string())),
            *(pa.nulls(flat, pa.large_string()), pa.nulls(flat, pa.large_string()), pa.repeat(True, flat)),
        ],
        fields=list(MESSAGE),
    )
    origin = pa.StructArray.from_arrays(
        [pa.repeat(file, count), pa.array(numbers, pa.int64()), pa.repeat(pa.scalar(0, pa.int32()), count)],
        fields=list(ORIGIN),
    )
    arrays = [
        *(ids(source, file, numbers), digests, pa.repeat(source, count), origin),
        pa.LargeListArray.from_arrays(offsets, listed, type=SCHEMA.field("messages").type),
        *(pa.nulls(count, pa.large_string()), pa.nulls(count, pa.float64()), extras),
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)
