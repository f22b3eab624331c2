"""The settings of the stages `select`, `length`, `quality` and `exact`, with their defaults."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

State = Literal["on", "off", "flag"]


def _spelled(value: Any) -> Any:
    # YAML 1.1 reads a bare on/off as a boolean.
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


Rule = Annotated[State, BeforeValidator(_spelled)]


class Frozen(BaseModel):
    """Settings never change once read, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Switched(Frozen):
    """A rule with settings of its own; a bare on/off/flag stands for `state`."""

    state: Rule = "on"

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"state": value} if isinstance(value, bool | str) else value


class Where(Frozen):
    """Conditions on records: whatever meets one of `drop` goes; whatever misses one of `keep` goes."""

    drop: tuple[dict[str, Any], ...] = ()
    keep: tuple[dict[str, Any], ...] = ()

    @model_validator(mode="after")
    def _compiled(self) -> Where:
        if entries := (*self.drop, *self.keep):
            from curate.stages.predicate import compile_condition  # brings numpy and pyarrow

            for entry in entries:
                compile_condition(entry)
        return self


class ScoreQuantiles(Frozen):
    """Keep the scores between two quantiles (inclusive), of each source by itself or of all; no score, no judgement."""

    low: float = Field(default=0.0, ge=0.0, le=1.0)
    high: float = Field(default=1.0, ge=0.0, le=1.0)
    per: Literal["source", "all"] = "source"

    @model_validator(mode="after")
    def _ordered(self) -> ScoreQuantiles:
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) is above high ({self.high})")
        return self


class SelectSettings(Frozen):
    """What only the user knows: conditions, score quantiles, a file of decisions."""

    where: Where = Field(default_factory=Where)
    score: ScoreQuantiles | None = None
    decisions: str | None = Field(default=None, description="csv or jsonl: id or content, decision, reviewer, why")


class LengthSettings(Frozen):
    """Bounds in characters (code points, white space at the ends not counted by the minima), all inclusive.

    `min_field_chars` is asked of every user and assistant message, `max_chars` of all text of a record. Turns are
    user messages.
    """

    min_user_chars: int = Field(default=1, ge=0)
    min_assistant_chars: int = Field(default=1, ge=0)
    min_field_chars: int = Field(default=0, ge=0)
    max_chars: int | None = Field(default=None, ge=1)
    min_turns: int = Field(default=0, ge=0)
    max_turns: int | None = Field(default=None, ge=1)


class Unfinished(Switched):
    """A last answer under `under` characters that contains, or ends with, "..." or its one-character form."""

    where: Literal["contains", "ends"] = "contains"
    under: int = Field(default=100, ge=1)


class RepeatedParagraphs(Switched):
    """The same paragraph of `min_chars` or more, `times` times or more in one answer, code fences not counted."""

    times: int = Field(default=4, ge=2)
    min_chars: int = Field(default=40, ge=1)


class Fixes(Frozen):
    """Rewriting rules; counted, and the original messages stay in `extra`."""

    fences: Annotated[Literal["on", "off"], BeforeValidator(_spelled)] = "off"
    line_ends: Annotated[Literal["on", "off"], BeforeValidator(_spelled)] = "off"


class QualitySettings(Frozen):
    """Each rule removes (on), only marks (flag), or rests (off)."""

    mojibake: Rule = "on"
    replacement: Rule = "on"
    control: Rule = "on"
    unfinished: Unfinished = Field(default_factory=Unfinished)
    code_fences: Rule = "on"
    role_order: Rule = "on"
    no_final_answer: Rule = "flag"
    tool_json: Rule = "on"
    repeated_paragraphs: RepeatedParagraphs = Field(default_factory=RepeatedParagraphs)
    refusal: Rule = "flag"
    identity: Rule = "flag"
    cutoff: Rule = "flag"
    fix: Fixes = Field(default_factory=Fixes)


class ExactSettings(Frozen):
    """What must be equal for two records to be twins, after NFC and white space collapse; case is kept.

    `keep_sketches` leaves the keys in OUT/sketches/exact, 150 bytes a record.
    """

    key: Literal["conversation", "prompt", "first-user", "response"] = "conversation"
    keep_sketches: bool = False
