"""Word n-grams and their MinHash signatures, straight from Arrow string buffers.

A text becomes words (`words.py` has the rule), a word a 64-bit hash of its UTF-8 bytes (`splitting.py`); n words in a
row a polynomial of their hashes, finished by fmix64: the shingle. A text of fewer than n words is one shingle; a text
without words has none, and is nobody's near-duplicate. Signatures take the low 32 bits of a shingle through the scheme
that datasketch 2 calls `affine32`: fmix32, then a*h + b mod 2^32, the minimum over the text.

    MinHash(num_perm=K, seed=seed, scheme="affine32", hashfunc=shingle_hash).update(b"five words in a row")

gives the signatures stored here, K = bands x rows. A signature must never be cut to a smaller K: b would differ.

Cost: a core makes shingles of about 1 GB/s of ASCII; 240 permutations cost about as much again (three vector
instructions for eight values with AVX2, which is what its units can do). Two different shingles share a 64-bit hash
once in 10^19 pairs, so Jaccard of hash sets is Jaccard of shingle sets.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curate.compiled import compiled
from curate.lanes import copy_bytes
from curate.splitting import Bytes, Hashes, Ints, room_for, split_words, word_hash
from curate.stages.text import buffers
from curate.words import canonical, wide_table

_MASK: Final = (1 << 64) - 1
_POWER = 0x9E3779B97F4A7C15
_M1, _M2 = 0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53
POWER: Final = np.uint64(_POWER)  # the odd multiplier of the polynomial
MIX1: Final = np.uint64(_M1)
MIX2: Final = np.uint64(_M2)
S33: Final = np.uint64(33)
NONE, NEXT = np.uint64(0), np.uint64(1)
EMPTY: Final = np.uint32(0xFFFFFFFF)  # every value of the signature of a text without words
BLOCK: Final = 2048  # shingles a pass of the permutations: they stay in the first-level cache
EIGHT: Final = 8  # shingles a step: permutation constants are loaded once for all of them

NO_WIDE: Final = np.zeros(0, np.uint32)
NO_WIDE.flags.writeable = False  # as the wide table: one array kind means one compiled kernel
PLAIN: Final = np.zeros(1, np.uint32)  # in place of a wide table: the text is canonical already
PLAIN.flags.writeable = False


@dataclass(frozen=True, slots=True)
class Parts:
    """Texts in parts: text i has parts bounds[i]:bounds[i + 1], part p is data[starts[p]:stops[p]], UTF-8.

    A text reads as its parts joined by line feeds; nothing is copied to say so.
    """

    data: Bytes
    starts: Ints
    stops: Ints
    bounds: Ints

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def text(self, item: int) -> str:
        """One text."""
        part = slice(self.bounds[item], self.bounds[item + 1])
        ends = zip(self.starts[part].tolist(), self.stops[part].tolist(), strict=True)
        return b"\n".join(self.data[start:stop].tobytes() for start, stop in ends).decode()


def whole_texts(texts: Any) -> Parts:
    """A string or binary array as texts of one part; nulls are empty."""
    data, at = buffers(texts)
    return Parts(data, at[:-1], at[1:], np.arange(len(at), dtype=np.int64))


def shingle_hash64(data: bytes) -> int:
    """The 64-bit hash of a shingle given as its words joined by single spaces, UTF-8 (the kernels' oracle)."""
    total = 0
    for word in data.split(b" "):
        total = (total * _POWER + word_hash(word)) & _MASK
    return _finish(total)


def shingle_hash(data: bytes) -> int:
    """The 32-bit hash to give datasketch as `hashfunc`: the low half of `shingle_hash64`."""
    return shingle_hash64(data) & 0xFFFFFFFF


def _finish(value: int) -> int:
    value = ((value ^ (value >> 33)) * _M1) & _MASK
    value = ((value ^ (value >> 33)) * _M2) & _MASK
    return value ^ (value >> 33)


def permutations(count: int, seed: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """The multipliers (odd) and addends of `count` permutations, uint32 each, as datasketch's affine32 draws them."""
    draw = np.random.RandomState(seed)
    a = draw.randint(0, 1 << 31, count, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return a, draw.randint(0, 1 << 32, count, dtype=np.uint32)


@compiled
def _fmix64(value: np.uint64) -> np.uint64:
    value = (value ^ (value >> S33)) * MIX1
    value = (value ^ (value >> S33)) * MIX2
    return value ^ (value >> S33)


@compiled
def join_words(words: Hashes, count: int, ngram: int, out: Hashes) -> int:
    """Write the shingle hashes of `count` words to `out`; returns how many."""
    if count == 0:
        return 0
    size = ngram if count >= ngram else count
    total = NONE
    leave = NEXT
    for item in range(size):
        total = total * POWER + words[item]
        leave *= POWER
    out[0] = _fmix64(total)
    made = count - size + 1
    enter = words[size:]
    for item in range(NEXT, np.uint64(made)):  # unsigned: numba need not ask whether an index is negative
        before = item - NEXT
        total = total * POWER + (enter[before] - words[before] * leave)
        out[item] = _fmix64(total)
    return made


@compiled
def _minima(
    h: NDArray[np.uint32], count: int, a: NDArray[np.uint32], b: NDArray[np.uint32], out: NDArray[np.uint32]
) -> None:
    """Lower `out` to the minimum of each permutation over h[:count], count a multiple of EIGHT."""
    u = np.uint32
    for i in range(0, count, EIGHT):
        h0, h1, h2, h3, h4, h5, h6, h7 = h[i], h[i + 1], h[i + 2], h[i + 3], h[i + 4], h[i + 5], h[i + 6], h[i + 7]
        for k in range(a.size):
            x, y, least = a[k], b[k], out[k]
            v0, v1, v2, v3 = u(x * h0 + y), u(x * h1 + y), u(x * h2 + y), u(x * h3 + y)
            v4, v5, v6, v7 = u(x * h4 + y), u(x * h5 + y), u(x * h6 + y), u(x * h7 + y)
            v0 = v0 if v0 < v1 else v1
            v2 = v2 if v2 < v3 else v3
            v4 = v4 if v4 < v5 else v5
            v6 = v6 if v6 < v7 else v7
            v0 = v0 if v0 < v2 else v2
            v4 = v4 if v4 < v6 else v6
            v0 = v0 if v0 < v4 else v4
            out[k] = v0 if v0 < least else least


@compiled
def _fmix32(value: np.uint32) -> np.uint32:
    value = np.uint32((value ^ (value >> np.uint32(16))) * np.uint32(0x85EBCA6B))
    value = np.uint32((value ^ (value >> np.uint32(13))) * np.uint32(0xC2B2AE35))
    return np.uint32(value ^ (value >> np.uint32(16)))


@compiled
def longest(starts: Ints, stops: Ints, bounds: Ints, items: Ints) -> int:
    """The bytes of the longest of some texts, their joints included."""
    most = 0
    for item in items:
        size = 0
        for part in range(bounds[item], bounds[item + 1]):
            size += stops[part] - starts[part] + 1
        most = max(most, size)
    return most


@compiled
def put_text(data: Bytes, starts: Ints, stops: Ints, first: int, last: int, out: Bytes, to: int) -> int:
    """Copy the parts first:last of a text to out[to:], joined by line feeds; returns where the text ends."""
    for part in range(first, last):
        if part > first:
            out[to] = 10
            to += 1
        copy_bytes(data, starts[part], out, to, stops[part] - starts[part])
        to += stops[part] - starts[part]
    return to


@compiled
def sign(
    data: Bytes,
    starts: Ints,
    stops: Ints,
    bounds: Ints,
    items: Ints,
    wide: NDArray[np.uint32],
    ngram: int,
    a: NDArray[np.uint32],
    b: NDArray[np.uint32],
    out: NDArray[np.uint32],
    counts: Ints,
) -> None:
    """Fill out[i] with the signature and counts[i] with the shingles of text items[i], or a code of `split_words`."""
    room = room_for(longest(starts, stops, bounds, items))
    grams = np.empty(room[3].size, np.uint64)
    block = np.empty(BLOCK, np.uint32)
    for index in range(items.size):
        item = items[index]
        size = put_text(data, starts, stops, bounds[item], bounds[item + 1], room[0], 0)
        found = split_words(room[0], size, wide, room)
        row = out[index]
        row[:] = EMPTY
        if found < 0:
            counts[index] = found
            continue
        made = join_words(room[3], found, ngram, grams)
        counts[index] = made
        done = 0
        while done < made:
            size = min(BLOCK, made - done)
            for k in range(size):
                block[k] = _fmix32(np.uint32(grams[done + k] & np.uint64(0xFFFFFFFF)))
            done += size
            while size % EIGHT:  # a minimum does not mind repeats
                block[size] = block[size - 1]
                size += 1
            _minima(block, size, a, b, row)


def signatures(
    texts: Parts, ngram: int, a: NDArray[np.uint32], b: NDArray[np.uint32]
) -> tuple[NDArray[np.uint32], Ints]:
    """Signatures (n, K) uint32 and shingle counts (n,) of texts."""
    size = len(texts)
    out, counts = np.empty((size, a.size), np.uint32), np.zeros(size, np.int64)
    if size == 0:
        return out, counts
    sign(*_lists(texts), np.arange(size), NO_WIDE, ngram, a, b, out, counts)
    for code in (-1, -2):
        left = np.flatnonzero(counts == code)
        if len(left):
            part, part_counts = np.empty((len(left), a.size), np.uint32), np.empty(len(left), np.int64)
            chosen, items, table = _harder(texts, left, code)
            sign(*_lists(chosen), items, table, ngram, a, b, part, part_counts)
            out[left], counts[left] = part, part_counts
    return out, counts


def _lists(texts: Parts) -> Any:
    """The arrays of texts, read-only: one array kind means one compiled kernel."""
    arrays = [array.view() for array in (texts.data, texts.starts, texts.stops, texts.bounds)]
    for array in arrays:
        array.flags.writeable = False
    return arrays


def _harder(texts: Parts, items: Ints, code: int) -> tuple[Parts, Ints, NDArray[np.uint32]]:
    """Texts that need the wide table as they are, those beyond it in canonical form; with their table."""
    if code == -1:
        return texts, items, wide_table()
    written = pa.array([canonical(texts.text(item)) for item in items.tolist()], pa.large_binary())
    return whole_texts(written), np.arange(len(items)), PLAIN


def shingles_of(texts: Iterable[str], ngram: int) -> list[set[int]]:
    """The shingle sets of texts, 64-bit hashes, in plain Python: the reference of the kernels."""
    from curate.words import words

    found = []
    for text in texts:
        spoken = words(text)
        size = min(ngram, len(spoken))
        grams = {" ".join(spoken[i : i + size]).encode() for i in range(len(spoken) - size + 1)} if size else set()
        found.append({shingle_hash64(gram) for gram in grams})
    return found
