"""`quality`: damage and unfinished work, each rule by name, on, off or flag.

Every rule is a vectorised superset (`candidates`) and an exact check in Python on what it lets through (`rules`), so
clean text costs one measuring pass and a few literal searches. No rule looks at what text is *about*: code, JSON,
LaTeX and short answers pass. Rules run in the order of `QualitySettings`; the first that removes a record names it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any, Final

import numpy as np
import pyarrow as pa

from curate.foundation.store import canonical
from curate.stages import candidates, rules
from curate.stages.candidates import Mask, Texts, mask_of
from curate.stages.decisions import Decisions
from curate.stages.fixes import apply_fixes
from curate.stages.rules import Finding
from curate.stages.settings import QualitySettings
from curate.stages.text import ASSISTANT, Messages, unfold
from curate.stages.verdict import Judgement, Verdict

NAMES: Final = {
    "mojibake": "encoding.mojibake",
    "replacement": "encoding.replacement",
    "control": "encoding.control",
}
Check = Callable[[str], Finding | None]


class QualityStage:
    """Removes or flags what is damaged or unfinished; rewrites form where `fix` asks for it."""

    name = "quality"

    def __init__(self, settings: QualitySettings, decisions: Decisions | None = None) -> None:
        self.settings = settings
        self.decisions = decisions or Decisions()

    def without(self, off: Collection[str]) -> QualityStage:
        """The same stage with some rules at rest, named as in verdicts."""
        fields = {full: name for name, full in NAMES.items()}
        update: dict[str, Any] = {}
        for rule in off:
            name = fields.get(rule, rule)
            value = getattr(self.settings, name)
            update[name] = "off" if isinstance(value, str) else value.model_copy(update={"state": "off"})
        return QualityStage(self.settings.model_copy(update=update), self.decisions)

    def judge(self, table: pa.Table) -> Judgement:
        """Judge a batch under `record.SCHEMA`."""
        messages = unfold(table)
        texts = Texts(messages)
        removals: dict[int, Verdict] = {}
        flags: list[Verdict] = []
        for rule, state in self.states().items():
            if state == "off":
                continue
            for verdict in self._judge_rule(rule, messages, texts):
                if state == "flag":
                    flags.append(verdict)
                else:
                    removals.setdefault(verdict.index, verdict)
        judgement = Judgement(table, [removals[row] for row in sorted(removals)])
        judgement = self.decisions.spare(judgement)
        gone = mask_of(table.num_rows, np.array([verdict.index for verdict in judgement.removals], np.int64))
        judgement.flags = [verdict for verdict in flags if not gone[verdict.index]]
        if "on" in (self.settings.fix.fences, self.settings.fix.line_ends):
            judgement.table, judgement.fixed = apply_fixes(table, messages, texts, self.settings.fix, gone)
        return judgement

    def states(self) -> dict[str, str]:
        """The state of every rule, in the order in which they run."""
        found = {}
        for name in type(self.settings).model_fields:
            value = getattr(self.settings, name)
            if name != "fix":
                found[name] = value if isinstance(value, str) else value.state
        return found

    def _judge_rule(self, rule: str, messages: Messages, texts: Texts) -> Iterator[Verdict]:
        """One verdict for each record that breaks a rule, by its first message that does."""
        if rule == "role_order":
            first = candidates.role_faults(messages)
            for row in np.flatnonzero(first >= 0).tolist():
                at = int(first[row] - messages.starts[row])
                yield Verdict(row, rule, float(at), evidence=canonical({"message": at}))
        elif rule == "no_final_answer":
            last = messages.last(np.ones(len(messages.roles), np.bool_))
            silent = (last >= 0) & (messages.roles[last] != ASSISTANT) if len(messages.roles) else last >= 0
            for row in np.flatnonzero(silent).tolist():
                yield Verdict(row, rule)
        else:
            field = "tool_calls" if rule == "tool_json" else "content"
            where, check, threshold = self._rule(rule, messages, texts)
            yield from _checked(messages, NAMES.get(rule, rule), field, where, check, threshold)

    def _rule(self, rule: str, messages: Messages, texts: Texts) -> tuple[Mask, Check, float]:
        """The candidates of a rule (bool a message), its exact check, and the bound a value must keep to."""
        answers = messages.roles == ASSISTANT
        if rule == "mojibake":
            return candidates.mojibake(texts), rules.damaged, 0
        if rule == "replacement":
            return candidates.replacement(texts), partial(rules.matches, rules.REPLACEMENT), 0
        if rule == "control":
            return candidates.control(texts), partial(rules.matches, rules.CONTROL), 0
        if rule == "unfinished":
            bound = self.settings.unfinished
            final = mask_of(len(answers), messages.last(answers)) & ~messages.calls
            short = final & (messages.content.chars < bound.under)
            check = partial(rules.unfinished, where=bound.where, under=bound.under)
            return texts.regex(rules.ELLIPSIS.pattern, short), check, bound.under
        if rule == "code_fences":
            return texts.literal("```", answers), rules.open_fence, 0
        if rule == "tool_json":
            return messages.calls, rules.broken_calls, 0
        if rule == "repeated_paragraphs":
            loop = self.settings.repeated_paragraphs
            where = candidates.repeats(messages, answers, loop.times, loop.min_chars)
            return where, partial(rules.repeated, times=loop.times, min_chars=loop.min_chars), loop.times
        if rule == "refusal":
            found = candidates.heads(texts, _unbounded(rules.REFUSAL), answers, rules.HEAD)
            return found, partial(rules.head, rules.REFUSAL_RE), 0
        words, compiled = {
            "identity": (rules.IDENTITY_WORDS, rules.IDENTITY_RE),
            "cutoff": (rules.CUTOFF_WORDS, rules.CUTOFF_RE),
        }[rule]
        found = texts.regex(words, answers)
        return texts.regex(_unbounded(compiled.pattern), found), partial(rules.matches, compiled), 0


def _checked(
    messages: Messages, name: str, field: str, where: Mask, check: Check, threshold: float
) -> Iterator[Verdict]:
    at = np.flatnonzero(where)
    column: Any = messages.fields[field]
    done = -1
    for item, text in zip(at.tolist(), column.take(pa.array(at)).to_pylist(), strict=True):
        row = int(messages.rows[item])
        if row == done or text is None or (finding := check(text)) is None:
            continue
        done = row
        evidence = {"message": item - int(messages.starts[row]), "spans": [list(span) for span in finding.spans]}
        yield Verdict(row, name, float(finding.value), float(threshold), evidence=canonical(evidence))


def _unbounded(pattern: str) -> str:
    """A superset of a pattern: what a word character is differs between the engines' Unicode versions."""
    return pattern.replace(r"\b", "")
