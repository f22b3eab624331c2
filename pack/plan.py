"""Between the passes: from lengths alone, what becomes of each record and where each segment lies.

    records in = packed + held for eval + over-long + template-failed + not drawn        (per source; enforced here)

A record is judged whole: if one of its segments fails, all of it goes. Every order is by id and seed, so neither file
order nor worker count reaches the result.

Cost: a few sorts of the segments; about 200 bytes a segment of memory at the peak.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from curate.foundation.errors import DataError
from curate.foundation.store import digest_bytes
from pack.binning import assign, lower_bound
from pack.choosing import WHY, Facets
from pack.config import PackConfig
from pack.curriculum import Supply, draw
from pack.documents import Documents
from pack.mixture import OFFSET, PASS, held_for_eval, in_pass, keyed, row_order
from pack.shards import TRAINED_BIT
from pack.tokenstore import TokenStore, Unit

Ints = npt.NDArray[np.int64]
Array = npt.NDArray[Any]

FATES: Final = ("packed", "eval", "overlong", "template", "notdrawn")
PACKED, EVAL, OVERLONG, TEMPLATE, NOTDRAWN = range(5)


@dataclass(frozen=True, slots=True)
class Split:
    """Where segments lie: row r holds segments `rows[r]:rows[r + 1]` of `documents` (numbers in the token store).

    `table` says what a stage drew from each source; empty for the eval split.
    """

    name: str
    ctx: int
    rows: Ints
    documents: Array
    epochs: npt.NDArray[np.int32]
    lengths: Array
    trained: Array
    sources: Array
    bound: int
    table: dict[str, dict[str, Any]] = field(default_factory=dict)

    def digest(self) -> str:
        """The digest of the whole assignment."""
        parts = (self.rows, self.documents, self.epochs, self.lengths)
        return digest_bytes("".join(digest_bytes(np.ascontiguousarray(part).data) for part in parts).encode())


@dataclass(frozen=True, slots=True)
class Plan:
    """The fate of each record (an index into FATES), why it was not drawn (into WHY), the stages and the eval split.

    `cut` bool [records] says which were truncated to the longest ctx.
    """

    documents: Documents
    fate: npt.NDArray[np.int8]
    why: npt.NDArray[np.int8]
    cut: npt.NDArray[np.bool_]
    stages: list[Split]
    held: Split

    def ledger(self) -> dict[str, dict[str, int]]:
        """Records by source and fate."""
        source = self.documents.source[self.documents.first]
        return {
            name: {
                "records": int((source == code).sum()),
                **{fate: int(((source == code) & (self.fate == f)).sum()) for f, fate in enumerate(FATES)},
                "truncated": int(((source == code) & self.cut).sum()),
            }
            for code, name in enumerate(self.documents.names)
        }


@dataclass(frozen=True, slots=True)
class _Fitted:
    """Segments as they are at one ctx: lengths, trained tokens, and whether each record is too long for it."""

    lengths: Array
    trained: Array
    over: Array


def plan(tokens: TokenStore, config: PackConfig, units: Sequence[Unit] = (), scale: float = 1.0) -> Plan:
    """Decide over every record; raises DataError when nothing is left to train on, or for `overlong: error`.

    `units` lets rules see scores and clusters; `scale` shrinks absolute amounts to those of a measured sample.
    """
    if not tokens.table.num_rows:
        raise DataError("there is no record to pack", hint="see what was removed: curate card OUT")
    documents = Documents.read(tokens)
    failed = documents.any(documents.length == 0)
    whole = _fitted(tokens, documents, config, config.longest)
    if config.overlong == "error" and whole.over.any():
        raise DataError(
            f"{int(whole.over.sum()):,} records are longer than --ctx {config.longest} "
            f"(the longest has {int(documents.length.max()):,} tokens)",
            hint="raise --ctx, or use --overlong drop or truncate",
        )
    held = held_for_eval(documents.content, config.eval_fraction)
    free = ~held & ~failed
    facets = Facets(tokens, documents, units)
    seen, why = np.zeros(len(free), dtype=np.int32), np.full(len(free), len(WHY), dtype=np.int8)
    drawn = []
    for name, ctx, mixed in config.curriculum():
        fitted = whole if ctx == config.longest else _fitted(tokens, documents, config, ctx)
        sizes = documents.sum(fitted.lengths), documents.sum(fitted.trained)
        part = draw(documents, Supply(free & ~fitted.over, *sizes), mixed, facets, seen, config.seed, scale)
        drawn.append((name, ctx, fitted, part))
        seen += part.times
        why = np.minimum(why, np.where(fitted.over, 1, part.why)).astype(np.int8)
    fate = _fates(documents, held, seen > 0, [free & ~fitted.over for _, _, fitted, _ in drawn])
    fate[whole.over] = OVERLONG
    fate[failed] = TEMPLATE
    if not (fate == PACKED).any():
        raise _nothing(documents, fate, config, tokens)
    stages = [
        _split((name, ctx), documents, fitted, part.times, config, part.sources) for name, ctx, fitted, part in drawn
    ]
    held_split = _split(("eval", config.longest), documents, whole, (fate == EVAL).astype(np.int32), config)
    cut = documents.any(whole.lengths < documents.length) & ((fate == PACKED) | (fate == EVAL))
    return Plan(documents, fate, why, cut, stages, held_split)


def _fates(documents: Documents, held: Array, drawn: Array, free: Sequence[Array]) -> npt.NDArray[np.int8]:
    """Packed, eval or not drawn; a source that might be drawn and is not gives nothing to eval either."""
    source, count = documents.source[documents.first], len(documents.names)
    fate = np.where(drawn, PACKED, NOTDRAWN).astype(np.int8)
    there = np.logical_or.reduce(free)
    unused = (np.bincount(source[there], minlength=count) > 0) & (np.bincount(source[drawn], minlength=count) == 0)
    fate[held & ~unused[source]] = EVAL
    return fate


def _fitted(tokens: TokenStore, documents: Documents, config: PackConfig, ctx: int) -> _Fitted:
    """Over-long records as they are, or their heads when the recipe says truncate."""
    over = documents.length > ctx
    if config.overlong != "truncate" or not over.any():
        return _Fitted(documents.length, documents.trained, documents.any(over))
    trained = documents.trained.copy()
    for index in np.flatnonzero(over):
        kept = tokens.tokens(int(documents.number[index]), ctx)
        trained[index] = np.count_nonzero(kept[1:] >= TRAINED_BIT)
    return _Fitted(np.minimum(documents.length, np.int32(ctx)), trained, documents.any(over & (trained == 0)))


def _split(
    named: tuple[str, int],
    documents: Documents,
    fitted: _Fitted,
    times: npt.NDArray[np.int32],
    config: PackConfig,
    table: dict[str, dict[str, Any]] | None = None,
) -> Split:
    """Pack each pass by itself (see pack.mixture); the rows of a pass lie in seeded order, the passes one by one."""
    name, ctx = named
    drawn = np.flatnonzero(times)
    times, passes = times[drawn], int(times.max(initial=0))
    first = documents.first[drawn]
    offset = (keyed(documents.ids[first], config.seed, OFFSET) % np.uint64(max(1, passes))).astype(np.int32)
    edges = np.append(documents.first, len(documents.length)).astype(np.int64)
    counts = (edges[1:] - edges[:-1])[drawn]
    del edges, drawn
    starts, segments, epochs, bound, before = [np.zeros(1, np.int64)], [_NONE], [_NONE], 0, 0
    for number in range(passes):
        there, repeat = in_pass(offset, times, passes, number)
        order = np.flatnonzero(there)
        key = keyed(documents.ids[first[order]], config.seed, PASS + number)
        order = order[np.argsort(key, kind="stable")]  # ties: by id
        del key
        mine = _spread(first[order].astype(np.int64), counts[order])
        lengths = fitted.lengths[mine].astype(np.int64)
        bins = assign(lengths, ctx, config.algorithm, config.window)
        bound += lower_bound(lengths, ctx)
        rows = row_order(len(bins), config.seed, number)
        sizes = (bins.starts[1:] - bins.starts[:-1])[rows]
        take = bins.items[_spread(bins.starts[:-1][rows], sizes)]
        segments.append(mine[take].astype(np.uint32))
        epochs.append(np.repeat(repeat[order], counts[order])[take])
        starts.append(before + np.cumsum(sizes))
        before += len(take)
    placed = np.concatenate(segments)
    return Split(
        name,
        ctx,
        np.concatenate(starts),
        documents.number[placed],
        np.concatenate(epochs).astype(np.int32),
        fitted.lengths[placed],
        fitted.trained[placed],
        documents.source[placed],
        bound,
        table or {},
    )


_NONE: Final[Array] = np.empty(0, dtype=np.uint32)


def _spread(starts: Ints, counts: Ints) -> Ints:
    """The numbers start, start + 1, ... (`count` of them) of each pair, one after the other."""
    if (counts == 1).all():
        return starts
    ends = np.cumsum(counts)
    spread: Ints = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + counts, counts)
    return spread


def _nothing(documents: Documents, fate: Array, config: PackConfig, tokens: TokenStore) -> DataError:
    """Why no record is left to train on, with the way out."""
    counts = {name: int((fate == code).sum()) for code, name in enumerate(FATES)}
    worst = max(counts, key=lambda name: counts[name])
    said = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    if worst == "overlong":
        shortest = int(documents.length[documents.length > 0].min())
        return DataError(
            f"--ctx {config.longest} is smaller than every record: the shortest has {shortest:,} tokens ({said})",
            hint=f"use --ctx {max(shortest, 2)} or more, or --overlong truncate",
        )
    if failed := Counter(reason for reason in tokens.table.column("reason").to_pylist() if reason):
        said += f" ({'; '.join(f'{count:,} {reason}' for reason, count in failed.most_common(3))})"
    hints = {
        "template": "name another --template or --prompt-format",
        "eval": "use --eval-fraction 0",
    }
    return DataError(f"no record is left to train on: {said}", hint=hints.get(worst, "raise pack.epochs"))
