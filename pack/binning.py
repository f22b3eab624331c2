"""Lengths in, bins out: pure, deterministic, no I/O.

`bfd` opens each bin with the longest item left and fills it with, in this order: the largest item that fits, if that
leaves next to nothing; the pair that fills it exactly and is most alike; the largest item that fits. Pairs of like
halves spare the short items, without which the last bins stay half empty; where lengths are sparse, so that no item
fits exactly, "next to nothing" is what keeps pairs, and with them the short items, for later.
Lengths live in counting-sort buckets; a bitmap of non-empty buckets finds the largest that fits, and a mirrored bitmap
finds an exact pair by AND-ing 64 sums at a time. Items come in windows of the order given; bins under 99.8 % full are
dissolved into the next window, so only the last window leaves loose ends.

Cost: O(n x ctx / 128) word operations at worst, O(n) in practice; 8 bytes an item and 16 bytes a bucket of memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numba
import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

ALGORITHMS: Final = ("bfd", "first-fit", "none")
WINDOW: Final = 50_000
FULL: Final = 0.998  # a fuller bin is not worth reopening
NEAR: Final = 12  # an item may leave as much room as holds so many items, were all lengths equally frequent


@dataclass(frozen=True, slots=True)
class Bins:
    """Which items lie in which bin: bin b holds `items[starts[b]:starts[b + 1]]`, ascending."""

    items: Ints
    starts: Ints

    def __len__(self) -> int:
        return len(self.starts) - 1

    def bin(self, index: int) -> Ints:
        """The items of one bin."""
        return self.items[self.starts[index] : self.starts[index + 1]]


def assign(lengths: Ints, capacity: int, algorithm: str = "bfd", window: int = WINDOW) -> Bins:
    """Put every item (lengths in tokens, 1 to `capacity`) into exactly one bin; `window` 0 means all at once.

    Raises ValueError for a length outside that range or an unknown algorithm.
    """
    lengths = np.ascontiguousarray(lengths, dtype=np.int64)
    if len(lengths) and (lengths.min() < 1 or lengths.max() > capacity):
        raise ValueError(f"lengths must be from 1 to {capacity}")
    if algorithm == "none" or not len(lengths):
        return Bins(np.arange(len(lengths)), np.arange(len(lengths) + 1))
    if algorithm == "first-fit":
        owner: Ints = _first_fit_kernel(lengths, capacity)
        return _grouped(np.arange(len(lengths)), owner)
    if algorithm == "bfd":
        return _windowed(lengths, capacity, window)
    raise ValueError(f"algorithm {algorithm!r}: not one of {', '.join(ALGORITHMS)}")


def lower_bound(lengths: Ints, capacity: int) -> int:
    """The least number of bins any packing needs: L2 of Martello and Toth (1990), over every threshold."""
    lengths = np.asarray(lengths, dtype=np.int64)
    if not len(lengths):
        return 0
    count = np.bincount(lengths, minlength=capacity + 1)
    number = np.concatenate(([0], np.cumsum(count)))  # number[x] = items shorter than x
    total = np.concatenate(([0], np.cumsum(count * np.arange(capacity + 1))))
    half = capacity // 2
    threshold = np.arange(half + 1)
    large = number[-1] - number[half + 1]  # over half: a bin each
    between = number[capacity - threshold + 1] - number[half + 1]
    room = between * capacity - (total[capacity - threshold + 1] - total[half + 1])
    small = total[half + 1] - total[threshold]
    return int((large + np.maximum(0, -(-(small - room) // capacity))).max())


def _windowed(lengths: Ints, capacity: int, window: int) -> Bins:
    n = len(lengths)
    windows = max(1, round(n / window)) if window else 1
    edges = [n * w // windows for w in range(windows + 1)]
    carried: Ints = np.empty(0, dtype=np.int64)
    items: list[Ints] = []
    sizes: list[Ints] = []
    for w in range(windows):
        pool = np.concatenate((carried, np.arange(edges[w], edges[w + 1])))
        local, starts = _window_kernel(lengths[pool], capacity)
        chosen = pool[local]
        size = np.diff(starts)
        closed = np.ones(len(size), dtype=bool)
        if w + 1 < windows:
            filled = np.add.reduceat(lengths[chosen], starts[:-1])
            closed = (filled >= FULL * capacity) | ~_last_items(size, filled < FULL * capacity, window)
        keep = np.repeat(closed, size)
        items.append(chosen[keep])
        sizes.append(size[closed])
        carried = np.sort(chosen[~keep])
    size = np.concatenate(sizes)
    return _grouped(np.concatenate(items), np.repeat(np.arange(len(size)), size))


def _last_items(size: Ints, loose: npt.NDArray[np.bool_], limit: int) -> npt.NDArray[np.bool_]:
    """The last loose bins that hold at most `limit` items together: the carry stays bounded whatever the lengths."""
    behind = np.cumsum((size * loose)[::-1])[::-1]
    allowed: npt.NDArray[np.bool_] = loose & (behind <= limit)
    return allowed


def _grouped(items: Ints, owner: Ints) -> Bins:
    key = owner * len(items)
    key += items
    key.sort()  # by bin, then by item, in place
    key %= len(items)
    return Bins(key, np.concatenate(([0], np.cumsum(np.bincount(owner)))).astype(np.int64))


def _highest(word: Any) -> int:
    """The position of the highest set bit of a non-zero 64-bit word."""
    position = 0
    for step in (32, 16, 8, 4, 2, 1):
        if word >> np.uint64(step):
            word >>= np.uint64(step)
            position += step
    return position


def _largest(bits: Any, limit: int) -> int:
    """The largest set position <= limit, or 0."""
    index = limit >> 6
    word = bits[index] & (np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(63 - (limit & 63)))
    while not word and index > 0:
        index -= 1
        word = bits[index]
    found: int = (index << 6) + _highest_kernel(word) if word else 0
    return found


def _lowest(word: Any) -> int:
    """The position of the lowest set bit of a non-zero 64-bit word."""
    return _highest_kernel(word & (~word + np.uint64(1)))  # type: ignore[no-any-return]


def _pair(bits: Any, mirror: Any, count: Any, room: int, capacity: int, longest: int) -> int:
    """The larger of the two most equal available lengths that sum to `room`, or 0; none is over `longest`."""
    shift = capacity - room
    low, high = np.uint64(shift & 63), np.uint64(64 - (shift & 63))
    for index in range(((room + 1) >> 1) >> 6, (min(room - 1, longest) >> 6) + 1):
        at = index + (shift >> 6)
        other = mirror[at] >> low
        if shift & 63:
            other |= mirror[at + 1] << high
        word = bits[index] & other
        while word:
            larger: int = (index << 6) + _lowest_kernel(word)
            if 2 * larger > room or (2 * larger == room and count[larger] >= 2):
                return larger
            word &= word - np.uint64(1)
    return 0


def _window(lengths: Any, capacity: int) -> Any:
    """Bins of one window: (item indices bin by bin, starts)."""
    n = len(lengths)
    count = np.zeros(capacity + 1, np.int64)
    for length in lengths:
        count[length] += 1
    head = np.zeros(capacity + 2, np.int64)
    bits = np.zeros((capacity >> 6) + 3, np.uint64)
    mirror = np.zeros(2 * (capacity >> 6) + 4, np.uint64)
    for length in range(capacity + 1):
        head[length + 1] = head[length] + count[length]
        if count[length]:
            bits[length >> 6] |= np.uint64(1) << np.uint64(length & 63)
            other = capacity - length
            mirror[other >> 6] |= np.uint64(1) << np.uint64(other & 63)
    cursor = head[:-1].copy()
    order = np.empty(n, np.int64)
    for item in range(n):
        order[cursor[lengths[item]]] = item
        cursor[lengths[item]] += 1
    cursor = head[:-1].copy()
    items = np.empty(n, np.int64)
    starts = np.zeros(n + 1, np.int64)
    taken, bins, longest = 0, 0, capacity
    near = min(capacity >> 6, NEAR * capacity // n)
    while taken < n:
        longest = _largest_kernel(bits, longest)
        room, first, second = capacity, longest, 0
        while first:
            for length in (first, second):
                if length:
                    items[taken] = order[cursor[length]]
                    taken += 1
                    cursor[length] += 1
                    count[length] -= 1
                    room -= length
                    if not count[length]:
                        bits[length >> 6] ^= np.uint64(1) << np.uint64(length & 63)
                        other = capacity - length
                        mirror[other >> 6] ^= np.uint64(1) << np.uint64(other & 63)
            first = second = 0
            fitting = _largest_kernel(bits, min(room, longest)) if room else 0
            if fitting and room - fitting > near and room <= 2 * longest:
                first = _pair_kernel(bits, mirror, count, room, capacity, longest)
            if first:
                second = room - first
            else:
                first = fitting
        bins += 1
        starts[bins] = taken
    return items, starts[: bins + 1]


def _first_fit(lengths: Any, capacity: int) -> Any:
    """The bin of each item, first bin that has room, in the order given: a maximum tree over the room left."""
    leaves = 1
    while leaves < len(lengths):
        leaves *= 2
    room = np.full(2 * leaves, capacity, np.int64)
    owner = np.empty(len(lengths), np.int64)
    for item in range(len(lengths)):
        node = 1
        while node < leaves:
            node *= 2
            if room[node] < lengths[item]:
                node += 1
        owner[item] = node - leaves
        room[node] -= lengths[item]
        while node > 1:
            node >>= 1
            room[node] = max(room[2 * node], room[2 * node + 1])
    return owner


_highest_kernel: Any = numba.njit(cache=True)(_highest)
_lowest_kernel: Any = numba.njit(cache=True)(_lowest)
_largest_kernel: Any = numba.njit(cache=True)(_largest)
_pair_kernel: Any = numba.njit(cache=True)(_pair)
_window_kernel: Any = numba.njit(cache=True)(_window)
_first_fit_kernel: Any = numba.njit(cache=True)(_first_fit)
