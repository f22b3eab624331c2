"""Rows of plain JSON found in bytes, without decoding them: where keys, texts, scalars and turns begin and end.

`Marker` finds the bytes that matter inside texts (quotes, backslashes, controls); `scan` walks each row from mark to
mark. It accepts a narrow, strict JSON: one object whose values are texts, null, booleans, short numbers, or one list
of turns of two texts each. Anything else, and anything wrong, is refused and left to the other readers, which decide
it. A number is accepted only when the encoders write it back byte for byte: integers of at most 18 digits, decimals
of at most 15 with no exponent, no closing zero and no value under 1e-4.

The bytes must be valid UTF-8. Cost: 2 to 3 GB/s; memory 8 bytes a mark, 48 a field, 32 a turn.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from curate.compiled import compiled

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]

TEXT, NULL, TRUE, FALSE, INTEGER, DECIMAL, TURNS = 1, 2, 3, 4, 5, 6, 7
KEY, KEY_END, KIND, START, STOP, MARK = 0, 1, 2, 3, 4, 5  # columns of a field; STOP of turns, START their first
ROLE, T_START, T_STOP, T_MARK = 0, 1, 2, 3  # columns of a turn
MAX_LAYOUTS: Final = 256
_PIECE: Final = 4096
_NONE: Final = np.int64(0)  # a plain 0 is a type of its own to the compiler, and every kernel called compiles twice
_WHERE: Final = np.uint64(sum((7 - byte) << 8 * byte for byte in range(8)))  # times 1 << 8k: k in the top byte

# The words of turns: keys at 0-3, our roles at 4-7, the names of ShareGPT at 8-12 and the roles they mean.
_WORDS: Final = (
    *(b"role", b"content", b"from", b"value"),
    *(b"system", b"user", b"assistant", b"tool"),
    *(b"human", b"user", b"gpt", b"assistant", b"system"),
)
_BLOB: Final = np.frombuffer(b"".join(_WORDS), np.uint8)
_AT: Final = np.cumsum([0, *map(len, _WORDS)])
_MEANS: Final = np.array([0, 1, 2, 3, 1, 1, 2, 2, 0])
_LITERALS: Final = np.frombuffer(b"nulltruefalse", np.uint8)
_SIMPLE: Final = np.zeros(256, np.uint8)
_SIMPLE[list(b'"\\/bfnrt')] = 1
_HEX: Final = np.full(256, -1, np.int64)
_HEX[list(b"0123456789")] = np.arange(10)
_HEX[list(b"abcdef")] = _HEX[list(b"ABCDEF")] = np.arange(10, 16)


class Marker:
    """Finds the marks of blocks, one at a time: the marks of a block last until those of the next are asked for."""

    def __init__(self) -> None:
        self.held: Ints = np.empty(0, np.int64)

    def __call__(self, block: bytes) -> Ints:
        """Offsets of quotes, backslashes and controls, closed by two that lie beyond the block."""
        if len(self.held) < len(block) + 2:
            self.held = np.empty(len(block) + len(block) // 8 + 2, np.int64)  # only what is written takes memory
        return self.held[: index(np.frombuffer(block, np.uint8), self.held)]


@compiled
def index(data: Bytes, marks: Ints) -> int:
    """Write the marks of the data; returns their number. Eight bytes without a mark cost one test."""
    size, found = len(data), 0
    mask = np.zeros(_PIECE, np.uint8)
    words = mask.view(np.uint64)
    one, top = np.uint64(1), np.uint64(56)
    for start in range(0, size, _PIECE):
        piece = data[start : min(start + _PIECE, size)]
        mask[len(piece) :] = 0
        for i in range(len(piece)):
            byte = piece[i]
            mask[i] = np.uint8(byte == 34) | np.uint8(byte == 92) | np.uint8(byte < 32)
        for at in range(len(words)):
            word = words[at]
            while word != 0:
                rest = word & (word - one)
                marks[found] = start + 8 * at + np.int64(((word ^ rest) * _WHERE) >> top)
                found += 1
                word = rest
    marks[found] = marks[found + 1] = size + 1
    return found + 2


@compiled
def hex4(data: Bytes, at: int) -> int:
    """The value of four hexadecimal digits, -1 when one is not."""
    value = 0
    for i in range(at, at + 4):
        digit = _HEX[data[i]]
        if digit < 0:
            return -1
        value = 16 * value + digit
    return value


@compiled
def _skip(data: Bytes, at: int, stop: int) -> int:
    while at < stop and (data[at] == 32 or data[at] == 10 or data[at] == 13 or data[at] == 9):
        at += 1
    return at


@compiled
def _same(left: Bytes, start: int, stop: int, right: Bytes, other: int, end: int) -> bool:
    if stop - start != end - other:
        return False
    for i in range(stop - start):  # noqa: SIM110 (compiled: no generators)
        if left[start + i] != right[other + i]:
            return False
    return True


@compiled
def _seek(marks: Ints, mark: int, at: int) -> int:
    while marks[mark] < at:
        mark += 1
    return mark


@compiled
def _text(data: Bytes, marks: Ints, mark: int, stop: int) -> int:
    """The mark of the quote that closes the text opened at `mark`, -1 when the text is not valid."""
    mark += 1
    while True:
        at = marks[mark]
        if at >= stop:
            return -1
        if data[at] == 34:
            return mark
        if data[at] != 92 or at + 1 >= stop:
            return -1
        sort = data[at + 1]
        mark += 1
        if _SIMPLE[sort]:
            mark += sort == 34 or sort == 92
            continue
        if sort != 117 or at + 6 > stop:
            return -1
        value = hex4(data, at + 2)
        if value < 0 or 0xDC00 <= value < 0xE000:
            return -1
        if 0xD800 <= value < 0xDC00:
            if at + 12 > stop or data[at + 6] != 92 or data[at + 7] != 117:
                return -1
            if not 0xDC00 <= hex4(data, at + 8) < 0xE000:
                return -1
            mark += 1


@compiled
def _number(data: Bytes, at: int, stop: int) -> tuple[int, int]:
    """The end and the kind of a number that would be written back as it stands; kind 0 when it would not."""
    negative = data[at] == 45
    at += negative
    first = at
    while at < stop and 48 <= data[at] <= 57:
        at += 1
    whole = at - first
    if whole == 0 or (data[first] == 48 and whole > 1):
        return at, 0
    if at >= stop or data[at] != 46:
        exponent = at < stop and (data[at] == 101 or data[at] == 69)
        minus_zero = negative and data[first] == 48
        return at, 0 if whole > 18 or exponent or minus_zero else INTEGER
    point = at
    at += 1
    while at < stop and 48 <= data[at] <= 57:
        at += 1
    digits = at - point - 1
    exponent = at < stop and (data[at] == 101 or data[at] == 69)
    if digits == 0 or whole + digits > 15 or exponent or (data[at - 1] == 48 and digits > 1):
        return at, 0
    if data[first] == 48 and digits > 4:
        tiny = True
        for i in range(point + 1, point + 5):
            tiny = tiny and data[i] == 48
        if tiny:
            return at, 0
    return at, DECIMAL


@compiled
def _role(data: Bytes, start: int, stop: int, share: int) -> int:
    """Our role that a name means, -1 when it is none."""
    first, last = (8, 13) if share else (4, 8)
    for word in range(first, last):
        if _same(data, start, stop, _BLOB, _AT[word], _AT[word + 1]):
            return int(_MEANS[word - 4])
    return -1


@compiled
def _turn(data: Bytes, marks: Ints, at: int, mark: int, stop: int, out: Ints) -> tuple[int, int, int]:
    """One object of a name and a text; gives the offset after it, a mark and 0 for role/content, 1 for from/value."""
    held, share = 0, 0
    at = _skip(data, at + 1, stop)
    for side in range(2):
        if at >= stop or data[at] != 34:
            return -1, mark, 0
        mark = _seek(marks, mark, at)
        first, last = at + 1, marks[mark + 1]
        word = -1
        for known in range(4):
            if last < stop and data[last] == 34 and _same(data, first, last, _BLOB, _AT[known], _AT[known + 1]):
                word = known
        if word < 0:
            return -1, mark, 0
        at = _skip(data, last + 1, stop)
        if at >= stop or data[at] != 58:
            return -1, mark, 0
        at = _skip(data, at + 1, stop)
        if at >= stop or data[at] != 34:
            return -1, mark, 0
        mark = _seek(marks, mark, at)
        close = _text(data, marks, mark, stop)
        if close < 0:
            return -1, mark, 0
        if word & 1:
            out[T_START], out[T_STOP], out[T_MARK] = at + 1, marks[close], mark + 1
        else:
            share = word >> 1
            out[ROLE] = _role(data, at + 1, marks[close], share)
            if out[ROLE] < 0:
                return -1, mark, 0
        held |= 1 << word
        at, mark = _skip(data, marks[close] + 1, stop), close
        if side == 0:
            if at >= stop or data[at] != 44:
                return -1, mark, 0
            at = _skip(data, at + 1, stop)
    if at >= stop or data[at] != 125 or held != (12 if share else 3):
        return -1, mark, 0
    return at + 1, mark, share


@compiled
def _list(
    data: Bytes, marks: Ints, at: int, mark: int, stop: int, turns: Ints, count: int
) -> tuple[int, int, int, int]:
    """A list of turns of one kind, or an empty list: the offset after it, a mark, the turns now held, the kind."""
    at, share = _skip(data, at + 1, stop), -1
    if at < stop and data[at] == 93:
        return at + 1, mark, count, 0
    while True:
        if at >= stop or data[at] != 123 or count >= len(turns):
            return -1, mark, count, 0
        at, mark, kind = _turn(data, marks, at, mark, stop, turns[count])
        if at < 0 or (share >= 0 and share != kind):
            return -1, mark, count, 0
        share = kind
        count += 1
        at = _skip(data, at, stop)
        if at < stop and data[at] == 93:
            return at + 1, mark, count, share
        if at >= stop or data[at] != 44:
            return -1, mark, count, 0
        at = _skip(data, at + 1, stop)


@compiled
def _value(
    data: Bytes, marks: Ints, at: int, mark: int, stop: int, field: Ints, turns: Ints, count: int
) -> tuple[int, int, int]:
    """Any accepted value into `field`: the offset after it (-1 when refused), a mark and the turns now held."""
    first = data[at]
    if first == 34:
        mark = _seek(marks, mark, at)
        close = _text(data, marks, mark, stop)
        if close < 0:
            return -1, mark, count
        field[KIND], field[START], field[STOP], field[MARK] = TEXT, at + 1, marks[close], mark + 1
        return marks[close] + 1, close, count
    if first == 91:
        end, mark, held, share = _list(data, marks, at, mark, stop, turns, count)
        field[KIND], field[START], field[STOP], field[MARK] = TURNS, count, held, share
        return end, mark, held
    if first == 110 or first == 116 or first == 102:
        kind, start, size = (NULL, 0, 4) if first == 110 else (TRUE, 4, 4) if first == 116 else (FALSE, 8, 5)
        if at + size > stop or not _same(data, at, at + size, _LITERALS, start, start + size):
            return -1, mark, count
        field[KIND], field[START], field[STOP], field[MARK] = kind, at, at if kind == NULL else at + size, mark
        return at + size, mark, count
    if first == 45 or 48 <= first <= 57:
        end, kind = _number(data, at, stop)
        field[KIND], field[START], field[STOP], field[MARK] = kind, at, end, mark
        return end if kind else -1, mark, count
    return -1, mark, count


@compiled
def _row(
    data: Bytes, marks: Ints, at: int, mark: int, stop: int, fields: Ints, turns: Ints, held: int, count: int
) -> tuple[int, int]:
    """One row: the fields and turns now held, -1 fields when the row is refused."""
    at = _skip(data, at, stop)
    if at >= stop or data[at] != 123:
        return -1, count
    while True:
        at = _skip(data, at + 1, stop)
        if at >= stop or data[at] != 34 or held >= len(fields):
            return -1, count
        mark = _seek(marks, mark, at)
        last = marks[mark + 1]
        if last >= stop or data[last] != 34:
            return -1, count
        fields[held, KEY], fields[held, KEY_END] = at + 1, last
        at = _skip(data, last + 1, stop)
        if at >= stop or data[at] != 58:
            return -1, count
        at = _skip(data, at + 1, stop)
        if at >= stop:
            return -1, count
        at, mark, count = _value(data, marks, at, mark, stop, fields[held], turns, count)
        if at < 0:
            return -1, count
        held += 1
        at = _skip(data, at, stop)
        if at < stop and data[at] == 125:
            return held if _skip(data, at + 1, stop) == stop else -1, count
        if at >= stop or data[at] != 44:
            return -1, count


@compiled
def _layout(data: Bytes, fields: Ints, first: int, size: int, known: Ints, number: int, recent: int) -> int:
    """Which of the known rows (first field, fields) has the same keys in the same order; `number` when none has."""
    for step in range(-1, number):
        which = recent if step < 0 else step
        if which < number and known[which, 1] == size:
            same = True
            for i in range(size):
                a, b = first + i, known[which, 0] + i
                same = same and _same(
                    data, fields[a, KEY], fields[a, KEY_END], data, fields[b, KEY], fields[b, KEY_END]
                )
            if same:
                return which
    return number


@compiled
def scan(data: Bytes, marks: Ints, starts: Ints, stops: Ints) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    """Scan rows [start, stop) of the data, which do not overlap and stand in order.

    Gives per row its layout (-1 when refused) and its first field, then the fields (n, 6), the turns (m, 4) and the
    layouts (first field, number of fields): rows of one layout have the same keys in the same order.
    """
    rows = len(starts)
    layouts, firsts = np.full(rows, -1, np.int64), np.zeros(rows, np.int64)
    fields = np.empty((len(marks) // 2 + 1, 6), np.int64)
    turns = np.empty((len(marks) // 8 + 1, 4), np.int64)
    known = np.empty((MAX_LAYOUTS, 2), np.int64)
    held = count = number = mark = recent = _NONE
    for row in range(rows):
        mark = _seek(marks, mark, starts[row])
        end, turned = _row(data, marks, starts[row], mark, stops[row], fields, turns, held, count)
        if end < 0:
            continue
        which = _layout(data, fields, held, end - held, known, number, recent)
        if which == MAX_LAYOUTS:
            continue
        if which == number:
            known[which, 0], known[which, 1] = held, end - held
            number += 1
        layouts[row], firsts[row], recent = which, held, which
        held, count = end, turned
    return layouts, firsts, fields[:held], turns[:count], known[:number]
