"""Proof, before any training, that packed records do not see one another.

Two real segments are packed into one row. Their loss packed must equal their loss alone, and changing every token of
the first must leave the second one's logits alone. Both run through the very module that trains. Cost: five forward
passes over two segments.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import torch

from curate.foundation.errors import GristmillError
from pack.shards import IGNORE
from train.data import Batch, Row, Shards, Split, collate
from train.objective import PackedLoss

LOSS_BOUND: Final = {"fp32": 1e-4, "bf16": 2e-2, "fp16": 5e-3}
LOGIT_BOUND: Final = {"fp32": 1e-4, "bf16": 2e-2, "fp16": 5e-3}
LOOK_AT: Final = 64


class Leak(GristmillError):
    """The model lets one packed record see another."""


@dataclass(frozen=True, slots=True)
class Report:
    """What the check measured: losses are means over trained tokens, differences are relative to the values."""

    backend: str
    precision: str
    lengths: list[int]
    packed: list[float]
    alone: list[float]
    loss_difference: float
    leak: float
    passed: bool

    def facts(self) -> dict[str, Any]:
        """For `--json` and the manifest."""
        return asdict(self)

    def line(self) -> str:
        """One line for people."""
        return (
            f"self-check ({self.backend}, {self.precision}): packed loss differs from unpacked by"
            f" {self.loss_difference:.1e}, leak {self.leak:.1e}: {'ok' if self.passed else 'FAILED'}"
        )


def check(objective: PackedLoss, shards: Shards, device: torch.device, precision: str) -> Report:
    """Measure isolation on two real segments; the model is left as it was, in evaluation mode only meanwhile."""
    rows = two_segments(shards.train)
    was = objective.training
    objective.eval()
    try:
        with torch.no_grad():
            packed = _losses(objective, _joined(rows), device)
            alone = [_losses(objective, [row], device)[0] for row in rows]
            changed = [_changed(rows[0], int(shards.manifest["tokenizer"]["vocab_size"])), rows[1]]
            before, after = (_second(objective, _joined(pair), rows, device) for pair in (rows, changed))
    finally:
        objective.train(was)
    difference = max(abs(p - a) / max(abs(a), 1e-6) for p, a in zip(packed, alone, strict=True))
    leak = float((before - after).abs().max() / before.abs().max().clamp_min(1e-6))
    passed = difference <= LOSS_BOUND[precision] and leak <= LOGIT_BOUND[precision]
    backend = str(objective.model.config._attn_implementation)
    lengths = [len(row.input_ids) for row in rows]
    return Report(backend, precision, lengths, packed, alone, difference, leak, passed)


def require(report: Report) -> None:
    """Raise `Leak` unless the check passed."""
    if not report.passed:
        raise Leak(
            f"packed records are not isolated on {report.backend}: loss differs by {report.loss_difference:.2e},"
            f" logits by {report.leak:.2e}; refusing to train",
            hint="see the figures: train check SHARDS --model M; then choose another model or device",
        )


def two_segments(split: Split) -> list[Row]:
    """The two shortest trained segments among the first rows, each as a row of its own."""
    found: list[Row] = []
    for number in np.flatnonzero(split.row_trained)[:LOOK_AT]:
        row = split[int(number)]
        for segment in row.segments:
            if segment["trained"]:
                found.append(_cut(row, segment))
    found.sort(key=lambda row: len(row.input_ids))
    return [found[0], found[1 if len(found) > 1 else 0]]


def _cut(row: Row, segment: dict[str, Any]) -> Row:
    span = slice(segment["start"], segment["start"] + segment["length"])
    length = np.array([segment["length"]], np.int32)
    own = [{**segment, "start": 0}]
    ids, labels = row.input_ids[span], row.labels[span]
    return Row(ids, labels, row.position_ids[span], length, own, int((labels != IGNORE).sum()), 0)


def _joined(rows: list[Row]) -> list[Row]:
    first, second = rows
    moved = [*first.segments, *({**s, "start": s["start"] + len(first.input_ids)} for s in second.segments)]
    pair = ((getattr(first, name), getattr(second, name)) for name in ("input_ids", "labels", "position_ids"))
    ids, labels, positions = (np.concatenate(parts) for parts in pair)
    lengths = np.concatenate([first.seq_lengths, second.seq_lengths])
    return [Row(ids, labels, positions, lengths, moved, first.trained + second.trained, 0)]


def _changed(row: Row, vocabulary: int) -> Row:
    """The same segment with every token replaced by another one."""
    other = ((row.input_ids.astype(np.int64) + max(1, vocabulary // 2)) % vocabulary).astype(np.int32)
    return Row(other, row.labels, row.position_ids, row.seq_lengths, row.segments, row.trained, 0)


def _losses(objective: PackedLoss, rows: list[Row], device: torch.device) -> list[float]:
    """The mean loss of each segment of one row."""
    batch = collate(rows, [], flat=objective.flat).to(device)
    losses = objective(batch)[1][0]
    ends = np.cumsum(rows[0].seq_lengths)
    which = torch.from_numpy(np.searchsorted(ends, batch.keep.cpu().numpy(), side="right")).to(device)
    return [float(losses[which == number].mean()) for number in range(len(ends))]


def _second(objective: PackedLoss, joined: list[Row], rows: list[Row], device: torch.device) -> torch.Tensor:
    """The logits of the second segment of a joined row."""
    batch: Batch = collate(joined, [], flat=objective.flat).to(device)
    return objective.logits(batch, 0)[0, len(rows[0].input_ids) :].float()
