"""Resolving near-duplicates over all sketches, in bounded memory; the result does not depend on how they are split.

Bands are linked block by block (all signatures are read once a block), then the components with more than one record
are settled one by one by each thread, its texts read where they lie and its shingle sets held in memory, or in a
scratch file where one component is larger than `memory`. Per record 4 bytes a thread stay in memory throughout, and 12
to 36 a thread while bands are linked.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curate import bands, neighbours
from curate.clusters import ORDER_FIELDS, keep_order
from curate.foundation.store import canonical
from curate.mapping import Mapped, nothing
from curate.shingles import NO_WIDE
from curate.stages.minhash import check_stamp
from curate.stages.minhash_settings import MinhashSettings
from curate.stages.near_rows import verdict_rows
from curate.stages.passages import Passages
from curate.words import wide_table

Ints = NDArray[np.int64]

COUNTS: Final = b"counts"


@dataclass(frozen=True, slots=True)
class Inputs:
    """All sketches as record batches, memory-mapped where they are files; record i of batch b is `starts[b] + i`.

    `sketch` is the sketch of each batch, `folders` the earlier output that each sketch is from, None for this run's;
    `give_back` drops a batch's pages from this process.
    """

    batches: Sequence[Any]
    give_back: Sequence[Callable[[], None]]
    sketch: Ints
    starts: Ints
    live: NDArray[np.bool_]
    texts: Passages
    folders: Sequence[str | None]

    @property
    def fresh(self) -> int:
        """How many records are this run's; those of earlier outputs come after them."""
        own = sum(folder is None for folder in self.folders)
        return int(self.starts[np.searchsorted(self.sketch, own)])

    def owners(self, records: Ints) -> Ints:
        """The sketch that each record is in."""
        return self.sketch[np.searchsorted(self.starts, records, side="right") - 1]

    def places(self, records: Ints) -> Iterator[tuple[int, Ints, Ints]]:
        """For each batch that holds some of `records`: the batch, which of `records`, and their rows in it."""
        home = np.searchsorted(self.starts, records, side="right") - 1
        order = np.argsort(home, kind="stable")
        bounds = np.searchsorted(home[order], np.arange(len(self.batches) + 1))
        for index in np.unique(home):
            mine = order[bounds[index] : bounds[index + 1]]
            yield int(index), mine, records[mine] - self.starts[index]

    def take(self, records: Ints, names: Sequence[str]) -> pa.Table:
        """Columns of `records`, in their order."""
        parts, placed = [], [np.empty(0, np.int64)]
        for index, mine, rows in self.places(records):
            parts.append(pa.table(self.batches[index].select(names)).take(pa.array(rows)))
            placed.append(mine)
        if not parts:
            return pa.table(self.batches[0].select(names)).slice(0, 0) if self.batches else pa.table({})
        return pa.concat_tables(parts).take(pa.array(np.argsort(np.concatenate(placed), kind="stable")))


def open_sketches(
    sketches: Sequence[pa.Table | Path],
    settings: MinhashSettings,
    gone: Sequence[Ints] | None,
    texts: Passages,
    folders: Sequence[str | None],
) -> Inputs:
    """Open sketches, check that they can be compared, and mark who takes part: records with words, not yet gone."""
    batches, owners, give_back, live = [], [], [], [np.empty(0, np.bool_)]
    for number, item in enumerate(sketches):
        mapped = Mapped(item) if isinstance(item, Path) else None
        table: pa.Table = item if mapped is None else mapped.table
        name = folders[number] or (item.name if isinstance(item, Path) else f"sketch {number}")
        check_stamp(table.schema, settings, name)
        for batch in table.to_batches():
            if batch.num_rows == 0:
                continue
            batches.append(batch)
            owners.append(number)
            give_back.append(nothing if mapped is None else partial(mapped.give_back, batch))
            here = batch.column("shingles").to_numpy() > 0
            if gone is not None and len(gone[number]):
                here &= ~np.isin(batch.column("position").to_numpy(), gone[number])
            live.append(here)
    starts = np.concatenate([[0], np.cumsum([batch.num_rows for batch in batches])]).astype(np.int64)
    return Inputs(batches, give_back, np.array(owners, np.int64), starts, np.concatenate(live), texts, folders)


@dataclass(frozen=True, slots=True)
class Members:
    """The records with a possible twin, component by component, each in keep order.

    `stays` marks those of earlier outputs. Component c is starts[c]:starts[c + 1].
    """

    record: Ints
    sketch: Ints
    position: Ints
    shingles: Ints
    stays: NDArray[np.bool_]
    starts: Ints

    def part(self, first: int, last: int) -> Members:
        """The components first:last."""
        low, high = self.starts[first], self.starts[last]
        part = slice(low, high)
        return Members(
            self.record[part],
            self.sketch[part],
            self.position[part],
            self.shingles[part],
            self.stays[part],
            self.starts[first : last + 1] - low,
        )


def resolve(
    inputs: Inputs, settings: MinhashSettings, priority: Mapping[str, int], memory: int, threads: int
) -> pa.Table:
    """The records that go, under RESOLVED_SCHEMA, by (source, file, row, part); counts are in the schema's metadata."""
    parent = bands.components(_band_blocks(inputs, settings, memory, threads), inputs.live, threads)
    members = _members(inputs, parent, priority)
    del parent
    size = len(members.record)
    counts = {"candidates": size, "compared": 0, "removed": 0}
    twin, similarity = np.full(size, -1, np.int64), np.zeros(size)
    for first, last in _parts(members.starts, members.shingles, memory // 16):
        low, high = members.starts[first], members.starts[last]
        part = members.part(first, last)
        counts["compared"] += _settle(inputs, settings, part, memory, threads, twin[low:high], similarity[low:high])
        twin[low:high][twin[low:high] >= 0] += low
    away = np.flatnonzero(twin >= 0)
    counts["removed"] = len(away)
    table = verdict_rows(inputs, settings, members, away, twin[away], similarity[away], memory, threads)
    return table.replace_schema_metadata({COUNTS: canonical(counts).encode()})


def _members(inputs: Inputs, parent: NDArray[np.int32], priority: Mapping[str, int]) -> Members:
    """Who is in a component with a record of this run and one more; their texts are made readable."""
    size = len(parent)
    sizes = np.bincount(parent, minlength=size) if size else np.zeros(0, np.int64)
    sizes[np.bincount(parent[: inputs.fresh], minlength=size) == 0 if size else slice(0)] = 0
    found = np.flatnonzero(sizes[parent] > 1) if size else np.zeros(0, np.int64)
    del sizes
    if not len(found):
        none = np.zeros(0, np.int64)
        return Members(none, none, none, none, np.zeros(0, np.bool_), np.zeros(1, np.int64))
    known = inputs.take(found, [*(field.name for field in ORDER_FIELDS), "id", "position", "shingles"])
    sketch, position = inputs.owners(found), known.column("position").to_numpy()
    inputs.texts.open(sketch, position, known.column("id"))
    ranks = {None: 0} | {folder: at for at, folder in enumerate(dict.fromkeys(inputs.folders)) if folder is not None}
    ahead = np.array([ranks[folder] - len(ranks) if folder is not None else 0 for folder in inputs.folders])[sketch]
    groups = parent[found].astype(np.int64)
    order = keep_order(known, priority, groups, ahead)
    groups = groups[order]
    starts = np.flatnonzero(np.concatenate([[True], groups[1:] != groups[:-1], [True]]))
    shingles = known.column("shingles").to_numpy().astype(np.int64)[order]
    return Members(found[order], sketch[order], position[order], shingles, ahead[order] < 0, starts)


def _band_blocks(inputs: Inputs, settings: MinhashSettings, memory: int, threads: int) -> Iterator[NDArray[np.uint64]]:
    """Band keys (bands, n) uint64, as many bands at a time as half of `memory` holds."""
    number, rows = settings.shape
    size = int(inputs.starts[-1])
    if size == 0:
        return
    block = int(np.clip(memory // 2 // (8 * size), 1, number))
    out = np.empty((block, size), np.uint64)
    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, number, block):
            keys = out[: min(block, number - first)]

            def work(index: int, keys: Any = keys, first: int = first) -> None:
                column = inputs.batches[index].column("signature")
                found = column.flatten().to_numpy(zero_copy_only=True).reshape(len(column), -1)
                bands.band_keys(found, rows, first, keys, inputs.starts[index])
                inputs.give_back[index]()

            list(pool.map(work, range(len(inputs.batches))))
            yield keys


def _parts(starts: Ints, lengths: Ints, budget: int) -> Iterator[tuple[int, int]]:
    """Split components into runs of at most `budget` shingles, or one component: (first, last) into `starts`."""
    totals = np.concatenate([[0], np.cumsum(lengths)])[starts]
    first = 0
    while first < len(starts) - 1:
        last = int(np.searchsorted(totals, totals[first] + budget, side="right")) - 1
        last = max(first + 1, last)
        yield first, last
        first = last


def _settle(
    inputs: Inputs,
    settings: MinhashSettings,
    members: Members,
    memory: int,
    threads: int,
    twin: Ints,
    similarity: NDArray[np.float64],
) -> int:
    """Settle some components; returns the comparisons made."""
    size, starts = len(members.record), members.starts
    sums = np.concatenate([[0], np.cumsum(members.shingles)]).astype(np.int64)[starts]
    at, sizes = np.empty(size, np.int64), np.empty(size, np.int64)
    texts = inputs.texts.gathered(members.sketch, members.position)
    lists = texts.address, texts.size, texts.bounds, texts.plain
    decided = at, sizes, members.stays, settings.threshold, twin, similarity

    def settle(part: tuple[int, int]) -> int:
        first, last = part
        compared, table = np.zeros(1, np.int64), NO_WIDE
        with _scratch(int(np.diff(sums[first : last + 1]).max()), memory // threads) as sets:
            while True:
                first = neighbours.settle(starts, first, last, lists, table, settings.ngram, sets, *decided, compared)
                if first == last:
                    return int(compared[0])
                codes = sizes[starts[first] : starts[first + 1]]
                table = wide_table() if (codes == -1).any() else table
                for item in np.flatnonzero(codes == -2).tolist():
                    texts.rewrite(starts[first] + item)

    with ThreadPoolExecutor(threads) as pool:
        share = max(1, int(sums[-1]) // (8 * threads))
        return sum(pool.map(settle, _parts(starts, members.shingles, share)))


@contextmanager
def _scratch(size: int, memory: int) -> Iterator[NDArray[np.uint64]]:
    """Room for `size` shingles: memory, or a scratch file that is gone afterwards where memory is too small."""
    if 8 * size <= memory:
        yield np.empty(size, np.uint64)
        return
    with tempfile.NamedTemporaryFile(prefix="gristmill-") as file:
        yield np.memmap(file.name, np.uint64, "w+", shape=(size,)).view(np.ndarray)
