"""From components to survivors: an exact check of every pair that matters.

Inside a component (`bands.py`) records are taken in keep order. A record goes iff an earlier *kept* record of its
component has exact Jaccard >= threshold on shingle sets; its twin is the most similar one (of equals the earlier).

So every removal is verified, chains cannot form, and a record that a bucket's first member does not match still meets
the other kept members; pairs that share no band are found too when something links them.

Small components compare each record with every kept one (size filter, early exit). From SMALL records on, only kept
records that share one of the rarest shingles are compared: two sets of sizes m and n with Jaccard >= t share at least
c = t (m + n) / (1 + t) elements, so their first m - c + 1 and n - c + 1 in any common order intersect (prefix filter:
Bayardo, Ma, Srikant, WWW 2007; here with c by size class, so that a crowd around one template does not meet on the
template's own shingles). No pair is lost by either.

Cost: a large component costs its shingles, twice, plus the comparisons between
records that share a rare shingle; template-heavy buckets therefore cost what their members differ in, not their
square. The worst case stays quadratic in the *kept* records that share rare shingles but miss the threshold.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from curate.compiled import compiled
from curate.placed import load_shingles, longest_placed
from curate.splitting import room_for

Ints = NDArray[np.int64]
Nodes = NDArray[np.int32]
Hashes = NDArray[np.uint64]

SMALL: Final = 24
SLACK: Final = 1e-9  # rounding must widen the filters, never narrow them
COMMON: Final = 20  # bits of a shingle's frequency in its rank; the rest are hash bits
SPREAD: Final = np.uint64(0x9E3779B97F4A7C15)
CLASS: Final = np.uint64(0xC2B2AE3D27D4EB4F)
TAIL: Final = np.uint64((1 << (64 - COMMON)) - 1)
MAX_COUNT_BITS: Final = 24


@compiled
def _distinct(slots: Hashes, marks: Nodes, mark: int, sets: Hashes, start: int, size: int) -> int:
    """Drop repeats from sets[start : start + size], in place, leaving the set `mark` in the table; returns its size."""
    count = start
    for k in range(start, start + size):
        value = sets[k]
        if _insert(slots, marks, mark, value):
            sets[count] = value
            count += 1
    return count - start


@compiled
def _slots(longest: int) -> int:
    """The slots of a table for sets of at most `longest`."""
    size = 64
    while size < 2 * longest:
        size *= 2
    return size


@compiled
def _table(longest: int) -> tuple[Hashes, Nodes]:
    size = _slots(longest)
    return np.empty(size, np.uint64), np.zeros(size, np.int32)


@compiled
def _insert(slots: Hashes, marks: Nodes, mark: int, value: np.uint64) -> bool:
    """Add a value to the set called `mark`; whether it was new. Other sets in the table count as empty slots."""
    mask = np.uint64(slots.size - 1)
    at = value & mask
    while marks[at] == mark:
        if slots[at] == value:
            return False
        at = (at + np.uint64(1)) & mask
    marks[at] = mark
    slots[at] = value
    return True


@compiled
def _load(slots: Hashes, marks: Nodes, mark: int, sets: Hashes, start: int, size: int) -> None:
    for k in range(start, start + size):
        _insert(slots, marks, mark, sets[k])


@compiled
def _jaccard(
    slots: Hashes, marks: Nodes, mark: int, size: int, sets: Hashes, start: int, count: int, floor: float
) -> float:
    """Exact Jaccard of the set in the table and sets[start : start + count], or -1 once it must be below `floor`."""
    need = np.int64(np.ceil(floor / (1.0 + floor) * (size + count) - SLACK))
    if need > size or need > count:
        return -1.0
    spare = count - need
    mask = np.uint64(slots.size - 1)
    missed = 0
    for k in range(count - 1, -1, -1):  # from the end: texts of one template begin alike
        value = sets[start + k]
        at = value & mask
        found = False
        while marks[at] == mark:
            if slots[at] == value:
                found = True
                break
            at = (at + np.uint64(1)) & mask
        if not found:
            missed += 1
            if missed > spare:
                return -1.0
    shared = count - missed
    return shared / (size + count - shared)


@compiled
def settle(
    starts: Ints,
    first: int,
    last: int,
    texts: Any,
    wide: NDArray[np.uint32],
    ngram: int,
    sets: Hashes,
    at: Ints,
    sizes: Ints,
    stays: NDArray[np.bool_],
    threshold: float,
    twin: Ints,
    similarity: NDArray[np.float64],
    compared: Ints,
) -> int:
    """Decide the components first:last, c = starts[c]:starts[c + 1] in keep order; fill twin (-1 = kept) and similarity.

    `texts` as for `load_shingles`; `sets` has room for the shingles of the largest component, `at` and `sizes` are
    scratch. Records that `stays` names are kept whatever they resemble. Adds the comparisons made to compared[0].
    Returns `last`, or the first component with a text that needs another table: sizes[record] is then its code.
    """
    room = room_for(longest_placed(texts[1], texts[2], starts[first], starts[last]))
    slots, marks = _table(1)
    for c in range(first, last):
        begin, end = starts[c], starts[c + 1]
        to, most, fails = 0, 0, False
        for item in range(begin, end):
            at[item] = to
            sizes[item] = load_shingles(texts, item, wide, ngram, room, sets[to:])
            fails |= sizes[item] < 0
            to += max(sizes[item], 0)
            most = max(most, sizes[item])
        if fails:
            return c
        if _slots(most) > slots.size:
            slots, marks = _table(most)
        table = slots[: _slots(most)], marks[: _slots(most)]
        if end - begin < SMALL:
            compared[0] += _settle_small(begin, end, sets, at, sizes, stays, threshold, twin, similarity, *table)
            continue
        for item in range(begin, end):
            sizes[item] = _distinct(*table, -1 - item, sets, at[item], sizes[item])
        compared[0] += _settle_large(begin, end, sets, at, sizes, stays, threshold, twin, similarity, *table)
    return last


@compiled
def _settle_small(
    first: int,
    last: int,
    sets: Hashes,
    at: Ints,
    sizes: Ints,
    stays: NDArray[np.bool_],
    threshold: float,
    twin: Ints,
    similarity: NDArray[np.float64],
    slots: Hashes,
    marks: Nodes,
) -> int:
    compared = 0
    for item in range(first, last):
        sizes[item] = _distinct(slots, marks, item + 1, sets, at[item], sizes[item])
        if stays[item]:
            continue
        best = threshold
        for other in range(first, item):
            if twin[other] >= 0:
                continue
            compared += 1
            found = _jaccard(slots, marks, item + 1, sizes[item], sets, at[other], sizes[other], best)
            if found > best or (found == best and twin[item] < 0):
                best, twin[item], similarity[item] = found, other, found
    return compared


@compiled
def _select(values: Hashes, count: int) -> None:
    """Move the `count` smallest values to the front (Hoare's FIND; numpy's partition takes seconds to compile)."""
    low, high = 0, values.size - 1
    while low < high:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if count - 1 <= j:
            high = j
        elif count - 1 >= i:
            low = i
        else:
            break


@compiled
def _prefix(sets: Hashes, start: int, size: int, counts: Nodes, shift: np.uint64, threshold: float) -> Hashes:
    """The rarest shingles of a set, as ranks: frequency first, then hash."""
    ranks = np.empty(size, np.uint64)
    for k in range(size):
        value = sets[start + k]
        often = min(counts[(value * SPREAD) >> shift], (1 << COMMON) - 1)
        ranks[k] = (np.uint64(often) << np.uint64(64 - COMMON)) | (value & TAIL)
    length = size - np.int64(np.ceil(threshold * size - SLACK)) + 1
    _select(ranks, length)
    rarest = ranks[: min(length, size)]
    _sort(rarest)
    return rarest


@compiled
def _sort(values: Hashes) -> None:
    """Shell sort, ascending: prefixes are short."""
    gap = 1
    while gap < values.size // 3:
        gap = 3 * gap + 1
    while gap:
        for item in range(gap, values.size):
            value = values[item]
            at = item
            while at >= gap and values[at - gap] > value:
                values[at] = values[at - gap]
                at -= gap
            values[at] = value
        gap //= 3


@compiled
def _classes(longest: int) -> tuple[Nodes, Ints]:
    """The class of each size, and the smallest size of each class; a class is about a sixteenth wide."""
    classes = np.zeros(longest + 2, np.int32)
    least = np.empty(longest + 3, np.int64)
    edge, number = 1, 0
    while edge <= longest + 1:
        least[number] = edge
        after = max(edge + 1, edge * 17 // 16)
        classes[edge : min(after, longest + 2)] = number
        edge = after
        number += 1
    least[number] = edge
    return classes, least


@compiled
def _frequencies(first: int, last: int, sets: Hashes, at: Ints, sizes: Ints) -> tuple[Nodes, np.uint64]:
    """How often shingles occur, by hash slot (any order serves the filter, if it is one order), and the slots' shift."""
    total = 0
    for item in range(first, last):
        total += sizes[item]
    bits = 10
    while bits < MAX_COUNT_BITS and (1 << bits) < 2 * total:
        bits += 1
    shift = np.uint64(64 - bits)
    counts = np.zeros(1 << bits, np.int32)
    for item in range(first, last):
        for k in range(at[item], at[item] + sizes[item]):
            counts[(sets[k] * SPREAD) >> shift] += 1
    return counts, shift


@compiled
def _settle_large(
    first: int,
    last: int,
    sets: Hashes,
    at: Ints,
    sizes: Ints,
    stays: NDArray[np.bool_],
    threshold: float,
    twin: Ints,
    similarity: NDArray[np.float64],
    slots: Hashes,
    marks: Nodes,
) -> int:
    counts, shift = _frequencies(first, last, sets, at, sizes)
    entries, longest = 0, 1
    for item in range(first, last):
        entries += sizes[item] - np.int64(np.ceil(threshold * sizes[item] - SLACK)) + 1
        longest = max(longest, sizes[item])
    width = 10
    while (1 << width) < 2 * entries:
        width += 1
    heads = np.full(1 << width, -1, np.int32)
    turn = np.uint64(64 - width)
    chain = np.empty((entries, 2), np.int32)  # record (from `first`), next entry
    ranked = np.empty(entries, np.uint64)
    used = 0
    seen = np.full(last - first, -1, np.int32)
    classes, least = _classes(longest)
    compared = 0
    for item in range(first, last):
        size = sizes[item]
        rare = _prefix(sets, at[item], size, counts, shift, threshold)
        loaded = False
        best = threshold
        small = max(1, np.int64(np.ceil(threshold * size - SLACK)))
        large = min(longest, np.int64(np.floor(size / threshold + SLACK)))
        for kind in range(classes[small], classes[large] + 1 if not stays[item] else 0):
            other_size = max(small, least[kind])
            need = np.int64(np.ceil(threshold / (1.0 + threshold) * (size + other_size) - SLACK))
            for k in range(min(rare.size, size - need + 1)):
                rank = rare[k] ^ (np.uint64(kind) * CLASS)
                entry = heads[(rank * SPREAD) >> turn]
                while entry >= 0:
                    near = chain[entry, 0]
                    if ranked[entry] == rank and seen[near] != item - first:
                        seen[near] = item - first
                        other = first + near
                        if not loaded:
                            _load(slots, marks, item + 1, sets, at[item], size)
                            loaded = True
                        compared += 1
                        found = _jaccard(slots, marks, item + 1, size, sets, at[other], sizes[other], best)
                        if found > best or (found == best and (twin[item] < 0 or other < twin[item])):
                            best, twin[item], similarity[item] = found, other, found
                    entry = chain[entry, 1]
        if twin[item] < 0:
            for value in rare:
                rank = value ^ (np.uint64(classes[size]) * CLASS)
                slot = (rank * SPREAD) >> turn
                chain[used, 0], chain[used, 1], ranked[used] = item - first, heads[slot], rank
                heads[slot] = used
                used += 1
    return compared
