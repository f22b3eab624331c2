"""The verdict: why a record goes, with its evidence.

`removed/<stage>/` holds the record's columns plus these, so that anything removed can be explained and restored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol

import pyarrow as pa

VERDICT_FIELDS: Final = (
    pa.field("stage", pa.string(), nullable=False),
    pa.field("rule", pa.string(), nullable=False),
    pa.field("value", pa.float64()),
    pa.field("threshold", pa.float64()),
    pa.field("twin_id", pa.string()),
    pa.field("evidence", pa.large_string()),
    pa.field("similarity", pa.float64()),
)


@dataclass(slots=True, frozen=True)
class Verdict:
    """One judgement on the record at position `index` of the judged batch.

    `value` is what was measured and `threshold` the bound it broke, in the rule's own unit; `evidence` is canonical
    JSON (spans are [start, stop) in characters of the message named by `message`); `similarity` is exact, 0 to 1.
    """

    index: int
    rule: str
    value: float | None = None
    threshold: float | None = None
    twin_id: str | None = None
    evidence: str | None = None
    similarity: float | None = None


@dataclass(slots=True)
class Judgement:
    """What a map stage says of one batch: removals (at most one an index, the first rule wins), flags, fixes.

    `table` is the batch itself, or a copy in which `fix:` rules rewrote messages; `fixed` counts them by rule.
    Rows are never dropped here: `table` has as many rows as the batch judged, in the same order.
    """

    table: pa.Table
    removals: list[Verdict] = field(default_factory=list)
    flags: list[Verdict] = field(default_factory=list)
    fixed: dict[str, int] = field(default_factory=dict)


class MapStage(Protocol):
    """A stage that needs to see only one batch."""

    name: str

    def judge(self, table: pa.Table) -> Judgement:
        """Judge a batch under `record.SCHEMA`."""
        ...
