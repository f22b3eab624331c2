"""Who survives among duplicates: one keep rule for every dedup stage.

    (-priority[source], -score, -assistant_chars, source, file, row, part)

The first in this order survives; a record without a score, or with NaN, comes after every score. A record is removed
only against a *kept* record of verified similarity: no transitive chains, so a removed record is at least `threshold`
similar to something that is still there.

Cost: one lexicographic sort of the records that have a possible twin; `survivors` is linear in the pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Ints = NDArray[np.int64]

ORDER_FIELDS: Final = (
    pa.field("source", pa.string(), nullable=False),
    pa.field("score", pa.float64()),
    pa.field("assistant_chars", pa.int64(), nullable=False),
    pa.field("file", pa.string(), nullable=False),
    pa.field("row", pa.int64(), nullable=False),
    pa.field("part", pa.int32(), nullable=False),
)


def keep_order(
    records: pa.Table, priority: Mapping[str, int], groups: Ints | None = None, ahead: Ints | None = None
) -> Ints:
    """The positions of `records` (columns ORDER_FIELDS) from the first to keep to the last; group by group if given.

    `ahead` ranks records before the rule does: those of earlier outputs below 0, new ones 0.
    """
    source, names = _ranked(records.column("source"))
    ranks = np.array([priority.get(name, 0) for name in names], dtype=np.int64)
    score = records.column("score").to_numpy().astype(np.float64)
    file, _ = _ranked(records.column("file"))
    keys = [
        records.column("part").to_numpy(),
        records.column("row").to_numpy(),
        file,
        source,
        -records.column("assistant_chars").to_numpy(),
        np.where(np.isnan(score), np.inf, -score),
        -ranks[source] if len(names) else source,
    ]
    keys += [key for key in (ahead, groups) if key is not None]
    return np.asarray(np.lexsort(keys), dtype=np.int64)


def _ranked(column: Any) -> tuple[Ints, list[str]]:
    """Each text as its rank among the distinct texts, and those in order of code points."""
    names: Sequence[str] = sorted(pc.unique(column).to_pylist())
    found = pc.index_in(column, pa.array(names, column.type))
    return np.asarray(found.to_numpy()).astype(np.int64), list(names)


def survivors(size: int, left: Ints, right: Ints, similarity: NDArray[np.float64]) -> tuple[Ints, NDArray[np.float64]]:
    """Decide over verified pairs of records 0..size-1 numbered in keep order.

    Returns for each record its twin (the most similar kept earlier record, the earlier of equals; -1 = kept) and that
    similarity (NaN = kept). The order of the pairs does not matter.
    """
    early, late = np.minimum(left, right), np.maximum(left, right)
    order = np.lexsort([early, -similarity, late])
    twin = np.full(size, -1, np.int64)
    found = np.full(size, np.nan)
    for one, other, value in zip(early[order].tolist(), late[order].tolist(), similarity[order].tolist(), strict=True):
        if one != other and twin[other] < 0 and twin[one] < 0:
            twin[other], found[other] = one, value
    return twin, found
