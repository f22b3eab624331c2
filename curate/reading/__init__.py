"""Files to rows to records, bounded in memory; what cannot be read goes to quarantine with its bytes and a reason."""

from __future__ import annotations

from curate.reading.containers import read
from curate.reading.decode import warm
from curate.reading.model import Batch, Plan, Quarantined, Unit, escape, unescape
from curate.reading.plan import plan
from curate.reading.survey import survey

__all__ = ["Batch", "Plan", "Quarantined", "Unit", "escape", "plan", "read", "survey", "unescape", "warm"]
