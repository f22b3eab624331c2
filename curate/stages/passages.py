"""Where a decision over all records reads their texts: by sketch and position.

While a run is under way, what the map stages kept lies in `.work/kept`. Once it is done that is gone, and so it never
was for an earlier output: then the records with a possible twin are read from Parquet by their ids, once, into a file
of their own that is mapped the same way.

Cost: a copy of the texts that are asked for, and never more mapped pages than a chunk's; a pass over the Parquet of a
finished unit, and disk for its records with a possible twin.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curate.foundation.errors import DataError
from curate.mapping import Mapped, nothing
from curate.placed import Placed, place
from curate.shingles import Parts
from curate.stages.text import unfold

Ints = NDArray[np.int64]
Key = Callable[[Any], Parts]  # from `text.Messages`


@dataclass(frozen=True, slots=True)
class Home:
    """Where the records of one sketch lie: all of them in order (`kept`), or among Parquet files, by id."""

    kept: pa.Table | Path | None = None
    archives: tuple[Path, ...] = ()
    name: str = ""


class Passages:
    """The key texts of records named by (sketch, position); what `known` is must be asked for, and no more."""

    def __init__(self, homes: Sequence[Home], key: Key, scratch: Path | None = None) -> None:
        self.homes = homes
        self.key = key
        self.scratch = scratch
        self.chunks: list[Any] = []
        self._pages: list[Callable[[], None]] = []  # gives back those of a chunk
        self.starts: list[Ints] = [np.zeros(0, np.int64)] * len(homes)  # where each chunk of a sketch begins
        self.first: list[int] = [0] * len(homes)  # its first chunk
        self.sorted: dict[int, tuple[Ints, Ints]] = {}  # of sketches read by id: positions in order, and their rows
        self._open: list[Any] = []

    def open(self, sketch: Ints, position: Ints, ids: Any) -> None:
        """Make the texts of these records readable; `ids` is their string column."""
        for number in np.unique(sketch).tolist():
            home = self.homes[number]
            if home.kept is not None:
                kept = home.kept if isinstance(home.kept, pa.Table) else Mapped(home.kept)
            else:
                mine = np.flatnonzero(sketch == number)
                kept, order = self._collected(home, ids.take(pa.array(mine)))
                ranked = np.argsort(position[mine][order], kind="stable")
                self.sorted[number] = position[mine][order][ranked], ranked
            table = kept.table if isinstance(kept, Mapped) else kept
            batches = [batch for batch in table.select(["messages"]).to_batches() if batch.num_rows]
            self.first[number] = len(self.chunks)
            self.starts[number] = np.concatenate([[0], np.cumsum([b.num_rows for b in batches])]).astype(np.int64)
            self.chunks += batches
            self._pages += [partial(kept.give_back, one) if isinstance(kept, Mapped) else nothing for one in batches]

    def _collected(self, home: Home, ids: Any) -> tuple[Mapped, Ints]:
        """The messages of `ids`, gathered from Parquet into a mapped file, and which id each row has."""
        import pyarrow.parquet as pq

        from curate.record import SCHEMA

        wanted = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
        waiting = np.ones(len(wanted), np.bool_)
        places = [np.zeros(0, np.int64)]
        schema = pa.schema([SCHEMA.field("messages")])
        file = tempfile.NamedTemporaryFile(prefix="gristmill-", suffix=".arrow", dir=self.scratch)  # noqa: SIM115
        self._open.append(file)
        with pa.ipc.new_file(file.name, schema) as writer:
            for path in home.archives:
                with pq.ParquetFile(path) as parquet:
                    for batch in parquet.iter_batches(batch_size=8_192, columns=["id", "messages"]):
                        at = pc.fill_null(pc.index_in(batch.column("id"), wanted), -1).to_numpy().astype(np.int64)
                        rows = np.flatnonzero((at >= 0) & waiting[at])
                        if len(rows):
                            waiting[at[rows]] = False
                            places.append(at[rows])
                            writer.write_table(pa.table(batch.select(["messages"])).take(pa.array(rows)).cast(schema))
        if waiting.any():
            raise DataError(
                f"{home.name}: {int(waiting.sum()):,} records that were compared are not there",
                hint="the folder was changed by hand; make it again with --overwrite",
            )
        return Mapped(Path(file.name)), np.concatenate(places)

    def close(self) -> None:
        """Drop what `open` mapped and wrote."""
        self.chunks.clear()
        self._pages.clear()
        for file in self._open:
            file.close()

    def places(self, sketch: Ints, position: Ints) -> Iterator[tuple[int, Ints, Ints]]:
        """For each chunk that holds some of the records: the chunk, which of them, and their rows in it."""
        chunk, row = np.empty(len(sketch), np.int64), np.empty(len(sketch), np.int64)
        for number in np.unique(sketch).tolist():
            mine = np.flatnonzero(sketch == number)
            at = position[mine]
            if number in self.sorted:
                positions, rows = self.sorted[number]
                at = rows[np.searchsorted(positions, at)]
            if len(at) and (at.min() < 0 or at.max() >= self.starts[number][-1]):
                raise DataError(
                    f"{self.homes[number].name or 'a sketch'}: it has records that its texts do not have",
                    hint="the folder was changed by hand; make it again with --overwrite",
                )
            inside = np.searchsorted(self.starts[number], at, side="right") - 1
            chunk[mine] = self.first[number] + inside
            row[mine] = at - self.starts[number][inside]
        order = np.argsort(chunk, kind="stable")
        bounds = np.searchsorted(chunk[order], np.arange(len(self.chunks) + 1))
        for index in np.unique(chunk).tolist():
            mine = order[bounds[index] : bounds[index + 1]]
            yield index, mine, row[mine]

    def gathered(self, sketch: Ints, position: Ints) -> Placed:
        """Copies of the key texts of the records.

        The pages of a chunk are given back before the next one is looked into: a text in a mapped file takes 64 KiB of
        pages along, its neighbours, so that a few texts of each chunk would make the whole file resident.
        """
        return place(self._copies(sketch, position), len(sketch))

    def _copies(self, sketch: Ints, position: Ints) -> Iterator[tuple[Parts, Ints, Ints]]:
        for chunk, mine, rows in self.places(sketch, position):
            parts = self.key(unfold(pa.Table.from_batches([self.chunks[chunk]])))
            every = np.arange(len(rows))
            data, at = place([(parts, every, rows)], len(rows)).joined()
            self._pages[chunk]()
            yield Parts(data, at[:-1], at[1:], np.arange(len(at))), mine, every
