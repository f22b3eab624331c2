"""Verdicts of a stage that removes records for the sake of similar ones: one shape for minhash and embedding."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from curate.previous import own_twins
from curate.stages.verdict import VERDICT_FIELDS

LEAD = ("sketch", "position", "id", "twin_source")


def twin_verdicts(resolved: pa.Table, stage: str, rule: str, threshold: float) -> pa.Table:
    """Rows under `near_rows.RESOLVED_SCHEMA` as verdict columns: sketch, position, id, twin_source and VERDICT_FIELDS."""
    size = resolved.num_rows
    similarity = resolved.column("similarity")
    columns = {
        **{name: resolved.column(name) for name in LEAD[:-1]},
        "twin_source": own_twins(resolved),
        "stage": pa.array([stage] * size, pa.string()),
        "rule": pa.array([rule] * size, pa.string()),
        "value": similarity,
        "threshold": pa.array(np.full(size, threshold)),
        "twin_id": resolved.column("twin_id"),
        "evidence": resolved.column("evidence"),
        "similarity": similarity,
    }
    lead = [resolved.schema.field(name).with_nullable(name == "twin_source") for name in LEAD]  # null: another folder's
    return pa.table(columns, schema=pa.schema([*lead, *VERDICT_FIELDS]))
