"""The `pack` section of a recipe: tokens and rows, and what is drawn from which source.

mixture:                                    # a source not named here is drawn once; `"*"` speaks for those
  mu:     {epochs: 10}                      # or just `mu: 10`; fractions too
  camel:  {fill_to: {times: 4, of: mu}}     # as much as brings the whole to 4 times the tokens drawn from mu
  web:    {weight: 60}                      # a share of tokens, of what `total` leaves
  code:   {budget: {tokens: 5M}}            # or {trained: 5M}, or {times: 0.5, of: [mu, web]}
  gsm8k:  {quality: {low: 0.5}, clusters: {by: topic, count: 20}}
total: {trained: 20M}                       # what weights share, or sources without an amount fill up to
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

RESERVED = ("eval", "removed", "tokenizer", "figures")
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}


def _count(value: Any) -> Any:
    """`5M`, `1.5B` and `200k` as numbers."""
    found = (
        re.fullmatch(r"([0-9_]+(?:\.[0-9]+)?)\s*([kmbt]?)", value.strip().lower()) if isinstance(value, str) else None
    )
    return round(float(found[1].replace("_", "")) * _UNITS[found[2]]) if found else value


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Count = Annotated[int, BeforeValidator(_count), Field(gt=0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Amount(_Frozen):
    """So many tokens, trained tokens, or times what other sources give (as drawn, in tokens or trained tokens)."""

    tokens: Count | None = None
    trained: Count | None = None
    times: float | None = Field(default=None, ge=0)
    of: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    unit: Literal["tokens", "trained"] = "tokens"

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        return value if isinstance(value, dict | Amount) else {"tokens": value}

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(value is not None for value in (self.tokens, self.trained, self.times)) != 1:
            raise ValueError("give one of tokens, trained, or times with of")
        if (self.times is None) != (not self.of):
            raise ValueError("times and of belong together")
        if self.unit != "tokens" and self.times is None:
            raise ValueError("unit belongs to times; say trained: in place of tokens:")
        return self

    @property
    def measure(self) -> str:
        """What is counted: `tokens` or `trained`."""
        return "trained" if self.trained is not None else self.unit


class Window(_Frozen):
    """A window of score quantiles within a source: `low` is in, `high` is out (but 1 is the best record)."""

    low: float = Field(default=0.0, ge=0, lt=1)
    high: float = Field(default=1.0, gt=0, le=1)

    @model_validator(mode="after")
    def _open(self) -> Self:
        if self.low >= self.high:
            raise ValueError("low must be under high")
        return self


class Clusters(_Frozen):
    """Draw from so many clusters only; a cluster is a value of the field `by` of a record's extra."""

    by: str = Field(min_length=1)
    count: int = Field(ge=1)


class Rule(_Frozen):
    """How much of one source is drawn, and from which of its records; see the head of this file."""

    epochs: float | None = Field(default=None, ge=0, le=1_000)
    weight: float | None = Field(default=None, gt=0)
    budget: Amount | None = None
    fill_to: Amount | None = None
    quality: Window | None = None
    clusters: Clusters | None = None

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        return {"epochs": value} if isinstance(value, int | float) else value

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(value is not None for value in (self.epochs, self.weight, self.budget, self.fill_to)) > 1:
            raise ValueError("give one of epochs, weight, budget, fill_to")
        return self


class Long(_Frozen):
    """The share of a stage's tokens that comes from documents over so many tokens."""

    over: Count
    share: float = Field(ge=0, le=1)


class Lengths(_Frozen):
    """The bucket of document lengths a stage draws from, bounds in tokens and inclusive."""

    low: int = Field(default=1, ge=1)
    high: Annotated[int | None, BeforeValidator(_count)] = Field(default=None, ge=1)
    long: Long | None = None


class Mixed(_Frozen):
    """What is drawn: the whole of a build, or one stage of it. `source_count` draws from so many sources only."""

    epochs: dict[str, float] = Field(default_factory=dict)
    mixture: dict[str, Rule] = Field(default_factory=dict)
    total: Amount | None = None
    source_count: int | None = Field(default=None, ge=1)
    lengths: Lengths = Lengths()

    @field_validator("epochs")
    @classmethod
    def _countable(cls, value: dict[str, float]) -> dict[str, float]:
        for source, epochs in value.items():
            if not 0 <= epochs <= 1_000:
                raise ValueError(f"epochs of {source} must be from 0 to 1000")
        return value

    @model_validator(mode="after")
    def _once(self) -> Self:
        if twice := sorted(set(self.epochs) & set(self.mixture)):
            raise ValueError(f"{twice[0]} is in epochs and in mixture; say it once")
        return self

    def rules(self) -> dict[str, Rule]:
        """The rule of each source that has one; `*` speaks for the rest."""
        return {**{name: Rule(epochs=epochs) for name, epochs in self.epochs.items()}, **self.mixture}


class Stage(Mixed):
    """One stage of a curriculum: its mixture, its ctx (that of the build unless it says so), its length bucket."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)
    ctx: int | None = Field(default=None, ge=2, le=1 << 24)

    @field_validator("name")
    @classmethod
    def _free(cls, value: str) -> str:
        if value in RESERVED:
            raise ValueError(f"a stage may not be called {value}")
        return value


class PackConfig(Mixed):
    """Settings of `pack build`. Lengths are in tokens; `stages` are trained in the order given."""

    ctx: int = Field(4096, ge=2, le=1 << 24)
    tokenizer: str | None = Field(default=None, min_length=1)
    template: str | None = None
    prompt_format: str | None = None
    loss_on: Literal["assistant", "last", "all", "completion"] = "assistant"
    algorithm: Literal["bfd", "first-fit", "none"] = "bfd"
    window: int = Field(50_000, ge=0)
    overlong: Literal["drop", "truncate-turns", "truncate", "error"] = "drop"
    control_tokens: Literal["text", "strip", "reject"] = "text"
    thinking: Literal["last", "split", "all"] = "last"
    tokenizer_engine: Literal["auto", "hf", "gigatoken"] = "auto"
    eval_fraction: float = Field(0.05, ge=0.0, lt=1.0)
    seed: int = Field(0, ge=0, lt=1 << 63)
    stages: tuple[Stage, ...] = ()

    @model_validator(mode="after")
    def _staged(self) -> Self:
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError("two stages have one name")
        if self.stages and any(getattr(self, key) != getattr(_ALL, key) for key in Mixed.model_fields):
            raise ValueError("with stages, each stage says its own epochs, mixture, total, source_count and lengths")
        return self

    def curriculum(self) -> list[tuple[str, int, Mixed]]:
        """The stages in order as (name, ctx, what is drawn); a build without stages is one, `train`."""
        return [(stage.name, stage.ctx or self.ctx, stage) for stage in self.stages] or [("train", self.ctx, self)]

    @property
    def longest(self) -> int:
        """The longest ctx of any stage: that of the eval split."""
        return max(ctx for _, ctx, _ in self.curriculum())


_ALL = Mixed()
