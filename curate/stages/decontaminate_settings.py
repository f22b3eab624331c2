"""The settings of the stage `decontaminate`: its rules, what they compare, and what they leave alone."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import Field

from curate.evals.model import Fields
from curate.stages.settings import Frozen, Rule, Switched

RULES: Final = ("ngram", "bigram", "any13", "answer", "semantic")


class NgramRule(Switched):
    """More than `threshold` of an item's tokens lie in n-grams of `size` tokens that one message shares with it.

    Tokens are words and, unless `operators` is off, operators; the rule of Tulu 3 (Lambert et al. 2024, section 3.2).
    """

    size: int = Field(default=8, ge=2, le=64)
    threshold: float = Field(default=0.5, ge=0, lt=1)
    operators: bool = True


class BigramRule(Switched):
    """More than `threshold` of an item's distinct word bigrams lie in one window of `window` times its words.

    Bigrams inside boilerplate are not counted. An item with fewer than `least` bigrams left must stand in the message
    word for word, as a sentence or a line of its own. With fewer than `sure` a match that is not so only marks: what
    is missing there is a word or two at an end, which is what a short question is about. An item of one or two words
    only marks unless it is the whole message.
    """

    threshold: float = Field(default=0.7, gt=0, lt=1)
    window: float = Field(default=1.5, ge=1)
    least: int = Field(default=4, ge=1)
    sure: int = Field(default=8, ge=1)


class AnyRule(Switched):
    """Any n-gram of `size` words that an item has too: the rule of GPT-3 (Brown et al. 2020, appendix C)."""

    state: Rule = "flag"
    size: int = Field(default=13, ge=2, le=64)


class AnswerRule(Switched):
    """An item's question, word for word, and right after it its answer or all its choices, in any order and labelling.

    `least` words or more in all.
    """

    least: int = Field(default=5, ge=1)


class SemanticRule(Switched):
    """A message whose embedding has a cosine of `threshold` or more with an item's; off by default."""

    state: Rule = "off"
    threshold: float = Field(default=0.85, gt=0, le=1)
    model: str | None = None


class Boilerplate(Frozen):
    """What is too common to be evidence: n-grams in `items` items of an eval, or in more than `share` of the records.

    Records count only where they hold an n-gram without the rest of its item, and only when there are more than
    `records` of them: many copies of a leaked item are a leak, not boilerplate.
    """

    items: int = Field(default=3, ge=2)
    share: float = Field(default=0.001, gt=0, le=1)
    records: int = Field(default=10, ge=0)


class EvalRules(Frozen):
    """Other settings of a rule for one eval set; what is not named is as for all. `fields` maps its columns."""

    fields: Fields | None = None
    ngram: dict[str, Any] | str | bool | None = None
    bigram: dict[str, Any] | str | bool | None = None
    any13: dict[str, Any] | str | bool | None = None
    answer: dict[str, Any] | str | bool | None = None
    semantic: dict[str, Any] | str | bool | None = None


class DecontaminateSettings(Frozen):
    """What is compared with which evaluation sets, and by which rules; `evals` overrides rules for single sets."""

    against: tuple[str, ...] = ()
    scope: Literal["user", "assistant", "all"] = "user"
    report_only: bool = False
    ngram: NgramRule = Field(default_factory=NgramRule)
    bigram: BigramRule = Field(default_factory=BigramRule)
    any13: AnyRule = Field(default_factory=AnyRule)
    answer: AnswerRule = Field(default_factory=AnswerRule)
    semantic: SemanticRule = Field(default_factory=SemanticRule)
    boilerplate: Boilerplate = Field(default_factory=Boilerplate)
    evals: dict[str, EvalRules] = Field(default_factory=dict)
