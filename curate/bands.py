"""Bands of signatures, and the components of records that share one.

Records whose signatures agree on all rows of a band are linked by union-find; a component is a set of records that may
be near-duplicates of each other. A 64-bit key stands for a band: equal keys of different bands would only add a
candidate, and every candidate is checked exactly.

Cost: one hash table of n keys a band, built by one thread; threads take bands in turn, each with its own forest.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
from numpy.typing import NDArray

from curate.compiled import compiled

Nodes = NDArray[np.int32]
Hashes = NDArray[np.uint64]

SPREAD: Final = np.uint64(0x9E3779B97F4A7C15)


@compiled
def band_keys(signatures: NDArray[np.uint32], rows: int, first: int, out: Hashes, start: int) -> None:
    """Write the keys of the bands first, first + 1, ... to out[band, start + record]."""
    for item in range(signatures.shape[0]):
        for band in range(out.shape[0]):
            key = SPREAD
            for row in range(rows):
                key = (key ^ np.uint64(signatures[item, (first + band) * rows + row])) * SPREAD
                key ^= key >> np.uint64(29)
            out[band, start + item] = key


@compiled
def _root(parent: Nodes, node: int) -> int:
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@compiled
def link(keys: Hashes, live: NDArray[np.bool_], parent: Nodes, slots: Hashes, owners: Nodes) -> None:
    """Union the live records that share a key; `slots` and `owners` are scratch, a power of two long."""
    mask = np.uint64(slots.size - 1)
    shift = np.uint64(32)
    owners[:] = -1
    for item in range(keys.size):
        if not live[item]:
            continue
        key = keys[item]
        at = (key ^ (key >> shift)) & mask
        while owners[at] >= 0 and slots[at] != key:
            at = (at + np.uint64(1)) & mask
        if owners[at] < 0:
            owners[at] = item
            slots[at] = key
            continue
        one, other = _root(parent, item), _root(parent, owners[at])
        if one < other:
            parent[other] = one
        elif other < one:
            parent[one] = other


@compiled
def merge(parent: Nodes, other: Nodes) -> None:
    """Add the unions of `other` to `parent`."""
    for item in range(parent.size):
        one, two = _root(parent, item), _root(parent, other[item])
        if one < two:
            parent[two] = one
        elif two < one:
            parent[one] = two


@compiled
def flatten(parent: Nodes) -> None:
    """Point every record at the smallest member of its component."""
    for item in range(parent.size):
        parent[item] = _root(parent, item)


def components(blocks: Iterable[Hashes], live: NDArray[np.bool_], threads: int) -> Nodes:
    """The smallest member of each record's component, int32 (n,), from band keys given as blocks of (bands, n)."""
    size = live.size
    room = 1 << max(4, int(1.5 * size).bit_length())
    parents = [np.arange(size, dtype=np.int32) for _ in range(threads)]
    scratch = [(np.empty(room, np.uint64), np.empty(room, np.int32)) for _ in range(threads)]

    def work(keys: Hashes, lane: int) -> None:
        for band in range(lane, keys.shape[0], threads):
            link(keys[band], live, parents[lane], *scratch[lane])

    with ThreadPoolExecutor(threads) as pool:
        for keys in blocks:
            list(pool.map(work, [keys] * threads, range(threads)))
    for other in parents[1:]:
        merge(parents[0], other)
    flatten(parents[0])
    return parents[0]
