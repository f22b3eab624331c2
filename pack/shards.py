"""Contract 2: packed shards.

`<split>/part-00000.arrow` are Arrow IPC *files*, uncompressed (so they memory-map), in batches of at most 1,000 rows.
Every row is exactly `ctx` tokens. There is no attention_mask column: with one present, transformers 5 stops isolating
packed samples.

A curriculum has one folder a stage in place of `train/`, each with its own ctx. `manifest["stages"]` lists, in training
order, {name, split, ctx, rows, tokens, trained, documents, lower_bound, fill, lengths, sources}: `split` is what
`ShardManifest.open` takes, `sources` says records, documents, tokens, trained tokens and epochs of each source. A build
without stages lists one stage, `train`; shards from before stages list none (`ShardManifest.stages` reads all three).
`eval/` is shared; its rows, and `manifest["ctx"]`, have the longest ctx of all.

Cost: writing is one pass over a buffer of at most 4 M tokens; reading a row is four slices of mapped memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.foundation.errors import DataError, UsageError
from curate.foundation.store import Store

IGNORE: Final = -100
BATCH_ROWS: Final = 1_000
BATCH_TOKENS: Final = 1 << 22
TRAINED_BIT: Final = np.uint32(1 << 31)

SEGMENT: Final = pa.struct(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("start", pa.int32(), nullable=False),
        pa.field("length", pa.int32(), nullable=False),
        pa.field("trained", pa.int32(), nullable=False),
        pa.field("epoch", pa.int32(), nullable=False),
    ]
)
SCHEMA: Final = pa.schema(
    [
        pa.field("input_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("labels", pa.list_(pa.int32()), nullable=False),
        pa.field("loss_mask", pa.list_(pa.bool_()), nullable=False),
        pa.field("position_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("seq_lengths", pa.list_(pa.int32()), nullable=False),
        pa.field("segments", pa.list_(SEGMENT), nullable=False),
        pa.field("trained", pa.int32(), nullable=False),
        pa.field("pad", pa.int32(), nullable=False),
    ]
)


def batch_rows(ctx: int) -> int:
    """Rows in one record batch: at most 1,000, and at most 4 M tokens."""
    return max(1, min(BATCH_ROWS, BATCH_TOKENS // ctx))


@dataclass(frozen=True, slots=True)
class Layout:
    """Where segments lie: row r holds segments `rows[r]:rows[r + 1]`, one after the other from position 0.

    `rows` int64 [rows + 1], `lengths` int64 [segments], `epochs` int32 [segments], `ids` and `sources` string arrays.
    """

    rows: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    epochs: npt.NDArray[np.int32]
    ids: pa.Array
    sources: pa.Array


def packed_batch(buffer: npt.NDArray[np.uint32], layout: Layout, pad_id: int) -> pa.RecordBatch:
    """One record batch from tokens uint32 [rows, ctx] whose top bit says trained; the tail of each row becomes pad."""
    count, ctx = buffer.shape
    lengths, rows = layout.lengths, layout.rows
    used = np.add.reduceat(lengths, rows[:-1])
    pad = ctx - used
    if len(rows) != count + 1 or (np.diff(rows) < 1).any() or (pad < 0).any() or (lengths < 1).any():
        raise ValueError("every row needs segments of at least one token that fit into it")
    row_of = np.repeat(np.arange(count), np.diff(rows))
    before = np.cumsum(lengths) - lengths
    starts = before - before[rows[:-1]][row_of]
    flat = buffer.reshape(-1)
    for row in np.flatnonzero(pad):
        buffer[row, used[row] :] = pad_id
    first = row_of * ctx + starts
    flat[first] &= ~TRAINED_BIT
    mask = flat >= TRAINED_BIT
    ids = (flat & ~TRAINED_BIT).view(np.int32)
    labels = np.where(mask, ids, np.int32(IGNORE))
    stretches = np.insert(lengths, rows[1:][pad > 0], pad[pad > 0])
    offsets = np.cumsum(stretches) - stretches
    positions = (np.arange(count * ctx) - np.repeat(offsets, stretches)).astype(np.int32)
    running = np.concatenate(([0], np.cumsum(mask)))
    trained = running[first + lengths] - running[first]
    columns = [
        _listed(ids, ctx),
        _listed(labels, ctx),
        _listed(mask, ctx),
        _listed(positions, ctx),
        _ragged(np.diff(rows) + (pad > 0), pa.array(stretches.astype(np.int32))),
        _ragged(np.diff(rows), _segments(layout, starts, trained)),
        pa.array(np.add.reduceat(trained, rows[:-1]).astype(np.int32)),
        pa.array(pad.astype(np.int32)),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def _segments(layout: Layout, starts: npt.NDArray[Any], trained: npt.NDArray[Any]) -> pa.Array:
    numbers = [pa.array(values.astype(np.int32)) for values in (starts, layout.lengths, trained, layout.epochs)]
    return pa.StructArray.from_arrays([layout.ids, layout.sources, *numbers], fields=list(SEGMENT))


def _listed(values: npt.NDArray[Any], size: int) -> pa.Array:
    offsets = pa.array(np.arange(0, len(values) + 1, size, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(values))


def _ragged(counts: npt.NDArray[Any], values: pa.Array) -> pa.Array:
    offsets = pa.array(np.concatenate(([0], np.cumsum(counts))).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, values, type=pa.list_(values.type))


def write_part(path: Path, batches: Iterable[pa.RecordBatch]) -> None:
    """Write one IPC file, uncompressed, batch by batch."""
    options = pa.ipc.IpcWriteOptions(compression=None)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SCHEMA, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)


@dataclass(frozen=True, slots=True)
class ShardManifest:
    """What a reader needs of `manifest.json`; `facts` is the whole of it."""

    root: Path
    facts: Mapping[str, Any]

    @classmethod
    def read(cls, root: Path | str) -> ShardManifest:
        """Read and check the manifest of a shards folder; raises UsageError or DataError with what to run."""
        folder = Path(root)
        if not folder.exists():
            raise UsageError(f"{folder}: no such folder", hint=f"make it with: pack build OUT {folder}")
        facts = Store(folder, "shards").manifest()
        if facts.get("format_version", 1) != 1:
            raise UsageError(f"{folder}: shard format {facts['format_version']} is newer than this program")
        return cls(folder, facts)

    @property
    def ctx(self) -> int:
        """Tokens a row; with stages, of the longest (`split_ctx` tells each)."""
        return int(self.facts["ctx"])

    @property
    def pad_id(self) -> int:
        """The token that fills a row's tail."""
        return int(self.facts["pad_id"])

    @property
    def fingerprint(self) -> str:
        """One digest over every shard and the settings that made it."""
        return str(self.facts["fingerprint"])

    @property
    def tokenizer(self) -> Path:
        """The folder of the tokenizer (and chat template) that made the ids."""
        return self.root / "tokenizer"

    @property
    def terminators(self) -> list[int]:
        """Token ids that end an assistant turn and are trained."""
        return [int(token) for token in self.facts["terminators"]]

    @property
    def recipe(self) -> dict[str, Any]:
        """The whole recipe that flowed down to here."""
        return dict(self.facts["recipe"])

    @property
    def stages(self) -> list[dict[str, Any]]:
        """The training stages in order, each {name, split, ctx, rows, tokens, trained, ...}; one, `train`, at least."""
        listed = [dict(stage) for stage in self.facts.get("stages") or []]
        counts = {key: self.facts["splits"].get("train", {}).get(key, 0) for key in ("rows", "tokens", "trained")}
        return listed or [{"name": "train", "split": "train", "ctx": self.ctx, **counts}]

    @property
    def splits(self) -> list[str]:
        """The names of the splits: the stages in order, then `eval`."""
        return [*(stage["split"] for stage in self.stages), "eval"]

    def split_ctx(self, split: str) -> int:
        """Tokens a row of one split."""
        return int(self.facts["splits"].get(split, {}).get("ctx", self.ctx))

    def rows(self, split: str) -> int:
        """Rows of a split; 0 when it is not there."""
        return int(self.facts["splits"].get(split, {}).get("rows", 0))

    def parts(self, split: str) -> list[Path]:
        """The files of a split, in order."""
        return [self.root / name for name in self.facts["splits"].get(split, {}).get("parts", [])]

    def open(self, split: str) -> ShardReader:
        """Map a split's files into memory."""
        return ShardReader(self.parts(split), self.split_ctx(split))


class ShardReader:
    """Rows of a split as memory-mapped arrays, by number; nothing is copied until a row is used."""

    def __init__(self, parts: Iterable[Path], ctx: int) -> None:
        self.ctx = ctx
        self.parts = list(parts)
        self._files = [_opened(path) for path in self.parts]
        self._where: list[tuple[int, int]] = []
        edges = [0]
        for number, file in enumerate(self._files):
            for batch in range(file.num_record_batches):
                self._where.append((number, batch))
                edges.append(edges[-1] + file.get_batch(batch).num_rows)
        self._edges = np.array(edges)

    def __len__(self) -> int:
        return int(self._edges[-1])

    def batches(self) -> Iterator[tuple[Path, int, pa.RecordBatch]]:
        """Every batch with its file and the number of its first row in the split."""
        for index, (number, batch) in enumerate(self._where):
            yield self.parts[number], int(self._edges[index]), self._files[number].get_batch(batch)

    def row(self, index: int) -> dict[str, npt.NDArray[Any]]:
        """`input_ids`, `labels`, `position_ids` int32 [ctx] and `seq_lengths` int32 [segments] of one row."""
        batch, local = self._locate(index)
        row = {
            name: batch.column(name).values.to_numpy()[local * self.ctx : (local + 1) * self.ctx]
            for name in ("input_ids", "labels", "position_ids")
        }
        row["seq_lengths"] = batch.column("seq_lengths")[local].values.to_numpy()
        return row

    def segments(self, index: int) -> list[dict[str, Any]]:
        """The provenance of one row: id, source, start, length, trained, epoch of each segment."""
        batch, local = self._locate(index)
        segments: list[dict[str, Any]] = batch.column("segments")[local].as_py()
        return segments

    def __getitem__(self, index: int) -> dict[str, npt.NDArray[Any]]:
        return self.row(index)

    def _locate(self, index: int) -> tuple[pa.RecordBatch, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        at = int(np.searchsorted(self._edges, index, side="right")) - 1
        number, batch = self._where[at]
        return self._files[number].get_batch(batch), index - int(self._edges[at])


def _opened(path: Path) -> Any:
    try:
        file = pa.ipc.open_file(pa.memory_map(str(path)))
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path}: not a readable shard ({error})", hint="find what is damaged: pack verify") from error
    if not file.schema.equals(SCHEMA):
        raise DataError(f"{path}: not the shard schema", hint="rebuild it: pack build --overwrite")
    return file
