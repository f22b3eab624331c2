"""Evaluation sets: by registry name (from the hub, cached) or from local files, as one table of questions.

Cost: linear in the bytes of the files; the sets are held in memory (300 MB for a million items of 60 words).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from curate.evals.model import BadRow, EvalSets, Fields, SetFacts

__all__ = ["BadRow", "EvalSets", "Fields", "SetFacts", "cached", "load"]


def load(against: Sequence[str], *, overrides: Mapping[str, Fields] | None = None) -> EvalSets:
    """The eval sets that `against` names, each a registry name or a path; `overrides` says how to read one, by name.

    A path is anything with a slash or a data suffix, or that is there. The same name twice is loaded once; an empty
    `against` gives no set. Raises `UsageError` for an unknown name (naming the nearest), a path that is not there or a
    file whose questions cannot be told (naming its keys); `Offline` for a set that is neither cached nor reachable.
    """
    from curate.evals.gather import gather

    return gather(against, overrides or {})


def cached() -> list[str]:
    """The registry names whose sets are in the cache, sorted: what is compared against when nothing is named."""
    from curate.evals.cache import names

    return names()
