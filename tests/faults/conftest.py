"""The undisturbed river that every fault is compared with, and how much of the whole is tried."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
for name in ("OMP_NUM_THREADS", "POLARS_MAX_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])

import river
import trials

COUNTS = {}


@pytest.fixture(scope="session")
def full():
    """Whether everything is tried (`make faults`), or a seeded part of it."""
    return bool(os.environ.get("GRISTMILL_FAULTS"))


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """raw/, out/, shards/ and run/ of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("faults")
    river.write_raw(folder / "raw")
    for words, _, _ in river.STEPS.values():
        trials.run(*words, cwd=folder, check=0)
    return folder


@pytest.fixture(scope="session")
def whole(base):
    """The digests of every file of the undisturbed run, by step."""
    return {step: river.tree(base / target) for step, (_, target, _) in river.STEPS.items()}


@pytest.fixture(scope="session")
def count():
    """Count what was survived; the sums are printed at the end."""

    def counted(what, number=1):
        COUNTS[what] = COUNTS.get(what, 0) + number

    return counted


def pytest_terminal_summary(terminalreporter):
    """Say how much was survived."""
    for what, number in sorted(COUNTS.items()):
        terminalreporter.write_line(f"{what}: {number:,}")
