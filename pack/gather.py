"""Pass 2: token stores -> shard parts, and what was not packed -> `removed/`.

A part is filled bin by bin into one buffer of at most 4 M tokens that every batch reuses; documents are read through
the memory map. Parts are independent units, so any number of workers writes the same bytes.

Cost: one read and one write of the tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from curate.foundation.store import Store, digest_of
from curate.record import SCHEMA as RECORD
from pack.shards import Layout, batch_rows, packed_batch, write_part
from pack.tokenstore import WORK, TokenStore, Unit, rows_of

PART_BATCHES: Final = 8
FIELDS: Final = ("rows", "documents", "epochs", "lengths")
REMOVED: Final = pa.schema([*RECORD, pa.field("reason", pa.string(), nullable=False)])


@dataclass(frozen=True, slots=True)
class Part:
    """Rows [first, last) of a split, to become one file."""

    shards: str
    units: tuple[Unit, ...]
    split: str
    number: int
    first: int
    last: int
    ctx: int
    pad_id: int
    plan: str

    @property
    def name(self) -> str:
        """The file, relative to the shards folder."""
        return f"{self.split}/part-{self.number:05d}.arrow"

    @property
    def key(self) -> str:
        """What this part's bytes depend on."""
        units = [unit.key for unit in self.units]
        return digest_of([units, self.split, self.first, self.last, self.ctx, self.pad_id, self.plan])


def part_edges(rows: int, ctx: int) -> list[tuple[int, int]]:
    """The row ranges of a split's parts: about 32 M tokens each, whatever the number of workers."""
    size = batch_rows(ctx) * PART_BATCHES
    return [(first, min(first + size, rows)) for first in range(0, rows, size)]


def gather(part: Part) -> dict[str, Any]:
    """Write one part unless it is done; returns its rows, segments, tokens, trained and pad counts."""
    store = Store(Path(part.shards), "shards")
    done = store.done(part.name, part.key)
    if done is not None:
        return done
    totals = {"rows": 0, "segments": 0, "tokens": 0, "trained": 0, "pad": 0}
    with store.writing(part.name) as temp:
        write_part(temp, _batches(part, totals))
    store.mark(part.name, part.key, [part.name], totals)
    return totals


def _batches(part: Part, totals: dict[str, int]) -> Iterator[pa.RecordBatch]:
    tokens = _opened(part.shards, part.units)
    rows, documents, epochs, lengths = (
        np.load(Path(part.shards) / plan_file(part.split, field), mmap_mode="r", allow_pickle=False) for field in FIELDS
    )
    size = batch_rows(part.ctx)
    buffer = np.empty((min(size, part.last - part.first), part.ctx), dtype=np.uint32)
    for first in range(part.first, part.last, size):
        last = min(first + size, part.last)
        low, high = int(rows[first]), int(rows[last])
        mine = np.asarray(documents[low:high])
        layout = Layout(
            np.asarray(rows[first : last + 1]) - low,
            np.asarray(lengths[low:high]),
            np.asarray(epochs[low:high]),
            tokens.table.column("id").take(pa.array(mine)).combine_chunks(),
            tokens.table.column("source").take(pa.array(mine)).combine_chunks(),
        )
        _fill(buffer, layout, mine, tokens)
        batch = packed_batch(buffer[: last - first], layout, part.pad_id)
        totals["rows"] += last - first
        totals["segments"] += high - low
        totals["tokens"] += int(layout.lengths.sum())
        totals["trained"] += int(np.sum(batch.column("trained").to_numpy()))
        totals["pad"] += int(np.sum(batch.column("pad").to_numpy()))
        yield batch


def _fill(buffer: Any, layout: Layout, documents: Any, tokens: TokenStore) -> None:
    lengths, bounds = layout.lengths.tolist(), layout.rows.tolist()
    numbers = documents.tolist()
    for row in range(len(bounds) - 1):
        place = 0
        line = buffer[row]
        for index in range(bounds[row], bounds[row + 1]):
            length = lengths[index]
            line[place : place + length] = tokens.tokens(numbers[index], length)
            place += length


@lru_cache(maxsize=1)
def _opened(shards: str, units: tuple[Unit, ...]) -> TokenStore:
    return TokenStore(Path(shards), units)


def plan_file(split: str, field: str) -> str:
    """Where one array of a split's plan lies, relative to the shards folder."""
    return f"{WORK}/plan/{split}.{field}.npy"


@dataclass(frozen=True, slots=True)
class Removal:
    """The rows of one unit that were not packed for one reason, with a sentence each, in file order."""

    unit: Unit
    fate: str
    rows: tuple[int, ...]
    reasons: tuple[str, ...]

    @property
    def name(self) -> str:
        """The file, relative to the shards folder."""
        return f"removed/{self.fate}/{self.unit.unit}.arrow"


def remove(removal: Removal) -> str:
    """Copy the records whole, with the reason, to `removed/`; returns the file's name.

    Arrow IPC as the rows are, since `datasets` takes one kind of file a folder; compressed, as nothing maps it.
    """
    store = Store(Path(removal.unit.shards), "shards")
    wanted, reasons = np.array(removal.rows), np.array(removal.reasons, dtype=object)
    with (
        store.writing(removal.name) as temp,
        pa.OSFile(str(temp), "wb") as sink,
        pa.ipc.new_file(sink, REMOVED, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer,
    ):
        for first, batch in rows_of(removal.unit, 4_096):
            low, high = np.searchsorted(wanted, (first, first + batch.num_rows))
            if high > low:
                table = pa.Table.from_batches([batch]).take(pa.array(wanted[low:high] - first))
                reason = pa.array(reasons[low:high].tolist(), type=pa.string())
                writer.write_table(table.append_column(REMOVED.field("reason"), reason).cast(REMOVED))
    return removal.name


def removed_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The records of one file of `removed/`, under REMOVED."""
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_file(source).read_all()
    return table if columns is None else table.select(list(columns))
