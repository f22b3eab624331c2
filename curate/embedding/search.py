"""Exact cosine search among unit vectors, block by block.

A block of float32 products proposes pairs: all within SLACK of the threshold, more than rounding can take away. Each is
then decided by its cosine in float64, whose products of two float32 are exact and summed in one order. So what is found
never depends on block sizes, threads, the BLAS library or the device. A row of zeros is similar to nothing.

`pairs` finds all pairs. `settle` decides who is kept, and needs no pairs: each record meets only records that are
kept, so a crowd around one text costs no quadratic time. Cost: n x kept x dimensions multiplications, about 5 seconds
for 30,000 x 384 on two cores; memory: the vectors and a block of BLOCK x WIDE products.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

BLOCK: Final = 1_024
WIDE: Final = 8_192
VERIFIED: Final = 8_192  # pairs verified together
LARGE: Final = 50_000  # vectors from which a GPU, where there is one, is worth loading torch


def gpu(size: int) -> str | None:
    """The device to multiply `size` vectors on: "cuda" for many where there is one, else None for NumPy."""
    if size < LARGE:
        return None
    import torch

    return "cuda" if torch.cuda.is_available() else None


def slack(dimensions: int) -> float:
    """More than float32 can err in a product of unit vectors: n products and sums, each within 2^-24 (twice over)."""
    return (dimensions + 8) * 2.0**-23


def cosines(left: Vectors, right: Vectors) -> Floats:
    """The cosine of each row of `left` with the same row of `right`, float64 [n]; 0 where either is zero."""
    found = np.zeros(len(left))
    for start in range(0, len(left), VERIFIED):
        part = slice(start, start + VERIFIED)
        one, two = left[part].astype(np.float64), right[part].astype(np.float64)
        dots = (one * two).sum(axis=1)
        norms = np.sqrt((one * one).sum(axis=1) * (two * two).sum(axis=1))
        found[part] = np.minimum(np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0), 1.0)
    return found


def pairs(
    left: Vectors, right: Vectors | None = None, *, threshold: float, block: int = BLOCK, device: str | None = None
) -> tuple[Ints, Ints, Floats]:
    """All pairs of a cosine of `threshold` (above 0) or more: rows i, rows j and cosines, sorted by i, then j.

    Without `right`: pairs i < j within `left`. Memory grows with the pairs found. `device` (such as "cuda") multiplies
    there by torch instead of NumPy.
    """
    other = left if right is None else right
    bound = np.float32(threshold - slack(left.shape[1]))
    parts: list[tuple[Ints, Ints, Floats]] = []
    times = _Products(device)
    for start in range(0, len(left), block):
        rows = left[start : start + block]
        first = 0 if right is not None else start
        for from_ in range(first, len(other), WIDE):
            at = np.flatnonzero((times(rows, other[from_ : from_ + WIDE]) >= bound).ravel())
            width = min(WIDE, len(other) - from_)
            i, j = start + at // width, from_ + at % width
            if right is None:
                i, j = i[i < j], j[i < j]
            exact = cosines(left[i], other[j])
            held = exact >= threshold
            parts.append((i[held], j[held], exact[held]))
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    i, j, found = (np.concatenate(side) for side in zip(*parts, strict=True))
    order = np.lexsort([j, i])
    return i[order], j[order], found[order]


def settle(
    vectors: Vectors, rows: Ints, threshold: float, *, safe: int = 0, block: int = BLOCK, device: str | None = None
) -> tuple[Ints, Floats]:
    """Decide over records in keep order; `rows[n]` is the vector of record n, which several may share.

    The first `safe` records are kept whatever they are like.

    Returns what `clusters.survivors` returns for all verified pairs: for each record its twin (the most similar kept
    earlier record, the earlier of equals; -1 = kept) and their cosine (NaN = kept).
    """
    size = len(rows)
    twin, found = np.full(size, -1, np.int64), np.full(size, np.nan)
    margin = slack(vectors.shape[1])
    kept = np.arange(safe)
    times = _Products(device)
    for start in range(safe, size, block):
        mine = np.arange(start, min(start + block, size))
        here = vectors[rows[mine]]
        best = _Best(len(mine))
        for from_ in range(0, len(kept), WIDE):
            chosen = kept[from_ : from_ + WIDE]
            there = vectors[rows[chosen]]
            best.meet(times(here, there), here, there, chosen, threshold, margin)
        open_ = np.flatnonzero(best.twin < 0)
        fresh = mine[open_[_kept_among(here[open_], threshold, times)]]
        if len(fresh):  # who goes may be more like a record of the same block than like the older ones
            there = vectors[rows[fresh]]
            products = times(here, there)
            products[mine[:, None] <= fresh[None, :]] = -2.0
            best.meet(products, here, there, fresh, threshold, margin)
        twin[mine], found[mine] = best.twin, best.cosine
        kept = np.concatenate([kept, fresh])
    return twin, found


class _Best:
    """For each row of a block the most similar kept record so far, by exact cosine, the earlier of equals."""

    def __init__(self, size: int) -> None:
        self.twin = np.full(size, -1, np.int64)
        self.cosine = np.full(size, np.nan)

    def meet(
        self, products: Any, here: Vectors, there: Vectors, records: Ints, threshold: float, margin: float
    ) -> None:
        """Compare with `records`, which come after all met before; only what may be the best of a row is verified."""
        if not products.size:
            return
        top = products.max(axis=1)
        lines = np.flatnonzero(top >= threshold - margin)
        if not len(lines):
            return
        bound = np.maximum(top[lines] - 2 * margin, threshold - margin)
        at, column = np.nonzero(products[lines] >= bound[:, None])
        row = lines[at]
        exact = cosines(here[row], there[column])
        held = (exact >= threshold) & ~(exact <= self.cosine[row])
        row, column, exact = row[held], column[held], exact[held]
        order = np.lexsort([column, -exact, row])
        row, column, exact = row[order], column[order], exact[order]
        first = np.unique(row, return_index=True)[1]
        self.twin[row[first]] = records[column[first]]
        self.cosine[row[first]] = exact[first]


def _kept_among(vectors: Vectors, threshold: float, times: _Products) -> Ints:
    """Which of some records, in keep order, are kept when they meet only each other."""
    size = len(vectors)
    bound = threshold - slack(vectors.shape[1])
    similar = np.tril(times(vectors, vectors) >= bound, -1)
    gone = np.zeros(size, np.bool_)
    for late in np.flatnonzero(similar.any(axis=1)):
        early = np.flatnonzero(similar[late] & ~gone)
        if len(early):
            gone[late] = bool((cosines(vectors[[late] * len(early)], vectors[early]) >= threshold).any())
    return np.flatnonzero(~gone)


class _Products:
    """All products of two sets of vectors in float32, by NumPy or on a device."""

    def __init__(self, device: str | None) -> None:
        self.device = device

    def __call__(self, left: Vectors, right: Vectors) -> Any:
        if self.device is None:
            return left @ right.T
        import torch

        one, two = (torch.from_numpy(np.ascontiguousarray(side)).to(self.device) for side in (left, right))
        return (one @ two.T).cpu().numpy()
