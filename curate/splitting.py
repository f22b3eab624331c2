"""Texts to the hashes of their words, sixty-four bytes at a time.

A text is copied to scratch, its parts joined by line feeds. A vector pass lower-cases ASCII in place and marks the word
bytes; where marks change, a word begins or ends. A text that is not ASCII is first rewritten character by character
through the table of `words.py`: lower-case forms, everything that is no word character a space.

A word is hashed from its UTF-8 bytes, eight at a time, the last eight padded with zeros and a word of eight bytes or
fewer padded to sixteen: h = (h ^ bytes) * M, h ^= h >> 32 for each eight. Words of up to eight bytes cannot collide.

Cost: about 1.5 GB/s of ASCII a core, the shingles of `shingles.py` included; half of that where letters are not ASCII.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from curate.compiled import compiled
from curate.lanes import HIGH, count_zeros, load8, lower_and_mark, ones, store8
from curate.words import ALONE, COMPLEX, LIMIT

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]
Edges = NDArray[np.int32]

ROOM: Final = 128  # bytes of scratch beyond a text: a whole block of the vector pass and a load of sixteen
WIDEN: Final = 3  # scratch bytes a byte of text that is rewritten: a lone two-byte character becomes six at most
BATCH: Final = 8  # edges written without asking whether they are there

_MASK64: Final = (1 << 64) - 1
_START, _M = 0x9E3779B97F4A7C15, 0xFF51AFD7ED558CCD
START: Final = np.uint64(_START)
MULTIPLY: Final = np.uint64(_M)
HALF: Final = np.uint64(32)
ZERO, ONE, TOP = np.uint64(0), np.uint64(1), np.uint64(63)


def word_hash(word: bytes) -> int:
    """The 64-bit hash of a word's UTF-8 bytes (the kernels' oracle)."""
    value = _START
    for at in range(0, max(len(word), 9), 8):
        value = ((value ^ int.from_bytes(word[at : at + 8], "little")) * _M) & _MASK64
        value ^= value >> 32
    return value


def _masks() -> tuple[Hashes, Hashes]:
    """For a word of 0 to 16 bytes: which bits of the first and of the second eight bytes are its own."""
    first = [(1 << 8 * min(size, 8)) - 1 for size in range(17)]
    second = [(1 << 8 * max(size - 8, 0)) - 1 for size in range(17)]
    return np.array(first, np.uint64), np.array(second, np.uint64)


FIRST, SECOND = _masks()


@compiled
def decode(data: Bytes, at: int) -> tuple[int, int]:
    """The code point of a character of two bytes or more at `at` of valid UTF-8, and its width."""
    first = np.int64(data[at])
    if first < 0xE0:
        return ((first & 0x1F) << 6) | (data[at + 1] & 0x3F), 2
    if first < 0xF0:
        return ((first & 0x0F) << 12) | (np.int64(data[at + 1] & 0x3F) << 6) | (data[at + 2] & 0x3F), 3
    high = ((first & 0x07) << 18) | (np.int64(data[at + 1] & 0x3F) << 12)
    return high | (np.int64(data[at + 2] & 0x3F) << 6) | (data[at + 3] & 0x3F), 4


@compiled
def _encode(point: int, out: Bytes, to: int) -> int:
    """Write a code point as UTF-8; returns where it ends."""
    if point < 0x80:
        out[to] = point
        return to + 1
    if point < 0x800:
        out[to] = 0xC0 | (point >> 6)
    else:
        if point < 0x10000:
            out[to] = 0xE0 | (point >> 12)
        else:
            out[to] = 0xF0 | (point >> 18)
            to += 1
            out[to] = 0x80 | ((point >> 12) & 0x3F)
        to += 1
        out[to] = 0x80 | ((point >> 6) & 0x3F)
    out[to + 1] = 0x80 | (point & 0x3F)
    return to + 2


@compiled
def is_ascii(data: Bytes, start: int, stop: int) -> bool:
    """Whether a text has only bytes below 0x80."""
    high = np.uint8(0)
    for at in range(start, stop):
        high |= data[at]
    return bool(high < 0x80)


@compiled
def code_points(data: Bytes, at: Ints, items: Ints, out: Ints) -> None:
    """Fill out[i] with the characters of text i, data[at[i] : at[i + 1]], valid UTF-8, for the texts `items`."""
    for item in items:
        start, stop = at[item], at[item + 1]
        whole = start + ((stop - start) & ~7)
        follow = 0
        for place in range(start, whole, 8):
            word = load8(data, place)
            follow += ones(word & ~(word << ONE) & HIGH)
        for place in range(whole, stop):
            follow += (data[place] & 0xC0) == 0x80
        out[item] = stop - start - follow


@compiled
def widen(data: Bytes, start: int, stop: int, wide: NDArray[np.uint32], out: Bytes, origin: Edges) -> int:
    """Rewrite data[start:stop] to `out` with the characters beyond ASCII in lower case, separators as spaces.

    Fills `origin`, where it has room, with the place in `data` that each byte of `out` came from. Returns the bytes
    written; -2 for a text with characters that need their neighbours.
    """
    to = 0
    at = start
    located = origin.size > 0
    while at < stop:
        while not located and at + 8 <= stop:
            word = load8(data, at)
            if word & HIGH:
                break
            store8(out, to, word)
            at += 8
            to += 8
        if at >= stop:
            break
        begun = to
        width = 1
        if data[at] < 0x80:
            out[to] = data[at]
            to += 1
        else:
            point, width = decode(data, at)
            if point >= LIMIT or wide[point] == COMPLEX:
                return -2
            form = wide[point]
            point = np.int64(form & np.uint32(0x1FFFFF))
            if form & ALONE:
                out[to] = 32
                to = _encode(point, out, to + 1)
                out[to] = 32
                to += 1
            elif point:
                to = _encode(point, out, to)
            else:
                out[to] = 32
                to += 1
        if located:
            origin[begun:to] = at
        at += width
    return to


@compiled
def mark_words(text: Bytes, size: int, edges: Edges) -> int:
    """Lower-case the ASCII of text[:size] in place and fill `edges` with (from, to) of each word; returns the words.

    Bytes of 0x80 and more count as parts of words. `text` needs ROOM bytes beyond `size`, `edges` two a word and ROOM.
    """
    text[size : size + ROOM] = 0
    count = 0
    carry = ZERO
    for at in range(0, size + 1, 64):
        marks = lower_and_mark(text, at)
        turns = marks ^ ((marks << ONE) | carry)
        carry = marks >> TOP
        found = ones(turns)
        done = 0
        while done < found:
            for k in range(BATCH):
                edges[np.uint64(count + done + k)] = at + count_zeros(turns)
                turns &= turns - ONE
            done += BATCH
        count += found
    return count >> 1


@compiled
def hash_words(text: Bytes, edges: Edges, count: int, out: Hashes) -> None:
    """Write the hash of each word that `mark_words` found."""
    for item in range(np.uint64(count)):  # unsigned: numba need not ask whether an index is negative
        at = np.int64(edges[item << ONE])
        size = np.int64(edges[(item << ONE) | ONE]) - at
        if size <= 16:
            value = (START ^ (load8(text, at) & FIRST[np.uint64(size)])) * MULTIPLY
            value ^= value >> HALF
            value = (value ^ (load8(text, at + 8) & SECOND[np.uint64(size)])) * MULTIPLY
            out[item] = value ^ (value >> HALF)
            continue
        value = START
        while size > 0:
            value = (value ^ (load8(text, at) & FIRST[size if size < 8 else 8])) * MULTIPLY
            value ^= value >> HALF
            at += 8
            size -= 8
        out[item] = value


@compiled
def room_for(longest: int) -> tuple[Bytes, Bytes, Edges, Hashes]:
    """Scratch to split texts of at most `longest` bytes: text, rewritten text, edges, and hashes of words."""
    wider = WIDEN * longest + 2 * ROOM
    text = np.empty(longest + 2 * ROOM, np.uint8)
    return text, np.empty(wider, np.uint8), np.empty(wider + ROOM, np.int32), np.empty(wider // 2, np.uint64)


@compiled
def split_words(text: Bytes, size: int, wide: NDArray[np.uint32], room: Any) -> int:
    """Hash the words of text[:size], scratch with ROOM beyond, into room[3]; edges are in room[2].

    A table of one entry says that the text is canonical. Returns the number of words; -1 when the text needs the wide
    table and `wide` is empty, -2 when it needs `canonical`.
    """
    if wide.size == 1 or is_ascii(text, 0, size):
        count = mark_words(text, size, room[2])
        hash_words(text, room[2], count, room[3])
        return int(count)
    if wide.size == 0:
        return -1
    size = widen(text, 0, size, wide, room[1], room[2][:0])
    if size < 0:
        return -2
    count = mark_words(room[1], size, room[2])
    hash_words(room[1], room[2], count, room[3])
    return int(count)
