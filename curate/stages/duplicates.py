"""What a stage that removes duplicates says of its decision as a whole: clusters, similarities, who duplicates whom.

A cluster is a kept record with everything that was removed for its sake; there are no chains (`clusters.py`), so each
removed record is in exactly one. Cost: a few passes over columns of the removed records; no text is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SIZES: Final = (2, 3, 4, 5, *(2**power + 1 for power in range(3, 24)))  # lower bounds: 2 3 4 5-8 9-16 17-32 ...
STEPS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
LARGEST: Final = 5
PAIRS: Final = 1_000


def duplicate_facts(
    resolved: pa.Table, *, key: str, threshold: float | None = None, counts: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Facts of resolved rows (columns source, twin_id, twin_source, twin_file, twin_row, and similarity or none).

    `counts` is what the stage counted on the way: candidates (records with a possible twin), compared (pairs compared
    exactly). JSON values only, the same for any order of the rows.
    """
    sizes, largest = _clusters(resolved)
    facts: dict[str, Any] = {
        "key": key,
        "clusters": {"count": len(sizes), "edges": [], "counts": [], "largest": largest},
        "pairs": source_pairs(resolved),
    }
    if sizes:
        top = int(np.searchsorted(SIZES, max(sizes), side="right"))
        binned = np.searchsorted(SIZES, sizes, side="right") - 1
        facts["clusters"] |= {"edges": list(SIZES[:top]), "counts": np.bincount(binned, minlength=top).tolist()}
    if threshold is not None and "similarity" in resolved.column_names:
        facts["similarity"] = {"threshold": threshold, **similarity_bins(resolved.column("similarity"), threshold)}
    if counts:
        facts["candidates"] = {name: int(count) for name, count in sorted(counts.items())}
    return facts


def _clusters(resolved: pa.Table) -> tuple[list[int], list[dict[str, Any]]]:
    """The size of each cluster, the kept record counted, and the largest few with the place of their kept record."""
    place = ["twin_id", "twin_source", "twin_file", "twin_row"]
    place += [name for name in ("twin_folder",) if name in resolved.column_names]  # of an earlier output
    grouped = resolved.select(place).group_by(place, use_threads=False).aggregate([([], "count_all")])
    sizes = pc.add(grouped.column("count_all"), 1)
    order = [("count_all", "descending"), *((name, "ascending") for name in place[1:]), ("twin_id", "ascending")]
    first = grouped.take(pc.sort_indices(grouped, order)[:LARGEST]).to_pylist()
    largest = [
        {"id": row["twin_id"], "source": row["twin_source"], "file": row["twin_file"], "row": row["twin_row"]}
        | {"size": row["count_all"] + 1}
        | ({"folder": row["twin_folder"]} if row.get("twin_folder") is not None else {})
        for row in first
    ]
    return sizes.to_pylist(), largest


def source_pairs(resolved: pa.Table) -> dict[str, Any]:
    """Who duplicates whom: removed records by their source and the source of the record kept, most first.

    At most PAIRS of them are listed; `rest` counts the records of all others.
    """
    names = ["source", "twin_source"]
    grouped = resolved.select(names).group_by(names, use_threads=False).aggregate([([], "count_all")])
    order = [("count_all", "descending"), *((name, "ascending") for name in names)]
    rows = grouped.take(pc.sort_indices(grouped, order)).to_pylist()
    listed = [{"removed": row["source"], "kept": row["twin_source"], "records": row["count_all"]} for row in rows]
    return {"listed": listed[:PAIRS], "rest": sum(row["records"] for row in listed[PAIRS:])}


def similarity_bins(similarity: Any, threshold: float) -> dict[str, Any]:
    """Removed records by similarity: lower bounds of ten to twenty-five bins from `threshold`, the last one exactly 1."""
    edges = bin_edges(threshold)
    values = np.clip(np.asarray(similarity.to_numpy(), np.float64), threshold, 1.0)
    found = np.searchsorted(np.array(edges), values + 1e-12, side="right") - 1
    return {"edges": edges, "counts": np.bincount(found, minlength=len(edges)).tolist()}


def bin_edges(threshold: float) -> Sequence[float]:
    """Round lower bounds from `threshold` to 1."""
    room = 1 - threshold
    step = next((size for size in reversed(STEPS) if room / size >= 10), STEPS[0])
    inner = np.arange(np.floor(threshold / step + 1e-9) + 1, np.ceil(1 / step - 1e-9))
    return [threshold, *(round(float(edge * step), 6) for edge in inner), 1.0] if threshold < 1 else [1.0]
