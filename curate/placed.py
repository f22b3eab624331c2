"""Texts where they lie in memory, whatever column or mapped file that is: chosen ones are read without a copy of all.

Cost: 16 bytes a part and 8 a text; only texts of columns that had to be composed are copied.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.compiled import compiled
from curate.lanes import copy_from
from curate.shingles import PLAIN, Parts, join_words
from curate.splitting import Bytes, Hashes, Ints, split_words
from curate.words import canonical


@dataclass(frozen=True, slots=True)
class Placed:
    """Text i has parts bounds[i]:bounds[i + 1], part p is size[p] bytes of UTF-8 at address[p]; line feeds join them.

    `plain` marks texts that `rewrite` replaced by their canonical form; `alive` is what owns the memory.
    """

    address: Hashes
    size: Ints
    bounds: Ints
    plain: NDArray[np.bool_]
    alive: list[Any]

    def rewrite(self, item: int) -> None:
        """Replace a text by its canonical form: words that no kernel can find."""
        first, last = int(self.bounds[item]), int(self.bounds[item + 1])
        places = zip(self.address[first:last].tolist(), self.size[first:last].tolist(), strict=True)
        written = canonical(b"\n".join(ctypes.string_at(*place) for place in places).decode())
        data = np.frombuffer(written, np.uint8)
        self.alive.append(data)
        self.address[first], self.size[first] = data.ctypes.data, len(data)
        self.size[first + 1 : last] = 0
        self.plain[item] = True

    def joined(self) -> tuple[Bytes, Ints]:
        """The texts one after the other: bytes and offsets (n + 1,)."""
        sums = np.concatenate([[0], np.cumsum(self.size + 1)])[self.bounds]
        at = np.concatenate([[0], np.cumsum(np.maximum(np.diff(sums) - 1, 0))]).astype(np.int64)
        out = np.empty(int(at[-1]), np.uint8)
        _put_all(self.address, self.size, self.bounds, out, at)
        return out, at


def place(chosen: Iterable[tuple[Parts, Ints, Ints]], count: int) -> Placed:
    """`count` texts, given as some Parts, which of them these hold, and their rows there; the Parts stay in memory."""
    found = list(chosen)
    parts_of = np.zeros(count, np.int64)
    for parts, mine, rows in found:
        parts_of[mine] = parts.bounds[rows + 1] - parts.bounds[rows]
    bounds = np.concatenate([[0], np.cumsum(parts_of)]).astype(np.int64)
    address, size = np.empty(int(bounds[-1]), np.uint64), np.empty(int(bounds[-1]), np.int64)
    for parts, mine, rows in found:
        counts = parts_of[mine]
        steps = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        source, target = np.repeat(parts.bounds[rows], counts) + steps, np.repeat(bounds[mine], counts) + steps
        address[target] = (parts.starts[source] + parts.data.ctypes.data).astype(np.uint64)
        size[target] = parts.stops[source] - parts.starts[source]
    return Placed(address, size, bounds, np.zeros(count, np.bool_), [parts for parts, _, _ in found])


@compiled
def put_placed(address: Hashes, size: Ints, first: int, last: int, out: Bytes, to: int) -> int:
    """Copy the parts first:last of a text to out[to:], joined by line feeds; returns where the text ends."""
    for part in range(first, last):
        if part > first:
            out[to] = 10
            to += 1
        copy_from(address[part], out, to, size[part])
        to += size[part]
    return to


@compiled
def _put_all(address: Hashes, size: Ints, bounds: Ints, out: Bytes, at: Ints) -> None:
    for item in range(bounds.size - 1):
        put_placed(address, size, bounds[item], bounds[item + 1], out, at[item])


@compiled
def longest_placed(size: Ints, bounds: Ints, first: int, last: int) -> int:
    """The bytes of the longest of the texts first:last, their joints included."""
    most = 0
    for item in range(first, last):
        total = 0
        for part in range(bounds[item], bounds[item + 1]):
            total += size[part] + 1
        most = max(most, total)
    return most


@compiled
def load_shingles(texts: Any, item: int, wide: NDArray[np.uint32], ngram: int, room: Any, out: Hashes) -> int:
    """Write the shingles of a text, repeats and all; returns how many, or a code of `split_words`.

    `texts` are address, size, bounds and plain of `Placed`, `room` scratch for the longest (`splitting.room_for`).
    """
    address, size, bounds, plain = texts
    length = put_placed(address, size, bounds[item], bounds[item + 1], room[0], 0)
    found = split_words(room[0], length, PLAIN if plain[item] else wide, room)
    return int(found if found < 0 else join_words(room[3], found, ngram, out))
