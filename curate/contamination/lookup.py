"""A set of 64-bit hashes that a kernel can ask: a blocked filter first, then a bucketed binary search.

Several sets lie one after the other in the same arrays, so that one compiled kernel serves any number of them. A key
sets three bits of one 64-bit word of the filter, 16 to 32 bits of filter a key: about one absent hash in 200 passes,
for one memory access. The search that follows looks at about eight keys.

Cost: building sorts; asking takes a few nanoseconds, whatever the number of keys, while the filter fits a cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from curate.compiled import compiled

Hashes = NDArray[np.uint64]
Ints = NDArray[np.int64]

PER_BUCKET: Final = 8
ONE: Final = np.uint64(1)
SIX, TWELVE, EIGHTEEN = np.uint64(6), np.uint64(12), np.uint64(18)
BITS: Final = np.uint64(63)


class Sets(NamedTuple):
    """Hash sets: set s has the sorted keys `keys[key_at[s]:key_at[s+1]]`; a key's number counts over all sets.

    `filter[filter_at[s]:]` has `mask[s] + 1` words; `buckets[bucket_at[s]:]` says where the keys begin whose top
    `64 - shift[s]` bits are the same.
    """

    keys: Hashes
    key_at: Ints
    filter: Hashes
    filter_at: Ints
    mask: Hashes
    buckets: NDArray[np.int64]
    bucket_at: Ints
    shift: Hashes


def build(parts: Sequence[Hashes]) -> Sets:
    """The sets of several arrays of sorted, distinct hashes."""
    filters, buckets, masks, shifts = [], [], [], []
    start = 0
    for keys in parts:
        words = 1 << max(0, (max(len(keys), 1) - 1).bit_length() - 2)  # 4 keys or fewer a word
        bits = max(1, (len(keys) // PER_BUCKET).bit_length())
        table = np.zeros(words, np.uint64)
        _fill(keys, table, np.uint64(words - 1))
        filters.append(table)
        masks.append(words - 1)
        shifts.append(64 - bits)
        edges = np.arange((1 << bits) + 1, dtype=np.uint64)
        found = np.searchsorted(keys, edges[:-1] << np.uint64(64 - bits), side="left")
        buckets.append(start + np.concatenate([found, [len(keys)]]))
        start += len(keys)
    return Sets(
        np.concatenate([*parts, np.empty(0, np.uint64)]).astype(np.uint64),
        _ends([len(keys) for keys in parts]),
        np.concatenate([*filters, np.empty(0, np.uint64)]),
        _ends([len(part) for part in filters]),
        np.array(masks, np.uint64),
        np.concatenate([*buckets, np.empty(0, np.int64)]).astype(np.int64),
        _ends([len(part) for part in buckets]),
        np.array(shifts, np.uint64),
    )


def _ends(sizes: Sequence[int]) -> Ints:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


@compiled
def bits_of(key: np.uint64) -> np.uint64:
    """The three bits that a key sets in its word."""
    return (ONE << (key & BITS)) | (ONE << ((key >> SIX) & BITS)) | (ONE << ((key >> TWELVE) & BITS))


@compiled
def _fill(keys: Hashes, table: Hashes, mask: np.uint64) -> None:
    for item in range(keys.size):
        table[(keys[item] >> EIGHTEEN) & mask] |= bits_of(keys[item])


@compiled
def passes(table: Hashes, base: np.uint64, mask: np.uint64, key: np.uint64) -> bool:
    """Whether a hash may be in the set whose filter begins at `base`; False is certain."""
    bits = bits_of(key)
    return bool(table[base + ((key >> EIGHTEEN) & mask)] & bits == bits)  # unsigned: no index is negative


@compiled
def passing(table: Hashes, base: np.uint64, mask: np.uint64, keys: Hashes, count: int, out: Ints) -> int:
    """Write the places of the first `count` hashes that may be in the set; returns how many there are."""
    some = 0
    for place in range(count):
        out[np.uint64(some)] = place
        some += passes(table, base, mask, keys[np.uint64(place)])
    return some


@compiled
def find(sets: Sets, which: int, key: np.uint64) -> int:
    """The number of a hash among all keys, -1 when the set does not hold it."""
    bucket = sets.bucket_at[which] + np.int64(key >> sets.shift[which])
    low, high = sets.buckets[bucket], sets.buckets[bucket + 1]
    while low < high:
        middle = (low + high) >> 1
        if sets.keys[middle] < key:
            low = middle + 1
        else:
            high = middle
    if low < sets.key_at[which + 1] and sets.keys[low] == key:
        return int(low)
    return -1
