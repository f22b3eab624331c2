"""Packed rows, memory-mapped, in an order that is a pure function of (seed, epoch, k).

Rows are numpy views into the Arrow files: nothing is copied before a batch is collated, and no loader process runs.
Sample k of a stage is `order(seed, k // rows)[k % rows]`, where an epoch's order sorts the rows by the raw output of a
counter-based generator (Philox 4x64), whose stream numpy promises never to change. So a run can go on at any k on any
number of processes. A build without stages is one stage. Cost: 8 bytes a row for the order of the current epoch, and
one digest of every shard at start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from curate.foundation.errors import DataError
from curate.foundation.store import Store
from pack.shards import IGNORE, SCHEMA, ShardManifest

STAGE_BITS: Final = 40  # an epoch's number is below them
Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Row:
    """One packed row; arrays are (ctx,) int32 views, `seq_lengths` sums to ctx and ends with the pad tail if any."""

    input_ids: Ints
    labels: Ints
    position_ids: Ints
    seq_lengths: Ints
    segments: list[dict[str, Any]]
    trained: int
    pad: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What one forward pass sees.

    `input_ids` and `position_ids` are (rows, length) int64; `lengths` are the segments of the one flat row (None when
    rows are kept apart); `keep` (n,) are the positions whose next token is trained in some row, `targets` (rows, n) those
    tokens or -100, `sources` (rows, n) the index of each one's source.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    lengths: list[int] | None
    keep: torch.Tensor
    targets: torch.Tensor
    sources: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        moved = [t.to(device, non_blocking=True) for t in (self.input_ids, self.position_ids)]
        kept = [t.to(device, non_blocking=True) for t in (self.keep, self.targets, self.sources)]
        return Batch(moved[0], moved[1], self.lengths, kept[0], kept[1], kept[2])


class Split:
    """The rows of one split, by number, over any number of memory-mapped files."""

    def __init__(self, paths: Sequence[Path], ctx: int) -> None:
        self.ctx = ctx
        self._batches: list[dict[str, Any]] = []
        starts, trained, pads, examples = [0], [], [], 0
        for path in paths:
            for batch in _record_batches(path):
                self._batches.append(_views(batch, ctx, path))
                starts.append(starts[-1] + batch.num_rows)
                trained.append(self._batches[-1]["trained"])
                pads.append(self._batches[-1]["pad"])
                examples += len(batch.column("segments").flatten())
        self._starts = np.asarray(starts)
        self.rows = int(starts[-1])
        self.row_trained: Ints = np.concatenate(trained) if trained else np.zeros(0, np.int32)
        self.row_pad: Ints = np.concatenate(pads) if pads else np.zeros(0, np.int32)
        self.trained = int(self.row_trained.sum(dtype=np.int64))
        self.examples = examples

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, number: int) -> Row:
        which = int(np.searchsorted(self._starts, number, side="right")) - 1
        views, at = self._batches[which], number - int(self._starts[which])
        bounds = views["bounds"]
        return Row(
            views["input_ids"][at],
            views["labels"][at],
            views["position_ids"][at],
            views["seq_lengths"][bounds[at] : bounds[at + 1]],
            views["segments"][at].as_py(),
            int(views["trained"][at]),
            int(views["pad"][at]),
        )


def _record_batches(path: Path) -> list[pa.RecordBatch]:
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        if reader.schema.remove_metadata() != SCHEMA:
            raise DataError(
                f"{path}: not the columns of a packed shard", hint="build it again: pack build OUT SHARDS --overwrite"
            )
        return [reader.get_batch(number) for number in range(reader.num_record_batches)]
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"{path}: not a readable shard", hint="build it again: pack build OUT SHARDS --overwrite"
        ) from error


def _views(batch: pa.RecordBatch, ctx: int, path: Path) -> dict[str, Any]:
    def flat(name: str) -> Any:
        return batch.column(name).flatten().to_numpy(zero_copy_only=True)

    views: dict[str, Any] = {}
    for name in ("input_ids", "labels", "position_ids"):
        values = flat(name)
        if len(values) != batch.num_rows * ctx:
            raise DataError(
                f"{path}: rows of {name} are not {ctx} long", hint="build it again: pack build OUT SHARDS --overwrite"
            )
        views[name] = values.reshape(batch.num_rows, ctx)
    offsets = batch.column("seq_lengths").offsets.to_numpy()
    views |= {"seq_lengths": flat("seq_lengths"), "bounds": offsets - offsets[0], "segments": batch.column("segments")}
    for name in ("trained", "pad"):
        views[name] = batch.column(name).to_numpy()
    return views


@dataclass(frozen=True, slots=True)
class Stage:
    """One stretch of training: its name and its rows."""

    name: str
    split: Split


class Shards:
    """A complete, verified folder of packed shards."""

    def __init__(self, root: Path, *, verify: bool = True) -> None:
        packed = ShardManifest.read(root)
        self.root, self.store, self.manifest = root, Store(root, "shards"), packed.facts
        self.ctx = packed.ctx
        if verify:
            self._verify()
        self.stages = [
            Stage(str(stage["name"]), Split(packed.parts(stage["split"]), packed.split_ctx(stage["split"])))
            for stage in packed.stages
        ]
        self.eval = Split(packed.parts("eval"), packed.split_ctx("eval"))
        for stage in self.stages:
            if not len(stage.split):
                raise DataError(
                    f"{root}: the {stage.name} split has no rows",
                    hint=f"pack more data: pack build OUT {root} --overwrite",
                )
            if not stage.split.trained:
                raise DataError(
                    f"{root}: no token is trained in any row of {stage.name}",
                    hint=f"see what is masked: pack show {root} --row 0",
                )
        self.sources = sorted(self.manifest.get("sources") or {})

    def _verify(self) -> None:
        for name, entry in self.manifest["files"].items():
            if name.split("/", 1)[0] in ("removed", "README.md", "card.json", "figures"):
                continue
            path = self.store.path(name)
            if not path.is_file():
                raise DataError(f"{path}: missing", hint=f"build it again: pack build OUT {self.root} --overwrite")
            if self.store.entry(name) != entry:
                raise DataError(
                    f"{path}: corrupted, its bytes are not the ones that were written",
                    hint=f"build it again: pack build OUT {self.root} --overwrite",
                )

    @property
    def train(self) -> Split:
        """The rows of the first stage: all there are, where no curriculum was packed."""
        return self.stages[0].split

    @property
    def tokenizer(self) -> Path:
        """The folder of the tokenizer that packed these rows."""
        return self.root / "tokenizer"


def order(seed: int, epoch: int, rows: int) -> npt.NDArray[np.int64]:
    """The permutation (rows,) int64 of one epoch."""
    raw = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)).random_raw(rows)
    return np.argsort(raw, kind="stable")


class Order:
    """Row numbers by sample number of a stage; remembers the current epoch's permutation."""

    def __init__(self, seed: int, rows: int, stage: int = 0) -> None:
        self.seed, self.rows, self.stage = seed, rows, stage
        self._known: dict[int, npt.NDArray[np.int64]] = {}

    def slice(self, start: int, stop: int) -> list[int]:
        """The rows of samples [start, stop) of the run."""
        return [self._row(sample) for sample in range(start, stop)]

    def _row(self, sample: int) -> int:
        epoch, at = divmod(sample, self.rows)
        if epoch not in self._known:
            self._known = {epoch: order(self.seed, epoch + (self.stage << STAGE_BITS), self.rows)}
        return int(self._known[epoch][at])


def collate(rows: Sequence[Row], sources: Sequence[str], *, flat: bool) -> Batch:
    """Stack rows, or join them into one flat row without their pad tails; labels are shifted here.

    Raises `DataError` when the first token of a segment is trained: the token before it belongs to another record.
    """
    index = {name: number for number, name in enumerate(sources)}
    targets: list[Longs] = []
    origin: list[Longs] = []
    for row in rows:
        starts = np.cumsum(row.seq_lengths) - row.seq_lengths
        if (row.labels[starts] != IGNORE).any():
            raise DataError("a segment's first token is trained: records would leak", hint="check: pack verify SHARDS")
        length = len(row.input_ids) - (row.pad if flat else 0)
        shifted = np.full(length, IGNORE, np.int64)
        shifted[:-1] = row.labels[1:length]
        where = np.zeros(length, np.int64)
        for segment in row.segments:
            where[segment["start"] : segment["start"] + segment["length"]] = index.get(segment["source"], 0)
        targets.append(shifted)
        origin.append(where)
    ids = [row.input_ids[: len(t)].astype(np.int64) for row, t in zip(rows, targets, strict=True)]
    positions = [row.position_ids[: len(t)].astype(np.int64) for row, t in zip(rows, targets, strict=True)]
    lengths = None
    if flat:
        ids, positions, targets, origin = [[np.concatenate(parts)] for parts in (ids, positions, targets, origin)]
        lengths = [int(n) for row in rows for n in (row.seq_lengths[:-1] if row.pad else row.seq_lengths)]
    aim = np.stack(targets)
    keep = np.flatnonzero((aim != IGNORE).any(axis=0))
    as_tensor = [torch.from_numpy(np.stack(parts)) for parts in (ids, positions)]
    chosen = [torch.from_numpy(np.ascontiguousarray(array[:, keep])) for array in (aim, np.stack(origin))]
    return Batch(as_tensor[0], as_tensor[1], lengths, torch.from_numpy(keep), chosen[0], chosen[1])
