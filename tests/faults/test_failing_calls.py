"""Any call to the disk may fail: the command says so, nothing half-written is left to see, and a rerun makes it whole."""

import errno
import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import river
import trials

PARTS = 1  # calls of each kind and command that the subset lets fail


@pytest.mark.parametrize("kind", trials.KINDS)
@pytest.mark.parametrize("step", river.STEPS)
def test_whichever_call_fails_a_rerun_comes_to_the_same_bytes(step, kind, base, whole, full, calls, count):
    words, target, needs = river.STEPS[step]
    folder = river.place(base, f"calls-{step}-{kind}", needs)
    number_of = calls[step][kind]
    assert number_of > 0
    rng = random.Random(f"{step} {kind}")
    numbers = range(1, number_of + 1) if full else sorted(rng.sample(range(1, number_of + 1), min(PARTS, number_of)))
    failed = 0
    for number in numbers:
        river.empty(folder, target)
        code = trials.KINDS[kind][number % len(trials.KINDS[kind])]
        fault = trials.Fault(str(folder / target), kind, number, code, "")
        ended = trials.run(*words, cwd=folder, fault=fault)
        where = f"{step}: {kind} {number} of {number_of}: exit {ended.code}\n{ended.err}"
        assert "Traceback" not in ended.err, where
        assert ended.code == 0 or (ended.code == 3 and "hint: " in ended.err), where
        assert not river.half(folder / target), where
        failed += ended.code == 3
        count("calls failed")
        river.again(folder, step, whole[step])
    assert failed or kind == "unlink", "no failing call was noticed"  # what cannot be tidied now is tidied next time


@pytest.mark.parametrize("step", river.STEPS)
def test_a_file_that_grows_too_large_is_an_error_and_not_a_short_file(step, base, whole, full, count):
    """The kernel's own limit (RLIMIT_FSIZE), so that every writer meets it, whatever library it is in."""
    words, target, needs = river.STEPS[step]
    folder = river.place(base, f"large-{step}", needs)
    sizes = sorted({path.stat().st_size for path in (base / target).rglob("*") if path.is_file()})
    limits = [size - 1 for size in sizes if size > 1]
    for limit in limits if full else limits[len(limits) // 2 :: len(limits)]:
        river.empty(folder, target)
        ended = trials.run(*words, cwd=folder, env={"GRISTMILL_TEST_FSIZE": str(limit)})
        where = f"{step}, files of {limit:,} bytes: exit {ended.code}\n{ended.err}"
        assert "Traceback" not in ended.err, where
        cut = len(ended.err.encode()) >= limit  # what the command says goes to a file too
        assert ended.code == 3 and ("hint: " in ended.err or cut), where
        assert not river.half(folder / target), where
        count("calls failed")
        river.again(folder, step, whole[step])


@pytest.mark.parametrize(("share", "loss"), [(0.5, "lose"), (0.7, "damage"), (0.9, "lose")])
def test_a_run_that_goes_on_without_its_intermediates_reads_again_what_it_needs(share, loss, base, whole, calls):
    """As on another machine, where only units and markers were uploaded; and after a power cut, which may damage them."""
    folder = river.place(base, f"without-{share}", ("raw",))
    number = int(calls["filter"]["rename"] * share)
    fault = trials.Fault(str(folder / "out"), "rename", number, errno.EIO, "")
    trials.run(*river.FILTER, cwd=folder, fault=fault, check=3)
    {"lose": river.lose_work, "damage": river.damage_work}[loss](folder / "out")
    river.again(folder, "filter", whole["filter"])


def test_a_rerun_of_complete_folders_touches_nothing(base, whole):
    folder = river.place(base, "complete", ("raw", "out", "shards", "run"))
    for step, (words, target, _) in river.STEPS.items():
        before = {path: path.stat().st_mtime_ns for path in (folder / target).rglob("*.parquet")}
        before |= {path: path.stat().st_mtime_ns for path in (folder / target).rglob("*.arrow")}
        river.again(folder, step, whole[step])
        assert all(path.stat().st_mtime_ns == when for path, when in before.items()), words
