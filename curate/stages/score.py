"""Score quantiles of `select` as a reduce stage: sketch the scores, find the exact quantiles, judge.

The quantiles are taken over the records that every map stage let through, so a broken record never moves a bound.
Cost: a source name and 16 bytes a record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curate.stages.select import gather_scores, score_bounds
from curate.stages.settings import ScoreQuantiles
from curate.stages.verdict import VERDICT_FIELDS

SKETCH: Final = pa.schema(
    [pa.field("source", pa.string()), pa.field("score", pa.float64()), pa.field("position", pa.int64())]
)


class ScoreStage:
    """Removes records whose score lies outside two quantiles of their source, or of all."""

    name = "select"

    def __init__(self, settings: ScoreQuantiles) -> None:
        self.settings = settings

    def sketch(self, table: pa.Table, start: int = 0) -> pa.Table:
        """Source, score and position of every record."""
        positions = pa.array(np.arange(start, start + table.num_rows, dtype=np.int64))
        return table.select(["source", "score"]).append_column("position", positions).cast(SKETCH)

    def resolve(
        self, sketches: Sequence[Path], priority: Mapping[str, int], gone: Sequence[NDArray[np.int64]] | None = None
    ) -> pa.Table:
        """The records outside the bounds: sketch, position, rule, value, threshold."""
        from curate.stages.registry import surviving

        tables = [surviving(path, gone[number] if gone else None) for number, path in enumerate(sketches)]
        bounds = score_bounds(gather_scores([table.select(["source", "score"]) for table in tables]), self.settings)
        found: dict[str, list[object]] = {name: [] for name in ("sketch", "position", "rule", "value", "threshold")}
        for number, table in enumerate(tables):
            for row in table.to_pylist():
                low, high = bounds.get(row["source"] if self.settings.per == "source" else "", (-np.inf, np.inf))
                score = row["score"]
                if score is None or np.isnan(score) or low <= score <= high:
                    continue
                rule, bound = ("score.low", low) if score < low else ("score.high", high)
                for name, value in zip(found, (number, row["position"], rule, score, bound), strict=True):
                    found[name].append(value)
        types = (pa.int32(), pa.int64(), pa.string(), pa.float64(), pa.float64())
        return pa.table({name: pa.array(found[name], kind) for name, kind in zip(found, types, strict=True)})

    def verdicts(self, resolved: pa.Table) -> pa.Table:
        """The same rows with every verdict column."""
        size = resolved.num_rows
        columns = {name: resolved.column(name) for name in ("sketch", "position")}
        columns["twin_source"] = pa.nulls(size, pa.string())
        for field in VERDICT_FIELDS:
            if field.name == "stage":
                columns["stage"] = pa.array([self.name] * size, pa.string())
            elif field.name in resolved.column_names:
                columns[field.name] = resolved.column(field.name)
            else:
                columns[field.name] = pa.nulls(size, field.type)
        return pa.table(columns)

    def facts(self, resolved: pa.Table) -> dict[str, Any]:
        """Nothing beyond the counts by rule."""
        return {}
