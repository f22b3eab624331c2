"""`pack` starts workers only where they end sooner than one process would, and always where they are asked for."""

from __future__ import annotations

import pytest

from curate.foundation.executor import Spread
from pack.commands import SMALL, executor_for


@pytest.mark.parametrize(
    ("workers", "kind", "size", "made"),
    [
        (2, "auto", SMALL // 2 - 1, "Inline"),
        (2, "auto", SMALL // 2, "Processes"),
        (8, "auto", SMALL // 2 - 1, "Processes"),
        (1, "auto", 100 * SMALL, "Inline"),
        (2, "processes", 1, "Processes"),
        (8, "inline", 100 * SMALL, "Inline"),
    ],
)
def test_little_input_stays_in_one_process_unless_processes_are_asked_for(monkeypatch, workers, kind, size, made):
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")
    records = {"files": {"records/a.parquet": {"bytes": size}, "removed/exact/a.parquet": {"bytes": 100 * SMALL}}}
    found = executor_for(Spread(workers, kind, overwrite=False, cards=None), records)
    assert (type(found).__name__, found.workers) == (made, workers if made == "Processes" else 1)


def test_the_engine_of_one_process_has_as_many_threads_as_workers_were_asked_for(monkeypatch):
    import os

    monkeypatch.setenv("RAYON_NUM_THREADS", "9")
    monkeypatch.delenv("RAYON_NUM_THREADS")
    executor_for(Spread(3, "auto", overwrite=False, cards=None), {"files": {}})
    assert os.environ["RAYON_NUM_THREADS"] == "3"
