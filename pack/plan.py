"""Between the passes: from lengths alone, what becomes of each record and where each segment lies.

    records in = packed + held for eval + over-long + template-failed + not drawn        (per source; enforced here)

A record is judged whole: if one of its segments fails, all of it goes. Every order is by id and seed, so neither file
order nor worker count reaches the result.

Cost: a few sorts of the segments; about 250 bytes a segment of memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from curate.foundation.errors import DataError
from curate.foundation.store import digest_bytes
from pack.binning import Bins, assign, lower_bound
from pack.config import PackConfig
from pack.mixture import digest_words, draws, epochs_of, held_for_eval, keyed, row_order
from pack.shards import TRAINED_BIT
from pack.tokenstore import TokenStore

Ints = npt.NDArray[np.int64]
Array = npt.NDArray[Any]

FATES: Final = ("packed", "eval", "overlong", "template", "notdrawn")
PACKED, EVAL, OVERLONG, TEMPLATE, NOTDRAWN = range(5)


@dataclass(frozen=True, slots=True)
class Documents:
    """Every segment of every record in id order: `number` in the token store, `record` it belongs to, its facts."""

    number: Ints
    record: Ints
    first: Ints
    ids: npt.NDArray[np.uint64]
    content: npt.NDArray[np.uint64]
    source: Ints
    segment: Ints
    length: Ints
    trained: Ints
    names: list[str]

    def per_record(self, flags: Array) -> Array:
        """Whether any segment of each record is flagged."""
        return np.logical_or.reduceat(flags, self.first) if len(self.first) else flags

    @classmethod
    def read(cls, tokens: TokenStore) -> Documents:
        """Sort the documents of a token store by id; two records with one id are a DataError."""
        table = tokens.table
        try:
            ids, content = (digest_words(table.column(name).to_pylist()) for name in ("id", "content"))
        except ValueError as error:
            raise DataError(f"a record's id or content is no digest: {error}", hint="run: curate verify") from error
        segment = tokens.column("segment")
        number = np.lexsort((segment, ids[:, 1], ids[:, 0]))
        ids, segment = ids[number], segment[number]
        same = np.concatenate(([False], (ids[1:] == ids[:-1]).all(axis=1)))
        if (same & (segment == 0)).any():
            twice = table.column("id")[int(number[np.flatnonzero(same & (segment == 0))[0]])]
            raise DataError(f"two records have the id {twice}", hint="run: curate verify")
        names = sorted(pc.unique(table.column("source")).to_pylist())
        codes = pc.index_in(table.column("source"), value_set=_strings(names)).to_numpy().astype(np.int64)
        length, trained = tokens.lengths[number], tokens.column("trained")[number]
        record = np.cumsum(~same) - 1
        return cls(
            number, record, np.flatnonzero(~same), ids, content[number], codes[number], segment, length, trained, names
        )


@dataclass(frozen=True, slots=True)
class Split:
    """Where segments lie: row r holds segments `rows[r]:rows[r + 1]` of `documents` (numbers in the token store)."""

    name: str
    rows: Ints
    documents: Ints
    epochs: npt.NDArray[np.int32]
    lengths: Ints
    trained: Ints
    sources: Ints
    bound: int

    def digest(self) -> str:
        """The digest of the whole assignment."""
        parts = (self.rows, self.documents, self.epochs, self.lengths)
        return digest_bytes("".join(digest_bytes(np.ascontiguousarray(part).data) for part in parts).encode())


@dataclass(frozen=True, slots=True)
class Plan:
    """The fate of each record (an index into FATES) and the two splits."""

    documents: Documents
    fate: npt.NDArray[np.int8]
    train: Split
    held: Split

    def ledger(self) -> dict[str, dict[str, int]]:
        """Records by source and fate."""
        source = self.documents.source[self.documents.first]
        return {
            name: {
                "records": int((source == code).sum()),
                **{fate: int(((source == code) & (self.fate == f)).sum()) for f, fate in enumerate(FATES)},
            }
            for code, name in enumerate(self.documents.names)
        }


def plan(tokens: TokenStore, config: PackConfig) -> Plan:
    """Decide over every record; raises DataError when nothing is left to train on, or for `overlong: error`."""
    if not tokens.table.num_rows:
        raise DataError("there is no record to pack", hint="see what was removed: curate card OUT")
    documents = Documents.read(tokens)
    lengths, trained = documents.length, documents.trained
    fate = np.zeros(len(documents.first), dtype=np.int8)
    over = lengths > config.ctx
    if config.overlong == "error" and over.any():
        raise DataError(
            f"{int(documents.per_record(over).sum()):,} records are longer than --ctx {config.ctx} "
            f"(the longest has {int(lengths.max()):,} tokens)",
            hint="raise --ctx, or use --overlong drop or truncate",
        )
    if config.overlong == "truncate":
        lengths, trained = _cut(tokens, documents, config.ctx)
        over = over & (trained == 0)
    held = held_for_eval(documents.content[documents.first], config.eval_fraction)
    fate[held] = EVAL
    source = documents.source[documents.first]
    wanted = epochs_of(documents.names, config.epochs)
    fate[np.array([epochs == 0 for epochs in wanted], dtype=bool)[source]] = NOTDRAWN
    fate[documents.per_record(over)] = OVERLONG
    fate[documents.per_record(documents.length == 0)] = TEMPLATE
    times = np.zeros(len(fate), dtype=np.int32)
    drawn = fate == PACKED
    times[drawn] = draws(documents.ids[documents.first][drawn], source[drawn], wanted, config.seed)
    fate[drawn & (times == 0)] = NOTDRAWN
    if not (fate == PACKED).any():
        raise _nothing(documents, fate, config)
    train = _split("train", documents, (lengths, trained), times, config)
    held_split = _split("eval", documents, (lengths, trained), (fate == EVAL).astype(np.int32), config)
    return Plan(documents, fate, train, held_split)


def _cut(tokens: TokenStore, documents: Documents, ctx: int) -> tuple[Ints, Ints]:
    lengths, trained = np.minimum(documents.length, ctx), documents.trained.copy()
    for index in np.flatnonzero(documents.length > ctx):
        kept = tokens.tokens(int(documents.number[index]), ctx)
        trained[index] = np.count_nonzero(kept[1:] >= TRAINED_BIT)
    return lengths, trained


def _split(name: str, documents: Documents, sizes_of: tuple[Ints, Ints], times: Array, config: PackConfig) -> Split:
    """Pack each epoch by itself, so that a document never meets its own repeat in one row."""
    lengths, trained = sizes_of
    chosen: list[Ints] = []
    packed: list[Bins] = []
    for epoch in range(int(times.max(initial=0))):
        mine = np.flatnonzero(times[documents.record] > epoch)
        key = keyed(documents.ids[mine], config.seed, salt=16 + epoch)
        mine = mine[np.lexsort((documents.segment[mine], documents.record[mine], key))]
        chosen.append(mine)
        packed.append(assign(lengths[mine], config.ctx, config.algorithm, config.window))
    sizes = np.concatenate([np.diff(bins.starts) for bins in packed] or [np.empty(0, np.int64)])
    placed = np.concatenate([mine[bins.items] for mine, bins in zip(chosen, packed, strict=True)] or [_NONE])
    epochs = np.repeat(np.arange(len(packed), dtype=np.int32), [len(mine) for mine in chosen])
    order = row_order(len(sizes), config.seed)
    starts = (np.cumsum(sizes) - sizes)[order]
    rows = np.concatenate(([0], np.cumsum(sizes[order]))).astype(np.int64)
    take = np.arange(rows[-1]) - np.repeat(rows[:-1] - starts, sizes[order])
    placed = placed[take]
    bound = sum(lower_bound(lengths[mine], config.ctx) for mine in chosen)
    return Split(
        name,
        rows,
        documents.number[placed],
        epochs[take],
        lengths[placed],
        trained[placed],
        documents.source[placed],
        bound,
    )


_NONE: Final = np.empty(0, dtype=np.int64)


def _nothing(documents: Documents, fate: Array, config: PackConfig) -> DataError:
    """Why no record is left to train on, with the way out."""
    counts = {name: int((fate == code).sum()) for code, name in enumerate(FATES)}
    worst = max(counts, key=lambda name: counts[name])
    said = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    if worst == "overlong":
        shortest = int(documents.length[documents.length > 0].min())
        return DataError(
            f"--ctx {config.ctx} is smaller than every record: the shortest has {shortest:,} tokens ({said})",
            hint=f"use --ctx {max(shortest, 2)} or more, or --overlong truncate",
        )
    hints = {
        "template": "see why with --json, or name another --template or --prompt-format",
        "eval": "use --eval-fraction 0",
    }
    return DataError(f"no record is left to train on: {said}", hint=hints.get(worst, "raise pack.epochs"))


def _strings(names: Sequence[str]) -> Any:
    import pyarrow as pa

    return pa.array(names, type=pa.string())
