"""What became of the planted records of one kind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Tally:
    """What became of one kind: pairs and their similarities; what had to go and did; what went, rightly or not."""

    pairs: int = 0
    similarities: list[float] = field(default_factory=list)
    due: int = 0
    parted: int = 0
    removed: int = 0
    wrong: int = 0
    by_meaning: int = 0

    def facts(self) -> dict[str, Any]:
        """As JSON values; a share of nothing is null."""
        lowest, highest = (min(self.similarities), max(self.similarities)) if self.similarities else (None, None)
        judged = self.removed - self.by_meaning
        return {
            "pairs": self.pairs,
            "jaccard": None if lowest is None else [lowest, highest],
            "must_go": self.due,
            "went": self.parted,
            "recall": self.parted / self.due if self.due else None,
            "removed": self.removed,
            "wrong": self.wrong,
            "by_meaning": self.by_meaning,
            "precision": (judged - self.wrong) / judged if judged else None,
        }
