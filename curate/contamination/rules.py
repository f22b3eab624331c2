"""Which rules hold for which eval set, with what settings: the stage's settings with the overrides of the recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from curate.config import validate
from curate.foundation.errors import UsageError
from curate.stages.decontaminate_settings import (
    AnswerRule,
    AnyRule,
    BigramRule,
    DecontaminateSettings,
    NgramRule,
    SemanticRule,
)
from curate.stages.settings import Switched


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules for one eval set."""

    ngram: NgramRule
    bigram: BigramRule
    any13: AnyRule
    answer: AnswerRule
    semantic: SemanticRule

    def tables(self) -> dict[str, tuple[int, bool]]:
        """The n-gram tables that the active rules look into: rule -> tokens an n-gram, operators or not."""
        found = {}
        if self.ngram.state != "off":
            found["ngram"] = (self.ngram.size, self.ngram.operators)
        if self.any13.state != "off":
            found["any13"] = (self.any13.size, False)
        return found

    def flags(self, rule: str) -> bool:
        """Whether a rule only marks."""
        state: str = getattr(self, rule).state
        return state == "flag"

    def active(self, rule: str) -> bool:
        """Whether a rule is on, or marks."""
        state: str = getattr(self, rule).state
        return state != "off"


def rules_for(settings: DecontaminateSettings, evals: Sequence[str]) -> dict[str, Rules]:
    """The rules for each eval; an override names an eval, or the part of its name before the slash, or all of these."""
    for name in settings.evals:
        if not any(_about(name, each) for each in evals):
            near = get_close_matches(name, evals, 1)
            raise UsageError(
                f"decontaminate.evals.{name}: no such eval set among those compared against",
                hint=f"did you mean {near[0]}?" if near else f"these are: {', '.join(evals) or 'none'}",
            )
    return {each: _rules(settings, each) for each in evals}


def _about(name: str, eval_name: str) -> bool:
    return name in (eval_name, eval_name.partition("/")[0])


def _rules(settings: DecontaminateSettings, eval_name: str) -> Rules:
    made: dict[str, Any] = {}
    for rule, base in (
        ("ngram", settings.ngram), ("bigram", settings.bigram), ("any13", settings.any13),
        ("answer", settings.answer), ("semantic", settings.semantic),
    ):  # fmt: skip
        values: dict[str, Any] = base.model_dump()
        for name in sorted(settings.evals, key=len):  # the longer name, the exact one, has the last word
            override = getattr(settings.evals[name], rule) if _about(name, eval_name) else None
            if override is not None:
                values |= override if isinstance(override, Mapping) else {"state": override}
        kind: type[Switched] = type(base)
        made[rule] = validate(kind, values, f"decontaminate.evals.{eval_name}.{rule}")
    return Rules(**made)


def needed(count: int, threshold: float) -> int:
    """The fewest of `count` that are more than the share `threshold` of them."""
    least = math.floor(threshold * count)
    while least > 0 and least / count > threshold:
        least -= 1
    while least / count <= threshold:
        least += 1
    return least
