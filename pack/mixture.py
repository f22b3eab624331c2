"""Seeded orders: every order is a sort by a keyed digest, never a random stream.

A record's place depends on its id, the seed and the pass alone, so neither file order, nor workers, nor a numpy release
can change it, and adding a record moves no other.

Repeats: a build in which some record is drawn K times has K passes. Each pass is packed by itself, so a record never
meets its own repeat in a row; the repeats of a record drawn fewer times lie evenly over the passes, so every pass is
the same mixture, and the rows of one pass follow those of the one before.

Cost: one sort of the records a pass.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.integer]

DRAW, ROWS, OFFSET, PASS = 1, 2, 3, 16  # salts
_NIBBLE: Final = np.full(256, 255, dtype=np.uint8)
_NIBBLE[np.frombuffer(b"0123456789abcdef", dtype=np.uint8)] = np.arange(16)


def hex_words(column: Any, words: int = 2) -> Words:
    """A string column (Arrow, chunked) of digests of 32 hex characters as uint64 [n, words], the high words first;
    raises ValueError for anything else.
    """
    out = np.empty((len(column), words), dtype=np.uint64)
    at = 0
    for chunk in column.chunks:
        offsets = np.frombuffer(chunk.buffers()[1], dtype=np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
        if chunk.null_count or (np.diff(offsets) != 32).any():
            raise ValueError("a digest has 32 hex characters")
        if len(chunk):
            text = np.frombuffer(chunk.buffers()[2], dtype=np.uint8)[offsets[0] : offsets[-1]]
            nibbles = _NIBBLE[text].reshape(-1, 32)[:, : 16 * words]
            if (nibbles > 15).any():
                raise ValueError("a digest has lower-case hex characters only")
            raw = np.ascontiguousarray((nibbles[:, ::2] << 4) | nibbles[:, 1::2])
            out[at : at + len(chunk)] = raw.view(">u8")
        at += len(chunk)
    return out


def keyed(words: Words, seed: int, salt: int = 0) -> npt.NDArray[np.uint64]:
    """A 64-bit digest of each row of `words` [n, 2] under seed and salt: splitmix64 (Steele et al., 2014)."""
    with np.errstate(over="ignore"):
        state = np.full(len(words), np.uint64(seed))
        for word in (np.uint64(salt), words[:, 0], words[:, 1]):
            state = _mixed(state ^ word)
    return state


def _mixed(state: Words) -> Words:
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def held_for_eval(content: npt.NDArray[np.uint64], fraction: float) -> Bools:
    """Whether each record belongs to the eval split, by its content digest, so equal contents never straddle.

    `content` is the first half of each digest, uint64 [records].
    """
    if fraction <= 0:
        return np.zeros(len(content), dtype=bool)
    return content < np.uint64(int(fraction * 2.0**64))


def draw_order(ids: Words, seen: Ints, seed: int) -> npt.NDArray[np.int64]:
    """The order in which records (in id order) are drawn: those drawn less often before first, then by keyed digest."""
    key = keyed(ids, seed, DRAW)
    return np.lexsort((key, seen)) if seen.any() else np.argsort(key, kind="stable")


def in_pass(offset: Ints, times: Ints, passes: int, number: int) -> tuple[Bools, npt.NDArray[np.int32]]:
    """Whether each record (drawn `times`, from its `offset` on) lies in pass `number`, and as which of its repeats.

    Repeat i lies in pass (offset + floor(i x passes / times)) mod passes: all distinct, and evenly spread.
    """
    if passes == 1:
        return times > 0, np.zeros(len(times), dtype=np.int32)
    offset, times = offset.astype(np.int64), times.astype(np.int64)
    place = (number - offset) % passes
    repeat = -(-place * times // passes)
    there = (repeat < times) & (repeat * passes // np.maximum(times, 1) == place)
    wraps = -(-(passes - offset) * times // passes)  # the first repeat past the last pass: it comes first of all
    return there, ((repeat - wraps) % np.maximum(times, 1)).astype(np.int32)


def row_order(count: int, seed: int, number: int = 0) -> npt.NDArray[np.int64]:
    """A seeded order of the `count` rows of a pass, so that length and source never follow position."""
    words = np.stack((np.arange(count, dtype=np.uint64), np.full(count, number, dtype=np.uint64)), axis=1)
    return np.argsort(keyed(words, seed, ROWS), kind="stable")
