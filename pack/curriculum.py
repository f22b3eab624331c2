"""The stages of a build: how often each record is drawn in each, and what that comes to by source.

A later stage draws what earlier stages drew least often first, so a source is used up before it repeats.

Cost: a sort of the records for each stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.foundation.errors import DataError
from pack.budgets import Draw, Pool, rules_of, settle
from pack.choosing import FREE, Facets, excluded
from pack.config import Long, Mixed
from pack.documents import Documents
from pack.mixture import Bools, draw_order

Sizes = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Drawn:
    """One stage: `times` int32 [records] and `why` int8 [records] (of pack.choosing), and its table by source."""

    times: npt.NDArray[np.int32]
    why: npt.NDArray[np.int8]
    sources: dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Supply:
    """What a stage may draw from: `free` bool [records], and each record's tokens and trained tokens at its ctx."""

    free: Bools
    tokens: Sizes
    trained: Sizes


def draw(
    documents: Documents,
    supply: Supply,
    mixed: Mixed,
    facets: Facets,
    seen: npt.NDArray[np.int32],
    seed: int,
    scale: float,
) -> Drawn:
    """Draw one stage; `seen` int32 [records] says how often earlier stages drew each record."""
    rules = rules_of(documents.names, mixed)
    why = excluded(documents, mixed, rules, supply.free, facets, seed)
    order = draw_order(documents.ids[documents.first], seen, seed)
    order = order[(supply.free & (why == FREE))[order]]
    source = documents.source[documents.first][order]
    pools = [
        Pool(name, order[source == code], supply.tokens, supply.trained) for code, name in enumerate(documents.names)
    ]
    drawn: list[tuple[Pool, Draw]] = list(zip(pools, settle(pools, mixed, scale), strict=True))
    if mixed.lengths.long is not None:
        drawn = lengthened(drawn, documents.longest(), mixed.lengths.long, supply)
    times = np.zeros(len(supply.free), dtype=np.int32)
    for pool, part in drawn:
        times[pool.records] += part.whole
        times[pool.records[: part.extra]] += 1
    return Drawn(times, why, _table(pools, times, supply))


def lengthened(
    drawn: Sequence[tuple[Pool, Draw]], longest: npt.NDArray[Any], long: Long, supply: Supply
) -> list[tuple[Pool, Draw]]:
    """The same tokens of each source, drawn so that `long.share` of all tokens is of documents over `long.over`.

    Sources that have both lengths share the burden in proportion. Raises DataError when the sources cannot give it.
    """
    parts = []
    for pool, part in drawn:
        over = longest[pool.records] > long.over
        sides = [Pool(pool.name, pool.records[flags], supply.tokens, supply.trained) for flags in (over, ~over)]
        parts.append((sides, part.tokens))
    total = sum(tokens for _, tokens in parts)
    sizes = [[side.size("tokens") > 0 for side in sides] for sides, _ in parts]
    only = sum(tokens for (_, tokens), (high, low) in zip(parts, sizes, strict=True) if high and not low)
    both = sum(tokens for (_, tokens), (high, low) in zip(parts, sizes, strict=True) if high and low)
    rest = long.share * total - only
    if rest < -0.005 * total or rest > both + 0.005 * total:
        raise DataError(
            f"{100 * long.share:g} % of the tokens from documents over {long.over:,} tokens cannot be drawn: this "
            f"mixture gives {100 * only / max(1, total):.1f} to {100 * (only + both) / max(1, total):.1f} %",
            hint="change lengths.long, or the weights of the sources that have long documents",
        )
    share = min(1.0, max(0.0, rest / both)) if both else 0.0
    out = []
    for (sides, tokens), (high, low) in zip(parts, sizes, strict=True):
        mine = share if high and low else float(high)
        out += [
            (sides[0], sides[0].amount("tokens", tokens * mine)),
            (sides[1], sides[1].amount("tokens", tokens * (1 - mine))),
        ]
    return out


def _table(pools: Sequence[Pool], times: npt.NDArray[np.int32], supply: Supply) -> dict[str, dict[str, Any]]:
    """By source: records and documents drawn, tokens, trained tokens, and epochs = tokens drawn over tokens there."""
    out = {}
    for pool in pools:
        mine = times[pool.records]
        tokens = int((supply.tokens[pool.records] * mine).sum())
        size = pool.size("tokens")
        out[pool.name] = {
            "available": len(pool.records),
            "records": int((mine > 0).sum()),
            "documents": int(mine.sum()),
            "tokens": tokens,
            "trained": int((supply.trained[pool.records] * mine).sum()),
            "epochs": round(tokens / size, 4) if size else 0.0,
        }
    return out
