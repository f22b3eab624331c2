"""The second reader: rows of simple shapes that hold more than `curate.reading.direct` takes (objects, long numbers).

What it does. Lines are decoded by orjson and grouped by their keys; a group of a known simple shape (plain messages,
ShareGPT, Alpaca, pairs of columns) becomes columns by list comprehensions and set-of-type checks. Content digests hash
the same canonical bytes as `record.content_digest`, joined from encoded texts and constant pieces. A row that is not
exactly of such a shape is handed back: `curate.formats` decides it, so both paths give the same records (tested).

orjson accepts duplicate keys and turns large integers into floats. Both are found without a second parse: structural
colons are counted in the bytes (a colon after an unescaped quote) and must equal the number of keys decoded; numbers
whose text differs between the encoders (exponents, small fractions, -0) send the row back.

Cost, one core: about 13 s a GB of 1.5 KB chats with an object and a list beside, where `json.loads` takes 4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa
import xxhash

from curate.reading.direct import assemble
from curate.reading.shapes import Shape

Rows = list[dict[str, Any]]
_SUSPECT: Final = re.compile(rb"[:,[]-?(0\.0000|[0-9.]+[eE])|[:,[]-0")  # a text that looks so costs time only
_MAX_NESTED: Final = 60
_MAX_RUN: Final = 64
_HEADS: Final = {role: b'{"role":"%b","content":' % role.encode() for role in ("system", "user", "assistant", "tool")}
_TAIL: Final = b',"name":null,"tool_calls":null,"reasoning":null,"train":true}'
_OPEN: Final = b'{"messages":['
_CLOSE: Final = b'],"tools":null}'
_SHARE: Final = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_SPACE: Final = np.zeros(256, dtype=bool)
_SPACE[[9, 10, 13, 32]] = True


def key_colons(block: bytes, starts: np.ndarray) -> np.ndarray:
    """Colons that stand after an unescaped quote (and white space), counted in each line.

    `starts` are the offsets of the lines in the block. A structural colon is always counted; a text that begins with
    a colon is counted too, which only sends its row to the exact reader. So do runs of over `_MAX_RUN` bytes.
    """
    data = np.frombuffer(block, dtype=np.uint8)
    at = np.flatnonzero(data == 58)
    place = np.maximum(at - 1, 0)
    long = np.zeros(len(at), dtype=bool)
    blank = np.flatnonzero(_SPACE[data[place]])
    for _ in range(_MAX_RUN):
        if not blank.size:
            break
        place[blank] = np.maximum(place[blank] - 1, 0)
        blank = blank[_SPACE[data[place[blank]]] & (place[blank] > 0)]
    long[blank] = True
    counted = (data[place] == 34) & (place > 0)
    slash = np.flatnonzero(counted & (data[np.maximum(place - 1, 0)] == 92))
    back = 2
    while slash.size and back <= _MAX_RUN:
        counted[slash] = ~counted[slash]
        before = place[slash] - back
        slash = slash[(before >= 0) & (data[np.maximum(before, 0)] == 92)]
        back += 1
    long[slash] = True
    lines = np.searchsorted(starts, at[counted | long], side="right") - 1
    counts = np.bincount(lines, minlength=len(starts))
    if long.any():
        counts[np.searchsorted(starts, at[long], side="right") - 1] = -1
    return counts


@dataclass(slots=True)
class Columns:
    """Records of one shape, before Arrow: positions in the batch, flat message columns, digests and extras."""

    format: str
    at: list[int]
    roles: list[str]
    contents: list[str]
    lengths: list[int]
    digests: list[str]
    extras: list[str | None]


def simple(shape: Shape, at: list[int], rows: Rows, colons: Mapping[int, int]) -> tuple[list[Columns], list[int]]:
    """Columns of the rows that fit the shape exactly, and the positions of those that do not.

    `colons` are the key counts of the lines, by position.
    """
    extras, nested = _extras(shape, rows)
    own = len(shape.columns) + len(shape.rest) + len(shape.blank)
    turns = shape.columns[0] if shape.kind == "list" else None
    fits: dict[str, list[int]] = {}
    back: list[int] = []
    for index, row in enumerate(rows):
        kind = _fits(shape, row)
        keys = nested[index]
        if kind and keys is not None and colons[at[index]] == own + keys + (2 * len(row[turns]) if turns else 0):
            fits.setdefault(kind, []).append(index)
        else:
            back.append(at[index])
    found = []
    for kind, good in fits.items():
        places = [at[index] for index in good]
        kept = [rows[index] for index in good]
        left = [extras[index] for index in good]
        found.append(_lists(shape, kind, places, kept, left) if turns else _texts(shape, places, kept, left))
    return found, back


def _fits(shape: Shape, row: dict[str, Any]) -> str:
    """The format of a row that fits its shape in every type, else ""."""
    if shape.blank:
        value = row[shape.blank[0]]
        if value is not None and value != "" and (value != [] or shape.blank[0] != "tools"):
            return ""
    if shape.kind != "list":
        for key in shape.columns:
            if type(row[key]) is not str:
                return ""
        return shape.kind
    turns = row[shape.columns[0]]
    if type(turns) is not list or not turns or type(turns[0]) is not dict or type(row.get("prompt")) is dict:
        return ""
    plain = "role" in turns[0]
    who, what, known = ("role", "content", _HEADS) if plain else ("from", "value", _SHARE)
    for turn in turns:
        if type(turn) is not dict or len(turn) != 2 or type(turn.get(what)) is not str:
            return ""
        role = turn.get(who)
        if type(role) is not str or role not in known:
            return ""
    return "messages" if plain else "sharegpt"


def _extras(shape: Shape, rows: Rows) -> tuple[list[str | None], list[int | None]]:
    """Canonical JSON of the other keys, and how many keys they hold inside; None sends a row back."""
    if not shape.rest:
        return [None] * len(rows), [0] * len(rows)
    extras: list[str | None] = []
    inner: list[int | None] = []
    for row in rows:
        left = {key: row[key] for key in shape.rest}
        count = 0
        numbers = False
        for value in left.values():
            sort = type(value)
            if sort is dict or sort is list:
                count += _keys_below(value, 1)
                numbers = True
            elif sort is float or sort is int:
                numbers = True
        try:
            data = orjson.dumps(left, option=orjson.OPT_SORT_KEYS)
        except TypeError:
            data, numbers = b"-0", True
        bad = count < 0 or (numbers and _SUSPECT.search(data) is not None)
        inner.append(None if bad else count)
        extras.append(None if bad else data.decode())
    return extras, inner


def _keys_below(value: Any, depth: int) -> int:
    """The number of keys inside a value; very negative when it is nested too deep for the fast path."""
    if depth > _MAX_NESTED:
        return -(1 << 40)
    if type(value) is dict:
        return len(value) + sum(_keys_below(item, depth + 1) for item in value.values() if type(item) in (dict, list))
    return sum(_keys_below(item, depth + 1) for item in value if type(item) in (dict, list))


_PIECES: dict[tuple[str, ...], list[bytes]] = {}


def _pieces(roles: tuple[str, ...]) -> list[bytes]:
    """The constant bytes before each content of a conversation with these roles."""
    found = _PIECES.get(roles)
    if found is None:
        found = [(_OPEN if index == 0 else _TAIL + b",") + _HEADS[role] for index, role in enumerate(roles)]
        if len(_PIECES) < 4096:
            _PIECES[roles] = found
    return found


def _digest(roles: tuple[str, ...], encoded: list[bytes]) -> str:
    joined = b"".join(chain.from_iterable(zip(_pieces(roles), encoded, strict=True)))
    return xxhash.xxh3_128_hexdigest(joined + _TAIL + _CLOSE)


def _lists(shape: Shape, kind: str, at: list[int], rows: Rows, extras: list[str | None]) -> Columns:
    key = shape.columns[0]
    listed = [row[key] for row in rows]
    roles: list[str] = []
    contents: list[str] = []
    digests: list[str] = []
    dumps = orjson.dumps
    for turns in listed:
        if kind == "messages":
            own = tuple([turn["role"] for turn in turns])
            texts = [turn["content"] for turn in turns]
        else:
            own = tuple([_SHARE[turn["from"]] for turn in turns])
            texts = [turn["value"] for turn in turns]
        roles += own
        contents += texts
        digests.append(_digest(own, [dumps(text) for text in texts]))
    return Columns(kind, at, roles, contents, [len(turns) for turns in listed], digests, extras)


_USER: Final = _OPEN + _HEADS["user"]
_ANSWER: Final = _TAIL + b"," + _HEADS["assistant"]
_END: Final = _TAIL + _CLOSE


def _texts(shape: Shape, at: list[int], rows: Rows, extras: list[str | None]) -> Columns:
    left, right = shape.columns[:2]
    if len(shape.columns) == 3:
        asked = [f"{row[left]}\n\n{row['input']}" if row["input"] else row[left] for row in rows]
    else:
        asked = [row[left] for row in rows]
    answers = [row[right] for row in rows]
    dumps, digest = orjson.dumps, xxhash.xxh3_128_hexdigest
    digests = [
        digest(b"".join((_USER, dumps(user), _ANSWER, dumps(answer), _END)))
        for user, answer in zip(asked, answers, strict=True)
    ]
    contents = list(chain.from_iterable(zip(asked, answers, strict=True)))
    return Columns(shape.kind, at, ["user", "assistant"] * len(rows), contents, [2] * len(rows), digests, extras)


def to_table(columns: Columns, source: str, file: str, numbers: list[int]) -> pa.Table:
    """The columns as an Arrow table under `record.SCHEMA`; `numbers` are the row numbers, in the same order."""
    offsets = np.zeros(len(numbers) + 1, dtype=np.int64)
    np.cumsum(columns.lengths, out=offsets[1:])
    messages = (pa.array(offsets), pa.array(columns.roles, pa.string()), pa.array(columns.contents, pa.large_string()))
    digests, extras = pa.array(columns.digests, pa.string()), pa.array(columns.extras, pa.large_string())
    return assemble(source, file, np.array(numbers, dtype=np.int64), messages, digests, extras)
