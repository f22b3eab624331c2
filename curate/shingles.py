"""Word n-grams and their MinHash signatures, straight from Arrow string buffers.

A text becomes words (`words.py` has the rule), a word a 64-bit FNV-1a hash of its UTF-8 bytes, finished by fmix64; n
words in a row a polynomial of their hashes, finished by fmix64: the shingle. A text of fewer than n words is one
shingle; a text without words has none, and is nobody's near-duplicate. Signatures take the low 32 bits of a shingle
through the scheme that datasketch 2 calls `affine32`: fmix32, then a*h + b mod 2^32, the minimum over the text.

    MinHash(num_perm=K, seed=seed, scheme="affine32", hashfunc=shingle_hash).update(b"five words in a row")

gives the signatures stored here, K = bands x rows. A signature must never be cut to a smaller K: b would differ.

Cost: a core scans about 0.5 GB/s of ASCII; 240 permutations cost about as much again. Two different shingles share a
64-bit hash once in 10^19 pairs, so Jaccard of hash sets is Jaccard of shingle sets.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curate.compiled import compiled
from curate.stages.text import buffers
from curate.words import ALONE, COMPLEX, LIMIT, ascii_table, canonical, plain_table, wide_table

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]

_MASK: Final = (1 << 64) - 1
_BASIS, _PRIME, _POWER = 0xCBF29CE484222325, 0x100000001B3, 0x9E3779B97F4A7C15
_M1, _M2 = 0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53
FNV_BASIS: Final = np.uint64(_BASIS)
FNV_PRIME: Final = np.uint64(_PRIME)
POWER: Final = np.uint64(_POWER)  # the odd multiplier of the polynomial
MIX1: Final = np.uint64(_M1)
MIX2: Final = np.uint64(_M2)
S33: Final = np.uint64(33)
EMPTY: Final = np.uint32(0xFFFFFFFF)  # every value of the signature of a text without words
BLOCK: Final = 2048  # shingles a pass of the permutations: they stay in the first-level cache
EIGHT: Final = 8  # shingles a step: permutation constants are loaded once for all of them

_ASCII: Final = ascii_table()
_PLAIN: Final = plain_table()
_NO_WIDE: Final = np.zeros(0, np.uint32)
_NO_WIDE.flags.writeable = False  # as the wide table: one array kind means one compiled kernel


def shingle_hash64(data: bytes) -> int:
    """The 64-bit hash of a shingle given as its words joined by single spaces, UTF-8 (the kernels' oracle)."""
    total = 0
    for word in data.split(b" "):
        value = _BASIS
        for byte in word:
            value = ((value ^ byte) * _PRIME) & _MASK
        total = (total * _POWER + _finish(value)) & _MASK
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
def _decode(data: Bytes, at: int, stop: int) -> tuple[int, int]:
    """The code point at `at` of valid UTF-8, and its width in bytes."""
    first = np.int64(data[at])
    if first < 0xE0:
        return ((first & 0x1F) << 6) | (data[at + 1] & 0x3F), 2
    if first < 0xF0:
        return ((first & 0x0F) << 12) | (np.int64(data[at + 1] & 0x3F) << 6) | (data[at + 2] & 0x3F), 3
    high = ((first & 0x07) << 18) | (np.int64(data[at + 1] & 0x3F) << 12)
    return high | (np.int64(data[at + 2] & 0x3F) << 6) | (data[at + 3] & 0x3F), 4


@compiled
def _feed(value: np.uint64, point: int) -> np.uint64:
    """A word's running hash with the UTF-8 bytes of one more character."""
    if point < 0x80:
        return (value ^ np.uint64(point)) * FNV_PRIME
    if point < 0x800:
        value = (value ^ np.uint64(0xC0 | (point >> 6))) * FNV_PRIME
    else:
        if point < 0x10000:
            value = (value ^ np.uint64(0xE0 | (point >> 12))) * FNV_PRIME
        else:
            value = (value ^ np.uint64(0xF0 | (point >> 18))) * FNV_PRIME
            value = (value ^ np.uint64(0x80 | ((point >> 12) & 0x3F))) * FNV_PRIME
        value = (value ^ np.uint64(0x80 | ((point >> 6) & 0x3F))) * FNV_PRIME
    return (value ^ np.uint64(0x80 | (point & 0x3F))) * FNV_PRIME


@compiled
def _ascii_words(data: Bytes, start: int, stop: int, low: Bytes, out: Hashes) -> Any:
    """Hash the words of ASCII (or canonical) text into `out`; -1 when `low` knows a byte not.

    Without a branch a byte: where a word ends is what a processor guesses worst.
    """
    count = np.int64(0)
    value = FNV_BASIS
    before = np.int64(0)
    high = np.uint8(0)
    for at in range(start, stop):
        byte = data[at]
        high |= byte
        kind = low[byte]
        inside = np.int64(1) if kind != 0 else np.int64(0)
        out[count] = value
        count += before & (1 - inside)
        value = (value ^ np.uint64(kind)) * FNV_PRIME if inside else FNV_BASIS
        before = inside
    if high >= 0x80 and low[0xFF] == 0:
        return -1
    out[count] = value
    count += before
    for item in range(count):
        out[item] = _fmix64(out[item])
    return count


@compiled
def split_words(
    data: Bytes, start: int, stop: int, low: Bytes, wide: NDArray[np.uint32], out: Hashes, where: NDArray[np.int64]
) -> int:
    """Hash the words of data[start:stop] into `out`, their bytes [from, to) into `where` (two a word, or empty).

    Returns their number; -1 when the text needs the wide table and has none, -2 when it needs `canonical`.
    """
    if wide.size == 0 and where.size == 0:
        return int(_ascii_words(data, start, stop, low, out))
    count = 0
    begun = start
    value = FNV_BASIS
    inside = False
    located = where.size > 0
    at = start
    while at < stop:
        byte = data[at]
        kind = low[byte]
        if kind != 0:
            if not inside:
                begun = at
                inside = True
            value = (value ^ np.uint64(kind)) * FNV_PRIME
            at += 1
            continue
        width = 1
        alone = False
        point = np.int64(0)
        if byte >= 0x80:
            if wide.size == 0:
                return -1
            point, width = _decode(data, at, stop)
            if point >= LIMIT or wide[point] == COMPLEX:
                return -2
            form = wide[point]
            alone = (form & ALONE) != 0
            point = np.int64(form & np.uint32(0x1FFFFF))
            if point != 0 and not alone:
                if not inside:
                    begun = at
                    inside = True
                value = _feed(value, point)
                at += width
                continue
        if inside:
            out[count] = _fmix64(value)
            if located:
                where[2 * count] = begun
                where[2 * count + 1] = at
            count += 1
            value = FNV_BASIS
            inside = False
        if alone:
            out[count] = _fmix64(_feed(FNV_BASIS, point))
            if located:
                where[2 * count] = at
                where[2 * count + 1] = at + width
            count += 1
        at += width
    if inside:
        out[count] = _fmix64(value)
        if located:
            where[2 * count] = begun
            where[2 * count + 1] = stop
        count += 1
    return count


@compiled
def join_words(words: Hashes, count: int, ngram: int, out: Hashes) -> int:
    """Write the shingle hashes of `count` words to `out`; returns how many."""
    if count == 0:
        return 0
    size = ngram if count >= ngram else count
    total = np.uint64(0)
    leave = np.uint64(1)
    for item in range(size):
        total = total * POWER + words[item]
        if item:
            leave *= POWER
    out[0] = _fmix64(total)
    made = count - size + 1
    for item in range(1, made):
        total = (total - words[item - 1] * leave) * POWER + words[item + size - 1]
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
def sign(
    data: Bytes,
    at: Ints,
    low: Bytes,
    wide: NDArray[np.uint32],
    ngram: int,
    a: NDArray[np.uint32],
    b: NDArray[np.uint32],
    out: NDArray[np.uint32],
    counts: Ints,
) -> None:
    """Fill the signature (texts, K) and the number of shingles of each text; a count of -1 or -2 as `split_words`."""
    longest = 0
    for item in range(at.size - 1):
        longest = max(longest, at[item + 1] - at[item])
    words = np.empty(longest // 2 + 2, np.uint64)
    grams = np.empty(longest // 2 + 2, np.uint64)
    block = np.empty(BLOCK, np.uint32)
    for item in range(at.size - 1):
        found = split_words(data, at[item], at[item + 1], low, wide, words, np.empty(0, np.int64))
        row = out[item]
        row[:] = EMPTY
        if found < 0:
            counts[item] = found
            continue
        made = join_words(words, found, ngram, grams)
        counts[item] = made
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


@compiled
def gather(
    data: Bytes, at: Ints, items: Ints, low: Bytes, wide: NDArray[np.uint32], ngram: int, to: Ints, out: Hashes
) -> None:
    """Write the shingles (repeats and all) of the texts `items` to out[to[i]:]; texts that fail are left alone."""
    longest = 0
    for item in items:
        longest = max(longest, at[item + 1] - at[item])
    words = np.empty(longest // 2 + 2, np.uint64)
    for index in range(items.size):
        item = items[index]
        found = split_words(data, at[item], at[item + 1], low, wide, words, np.empty(0, np.int64))
        if found > 0:
            join_words(words, found, ngram, out[to[index] :])


def signatures(texts: Any, ngram: int, a: NDArray[np.uint32], b: NDArray[np.uint32]) -> tuple[NDArray[np.uint32], Ints]:
    """Signatures (n, K) uint32 and shingle counts (n,) of a large_string array; nulls count as empty."""
    data, at = buffers(texts)
    size = len(at) - 1
    out, counts = np.empty((size, a.size), np.uint32), np.zeros(size, np.int64)
    if size == 0:
        return out, counts
    sign(data, at, _ASCII, _NO_WIDE, ngram, a, b, out, counts)
    for table, low, code in ((None, _ASCII, -1), (_NO_WIDE, _PLAIN, -2)):
        left = np.flatnonzero(counts == code)
        if not len(left):
            continue
        part_data, part_at = buffers(_taken(texts, left, code))
        part, part_counts = np.empty((len(left), a.size), np.uint32), np.empty(len(left), np.int64)
        sign(part_data, part_at, low, wide_table() if table is None else table, ngram, a, b, part, part_counts)
        out[left], counts[left] = part, part_counts
    return out, counts


def _taken(texts: Any, items: Ints, code: int) -> Any:
    """The texts that need the wide table as they are, those beyond it in canonical form."""
    part = texts.take(pa.array(items))
    return part if code == -1 else pa.array([canonical(text) for text in part.to_pylist()], pa.large_binary())


def write_shingles(texts: Any, items: Ints, ngram: int, to: Ints, out: Hashes) -> None:
    """Write the shingles (repeats and all) of texts[items] to out[to[i]:], as many as `signatures` counted."""
    data, at = buffers(texts)
    kinds = np.zeros(len(items), np.uint8)
    _classify(data, at, items, _NO_WIDE, kinds)
    if kinds.any():
        _classify(data, at, items, wide_table(), kinds)
    for kind, wide in ((0, _NO_WIDE), (1, None)):
        part = np.flatnonzero(kinds == kind)
        if len(part):
            table = wide_table() if wide is None else wide
            gather(data, at, items[part], _ASCII, table, ngram, to[part], out)
    part = np.flatnonzero(kinds == 2)
    if len(part):
        data, at = buffers(_taken(texts, items[part], -2))
        gather(data, at, np.arange(len(part)), _PLAIN, _NO_WIDE, ngram, to[part], out)


@compiled
def _classify(data: Bytes, at: Ints, items: Ints, wide: NDArray[np.uint32], kinds: Bytes) -> None:
    """0 for ASCII texts, 1 for others; with the wide table 2 for those it cannot split."""
    for index in range(items.size):
        start, stop = at[items[index]], at[items[index] + 1]
        high = np.uint8(0)
        for k in range(start, stop):
            high |= data[k]
        if high < 0x80:
            kinds[index] = 0
            continue
        kinds[index] = 1
        k = start
        while wide.size and k < stop:
            if data[k] < 0x80:
                k += 1
                continue
            point, width = _decode(data, k, stop)
            if point >= LIMIT or wide[point] == COMPLEX:
                kinds[index] = 2
                break
            k += width


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
