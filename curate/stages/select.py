"""`select`: what only the user knows. Decisions first, then `where` conditions, then score quantiles.

Score quantiles need all scores before the first judgement: `scores` is the sketch of a batch, `score_bounds` the
exact reduction, `with_bounds` the stage that judges. Cost: see `predicate`; 8 bytes a scored record for quantiles.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curate.foundation.errors import DataError
from curate.stages.decisions import Decisions, load_decisions
from curate.stages.predicate import View, compile_condition
from curate.stages.settings import ScoreQuantiles, SelectSettings
from curate.stages.verdict import Judgement, Verdict

__all__ = ["Decisions", "SelectStage", "gather_scores", "load_decisions", "score_bounds"]

Bounds = Mapping[str, tuple[float, float]]
SCORES = pa.schema([pa.field("source", pa.string()), pa.field("score", pa.float64())])


class SelectStage:
    """Removes by decision, condition and score; at most one verdict a record, in that order."""

    name = "select"

    def __init__(
        self, settings: SelectSettings, decisions: Decisions | None = None, bounds: Bounds | None = None
    ) -> None:
        self.settings = settings
        if decisions is None and settings.decisions is not None:
            decisions = load_decisions(Path(settings.decisions))
        self.decisions = decisions or Decisions()
        self.bounds = bounds

    @property
    def needs_scores(self) -> bool:
        """Whether `score_bounds` over all records must be given before `judge`."""
        return self.settings.score is not None

    def with_bounds(self, bounds: Bounds) -> SelectStage:
        """The same stage, ready to judge scores."""
        return SelectStage(self.settings, self.decisions, bounds)

    def scores(self, table: pa.Table) -> pa.Table:
        """The sketch of a batch: source and score of every record."""
        return table.select(["source", "score"]).cast(SCORES)

    def without(self, off: Collection[str]) -> SelectStage:
        """The same stage without some conditions (and without the decisions to drop), named as in verdicts."""
        where = self.settings.where

        def left(rule: str, entries: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
            return tuple(entry for entry in entries if f"where.{rule} {compile_condition(entry).text}" not in off)

        update = {
            "where": where.model_copy(update={"drop": left("drop", where.drop), "keep": left("keep", where.keep)})
        }
        decisions = Decisions() if "decision" in off else self.decisions
        return SelectStage(self.settings.model_copy(update=update | {"decisions": None}), decisions, self.bounds)

    def judge(self, table: pa.Table) -> Judgement:
        """Judge a batch under `record.SCHEMA`."""
        if self.needs_scores and self.bounds is None:
            raise DataError("score quantiles were asked for before all scores were read", hint="run curate filter")
        verdicts: dict[int, Verdict] = {verdict.index: verdict for verdict in self.decisions.drops(table)}
        for verdict in (*self._where(table), *self._score(table)):
            verdicts.setdefault(verdict.index, verdict)
        kept = self.decisions.kept(table)
        return Judgement(table, [verdicts[index] for index in sorted(verdicts) if not kept[index]])

    def _where(self, table: pa.Table) -> Iterable[Verdict]:
        view = View(table)
        for rule, entries, wanted in (
            ("drop", self.settings.where.drop, False),
            ("keep", self.settings.where.keep, True),
        ):
            for entry in entries:
                condition = compile_condition(entry)
                for index in np.flatnonzero(condition.holds(view) != wanted).tolist():
                    yield Verdict(index, f"where.{rule} {condition.text}")

    def _score(self, table: pa.Table) -> Iterable[Verdict]:
        if self.settings.score is None or self.bounds is None:
            return
        scores = table.column("score").to_numpy()
        sources = table.column("source").to_pylist()
        whole = self.settings.score.per == "all"
        for index in np.flatnonzero(~np.isnan(scores)).tolist():
            bounds = self.bounds.get("" if whole else sources[index])
            if bounds is None:
                continue
            low, high = bounds
            if scores[index] < low:
                yield Verdict(index, "score.low", value=float(scores[index]), threshold=low)
            elif scores[index] > high:
                yield Verdict(index, "score.high", value=float(scores[index]), threshold=high)


def score_bounds(scores: Mapping[str, NDArray[np.float64]], settings: ScoreQuantiles) -> dict[str, tuple[float, float]]:
    """The scores at the two quantiles, per source, or under "" for all; NaN (no score) is left out.

    Exact, by nearest rank: of n scores at most floor(low n) lie below the lower bound and at most n - ceil(high n)
    above the upper one; ties with a bound stay. The same for any order of the scores.
    """
    groups = dict(scores)
    if settings.per == "all":
        groups = {"": np.concatenate([np.zeros(0), *scores.values()])}
    found = {}
    for name, values in groups.items():
        known = np.sort(values[~np.isnan(values)])
        if not len(known):
            continue
        low = math.floor(Fraction(str(settings.low)) * len(known))
        high = math.ceil(Fraction(str(settings.high)) * len(known)) - 1
        low = min(low, len(known) - 1)
        found[name] = (float(known[low]), float(known[max(high, low)]))
    return found


def gather_scores(sketches: Iterable[pa.Table]) -> dict[str, NDArray[np.float64]]:
    """The scores of each source from the sketches of all batches."""
    table = pa.concat_tables([SCORES.empty_table(), *sketches])
    sources = table.column("source").combine_chunks().dictionary_encode()
    if isinstance(sources, pa.ChunkedArray):
        return {}
    codes = sources.indices.to_numpy(zero_copy_only=False)
    scores = table.column("score").to_numpy()
    return {name: scores[codes == code] for code, name in sorted(enumerate(sources.dictionary.to_pylist()))}
