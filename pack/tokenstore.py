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

from curate.foundation.errors import DataError
from curate.foundation.store import Store, digest_file, digest_of
from curate.record import SCHEMA as RECORD
from curate.record import Message, from_row
from pack import truncate
from pack.shards import TRAINED_BIT

if TYPE_CHECKING:
    from pack.template import Encoded, Renderer

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
        _loaded[settings] = Renderer(tokenizer, **chosen, engine=engine, verdict=known)
    return _loaded[settings]


def encode(unit: Unit) -> dict[str, Any]:
    """Encode one unit through the store unless it is done; returns its summary (counts by source)."""
    store = Store(Path(unit.shards), "shards")
    done = store.done(f"tokens/{unit.unit}", unit.key)
    if done is not None:
        return done
    path = Path(unit.records) / unit.file
    if unit.first == 0 and (found := digest_file(path)) != unit.digest:
        raise DataError(f"{path}: its digest is {found}, the manifest says {unit.digest}", hint="run: curate verify")
    counts: dict[str, Counter[str]] = {}
    limit = json.loads(unit.settings).get("turns_limit", 0)
    with ExitStack() as stack:
        tokens = stack.enter_context(stack.enter_context(store.writing(unit.tokens)).open("wb"))
        sink = pa.OSFile(str(stack.enter_context(store.writing(unit.documents))), "wb")
        table = stack.enter_context(pa.ipc.new_file(stack.enter_context(sink), DOCUMENT))
        for first, batch in rows_of(unit, BATCH):
            table.write_batch(
                _encode_batch(first, batch.to_pylist(), renderer(unit.settings, unit.verdict), limit, tokens, counts)
            )
    summary = {source: dict(sorted(count.items())) for source, count in sorted(counts.items())}
    store.mark(f"tokens/{unit.unit}", unit.key, [unit.tokens, unit.documents], summary)
    return summary


def sample(units: Sequence[Unit], limit: int = 256) -> list[tuple[Sequence[Message], str | None]]:
    """The first records of each unit, about `limit` in all, for the engine's guard."""
    each = -(-limit // max(1, len(units)))
    found: list[tuple[Sequence[Message], str | None]] = []
    for unit in units[:limit]:
        for _, batch in rows_of(unit, each):
            found += [(from_row(row).messages, row["tools"]) for row in batch.to_pylist()]
            break
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
    first: int,
    rows: Sequence[dict[str, Any]],
    render: Renderer,
    limit: int,
    tokens: BinaryIO,
    counts: dict[str, Counter[str]],
) -> pa.RecordBatch:
    records = [(from_row(row).messages, row["tools"]) for row in rows]
    results = render.encode_batch(records)
    if limit:  # --overlong truncate-turns
        for place in truncate.fit(render, records, results, limit):
            counts.setdefault(rows[place]["source"], Counter())["turns_dropped"] += 1
    columns: dict[str, list[Any]] = {name: [] for name in DOCUMENT.names}
    for place, (row, result) in enumerate(zip(rows, results, strict=True)):
        row["row"] = first + place
        count = counts.setdefault(row["source"], Counter())
        count["records"] += 1
        if not isinstance(result, list):
            _row(columns, row, 0, 0, 0, str(result))
            continue
        count.update(f"lost:{name}" for name in result[-1].lost)  # a record is one, whatever its segments
        count["control_records"] += any(encoded.control for encoded in result)
        for number, encoded in enumerate(result):
            for name in ("control", "stop_added", "straddled"):
                if happened := int(getattr(encoded, name)):
                    count[name] += happened
            trained = int(np.count_nonzero(encoded.mask[1:]))
            _row(columns, row, number, len(encoded.ids), trained, None)
            tokens.write(memoryview(_stored(encoded)))
    return pa.RecordBatch.from_pydict(columns, schema=DOCUMENT)


def _stored(encoded: Encoded) -> Any:
    return encoded.ids.astype(np.uint32) | np.where(encoded.mask, TRAINED_BIT, np.uint32(0))


def _row(
    columns: dict[str, list[Any]], row: dict[str, Any], segment: int, length: int, trained: int, reason: str | None
) -> None:
    for name in ("row", "id", "content", "source"):
        columns[name].append(row[name])
    for name, value in (("segment", segment), ("length", length), ("trained", trained), ("reason", reason)):
        columns[name].append(value)


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
    mapped: np.ndarray = np.memmap(path, dtype=np.uint32, mode="r")
    return mapped
