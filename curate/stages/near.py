"""Resolving near-duplicates over all sketches, in bounded memory; the result does not depend on how they are split.

Bands are linked block by block (all signatures are read once a block), then the components with more than one record
are settled group by group, each group's shingle sets held in memory at once, or in a scratch file where one component
alone is larger than `memory`. Per record 4 bytes a thread stay in memory throughout, and 12 to 36 a thread while
bands are linked.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curate import bands, neighbours
from curate.clusters import ORDER_FIELDS, keep_order
from curate.evidence import shared_spans
from curate.foundation.store import canonical
from curate.shingles import write_shingles
from curate.stages.minhash import PLACE, check_stamp
from curate.stages.minhash_settings import MinhashSettings

Ints = NDArray[np.int64]

PLACES: Final = (
    pa.field("source", pa.string(), nullable=False),
    pa.field("file", pa.string(), nullable=False),
    pa.field("row", pa.int64(), nullable=False),
    pa.field("part", pa.int32(), nullable=False),
)
RESOLVED_SCHEMA: Final = pa.schema(
    [
        pa.field("sketch", pa.int32(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        *PLACES,
        pa.field("id", pa.string(), nullable=False),
        pa.field("twin_id", pa.string(), nullable=False),
        *(field.with_name(f"twin_{field.name}") for field in PLACES),
        pa.field("similarity", pa.float64(), nullable=False),
        pa.field("evidence", pa.large_string(), nullable=False),
    ]
)
SHOWN: Final = 2_048  # removed records whose texts are looked at together
COUNTS: Final = b"counts"


@dataclass(frozen=True, slots=True)
class Inputs:
    """All sketches as record batches, memory-mapped where they are files; record i of batch b is `starts[b] + i`."""

    batches: Sequence[Any]
    sketch: Ints
    starts: Ints
    live: NDArray[np.bool_]

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
    sketches: Sequence[pa.Table | Path], settings: MinhashSettings, gone: Sequence[Ints] | None = None
) -> Inputs:
    """Open sketches, check that they can be compared, and mark who takes part: records with words, not yet gone."""
    batches, owners, live = [], [], [np.empty(0, np.bool_)]
    for number, item in enumerate(sketches):
        table = item if isinstance(item, pa.Table) else _mapped(item)
        check_stamp(table.schema, settings, f"sketch {number}" if isinstance(item, pa.Table) else item.name)
        for batch in table.to_batches():
            if batch.num_rows == 0:
                continue
            batches.append(batch)
            owners.append(number)
            here = batch.column("shingles").to_numpy() > 0
            if gone is not None and len(gone[number]):
                here &= ~np.isin(batch.column("position").to_numpy(), gone[number])
            live.append(here)
    starts = np.concatenate([[0], np.cumsum([batch.num_rows for batch in batches])]).astype(np.int64)
    return Inputs(batches, np.array(owners, np.int64), starts, np.concatenate(live))


def _mapped(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


def resolve(
    inputs: Inputs, settings: MinhashSettings, priority: Mapping[str, int], memory: int, threads: int
) -> pa.Table:
    """The records that go, under RESOLVED_SCHEMA, by (source, file, row, part); counts are in the schema's metadata."""
    parent = bands.components(_band_blocks(inputs, settings, memory, threads), inputs.live, threads)
    sizes = np.bincount(parent, minlength=len(parent)) if len(parent) else np.zeros(0, np.int64)
    members = np.flatnonzero(sizes[parent] > 1) if len(parent) else np.zeros(0, np.int64)
    del sizes
    counts = {"candidates": len(members), "compared": 0, "removed": 0}
    if not len(members):
        return _table(inputs, settings, members, members, np.zeros(0), counts, threads)
    known = inputs.take(members, [*(field.name for field in ORDER_FIELDS), "shingles"])
    order = keep_order(known, priority, parent[members].astype(np.int64))
    members = members[order]
    lengths = known.column("shingles").to_numpy().astype(np.int64)[order]
    del known
    groups = parent[members]
    starts = np.flatnonzero(np.concatenate([[True], groups[1:] != groups[:-1], [True]]))
    twin = np.full(len(members), -1, np.int64)
    similarity = np.zeros(len(members))
    for first, last in _parts(starts, lengths, memory // 16):
        part = slice(starts[first], starts[last])
        counts["compared"] += _settle(
            inputs, settings, members[part], lengths[part], starts[first : last + 1] - starts[first], memory, threads,
            twin[part], similarity[part],
        )  # fmt: skip
        twin[part][twin[part] >= 0] += starts[first]
    away = np.flatnonzero(twin >= 0)
    counts["removed"] = len(away)
    return _table(inputs, settings, members[away], members[twin[away]], similarity[away], counts, threads)


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
    records: Ints,
    lengths: Ints,
    starts: Ints,
    memory: int,
    threads: int,
    twin: Ints,
    similarity: NDArray[np.float64],
) -> int:
    """Settle some components, `records` in keep order, component by component; returns the comparisons made."""
    at = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    sizes = np.zeros(len(records), np.int64)
    with _scratch(int(at[-1]), memory) as sets, ThreadPoolExecutor(threads) as pool:

        def load(place: tuple[int, Ints, Ints]) -> None:
            index, mine, rows = place
            write_shingles(inputs.batches[index].column("text"), rows, settings.ngram, at[mine], sets)

        def settle(part: tuple[int, int]) -> int:
            first, last = part
            low, high = starts[first], starts[last]
            neighbours.distinct(sets, at[low : high + 1], sizes[low:high])
            made: int = neighbours.settle(
                starts[first : last + 1], sets, at, sizes, settings.threshold, twin, similarity
            )
            return made

        list(pool.map(load, inputs.places(records)))
        share = max(1, int(at[-1]) // (4 * threads))
        return sum(pool.map(settle, _parts(starts, lengths, share)))


@contextmanager
def _scratch(size: int, memory: int) -> Iterator[NDArray[np.uint64]]:
    """Room for `size` shingles: memory, or a scratch file that is gone afterwards where memory is too small."""
    if 8 * size <= memory:
        yield np.empty(size, np.uint64)
        return
    with tempfile.NamedTemporaryFile(prefix="gristmill-") as file:
        yield np.memmap(file.name, np.uint64, "w+", shape=(size,)).view(np.ndarray)


def _table(
    inputs: Inputs,
    settings: MinhashSettings,
    away: Ints,
    twins: Ints,
    similarity: NDArray[np.float64],
    counts: Mapping[str, int],
    threads: int,
) -> pa.Table:
    """RESOLVED_SCHEMA rows with evidence, in the order of source, file, row and part."""
    schema = RESOLVED_SCHEMA.with_metadata({COUNTS: canonical(dict(counts)).encode()})
    if not len(away):
        return schema.empty_table()
    here = inputs.take(away, [*PLACE, "id", "position"])
    order = pc.sort_indices(here, [(name, "ascending") for name in PLACE]).to_numpy()
    here, away, twins, similarity = here.take(pa.array(order)), away[order], twins[order], similarity[order]
    there = inputs.take(twins, [*PLACE, "id"])
    owners = inputs.sketch[np.searchsorted(inputs.starts, away, side="right") - 1]
    columns = {
        "sketch": pa.array(owners.astype(np.int32)),
        **{name: here.column(name) for name in ("position", *PLACE, "id")},
        "twin_id": there.column("id"),
        **{f"twin_{name}": there.column(name) for name in PLACE},
        "similarity": pa.array(similarity),
        "evidence": pa.chunked_array(list(_evidence(inputs, settings, away, twins, there, threads)), pa.large_string()),
    }
    return pa.table(columns, schema=schema)


def _evidence(
    inputs: Inputs, settings: MinhashSettings, away: Ints, twins: Ints, there: pa.Table, threads: int
) -> Iterator[Any]:
    """Canonical JSON for each removed record: key, twin, and spans [from, to) in characters of both key texts."""

    def show(start: int) -> Any:
        part = slice(start, start + SHOWN)
        texts = [inputs.take(side[part], ["text"]).column("text").combine_chunks() for side in (away, twins)]
        spans = shared_spans(texts[0], texts[1], settings.ngram)
        places = there.slice(start, SHOWN).select(list(PLACE)).to_pylist()
        rows = [
            orjson.dumps(
                {"key": settings.key, "spans": [{"here": a, "twin": b} for a, b in found], "twin": place},
                option=orjson.OPT_SORT_KEYS,
            )
            for place, found in zip(places, spans, strict=True)
        ]
        return pa.array(rows, pa.large_binary()).cast(pa.large_string())

    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(show, range(0, len(away), SHOWN))
