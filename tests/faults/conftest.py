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

import river  # noqa: E402 - the server of the trials inherits what is set above
import trials  # noqa: E402

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
def calls(base, whole):
    """How many calls of each kind an undisturbed run of each step makes."""
    found = {}
    for step, (words, target, needs) in river.STEPS.items():
        folder = river.place(base, f"counted-{step}", needs)
        found[step] = trials.counted(*words, cwd=folder, root=folder / target)
        assert river.tree(folder / target) == whole[step], "counting changes nothing"
    return found


@pytest.fixture(scope="session")
def count():
    """Count what was survived; the sums are printed at the end."""

    def counted(what, number=1):
        COUNTS[what] = COUNTS.get(what, 0) + number

    return counted


def pytest_sessionfinish(session):
    """A worker of xdist hands its counts over."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["faults"] = COUNTS


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Add the counts of a worker of xdist."""
    for what, number in getattr(node, "workeroutput", {}).get("faults", {}).items():
        COUNTS[what] = COUNTS.get(what, 0) + number


def pytest_terminal_summary(terminalreporter, exitstatus):
    """Say how much was survived."""
    for what, number in sorted(COUNTS.items()):
        terminalreporter.write_line(f"{what}: {number:,}")
    if COUNTS and exitstatus == 0:
        terminalreporter.write_line("rows lost: 0 (every rerun came to the bytes of a run that nothing disturbed)")
