"""The training loop: token-weighted steps that any number of processes takes alike, and that a killed run resumes.

Step s takes the next samples of its stage's order; rank r takes every world-th of them. The loss of a micro-batch
is its summed cross-entropy over the trained tokens of the *whole* step, times the world size that the gradient average
divides by, so 1 x 4, 4 x 1 and 2 x 2 give the same gradient. Learning rate and random state are functions of the step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
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
from train.optimizing import gathered, moments
from train.plan import Plan, Stretch
from train.stopping import Stopping
from train.watching import WINDOW, Work, is_spike, judge, memory, peak

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
    scheduler: Any
    metrics: Metrics
    console: Console
    work: Work
    progress: checkpoint.Progress = field(default_factory=checkpoint.Progress)
    _order: Order | None = None
    _saved: int = -1
    _spoke: float = field(default_factory=time.monotonic)
    _began: tuple[float, int] = (0.0, 0)
    _first: int = 0

    def fit(self, stopping: Stopping) -> None:
        """Train to the last step, or until it stops early; checkpoints and evaluations on the way.

        Raises `Interrupted` after saving a checkpoint, and `DataError` naming segments when the loss is not a number.
        """
        self._saved = self.progress.step
        self._first = self.progress.samples
        before = self.progress.evaluated
        self._look(stopping)
        if self.progress.step and self.progress.evaluated == self.progress.step > before:
            self._saved = -1  # the checkpoint we go on from was cut off from its evaluation: now it has it
            self.save()
        self._began = (time.monotonic(), self.progress.tokens)
        while self.progress.step < self.plan.steps and not self.progress.stopped:
            finished, asked = self._step(stopping)
            best = finished and self._look(stopping)
            asked = asked or (stopping.asked and self._alone)
            if asked and not self.progress.stopped and (self.progress.step < self.plan.steps or self._due()):
                self._leave(stopping)
            step, last = self.progress.step, self.progress.step == self.plan.steps or self.progress.stopped
            if best or last or step % self.plan.save_steps == 0:
                self.save()

    @property
    def _alone(self) -> bool:
        """Whether this process may stop on its own: with others, all stop at the end of the same step."""
        return bool(self.accelerator.num_processes == 1)

    def _leave(self, stopping: Stopping) -> None:
        self.save()
        kept = "a checkpoint is saved" if self.progress.step else "there was nothing to save yet"
        error = Interrupted(
            f"stopped at step {self.progress.step:,} of {self.plan.steps:,}; {kept}",
            hint="run the same command again to go on from there",
        )
        error.exit_code = 128 + stopping.number
        raise error

    def _due(self) -> bool:
        """Whether the held-out loss of this step is still to be taken."""
        step = self.progress.step
        return self.progress.evaluated != step and (step % self.plan.eval_steps == 0 or step == self.plan.steps)

    def _look(self, stopping: Stopping) -> bool:
        """Evaluate where it is due; True when the model is the best so far."""
        if not self._due():
            return False
        taken, loss = self.evaluate(stopping)
        if not taken:
            if not self.progress.step:
                self._leave(stopping)
            return False
        self.progress.evaluated = self.progress.step
        if loss is None or not judge(self.progress, loss, self.config):
            if self.progress.stopped:
                self.console.say(
                    f"step {self.progress.step:,}/{self.plan.steps:,}  stopped early: the held-out loss was lowest at"
                    f" step {self.progress.best_step:,} ({self.progress.best_loss:.4f})"
                )
            return False
        return True

    def _samples(self) -> tuple[Stretch, Split, list[int]]:
        """The stage of the coming step, its rows, and the numbers of those the step takes."""
        stretch = self.plan.stretch(self.progress.step)
        split = self.shards.stages[stretch.stage].split
        if self._order is None or self._order.stage != stretch.stage:
            self._order = Order(self.config.seed, len(split), stretch.stage)
        return stretch, split, self._order.slice(*stretch.samples_of(self.progress.step))

    def _step(self, stopping: Stopping) -> tuple[bool, bool]:
        """One optimizer step: whether it was finished (else it is undone), and whether all are asked to stop after it."""
        began, at = time.monotonic(), self.progress
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        stretch, split, numbers = self._samples()
        trained = int(split.row_trained[numbers].sum(dtype=np.int64))
        torch.manual_seed((self.config.seed * 1_000_003 + at.step * world + rank) % 2**63)
        sums = torch.zeros(2 * max(1, len(self.shards.sources)) + 1, dtype=torch.float64)
        bad: list[str] = []
        parts = shares(numbers, world, rank, stretch.micro)
        for number, (chunk, weight) in enumerate(parts):
            part = self._backward(split, chunk, weight * world / max(1, trained), number + 1 == len(parts))
            sums[:-1] += weight * part
            if not bool(torch.isfinite(part).all()) and not bad:
                bad = self._ids(split, chunk)
            self._say_within(
                f"batch {number + 1:,} of {len(parts):,}", min(len(numbers), (number + 1) * stretch.micro * world)
            )
            if stopping.asked and self._alone:
                self.optimizer.zero_grad()
                return False, True
        sums[-1] = float(stopping.asked)
        sums = self._reduce(sums)
        loss = float(sums[:-1].view(2, -1)[0].sum()) / max(1, trained)
        rate = float(self.scheduler.get_last_lr()[0])
        norm = self._update(loss, lambda: bad or self._ids(split, numbers))
        at.step += 1
        at.samples += len(numbers)
        tokens = len(numbers) * split.ctx - int(split.row_pad[numbers].sum(dtype=np.int64))
        at.tokens += tokens
        at.trained_tokens += trained
        line: dict[str, Any] = {
            "loss": loss,
            "grad_norm": norm,
            "lr": rate,
            "loss_by_source": named(sums[:-1], self.shards.sources),
        }
        if len(self.plan.stretches) > 1:
            line["stage"] = stretch.name
        line["rates"] = self._rates(split, numbers, trained, tokens, time.monotonic() - began)
        self._record(line, split, numbers)
        return True, bool(sums[-1])

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

    def _backward(self, split: Split, numbers: list[int], factor: float, last: bool) -> torch.Tensor:
        """Add one micro-batch's gradient; returns loss sums and token counts by source, (2 x sources,) float64."""
        rows = [split[number] for number in numbers]
        batch = collate(rows, self.shards.sources, flat=self.inner.flat).to(self.accelerator.device)
        with nullcontext() if last else self.accelerator.no_sync(self.objective):
            total, losses = self.objective(batch)
            self.accelerator.backward(total * factor)
        return by_source(losses, batch.sources, batch.targets, len(self.shards.sources))

    def _update(self, loss: float, ids: Callable[[], list[str]]) -> float | None:
        """Clip, step, and move the schedule on; the gradient norm before clipping, None where fp16 skipped the step."""
        parameters = [p for p in self.inner.parameters() if p.requires_grad]
        norm = float(gathered(self.accelerator.clip_grad_norm_(parameters, self.config.clip)))
        scaler = self.accelerator.scaler
        usual = scaler is not None and scaler.get_scale() >= 1  # fp16 overflows now and then, and scales down
        if not math.isfinite(loss) or not (math.isfinite(norm) or usual):
            self._refuse("loss" if not math.isfinite(loss) else "gradient", ids())
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()
        if scaler is not None:
            state = scaler.state_dict()
            self.progress.scale, self.progress.steady = float(state["scale"]), int(state["_growth_tracker"])
        return norm if math.isfinite(norm) else None

    def _refuse(self, what: str, ids: list[str]) -> None:
        """Stop at a loss or gradient that is not a number, naming the segments it came from."""
        step = self.progress.step + 1
        self.metrics.add({"step": step, "stopped": f"the {what} is not a number", "segments": ids})
        self.metrics.flush()
        raise DataError(
            f"step {step:,}: the {what} is not a number; segments of that batch: {some(ids)}",
            hint=f"look at one: pack show {self.shards.root} --id {ids[0]}; a lower --lr may help;"
            " the last checkpoint is kept",
        )

    def _ids(self, split: Split, numbers: list[int]) -> list[str]:
        return [segment["id"] for number in numbers for segment in split[number].segments]

    def _reduce(self, sums: torch.Tensor) -> torch.Tensor:
        if self._alone:
            return sums
        moved: torch.Tensor = self.accelerator.reduce(sums.to(self.accelerator.device), reduction="sum")
        return moved.cpu()

    def _rates(self, split: Split, numbers: list[int], trained: int, tokens: int, seconds: float) -> dict[str, float]:
        """How fast a step was, over all processes, and the memory of this one."""
        device = self.accelerator.device
        found: dict[str, float] = {
            "samples_a_second": len(numbers) / seconds,
            "tokens_a_second": tokens / seconds,
            "trained_tokens_a_second": trained / seconds,
            "peak_memory_bytes": memory(device),
        }
        if most := peak(device):
            lengths = [int(n) for number in numbers for n in split[number].seq_lengths]
            done = self.work.flops(lengths, trained) / seconds
            found["mfu"] = done / (most * self.accelerator.num_processes)
        return found

    def _record(self, line: dict[str, Any], split: Split, numbers: list[int]) -> None:
        """Write the line of a step, warn of a spike, and now and then say where the run is."""
        at, loss = self.progress, line["loss"]
        rows = sum(len(stage.split) for stage in self.shards.stages)
        line = {"step": at.step, "epoch": round(at.samples / rows, 6), **line}
        line |= {"tokens": at.tokens, "trained_tokens": at.trained_tokens}
        if is_spike(self.metrics.latest("loss", WINDOW), loss, self.config.spike):
            line["spike"] = ids = self._ids(split, numbers)
            self.console.warn(f"step {at.step:,}: the loss rose to {loss:.4f}; segments of that batch: {some(ids)}")
        self.metrics.add(line)
        now = time.monotonic()
        if now - self._spoke >= TALK_EVERY or at.step == self.plan.steps:
            self._spoke = now
            began, before = self._began
            rate = (at.tokens - before) / max(now - began, 1e-9)
            left = (self.plan.samples - at.samples) * (at.tokens / at.samples) / rate
            norm = f"{line['grad_norm']:.2f}" if line["grad_norm"] is not None else "over"
            mfu = f"  MFU {line['rates']['mfu']:.1%}" if "mfu" in line["rates"] else ""
            self.console.say(
                f"step {at.step:,}/{self.plan.steps:,}  loss {loss:.4f}  lr {line['lr']:.2e}  norm {norm}"
                f"  {rate:,.0f} tokens/s  {rate * at.trained_tokens / at.tokens:,.0f} trained/s{mfu}  {left:,.0f} s left"
            )

    def evaluate(self, stopping: Stopping) -> tuple[bool, float | None]:
        """The mean loss over the trained tokens of the plan's eval rows; each counts once, whatever the world size.

        First whether it was taken, which it is not when a stop was asked for meanwhile; the loss is None when no such
        row is trained.
        """
        split, numbers = self.shards.eval, self.plan.eval_numbers()
        if not split.row_trained[numbers].any():
            return True, None
        found = self._eval_sums(split, numbers, stopping)
        if found is None:
            return False, None
        sums = self._reduce(found)
        losses, counts = sums.view(2, -1)
        loss = float(losses.sum() / counts.sum())
        line = {"step": self.progress.step, "eval_loss": loss, "eval_rows": len(numbers)}
        self.metrics.add({**line, "eval_loss_by_source": named(sums, self.shards.sources)})
        self.metrics.flush()
        self.console.say(f"step {self.progress.step:,}/{self.plan.steps:,}  eval loss {loss:.4f}")
        return True, loss

    def _eval_sums(self, split: Split, numbers: list[int], stopping: Stopping) -> torch.Tensor | None:
        """Losses and counts by source, this process's part; None when it stopped on the way."""
        sums = torch.zeros(2 * max(1, len(self.shards.sources)), dtype=torch.float64)
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        parts = shares(numbers, world, rank, self.plan.eval_micro)
        self.inner.eval()
        with torch.no_grad():
            for number, (chunk, weight) in enumerate(parts):
                if stopping.asked and self._alone:
                    self.inner.train()
                    return None
                rows = [split[one] for one in chunk]
                batch = collate(rows, self.shards.sources, flat=self.inner.flat).to(self.accelerator.device)
                with self.accelerator.autocast():
                    losses = self.inner(batch)[1]
                self._say_within(f"held-out loss, batch {number + 1:,} of {len(parts):,}")
                sums += weight * by_source(losses, batch.sources, batch.targets, len(self.shards.sources))
        self.inner.train()
        return sums

    def save(self) -> None:
        """Write a checkpoint for the current step, once."""
        if self._saved == self.progress.step:
            return
        self._saved = self.progress.step
        main = self.accelerator.is_main_process
        if main or self.config.fsdp:  # the shards of FSDP2 are gathered by every rank
            weights = checkpoint.weights_of(self.inner.model)
            trained = ((name, p) for name, p in self.inner.model.named_parameters() if p.requires_grad)
            state = moments(trained, self.optimizer)
        if main:
            self.metrics.flush()
            stretch = self.plan.stretch(max(0, self.progress.step - 1))
            at = stretch.samples_of(self.progress.step - 1)[1] // len(self.shards.stages[stretch.stage].split)
            checkpoint.save(
                self.run,
                weights,
                state,
                self.progress,
                self.identity,
                epoch=at,
                keep=self.config.keep,
                metrics=self.metrics.state(),
            )
        self.accelerator.wait_for_everyone()


def shares(numbers: list[int], world: int, rank: int, micro: int) -> list[tuple[list[int], float]]:
    """The micro-batches of one rank, each with its weight.

    Every rank gets equally many, since all take part in each exchange: one with no rows left repeats a row at weight 0.
    """
    mine = numbers[rank::world]
    rounds = math.ceil(math.ceil(len(numbers) / world) / micro)
    parts = [mine[number * micro : (number + 1) * micro] for number in range(rounds)]
    return [(part, 1.0) if part else (numbers[:1], 0.0) for part in parts]


def some(ids: list[str]) -> str:
    """The first ids of a batch, and how many more there are."""
    more = f" and {len(ids) - NAMED_IDS} more" if len(ids) > NAMED_IDS else ""
    return ", ".join(ids[:NAMED_IDS]) + more


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
