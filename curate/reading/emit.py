"""Columns written from scanned rows: texts unescaped into Arrow buffers, canonical JSON for digests and extras.

`emit` writes, for every row, the texts of its messages as they are said, the canonical JSON of the conversation as
`record.canonical_messages` gives it, and the canonical JSON of the keys that are not part of the conversation. Texts
are copied from mark to mark; only escapes are rewritten. Cost: about 3 GB/s.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from curate.compiled import compiled
from curate.reading.scan import KIND, MARK, ROLE, START, STOP, T_MARK, T_START, T_STOP, TEXT, Bytes, Ints, hex4
from curate.record import ROLES

LIST, USER, ANSWER, INPUT, REST, REST_END = 0, 1, 2, 3, 4, 5  # columns of a plan: which fields are what, -1 for none

_HEADS: Final = [f'{{"role":"{role}","content":'.encode() for role in ROLES]
_PARTS: Final = (
    *_HEADS,
    b',"name":null,"tool_calls":null,"reasoning":null,"train":true}',
    b'{"messages":[',
    b'],"tools":null}',
)
_BLOB: Final = np.frombuffer(b"".join(_PARTS), np.uint8)
_AT: Final = np.cumsum([0, *map(len, _PARTS)])
_TAIL, _OPEN, _CLOSE = np.int64(4), np.int64(5), np.int64(6)  # typed, or each value compiles anew
_LINE, _YES, _NO = np.int64(10), np.bool_(True), np.bool_(False)
OVERHEAD: Final = max(map(len, _HEADS)) + len(_PARTS[_TAIL]) + 8  # canonical bytes a message has beside its text
FRAME: Final = len(_PARTS[_OPEN]) + len(_PARTS[_CLOSE])
_DIGITS: Final = np.frombuffer(b"0123456789abcdef", np.uint8)
_MEANS: Final = np.zeros(256, np.uint8)
_MEANS[list(b'"\\/bfnrt')] = list(b'"\\/\b\f\n\r\t')
_SHORT: Final = np.zeros(256, np.uint8)
_SHORT[list(b'"\\\b\f\n\r\t')] = list(b'"\\bfnrt')


@compiled
def _copy(source: Bytes, start: int, stop: int, out: Bytes, to: int) -> int:
    # Over slices from 0 on the compiler sees that no index is negative, and copies by vectors.
    size = stop - start
    left, right = source[start:stop], out[to : to + size]
    for i in range(size):
        right[i] = left[i]
    return to + size


@compiled
def _part(which: int, out: Bytes, to: int) -> int:
    return int(_copy(_BLOB, _AT[which], _AT[which + 1], out, to))


@compiled
def _point(value: int, out: Bytes, to: int) -> int:
    """A code point as UTF-8."""
    if value < 0x80:
        out[to] = value
        return to + 1
    if value < 0x800:
        out[to], out[to + 1] = 0xC0 | value >> 6, 0x80 | value & 63
        return to + 2
    if value < 0x10000:
        out[to], out[to + 1], out[to + 2] = 0xE0 | value >> 12, 0x80 | value >> 6 & 63, 0x80 | value & 63
        return to + 3
    out[to], out[to + 1] = 0xF0 | value >> 18, 0x80 | value >> 12 & 63
    out[to + 2], out[to + 3] = 0x80 | value >> 6 & 63, 0x80 | value & 63
    return to + 4


@compiled
def _escaped(value: int, out: Bytes, to: int) -> int:
    """A code point as canonical JSON writes it inside a text."""
    if value < 128 and _SHORT[value]:
        out[to], out[to + 1] = 92, _SHORT[value]
        return to + 2
    if value >= 32:
        return int(_point(value, out, to))
    out[to], out[to + 1], out[to + 2], out[to + 3] = 92, 117, 48, 48
    out[to + 4], out[to + 5] = _DIGITS[value >> 4], _DIGITS[value & 15]
    return to + 6


@compiled
def _text(data: Bytes, marks: Ints, start: int, stop: int, mark: int, out: Bytes, to: int, canonical: bool) -> int:
    """The text between two quotes, as it is said or as canonical JSON without its quotes."""
    at = start
    while at < stop:
        place = min(marks[mark], stop)
        to = _copy(data, at, place, out, to)
        if place == stop:
            break
        sort = data[place + 1]
        mark += 1 + (sort == 34 or sort == 92)
        at = place + 2
        value = int(_MEANS[sort])
        if sort == 117:
            value = hex4(data, place + 2)
            at = place + 6
            if value >= 0xD800 and value < 0xE000:
                value = 0x10000 + ((value - 0xD800) << 10) + hex4(data, place + 8) - 0xDC00
                at = place + 12
                mark += 1
        to = _escaped(value, out, to) if canonical else _point(value, out, to)
    return to


@compiled
def _texts(data: Bytes, marks: Ints, parts: Ints, count: int, out: Bytes, to: int, canonical: bool) -> int:
    """Texts (start, stop, mark) with a blank line between."""
    for part in range(count):
        for _ in range(2 if part else 0):
            to = _escaped(_LINE, out, to) if canonical else _point(_LINE, out, to)
        to = _text(data, marks, parts[part, 0], parts[part, 1], parts[part, 2], out, to, canonical)
    return to


@compiled
def _parts(fields: Ints, turns: Ints, first: int, plan: Ints, turn: int, out: Ints) -> tuple[int, int]:
    """The role of a message, and the number of its texts, written to `out`."""
    if plan[LIST] >= 0:
        out[0, 0], out[0, 1], out[0, 2] = turns[turn, T_START], turns[turn, T_STOP], turns[turn, T_MARK]
        return turns[turn, ROLE], 1
    field, count = first + plan[ANSWER if turn else USER], 1
    for part in range(2):
        out[part, 0], out[part, 1], out[part, 2] = fields[field, START], fields[field, STOP], fields[field, MARK]
        if turn or plan[INPUT] < 0:
            break
        field = first + plan[INPUT]
        count = 1 + (fields[field, STOP] > fields[field, START])
    return 1 + turn, count


@compiled
def _extra(
    data: Bytes, marks: Ints, fields: Ints, first: int, plan: Ints, rest: Ints, keys: Bytes, out: Bytes, to: int
) -> int:
    """The other keys in order; `rest` gives for each its field and where its `,"key":` lies in `keys`."""
    for item in range(plan[REST], plan[REST_END]):
        to = _copy(keys, rest[item, 1], rest[item, 2], out, to)
        field = fields[first + rest[item, 0]]
        if field[KIND] == TEXT:
            out[to] = 34
            to = _text(data, marks, field[START], field[STOP], field[MARK], out, to + 1, _YES)
            out[to] = 34
            to += 1
        elif field[STOP] == field[START]:
            out[to], out[to + 1], out[to + 2], out[to + 3] = 110, 117, 108, 108
            to += 4
        else:
            to = _copy(data, field[START], field[STOP], out, to)
    out[to] = 125
    return to + 1


@compiled
def emit(
    data: Bytes,
    marks: Ints,
    fields: Ints,
    turns: Ints,
    firsts: Ints,
    chosen: Ints,
    plans: Ints,
    rest: Ints,
    keys: Bytes,
    ends: tuple[Ints, Ints, Ints, Ints],
    roles: Bytes,
    outs: tuple[Bytes, Bytes, Bytes],
) -> None:
    """Write rows whose first fields are `firsts` and whose plans are `chosen`.

    `ends` are offsets to fill: of messages by row, of texts by message, of canonical JSON and of extras by row, each
    with a leading zero. `outs` are the bytes of texts, of canonical JSON and of extras.
    """
    messages, texts, canon, extras = ends
    said, hashed, left = outs
    held = to = at = extra = np.int64(0)
    parts = np.empty((2, 3), np.int64)
    for row in range(len(firsts)):
        first, plan = firsts[row], plans[chosen[row]]
        start, stop = 0, 2
        if plan[LIST] >= 0:
            start, stop = fields[first + plan[LIST], START], fields[first + plan[LIST], STOP]
        at = _part(_OPEN, hashed, at)
        for turn in range(start, stop):
            if turn > start:
                hashed[at] = 44
                at += 1
            role, count = _parts(fields, turns, first, plan, turn, parts)
            at = _part(role, hashed, at)
            hashed[at] = 34
            to = _texts(data, marks, parts, count, said, to, _NO)
            at = _texts(data, marks, parts, count, hashed, at + 1, _YES)
            hashed[at] = 34
            at = _part(_TAIL, hashed, at + 1)
            roles[held] = role
            held += 1
            texts[held] = to
        at = _part(_CLOSE, hashed, at)
        if plan[REST] < plan[REST_END]:
            extra = _extra(data, marks, fields, first, plan, rest, keys, left, extra)
        messages[row + 1], canon[row + 1], extras[row + 1] = held, at, extra
