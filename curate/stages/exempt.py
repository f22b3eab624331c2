"""What `curate restore` brought back, and what a decision keeps, is spared by the rules it names, and by no other.

An exempt record is judged again with the rule that spares it left out, so that a later rule of the same stage still
gets its say. Reduce stages do not see a record that is exempt from them: it is kept, and no other goes for its sake.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curate.stages.verdict import Judgement, MapStage, Verdict

if TYPE_CHECKING:
    from curate.settings import Exemption
    from curate.stages.registry import Reducer

Bools = NDArray[np.bool_]


def full_rule(stage: str, rule: str) -> str:
    """A rule's name with its stage in front."""
    return rule if rule.startswith(f"{stage}.") or rule == stage else f"{stage}.{rule}"


def covers(entry: Exemption, stage: str, rule: str | None = None) -> bool:
    """Whether an exemption speaks of a stage (or of one rule of it); one without a rule speaks of every rule."""
    if entry.rule is None or entry.rule == stage:
        return True
    if rule is None:
        return entry.rule.startswith(f"{stage}.")
    return entry.rule == full_rule(stage, rule)


def matched(entry: Exemption, table: pa.Table) -> Bools:
    """Which records of a batch an exemption is about, shape (n,)."""
    mask = np.ones(table.num_rows, dtype=np.bool_)
    if entry.source is not None:
        mask &= pc.equal(table.column("source"), entry.source).to_numpy(zero_copy_only=False)
    if entry.ids:
        mask &= pc.is_in(table.column("id"), pa.array(entry.ids)).to_numpy(zero_copy_only=False)
    return mask


class Exempting:
    """A map stage around another; records spared a rule are judged again by the same stage without it."""

    def __init__(self, stage: Any, entries: Sequence[Exemption]) -> None:
        self.stage = stage
        self.name: str = stage.name
        self.entries = entries

    def judge(self, table: pa.Table) -> Judgement:
        """The inner stage's judgement, as it would be had the spared rules not been there for the spared records."""
        judged: Judgement = self.stage.judge(table)
        masks = [(entry, matched(entry, table)) for entry in self.entries]
        final = [verdict for verdict in judged.removals if not self._spared(verdict, masks)]
        todo = [(verdict, frozenset[str]()) for verdict in judged.removals if self._spared(verdict, masks)]
        while todo:
            verdict, off = todo.pop()
            off = off | {verdict.rule}
            again = self.stage.without(off).judge(table.slice(verdict.index, 1)).removals
            for other in again:
                moved = replace(other, index=verdict.index)
                if self._spared(moved, masks):
                    todo.append((moved, off))
                else:
                    final.append(moved)
        judged.removals = sorted(final, key=lambda verdict: verdict.index)
        return judged

    def _spared(self, verdict: Verdict, masks: Sequence[tuple[Exemption, Bools]]) -> bool:
        return any(mask[verdict.index] and covers(entry, self.name, verdict.rule) for entry, mask in masks)


def exempting(stage: MapStage, entries: Sequence[Exemption]) -> MapStage:
    """The stage itself when nothing is exempt from it."""
    about = [entry for entry in entries if covers(entry, stage.name)]
    return Exempting(stage, about) if about else stage


class ExemptingSketch:
    """A reduce stage that never sees the records that are exempt from it."""

    def __init__(self, reducer: Reducer, entries: Sequence[Exemption]) -> None:
        self.reducer = reducer
        self.name = reducer.name
        self.entries = entries

    def sketch(self, table: pa.Table, start: int = 0) -> pa.Table:
        """The sketch without exempt records."""
        found = self.reducer.sketch(table, start)
        mask = np.zeros(table.num_rows, dtype=np.bool_)
        for entry in self.entries:
            mask |= matched(entry, table)
        return found.filter(pa.array(~mask))

    def resolve(
        self, sketches: Sequence[Path], priority: Mapping[str, int], gone: Sequence[NDArray[np.int64]] | None = None
    ) -> pa.Table:
        """As the inner stage."""
        return self.reducer.resolve(sketches, priority, gone)

    def verdicts(self, resolved: pa.Table) -> pa.Table:
        """As the inner stage."""
        return self.reducer.verdicts(resolved)

    def facts(self, resolved: pa.Table) -> dict[str, Any]:
        """As the inner stage."""
        return self.reducer.facts(resolved)


def exempting_sketch(reducer: Reducer, entries: Sequence[Exemption]) -> Reducer:
    """The stage itself when nothing is exempt from it."""
    about = [entry for entry in entries if covers(entry, reducer.name)]
    return ExemptingSketch(reducer, about) if about else reducer
