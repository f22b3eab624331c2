"""How long a run is: rows, examples and tokens a step, and the number of steps. Pure; nothing is read but counts."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

from curate.foundation.errors import UsageError
from train.config import TrainConfig
from train.data import Shards, Split

FEW_STEPS: Final = 50
MICRO_TOKENS: Final = 4096
EVAL_TOKENS: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Stretch:
    """The steps of one stage: `first` is the run's step it begins with, `samples` the rows it takes, `rows` a step."""

    name: str
    stage: int
    first: int
    steps: int
    rows: int
    samples: int
    ctx: int
    micro: int

    def samples_of(self, step: int) -> tuple[int, int]:
        """The samples [start, stop) of this stage that a step of the run takes."""
        start = (step - self.first) * self.rows
        return start, min(start + self.rows, self.samples)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do; counts a step are means over the first stage."""

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
    eval_micro: int
    all_tokens: int
    stretches: tuple[Stretch, ...]
    notes: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """For `--json` and the manifest."""
        found = {key: value for key, value in asdict(self).items() if key not in ("notes", "stretches", "eval_micro")}
        return found | {"stages": [asdict(stretch) for stretch in self.stretches]}

    def stretch(self, step: int) -> Stretch:
        """The stage that a step (0-based) belongs to."""
        return next(stretch for stretch in reversed(self.stretches) if step >= stretch.first)

    def eval_numbers(self) -> list[int]:
        """Which rows of the eval split give the held-out loss: evenly spread over it."""
        return [number * self.held // self.eval_rows for number in range(self.eval_rows)]

    def lines(self) -> list[str]:
        """For people."""
        held = (
            f"held-out loss: {self.eval_rows:,} of {self.held:,} eval rows, before, every {self.eval_steps:,} steps, at the end"
            if self.held
            else "held-out loss: none, these shards have no eval split"
        )
        stages = [
            f"stage {one.name}: steps {one.first + 1:,} to {one.first + one.steps:,},"
            f" {one.rows:,} rows of {one.ctx:,} tokens a step"
            for one in self.stretches
        ]
        return [
            f"a step: {self.rows:,} rows, about {self.examples:,.0f} examples, {self.tokens:,} tokens"
            f" ({self.trained_tokens:,.0f} trained), {self.micro} rows at a time",
            f"the run: {self.steps:,} steps, {self.epochs:.2f} epochs, {self.all_tokens:,} tokens",
            *(stages if len(stages) > 1 else ()),
            f"{held}; a checkpoint every {self.save_steps:,} steps",
            *self.notes,
        ]


def make_plan(config: TrainConfig, shards: Shards, *, chosen: bool) -> Plan:
    """Plan a run; `chosen` says that the user named a batch size, which is then kept.

    An unchosen batch is made smaller so that a small set still gets 50 steps. Raises `UsageError` when a batch in
    examples or trained tokens is less than one row holds.
    """
    total = sum(len(stage.split) for stage in shards.stages)
    notes: list[str] = []
    stretches = _stretches(config, shards, total, notes, chosen=chosen)
    steps, samples = (sum(getattr(one, name) for one in stretches) for name in ("steps", "samples"))
    if steps < FEW_STEPS:
        notes.append(f"warning: {steps} steps are few (a smaller --batch, more --epochs or --max-steps give more)")
    if config.judges and not shards.eval.trained:
        raise UsageError(
            "early stopping and the best model are judged by the held-out loss, and these shards have no eval split",
            hint="pack one: pack build OUT SHARDS --eval-fraction 0.05 --overwrite",
        )
    quarter = max(1, math.ceil(steps / 4))
    first, train = stretches[0], shards.train
    share = first.rows / len(train)
    return Plan(
        rows=first.rows,
        steps=steps,
        samples=samples,
        micro=first.micro,
        tokens=first.rows * first.ctx,
        trained_tokens=round(train.trained * share, 1),
        examples=round(train.examples * share, 1),
        epochs=round(samples / total, 4),
        save_steps=config.save_steps or quarter,
        eval_steps=config.eval_steps or (quarter if steps >= FEW_STEPS else steps),
        eval_rows=min(len(shards.eval), config.eval_rows or max(1, EVAL_TOKENS // shards.ctx)),
        held=len(shards.eval),
        eval_micro=_micro(config, shards.eval.ctx),
        all_tokens=sum(one.samples * one.ctx for one in stretches),
        stretches=tuple(stretches),
        notes=tuple(notes),
    )


def _stretches(config: TrainConfig, shards: Shards, total: int, notes: list[str], *, chosen: bool) -> list[Stretch]:
    """Every stage's steps, one after the other; `max_steps` is shared among stages as their rows are."""
    found: list[Stretch] = []
    given = 0
    for number, stage in enumerate(shards.stages):
        split = stage.split
        rows, said = _rows(config, split)
        notes += said
        asked, rows = rows, min(rows, len(split))
        if not chosen and config.max_steps is None:
            rows = max(1, min(rows, int(total * config.epochs) // FEW_STEPS))
        if rows < asked:
            why = f"there are only {len(split):,}" if chosen or config.max_steps else f"{FEW_STEPS} steps would not fit"
            notes.append(f"note: a step takes {rows:,} rows, not {asked:,}: {why} (--batch N decides)")
        if config.max_steps:
            given += len(split)
            done = sum(one.steps for one in found)
            steps = config.max_steps * given // total - done
            if not steps:
                notes.append(f"note: {config.max_steps} steps leave none for stage {stage.name}")
                continue
            samples = steps * rows
        else:
            samples = max(1, math.ceil(config.epochs * len(split)))
        rows = min(rows, samples)
        first = sum(one.steps for one in found)
        micro = min(rows, _micro(config, split.ctx))
        found.append(Stretch(stage.name, number, first, math.ceil(samples / rows), rows, samples, split.ctx, micro))
    return found


def _micro(config: TrainConfig, ctx: int) -> int:
    """Rows a forward pass."""
    return config.micro_batch or max(1, MICRO_TOKENS // ctx)


def _rows(config: TrainConfig, train: Split) -> tuple[int, list[str]]:
    """The batch in rows, by the split's own counts."""
    if config.batch_unit == "rows":
        return config.batch, []
    total = train.examples if config.batch_unit == "examples" else train.trained
    unit = config.batch_unit.replace("-", " ")
    rows = config.batch * len(train) / total
    if rows < 0.5:
        raise UsageError(
            f"--batch {config.batch} {unit}: one packed row already holds {total / len(train):,.0f}",
            hint=f"use --batch {math.ceil(total / len(train))} or more, or pack shorter rows",
        )
    whole = max(1, round(rows))
    return whole, [f"note: {config.batch:,} {unit} are {whole:,} rows of these shards"]
