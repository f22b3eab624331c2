"""How long a run is: rows, examples and tokens a step, and the number of steps. Pure; nothing is read but counts."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

from curate.foundation.errors import UsageError
from train.config import TrainConfig
from train.data import Shards

FEW_STEPS: Final = 50
MICRO_TOKENS: Final = 4096
EVAL_TOKENS: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do; counts a step are means over the train split."""

    rows: int
    steps: int
    samples: int
    micro: int
    tokens: int
    trained_tokens: float
    examples: float
    epochs: float
    save_steps: int
    eval_steps: int
    eval_rows: int
    held: int
    notes: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """For `--json` and the manifest."""
        return {key: value for key, value in asdict(self).items() if key != "notes"}

    def eval_numbers(self) -> list[int]:
        """Which rows of the eval split give the held-out loss: evenly spread over it."""
        return [number * self.held // self.eval_rows for number in range(self.eval_rows)]

    def lines(self) -> list[str]:
        """For people."""
        total = self.tokens * self.samples // self.rows
        held = (
            f"held-out loss: {self.eval_rows:,} of {self.held:,} eval rows, before, every {self.eval_steps:,} steps, at the end"
            if self.held
            else "held-out loss: none, these shards have no eval split"
        )
        return [
            f"a step: {self.rows:,} rows, about {self.examples:,.0f} examples, {self.tokens:,} tokens"
            f" ({self.trained_tokens:,.0f} trained), {self.micro} rows at a time",
            f"the run: {self.steps:,} steps, {self.epochs:.2f} epochs, {total:,} tokens",
            f"{held}; a checkpoint every {self.save_steps:,} steps",
            *self.notes,
        ]


def make_plan(config: TrainConfig, shards: Shards, *, chosen: bool) -> Plan:
    """Plan a run; `chosen` says that the user named a batch size, which is then kept.

    An unchosen batch is made smaller so that a small set still gets 50 steps. Raises `UsageError` when a batch in
    examples or trained tokens is less than one row holds.
    """
    train = shards.train
    rows, notes = _rows(config, shards)
    asked = rows
    if rows > len(train):
        rows = len(train)
    if not chosen and config.max_steps is None:
        rows = max(1, min(rows, int(len(train) * config.epochs) // FEW_STEPS))
    if rows < asked:
        why = f"there are only {len(train):,}" if chosen or config.max_steps else f"{FEW_STEPS} steps would not fit"
        notes.append(f"note: a step takes {rows:,} rows, not {asked:,}: {why} (--batch N decides)")
    samples = config.max_steps * rows if config.max_steps else max(1, math.ceil(config.epochs * len(train)))
    rows = min(rows, samples)
    steps = math.ceil(samples / rows)
    if steps < FEW_STEPS:
        notes.append(f"warning: {steps} steps are few (a smaller --batch, more --epochs or --max-steps give more)")
    quarter = max(1, math.ceil(steps / 4))
    share = rows / len(train)
    return Plan(
        rows=rows,
        steps=steps,
        samples=samples,
        micro=min(rows, config.micro_batch or max(1, MICRO_TOKENS // shards.ctx)),
        tokens=rows * shards.ctx,
        trained_tokens=round(train.trained * share, 1),
        examples=round(train.examples * share, 1),
        epochs=round(samples / len(train), 4),
        save_steps=config.save_steps or quarter,
        eval_steps=config.eval_steps or (quarter if steps >= FEW_STEPS else steps),
        eval_rows=min(len(shards.eval), config.eval_rows or max(1, EVAL_TOKENS // shards.ctx)),
        held=len(shards.eval),
        notes=tuple(notes),
    )


def _rows(config: TrainConfig, shards: Shards) -> tuple[int, list[str]]:
    """The batch in rows, by the shards' own counts."""
    if config.batch_unit == "rows":
        return config.batch, []
    train = shards.train
    total = train.examples if config.batch_unit == "examples" else train.trained
    unit = config.batch_unit.replace("-", " ")
    rows = config.batch * len(train) / total
    if rows < 0.5:
        raise UsageError(
            f"--batch {config.batch} {unit}: one packed row already holds {total / len(train):,.0f}",
            hint=f"use --batch {math.ceil(total / len(train))} or more, or pack shorter rows",
        )
    return round(rows), [f"note: {config.batch:,} {unit} are {round(rows):,} rows of these shards"]


def scale(step: int, steps: int, warmup: float) -> float:
    """The learning rate's share at a step (0-based): linear warmup, then a cosine to 0 (as `get_scheduler("cosine")`)."""
    rise = math.ceil(steps * warmup)
    if step < rise:
        return step / rise
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * (step - rise) / max(1, steps - rise))))
