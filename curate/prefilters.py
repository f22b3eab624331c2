"""Kernels that leave out most texts before a slow rule looks: each marks a superset, cheaply.

`repeated_lines` serves the rule of repeated paragraphs, `speaking_heads` that of refusals. Cost: both read eight bytes
at a time, at 2 to 5 GB/s.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from curate.compiled import compiled
from curate.kernels import BLANKS, EIGHT, LINE_FEED, NON_ASCII, NONE, RETURN, SEVEN
from curate.lanes import EVEN, HIGH, ONES, below, equal, holds, load8, repeated

LINE_HASHES: Final = 1024
UP_TO_BLANK: Final = repeated(0x80 - 33)
PAIRS: Final = np.uint64(0x0000FFFF0000FFFF)
APOSTROPHE, LETTER_A, LETTER_C, LETTER_I, LETTER_S, LETTER_W = (repeated(ord(char)) for char in "'acisw")
UNDER_A, AFTER_Z = repeated(0x80 - ord("a")), repeated(0x80 - ord("z") - 1)
C4, C5 = repeated(0xC4), repeated(0xC5)


@compiled
def repeated_lines(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    wanted: NDArray[np.bool_],
    times: int,
    min_bytes: int,
    found: NDArray[np.bool_],
) -> None:
    """Mark wanted texts in which some line of `min_bytes` or more may stand `times` times.

    Lines are compared by a hash of the sum of their visible ASCII, so a hit may be false and a miss may not.
    """
    counts = np.zeros(LINE_HASHES, np.uint32)
    for item in range(offsets.size - 1):
        if not wanted[item] or _line_ends(data, offsets[item], offsets[item + 1]) < times - 1:
            continue
        counts[:] = 0
        at, stop = offsets[item], offsets[item + 1]
        most = np.int64(0)
        while at < stop and most < times:
            begin = at
            at, total = _line(data, at, stop)
            if at - begin >= min_bytes:
                place = (total ^ (total >> np.uint64(10))) & np.uint64(LINE_HASHES - 1)
                counts[place] += 1
                most = max(most, np.int64(counts[place]))
            at += 1
        found[item] = most >= times


@compiled
def _line_ends(data: NDArray[np.uint8], start: int, stop: int) -> int:
    """How many line feeds and carriage returns a text holds."""
    ends = np.int64(0)
    while start + 8 <= stop:
        last = min(start + 8 * 31, start + ((stop - start) & ~7))  # 31 words: no byte of the sum overflows
        some = NONE
        for at in range(start, last, 8):
            word = load8(data, at)
            some += (equal(word, LINE_FEED) | equal(word, RETURN)) >> SEVEN
        ends += np.int64((some * ONES) >> np.uint64(56))
        start = last
    for byte in data[start:stop]:
        ends += (byte == 10) | (byte == 13)
    return int(ends)


@compiled
def _line(data: NDArray[np.uint8], at: int, stop: int) -> tuple[int, Any]:
    """Where the line that begins at `at` ends, and the sum of its visible ASCII bytes."""
    lanes = NONE
    total = NONE
    size = 0
    while at + 8 <= stop:
        word = load8(data, at)
        if equal(word, LINE_FEED) | equal(word, RETURN):
            break
        seen = ~(word | below(word, UP_TO_BLANK)) & HIGH
        shown = word & ((seen >> SEVEN) * np.uint64(255))
        lanes += (shown & EVEN) + ((shown >> EIGHT) & EVEN)
        size += 1
        if size == 256:  # 256 times two ASCII bytes is what 16 bits take
            total += _sum(lanes)
            lanes, size = NONE, 0
        at += 8
    total += _sum(lanes)
    while at < stop and data[at] != 10 and data[at] != 13:
        if 32 < data[at] < 128:
            total += np.uint64(data[at])
        at += 1
    return at, total


@compiled
def _sum(lanes: Any) -> Any:
    """The sum of four 16-bit lanes."""
    pairs = (lanes & PAIRS) + ((lanes >> np.uint64(16)) & PAIRS)
    return (pairs & np.uint64(0xFFFFFFFF)) + (pairs >> np.uint64(32))


@compiled
def speaking_heads(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    flags: NDArray[np.uint8],
    wanted: NDArray[np.bool_],
    chars: int,
    found: NDArray[np.bool_],
) -> None:
    """Mark wanted texts whose first characters may say, in any case, "I am", "I can", "I won", "I'm" or "as an".

    A superset: only ASCII letters count as letters, and U+0100 to U+017F, where case folding has surprises, pass.
    """
    for item in range(offsets.size - 1):
        if wanted[item]:
            start, stop = offsets[item], offsets[item + 1]
            wide = 4 if flags[item] & NON_ASCII else 1
            found[item] = _speaks(data, start, min(stop, start + wide * chars))


@compiled
def _speaks(data: NDArray[np.uint8], start: int, stop: int) -> bool:
    if start < stop and _says(data, start, start, stop):
        return True
    at = start + 1
    while at + 11 <= stop:
        word, after, third, fourth = load8(data, at), load8(data, at + 1), load8(data, at + 2), load8(data, at + 3)
        low, lower, last = word | BLANKS, after | BLANKS, third | BLANKS
        verb = equal(after, BLANKS) & (equal(last, LETTER_A) | equal(last, LETTER_C) | equal(last, LETTER_W))
        says = equal(low, LETTER_I) & (verb | equal(after, APOSTROPHE) | (after & HIGH))
        says |= equal(low, LETTER_A) & equal(lower, LETTER_S) & equal(third, BLANKS) & equal(fourth | BLANKS, LETTER_A)
        if says:
            before = load8(data, at - 1) | BLANKS
            if says & ~(below(before, AFTER_Z) & ~below(before, UNDER_A)):
                return True
        if word & HIGH and holds(word, C4) | holds(word, C5):
            return True
        at += 8
    while at < stop and not _says(data, start, at, stop):
        at += 1
    return bool(at < stop)


@compiled
def _says(data: NDArray[np.uint8], start: int, at: int, stop: int) -> bool:
    """Whether one of the phrases, all longer than five bytes, may begin at a byte of the text that begins at `start`."""
    if data[at] >= 0x80:
        return bool(data[at] == 0xC4 or data[at] == 0xC5)
    low = data[at] | 32
    if (low != 105 and low != 97) or at + 5 > stop:
        return False
    if at > start and 97 <= (data[at - 1] | 32) <= 122:
        return False
    after, third = data[at + 1], data[at + 2]
    if low == 97:
        return bool(after >= 0x80 or ((after | 32) == 115 and third == 32 and (data[at + 3] | 32) == 97))
    last = third | 32
    return bool(after == 39 or after >= 0x80 or (after == 32 and (last == 97 or last == 99 or last == 119)))
