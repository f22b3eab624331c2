"""The settings of the stage `minhash`, and how its bands follow from a wanted recall."""

from __future__ import annotations

import math
import re
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from curate.foundation.errors import UsageError

PERMUTATIONS: Final = 256  # at most so many, when bands and rows follow from a recall
MOST_ROWS: Final = 16
SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)([KMGT])i?B?", re.IGNORECASE)
UNITS: Final = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def chance(jaccard: float, bands: int, rows: int) -> float:
    """The chance that two records of this Jaccard share a band: 1 - (1 - J^rows)^bands."""
    return -math.expm1(bands * math.log1p(-(jaccard**rows))) if jaccard < 1 else 1.0


def curve(bands: int, rows: int) -> list[tuple[float, float]]:
    """The S-curve: Jaccard 0.05, 0.10 ... 1.00 and the chance of sharing a band."""
    return [(step / 20, chance(step / 20, bands, rows)) for step in range(1, 21)]


def choose(threshold: float, recall: float) -> tuple[int, int, list[tuple[float, float]]]:
    """Bands, rows and S-curve that find a pair of exactly `threshold` with chance `recall` or more.

    Of all shapes within PERMUTATIONS the one with the most rows: it draws the fewest pairs below the threshold. Pairs
    above the threshold are found with a higher chance than `recall`. Raises UsageError when no shape reaches it.
    """
    for rows in range(MOST_ROWS, 0, -1):
        hit = threshold**rows
        bands = 1 if hit >= 1 else max(1, math.ceil(math.log1p(-recall) / math.log1p(-hit)))
        while chance(threshold, bands, rows) < recall:
            bands += 1
        if bands * rows <= PERMUTATIONS:
            return bands, rows, curve(bands, rows)
    raise UsageError(
        f"no bands x rows within {PERMUTATIONS} permutations find pairs of Jaccard {threshold} with recall {recall}",
        hint="lower --recall or raise --threshold",
    )


class MinhashSettings(BaseModel):
    """What counts as a near-duplicate, and how hard to look for it.

    `threshold` is on the exact Jaccard of word n-gram sets, inclusive. `bands` x `rows` only decide which pairs are
    looked at; `recall` picks them for you. `memory` bounds what resolving holds at once, in bytes or as
    `4G`; default a quarter of the machine's. `keep_sketches` leaves the signatures in OUT/sketches/minhash, 1.1 KB a
    record at the default: a later `--previous OUT`, or a run with a file more, then need not sketch again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: Literal["conversation", "prompt", "first-user", "response"] = "conversation"
    threshold: float = Field(default=0.8, gt=0, le=1)
    ngram: int = Field(default=5, ge=1, le=64)
    bands: int = Field(default=40, ge=1, le=1024)
    rows: int = Field(default=6, ge=1, le=64)
    recall: float | None = Field(default=None, gt=0, lt=1)
    seed: int = Field(default=1, ge=0, lt=1 << 32)
    memory: int | None = Field(default=None, ge=1 << 20)
    keep_sketches: bool = False

    @field_validator("memory", mode="before")
    @classmethod
    def _bytes(cls, value: object) -> object:
        """A size such as 512M or 4G in bytes."""
        if isinstance(value, str) and (found := SIZE.fullmatch(value.strip())):
            return int(float(found[1]) * UNITS[found[2].upper()])
        return value

    @property
    def shape(self) -> tuple[int, int]:
        """Bands and rows, chosen by `recall` where it is given."""
        if self.recall is None:
            return self.bands, self.rows
        bands, rows, _ = choose(self.threshold, self.recall)
        return bands, rows
