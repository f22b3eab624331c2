"""Two processes on one folder, a dead holder, a worker that the kernel kills, workers without a parent."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import river
import trials

HERE = Path(__file__).parent
SPREAD = ("--executor", "processes", "--workers", "2")


def poisoned(what):
    """The environment in which a spawned worker that opens part2.jsonl is killed, or hangs."""
    path = os.pathsep.join([str(HERE / "poison"), os.environ["PYTHONPATH"]])
    return {"PYTHONPATH": path, "GRISTMILL_TEST_POISON": f"{what}:part2.jsonl"}


def group(leader):
    """The living processes of a group, its leader left out."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:  # gone meanwhile
            continue
        if int(fields[2]) == leader and fields[0] != "Z" and int(path.parent.name) != leader:
            found.append(int(path.parent.name))
    return found


def until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        os.sched_yield()


@pytest.mark.parametrize("step", river.STEPS)
def test_the_second_process_is_refused_and_told_who_the_first_is(step, base, whole):
    words, target, needs = river.STEPS[step]
    folder = river.place(base, f"locks-{step}", needs)
    first = trials.Trial(words[0], words[1:], cwd=folder)
    while first.running(0.002) and not (folder / target / ".lock").exists():
        pass
    first.signal(signal.SIGSTOP)
    elsewhere = folder / "second"
    elsewhere.mkdir()
    second = [str(folder / word) if (folder / word).exists() else word for word in words[2:]]
    ended = trials.run(*words[:2], *second, cwd=elsewhere, check=3)
    assert f"process {first.pid} on " in ended.err and f"'{words[0]} {words[1]}" in ended.err and "hint: " in ended.err
    first.signal(signal.SIGCONT)
    assert first.end().code == 0
    assert river.tree(folder / target) == whole[step]


@pytest.mark.parametrize("step", river.STEPS)
def test_the_lock_of_a_dead_holder_is_taken_over(step, base, whole):
    words, target, needs = river.STEPS[step]
    folder = river.place(base, f"dead-{step}", needs)
    first = trials.Trial(words[0], words[1:], cwd=folder)
    while first.running(0.002) and not (folder / target / ".lock").exists():
        pass
    assert first.kill() and (folder / target / ".lock").exists()
    river.unscratched(folder)
    river.again(folder, step, whole[step])


def test_a_worker_that_the_kernel_kills_is_blamed_on_its_file_and_nothing_hangs(base, whole):
    folder = river.place(base, "poison", ("raw",))
    ended = trials.run(*river.FILTER, *SPREAD, cwd=folder, env=poisoned("kill"), check=3)
    assert "part2.jsonl: the worker that read it was killed" in ended.err and "hint: " in ended.err
    assert "Traceback" not in ended.err
    river.again(folder, "filter", whole["filter"])


def test_workers_die_with_their_parent_and_the_folder_is_free_again(base, whole):
    folder = river.place(base, "orphans", ("raw",))
    trial = trials.Trial(river.FILTER[0], (*river.FILTER[1:], *SPREAD), cwd=folder, env=poisoned("hang"))
    until(lambda: (folder / "hangs").exists() or not trial.running())
    workers = group(trial.pid)
    assert len(workers) >= 2
    trial.signal(signal.SIGKILL)  # the parent alone, not its group
    until(lambda: not group(trial.pid))
    trial.end()
    river.unscratched(folder)
    river.again(folder, "filter", whole["filter"])
