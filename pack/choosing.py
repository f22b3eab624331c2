"""Which records of a source may be drawn: length bucket, score quantiles, clusters, so many sources.

Every choice nests: ten clusters (or sources) hold the five that a smaller setting draws from, so a sweep over one dial
compares like with like. Scores and clusters are read from the records, only when a rule asks for them.

Cost: one read of the column `score` or `extra`; a JSON parse a record for clusters.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from curate.foundation.errors import DataError, UsageError
from curate.foundation.store import digest_bytes
from pack.config import Clusters, Lengths, Mixed, Rule, Window
from pack.documents import Documents
from pack.mixture import Bools, keyed
from pack.tokenstore import TokenStore, Unit

FREE, LENGTH, QUALITY, CLUSTER, SOURCE = range(5)
WHY: Final = (
    "not drawn: the amount of its source",
    "not drawn: outside the length bucket",
    "not drawn: outside the score window of its source",
    "not drawn: its cluster was not chosen",
    "not drawn: its source was not chosen",
)
_CLUSTERS, _SOURCES = 4, 5  # salts


class Facets:
    """Scores and clusters of the records of a build, in the order of `documents`."""

    def __init__(self, tokens: TokenStore, documents: Documents, units: Sequence[Unit]) -> None:
        self._tokens, self._documents, self._units = tokens, documents, units

    @cached_property
    def scores(self) -> npt.NDArray[np.float64]:
        """The score of each record, NaN where it has none."""
        return np.asarray(self._column("score"), dtype=np.float64)

    def values(self, field: str, records: npt.NDArray[Any]) -> list[str | None]:
        """One field of `extra` of some records as canonical JSON, None where a record lacks it."""
        found = []
        for text in self._extra[records]:
            value = json.loads(text).get(field) if text else None
            found.append(None if value is None else json.dumps(value, sort_keys=True, ensure_ascii=False))
        return found

    @cached_property
    def _extra(self) -> npt.NDArray[np.object_]:
        return np.asarray(self._column("extra"), dtype=object)

    def _column(self, name: str) -> npt.NDArray[Any]:
        from pathlib import Path

        import pyarrow.parquet as pq

        numbers = self._documents.number[self._documents.first]
        owner, places = self._tokens.owner[numbers], self._tokens.column("row")[numbers]
        out = np.empty(len(places), dtype=np.float64 if name == "score" else object)
        for code, unit in enumerate(self._units):
            mine = np.flatnonzero(owner == code)
            with pq.ParquetFile(Path(unit.records) / unit.file) as file:
                edges = np.cumsum([0, *(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))])
                groups = np.flatnonzero((edges[1:] > unit.first) & (edges[:-1] < unit.last)).tolist()
                column = file.read_row_groups(groups, columns=[name]).column(0)
            out[mine] = column.to_numpy()[places[mine] - int(edges[groups[0]])] if len(mine) else []
        return out


def chosen_sources(names: Sequence[str], count: int | None, seed: int) -> Bools:
    """Which sources are drawn from: all, or the seeded first `count`. Raises UsageError for more than there are."""
    if count is None:
        return np.ones(len(names), dtype=bool)
    if count > len(names):
        raise UsageError(f"pack.source_count is {count}, and there are {len(names)}", hint="name a smaller number")
    return _first(names, count, seed, _SOURCES)


def excluded(
    documents: Documents, mixed: Mixed, rules: Sequence[Rule], free: Bools, facets: Facets, seed: int
) -> npt.NDArray[np.int8]:
    """Why each of the `free` records (bool [records]) may not be drawn, an index into WHY; FREE where it may."""
    why = np.zeros(len(free), dtype=np.int8)
    source = documents.source[documents.first]
    why[~in_bucket(documents, mixed.lengths)] = LENGTH
    for code, (name, rule) in enumerate(zip(documents.names, rules, strict=True)):
        if rule.quality is None and rule.clusters is None:
            continue
        mine = np.flatnonzero((source == code) & free & (why == FREE))
        if rule.quality is not None:
            why[mine[~_in_window(documents, mine, rule.quality, facets, name, seed)]] = QUALITY
            mine = mine[why[mine] == FREE]
        if rule.clusters is not None:
            why[mine[~_in_clusters(mine, rule.clusters, facets, name, seed)]] = CLUSTER
    why[~chosen_sources(documents.names, mixed.source_count, seed)[source]] = SOURCE
    return why


def in_bucket(documents: Documents, lengths: Lengths) -> Bools:
    """Whether the longest segment of each record lies in the bucket, bool [records]."""
    longest = documents.longest()
    found: Bools = (longest >= lengths.low) & (longest <= (lengths.high or np.iinfo(np.int32).max))
    return found


def _in_window(documents: Documents, mine: Any, window: Window, facets: Facets, name: str, seed: int) -> Bools:
    """Quantiles by rank among the records with a score; equal scores stand in seeded order."""
    scores = facets.scores[mine]
    scored = np.flatnonzero(~np.isnan(scores))
    if len(mine) and not len(scored):
        raise DataError(
            f"pack.mixture asks for the quality of source {name}, and none of its records has a score",
            hint=f"name their column in the recipe, sources.{name}.score_field, and curate again",
        )
    ids = documents.ids[documents.first[mine[scored]]]
    order = scored[np.lexsort((ids[:, 1], ids[:, 0], keyed(ids, seed), scores[scored]))]
    low, high = round(window.low * len(order)), round(window.high * len(order))
    inside = np.zeros(len(mine), dtype=bool)
    inside[order[low:high]] = True
    return inside


def _in_clusters(mine: Any, clusters: Clusters, facets: Facets, name: str, seed: int) -> Bools:
    values = facets.values(clusters.by, mine)
    names = sorted({value for value in values if value is not None})
    if clusters.count > len(names):
        raise UsageError(
            f"pack.mixture draws source {name} from {clusters.count} clusters by {clusters.by!r}; it has {len(names)}",
            hint="name a smaller count, or another field of the records' extra",
        )
    chosen = {name for name, there in zip(names, _first(names, clusters.count, seed, _CLUSTERS), strict=True) if there}
    return np.array([value in chosen for value in values], dtype=bool)


def _first(names: Sequence[str], count: int, seed: int, salt: int) -> Bools:
    """The first `count` of some names by keyed digest of the name."""
    words = [bytes.fromhex(digest_bytes(name.encode())) for name in names]
    pairs = np.frombuffer(b"".join(words), dtype=">u8").astype(np.uint64).reshape(-1, 2)
    inside = np.zeros(len(names), dtype=bool)
    inside[np.argsort(keyed(pairs, seed, salt), kind="stable")[:count]] = True
    return inside
