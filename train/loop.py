"""The training loop: token-weighted steps that any number of processes takes alike, and that a killed run resumes.

Step s takes samples [s x rows, (s + 1) x rows) of the order; rank r takes every world-th of them. The loss of a micro-batch
is its summed cross-entropy over the trained tokens of the *whole* step, times the world size that the gradient average
divides by, so 1 x 4, 4 x 1 and 2 x 2 give the same gradient. Learning rate and random state are functions of the step.
"""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from curate.foundation.console import Console
from curate.foundation.errors import DataError, Interrupted
from train import checkpoint
from train.config import TrainConfig
from train.data import Order, Shards, Split, collate
from train.metrics import Metrics
from train.objective import PackedLoss
from train.plan import Plan, scale
from train.stopping import Stopping

TALK_EVERY: Final = 5.0
WITHIN_EVERY: Final = 20.0
NAMED_IDS: Final = 20


@dataclass(slots=True)
class Trainer:
    """One run in one process: `objective` is the wrapped loss module, `inner` the same module unwrapped."""

    config: TrainConfig
    shards: Shards
    plan: Plan
    run: Path
    identity: checkpoint.Identity
    accelerator: Any
    objective: Any
    inner: PackedLoss
    optimizer: Any
    metrics: Metrics
    console: Console
    progress: checkpoint.Progress = field(default_factory=checkpoint.Progress)
    _saved: int = -1
    _spoke: float = field(default_factory=time.monotonic)
    _began: tuple[float, int] = (0.0, 0)
    _first: int = 0

    def fit(self, stopping: Stopping) -> None:
        """Train to the last step; checkpoints and evaluations on the way.

        Raises `Interrupted` after saving a checkpoint, and `DataError` naming segments when the loss is not a number.
        """
        order = Order(self.config.seed, len(self.shards.train))
        self._saved = self.progress.step
        self._first = self.progress.samples
        if not self.progress.step:
            self.evaluate(stopping)
        self._began = (time.monotonic(), self.progress.tokens)
        while self.progress.step < self.plan.steps:
            if not self._step(order, stopping):
                self.save()
                kept = "a checkpoint is saved" if self.progress.step else "there was nothing to save yet"
                raise Interrupted(
                    f"stopped at step {self.progress.step:,} of {self.plan.steps:,}; {kept}",
                    hint="run the same command again to go on from there",
                )
            step, last = self.progress.step, self.progress.step == self.plan.steps
            if last or step % self.plan.eval_steps == 0:
                self.evaluate(stopping)
            if last or step % self.plan.save_steps == 0:
                self.save()

    def _step(self, order: Order, stopping: Stopping) -> bool:
        """One optimizer step; False when a stop was asked for (the unfinished step is then undone)."""
        began, at = time.monotonic(), self.progress
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        numbers = order.slice(at.samples, min(at.samples + self.plan.rows, self.plan.samples))
        trained = int(self.shards.train.row_trained[numbers].sum(dtype=np.int64))
        torch.manual_seed((self.config.seed * 1_000_003 + at.step * world + rank) % 2**63)
        mine, weight = numbers[rank::world], 1.0
        if not mine:  # fewer rows than processes: take part in the gradient exchange with nothing
            mine, weight = numbers[:1], 0.0
        sums = torch.zeros(2 * max(1, len(self.shards.sources)) + 1, dtype=torch.float64)
        bad: list[str] = []
        for start in range(0, len(mine), self.plan.micro):
            chunk = mine[start : start + self.plan.micro]
            part = self._backward(chunk, weight * world / max(1, trained), start + self.plan.micro >= len(mine))
            sums[:-1] += weight * part
            if not bool(torch.isfinite(part).all()) and not bad:
                bad = self._ids(chunk)
            self._say_within(f"row {start + len(chunk):,} of {len(mine):,}", (start + len(chunk)) * world)
            if stopping.asked and world == 1:
                self.optimizer.zero_grad()
                return False
        sums[-1] = float(stopping.asked)
        sums = self._reduce(sums)
        loss = float(sums[:-1].view(2, -1)[0].sum()) / max(1, trained)
        norm = self._update(loss, bad, mine)
        at.step += 1
        at.samples += len(numbers)
        tokens = len(numbers) * self.shards.ctx - int(self.shards.train.row_pad[numbers].sum(dtype=np.int64))
        at.tokens += tokens
        at.trained_tokens += trained
        self._record(loss, norm, sums, trained, tokens, time.monotonic() - began)
        return not bool(sums[-1])

    def _say_within(self, what: str, done: int = 0) -> None:
        """A sign of life when one step takes long; with the rows done of it, how long the run will take."""
        now = time.monotonic()
        if now - self._spoke < WITHIN_EVERY:
            return
        self._spoke = now
        text = f"step {self.progress.step + bool(done):,}/{self.plan.steps:,}  {what}"
        if done:
            seen = self.progress.samples - self._first + done
            left = (now - self._began[0]) / seen * max(0, self.plan.samples - self._first - seen)
            text += f"  {left:,.0f} s left"
        self.console.say(text)

    def _backward(self, numbers: list[int], factor: float, last: bool) -> torch.Tensor:
        """Add one micro-batch's gradient; returns loss sums and token counts by source, (2 x sources,) float64."""
        rows = [self.shards.train[number] for number in numbers]
        batch = collate(rows, self.shards.sources, flat=self.inner.flat).to(self.accelerator.device)
        with nullcontext() if last else self.accelerator.no_sync(self.objective):
            total, losses = self.objective(batch)
            self.accelerator.backward(total * factor)
        return by_source(losses, batch.sources, batch.targets, len(self.shards.sources))

    def _update(self, loss: float, bad: list[str], mine: list[int]) -> float:
        """Clip and step; returns the gradient norm before clipping."""
        parameters = [p for p in self.inner.parameters() if p.requires_grad]
        norm = float(self.accelerator.clip_grad_norm_(parameters, self.config.clip))
        if not math.isfinite(loss) or not math.isfinite(norm):
            bad = bad or self._ids(mine)
            ids = ", ".join(bad[:NAMED_IDS])
            more = f" and {len(bad) - NAMED_IDS} more" if len(bad) > NAMED_IDS else ""
            what = "loss" if not math.isfinite(loss) else "gradient"
            raise DataError(
                f"step {self.progress.step + 1:,}: the {what} is not a number; segments of that batch: {ids}{more}",
                hint=f"look at one: pack show {self.shards.root} --id {bad[0]}; a lower --lr may help;"
                " the last checkpoint is kept",
            )
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * scale(self.progress.step, self.plan.steps, self.config.warmup)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def _ids(self, numbers: list[int]) -> list[str]:
        return [segment["id"] for number in numbers for segment in self.shards.train[number].segments]

    def _reduce(self, sums: torch.Tensor) -> torch.Tensor:
        if self.accelerator.num_processes == 1:
            return sums
        moved: torch.Tensor = self.accelerator.reduce(sums.to(self.accelerator.device), reduction="sum")
        return moved.cpu()

    def _record(self, loss: float, norm: float, sums: torch.Tensor, trained: int, tokens: int, seconds: float) -> None:
        at, peak = self.progress, self.config.learning_rate
        line = {
            "step": at.step,
            "loss": loss,
            "grad_norm": norm,
            "lr": peak * scale(at.step - 1, self.plan.steps, self.config.warmup),
            "epoch": round(at.samples / len(self.shards.train), 6),
            "tokens": at.tokens,
            "trained_tokens": at.trained_tokens,
            "loss_by_source": named(sums[:-1], self.shards.sources),
            "rates": {"tokens_a_second": tokens / seconds, "trained_tokens_a_second": trained / seconds},
        }
        self.metrics.add(line)
        now = time.monotonic()
        if now - self._spoke >= TALK_EVERY or at.step == self.plan.steps:
            self._spoke = now
            began, before = self._began
            rate = (at.tokens - before) / max(now - began, 1e-9)
            left = (self.plan.samples - at.samples) * (at.tokens / at.samples) / rate
            self.console.say(
                f"step {at.step:,}/{self.plan.steps:,}  loss {loss:.4f}  lr {line['lr']:.2e}  norm {norm:.2f}"
                f"  {rate:,.0f} tokens/s  {rate * at.trained_tokens / at.tokens:,.0f} trained/s  {left:,.0f} s left"
            )

    def evaluate(self, stopping: Stopping) -> float | None:
        """The mean loss over the trained tokens of the plan's eval rows; each counts once, whatever the world size.

        None when no such row is trained, or when a stop was asked for meanwhile.
        """
        split, numbers = self.shards.eval, self.plan.eval_numbers()
        if not split.row_trained[numbers].any():
            return None
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        sums = self._eval_sums(split, numbers[rank::world], stopping)
        if stopping.asked and world == 1:
            return None
        sums = self._reduce(sums)
        losses, counts = sums.view(2, -1)
        loss = float(losses.sum() / counts.sum())
        line = {"step": self.progress.step, "eval_loss": loss, "eval_rows": len(numbers)}
        self.metrics.add({**line, "eval_loss_by_source": named(sums, self.shards.sources)})
        self.metrics.flush()
        self.console.say(f"step {self.progress.step:,}/{self.plan.steps:,}  eval loss {loss:.4f}")
        return loss

    def _eval_sums(self, split: Split, numbers: list[int], stopping: Stopping) -> torch.Tensor:
        sums = torch.zeros(2 * max(1, len(self.shards.sources)), dtype=torch.float64)
        self.inner.eval()
        with torch.no_grad():
            for start in range(0, len(numbers), self.plan.micro):
                if stopping.asked and self.accelerator.num_processes == 1:
                    break
                rows = [split[number] for number in numbers[start : start + self.plan.micro]]
                batch = collate(rows, self.shards.sources, flat=self.inner.flat).to(self.accelerator.device)
                with self.accelerator.autocast():
                    losses = self.inner(batch)[1]
                self._say_within(f"held-out loss, row {start + len(rows):,} of {len(numbers):,}")
                sums += by_source(losses, batch.sources, batch.targets, len(self.shards.sources))
        self.inner.train()
        return sums

    def save(self) -> None:
        """Write a checkpoint for the current step, once."""
        if self._saved == self.progress.step:
            return
        self._saved = self.progress.step
        if self.accelerator.is_main_process:
            self.metrics.flush()
            checkpoint.save(
                self.run,
                self.inner.model,
                self.optimizer,
                self.progress,
                self.identity,
                epoch=self.progress.samples // len(self.shards.train),
                keep=self.config.keep,
            )
        self.accelerator.wait_for_everyone()


def by_source(losses: torch.Tensor, sources: torch.Tensor, targets: torch.Tensor, count: int) -> torch.Tensor:
    """Loss sums, then trained tokens, by source: (2 x sources,) float64 on the CPU."""
    flat, where = losses.double().reshape(-1).cpu(), sources.reshape(-1).cpu()
    out = torch.zeros(2, max(1, count), dtype=torch.float64)
    out[0].index_add_(0, where, flat)
    out[1].index_add_(0, where, (targets.reshape(-1).cpu() >= 0).double())
    return out.view(-1)


def named(sums: torch.Tensor, sources: list[str]) -> dict[str, float]:
    """The mean loss of each source that had a trained token."""
    losses, counts = sums.view(2, -1)
    return {name: float(losses[i] / counts[i]) for i, name in enumerate(sources) if counts[i] > 0}
