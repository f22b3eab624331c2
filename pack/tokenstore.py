"""Pass 1: records -> a token store on disk.

A unit is a run of at most 8,192 rows of one records file, so one big file keeps every worker busy.

A unit's `.tokens` is a flat file of uint32, the top bit saying "trained"; its `.documents` is a table of one row a
segment (a record may give several), or one row of length 0 for a record whose template failed, in file order. Both
memory-map, so later passes hold nothing but lengths.

Cost: what rendering and tokenising cost; memory is one batch of records.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate.foundation.store import Store, digest_of
from curate.record import SCHEMA as RECORD
from curate.record import Message, from_row

if TYPE_CHECKING:
    from pack.batches import BatchEncoder, EncodedBatch
    from pack.template import Renderer

WORK: Final = ".work"
BATCH: Final = 2_000
CHUNK: Final = 8_192
FORMAT: Final = 1  # bump when the same records and settings give other bytes

DOCUMENT: Final = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("content", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("segment", pa.int32(), nullable=False),
        pa.field("length", pa.int64(), nullable=False),
        pa.field("trained", pa.int64(), nullable=False),
        pa.field("reason", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Unit:
    """Rows [first, last) of one file of records; `settings` is the canonical JSON of what shapes the ids,
    `identity` the digest of tokenizer and template; the guard's `verdict` spares the workers the torture corpus.
    """

    unit: str
    records: str
    file: str
    first: int
    last: int
    digest: str
    shards: str
    settings: str
    identity: str
    verdict: str = ""

    @property
    def key(self) -> str:
        """What this unit's tokens depend on."""
        return digest_of([FORMAT, self.digest, self.first, self.last, self.settings, self.identity])

    @property
    def tokens(self) -> str:
        """The token store, relative to the shards folder."""
        return f"{WORK}/tokens/{self.unit}.tokens"

    @property
    def documents(self) -> str:
        """The table of segments, relative to the shards folder."""
        return f"{WORK}/tokens/{self.unit}.documents"


_loaded: dict[str, Renderer] = {}
_encoders: dict[str, BatchEncoder] = {}


def renderer(settings: str, verdict: str = "") -> Renderer:
    """The renderer of some settings, loaded once a process; `verdict` is that of another process's guard (JSON)."""
    if settings not in _loaded:
        from pack.engines import Verdict
        from pack.template import Renderer
        from pack.tokenizing import Tokenizer

        chosen = json.loads(settings)
        engine, tokenizer = chosen.pop("tokenizer_engine"), Tokenizer.load(chosen.pop("tokenizer"))
        chosen.pop("turns_limit", None)  # it shapes the unit, not the renderer
        known = Verdict(**json.loads(verdict)) if verdict else None
        _loaded.clear()
        _encoders.clear()
        _loaded[settings] = Renderer(tokenizer, **chosen, engine=engine, verdict=known)
    return _loaded[settings]


def encoder(settings: str, verdict: str = "") -> BatchEncoder:
    """The batch encoder over `renderer`, made once a process."""
    render = renderer(settings, verdict)
    if settings not in _encoders:
        from pack.batches import BatchEncoder

        _encoders[settings] = BatchEncoder(render)
    return _encoders[settings]


def encode(unit: Unit) -> dict[str, Any]:
    """Encode one unit, of a file whose digest was checked, unless it is done; its summary (counts by source)."""
    store = Store(Path(unit.shards), "shards")
    done = store.done(f"tokens/{unit.unit}", unit.key)
    if done is not None:
        return done
    counts: dict[str, Counter[str]] = {}
    limit = json.loads(unit.settings).get("turns_limit", 0)
    with ExitStack() as stack:
        tokens = stack.enter_context(stack.enter_context(store.writing(unit.tokens)).open("wb"))
        sink = pa.OSFile(str(stack.enter_context(store.writing(unit.documents))), "wb")
        table = stack.enter_context(pa.ipc.new_file(stack.enter_context(sink), DOCUMENT))
        for first, batch in rows_of(unit, BATCH):
            encoded = encoder(unit.settings, unit.verdict).encode(batch, limit)
            table.write_batch(_encode_batch(first, batch, encoded, tokens, counts))
    summary = {source: dict(sorted(count.items())) for source, count in sorted(counts.items())}
    store.mark(f"tokens/{unit.unit}", unit.key, [unit.tokens, unit.documents], summary)
    return summary


def sample(units: Sequence[Unit], limit: int = 256) -> list[tuple[Sequence[Message], str | None]]:
    """Random records, the same for the same input: about `limit` in all over the units, for the engine's guard."""
    each = -(-limit // max(1, len(units)))
    found: list[tuple[Sequence[Message], str | None]] = []
    for unit in sorted(units, key=lambda one: digest_of([one.digest, one.first]))[:limit]:
        rng = np.random.default_rng(int(digest_of([unit.digest, unit.first])[:16], 16))
        with pq.ParquetFile(Path(unit.records) / unit.file) as file:
            edges = np.cumsum([0, *(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))])
            group = int(np.searchsorted(edges, rng.integers(unit.first, unit.last), side="right")) - 1
            low, high = max(unit.first, int(edges[group])), min(unit.last, int(edges[group + 1]))
            rows = np.sort(rng.choice(high - low, min(each, high - low), replace=False)) + low - int(edges[group])
            table = file.read_row_group(group, columns=RECORD.names).take(pa.array(rows))
        found += [(from_row(row).messages, row["tools"]) for row in table.to_pylist()]
    return found


def rows_of(unit: Unit, size: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The records of a unit in batches of at most `size`, each with the number of its first row in the file."""
    with pq.ParquetFile(Path(unit.records) / unit.file) as file:
        edges = np.cumsum([0, *(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))])
        groups = np.flatnonzero((edges[1:] > unit.first) & (edges[:-1] < unit.last)).tolist()
        first = int(edges[groups[0]]) if groups else 0
        for batch in file.iter_batches(batch_size=size, row_groups=groups, columns=RECORD.names):
            low, high = max(unit.first - first, 0), min(unit.last - first, batch.num_rows)
            if high > low:
                yield first + low, batch.slice(low, high - low)
            first += batch.num_rows


def _encode_batch(
    first: int, batch: pa.RecordBatch, found: EncodedBatch, tokens: BinaryIO, counts: dict[str, Counter[str]]
) -> pa.RecordBatch:
    tokens.write(found.tokens.data)
    names = batch.column("source").to_pylist()
    _count(found, names, counts)
    failed = np.array(sorted(found.failures), dtype=np.int64)
    rows = np.concatenate([found.rows, failed])
    order = np.argsort(rows, kind="stable")
    rows, none = rows[order], np.zeros(len(failed), np.int64)

    def column(name: str, values: Any) -> pa.Array:
        return pa.array(np.concatenate([values, none])[order]).cast(DOCUMENT.field(name).type)

    taken = pa.array(rows)
    reasons = [None] * len(found.rows) + [str(found.failures[row]) for row in failed.tolist()]
    columns = {
        "row": pa.array(rows + first),
        **{name: batch.column(name).take(taken) for name in ("id", "content", "source")},
        "segment": column("segment", found.segments),
        "length": column("length", found.lengths),
        "trained": column("trained", found.trained),
        "reason": pa.array([reasons[place] for place in order.tolist()], pa.string()),
    }
    return pa.RecordBatch.from_pydict({name: columns[name] for name in DOCUMENT.names}, schema=DOCUMENT)


def _count(found: EncodedBatch, names: Sequence[str], counts: dict[str, Counter[str]]) -> None:
    """Add what happened to each source's counts; a record is one, whatever its segments."""
    for name, amount in Counter(names).items():
        counts.setdefault(name, Counter())["records"] += amount
    for lost, rows in found.lost:
        for row in rows.tolist():
            counts[names[row]].update(f"lost:{kind}" for kind in lost)
    for row in found.fitted.tolist():
        counts[names[row]]["turns_dropped"] += 1
    for row in set(found.rows[found.control > 0].tolist()):
        counts[names[row]]["control_records"] += 1
    for kind, values in (("control", found.control), ("stop_added", found.stop_added), ("straddled", found.straddled)):
        for place in np.flatnonzero(values).tolist():
            counts[names[int(found.rows[place])]][kind] += int(values[place])


class TokenStore:
    """The documents of all units as one numbered list, memory-mapped; only lengths and offsets are resident."""

    def __init__(self, shards: Path, units: Sequence[Unit]) -> None:
        store = Store(shards, "shards")
        files = [pa.ipc.open_file(pa.memory_map(str(store.path(unit.documents)))) for unit in units]
        self.table: pa.Table = pa.concat_tables([file.read_all() for file in files] or [DOCUMENT.empty_table()])
        self.sizes = np.array([_rows(file) for file in files], dtype=np.int64)
        self.lengths = self.column("length")
        self.owner = np.repeat(np.arange(len(units)), self.sizes)
        self.offsets = np.cumsum(self.lengths) - self.lengths
        first = np.concatenate(([0], np.cumsum(self.sizes)))
        base = np.append(self.offsets, self.lengths.sum())[first[:-1]]
        self.offsets -= np.repeat(base, self.sizes)
        self._tokens = [_mapped(store.path(unit.tokens)) for unit in units]

    def column(self, name: str) -> np.ndarray:
        """A numeric column as int64 [documents]."""
        values: np.ndarray = self.table.column(name).to_numpy().astype(np.int64)
        return values

    def tokens(self, document: int, length: int) -> np.ndarray:
        """The first `length` tokens of a document, uint32 with the trained bit, a view of the map."""
        start = self.offsets[document]
        view: np.ndarray = self._tokens[self.owner[document]][start : start + length]
        return view


def _rows(file: Any) -> int:
    return sum(file.get_batch(i).num_rows for i in range(file.num_record_batches))


def _mapped(path: Path) -> np.ndarray:
    if path.stat().st_size == 0:
        return np.empty(0, dtype=np.uint32)
    mapped: np.ndarray = np.asarray(np.memmap(path, dtype=np.uint32, mode="r"))  # slices of a memmap cost 8 us each
    return mapped
