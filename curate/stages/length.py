"""`length`: bounds in characters and turns, all inclusive.

Characters are code points; white space at the ends is not counted by the minima. A tool call is an answer: records
that make one meet `min_assistant_chars`, messages that carry one meet `min_field_chars`. `max_chars` counts all that
a record says: content, reasoning and tool calls of every message. Cost: one pass over the bytes, no row in Python.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curate.stages.decisions import Decisions
from curate.stages.settings import LengthSettings
from curate.stages.text import ASSISTANT, USER, Messages, measure, unfold
from curate.stages.verdict import Judgement, Verdict

Counts = NDArray[np.int64]


class LengthStage:
    """Removes what is too short or too long; the first bound broken is the rule."""

    name = "length"

    def __init__(self, settings: LengthSettings, decisions: Decisions | None = None) -> None:
        self.settings = settings
        self.decisions = decisions or Decisions()

    def without(self, off: Collection[str]) -> LengthStage:
        """The same stage with some bounds open, named as in verdicts."""
        open_ = {f"min_{rule}" if rule.endswith("_chars") and rule != "max_chars" else rule for rule in off}
        update = {name: None if name.startswith("max_") else 0 for name in open_}
        return LengthStage(self.settings.model_copy(update=update), self.decisions)

    def judge(self, table: pa.Table) -> Judgement:
        """Judge a batch under `record.SCHEMA`."""
        verdicts: dict[int, Verdict] = {}
        for rule, values, threshold, broken in self._bounds(unfold(table)):
            for row in np.flatnonzero(broken).tolist():
                verdicts.setdefault(row, Verdict(row, rule, float(values[row]), float(threshold)))
        return self.decisions.spare(Judgement(table, [verdicts[row] for row in sorted(verdicts)]))

    def _bounds(self, messages: Messages) -> Iterator[tuple[str, Counts, int, NDArray[np.bool_]]]:
        """Each active bound: its name, what was measured a row, the bound, and which rows break it."""
        settings = self.settings
        user, assistant = messages.roles == USER, messages.roles == ASSISTANT
        stripped = messages.content.stripped
        calling = messages.per_row(messages.calls.astype(np.int64)) > 0
        if (low := settings.min_user_chars) > 0:
            chars = messages.per_row(stripped, user)
            yield "user_chars", chars, low, chars < low
        if (low := settings.min_assistant_chars) > 0:
            chars = messages.per_row(stripped, assistant)
            yield "assistant_chars", chars, low, (chars < low) & ~calling
        if (low := settings.min_field_chars) > 0:
            asked = (user | assistant) & ~messages.calls
            shortest = np.full(len(messages.starts) - 1, np.iinfo(np.int64).max)
            np.minimum.at(shortest, messages.rows[asked], stripped[asked])
            yield "field_chars", shortest, low, shortest < low
        if settings.max_chars is not None:
            chars = messages.per_row(_said(messages))
            yield "max_chars", chars, settings.max_chars, chars > settings.max_chars
        turns = messages.per_row(user.astype(np.int64))
        if (low := settings.min_turns) > 0:
            yield "min_turns", turns, low, turns < low
        if settings.max_turns is not None:
            yield "max_turns", turns, settings.max_turns, turns > settings.max_turns


def _said(messages: Messages) -> Counts:
    total = messages.content.chars.copy()
    for name in ("reasoning", "tool_calls"):
        array = messages.fields[name]
        if array.null_count < len(array):
            total += measure(array).chars
    return total
