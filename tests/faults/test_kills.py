"""kill -9, Ctrl-C and SIGTERM at seeded random moments: the same command again comes to the bytes of one that ran through."""

import random
import signal
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import river
import trials

KILLS, ALL_KILLS = 4, 50  # of each command, in the subset and in `make faults`
STOPS, ALL_STOPS = 1, 10  # of each command and signal
WORKERS = ("--executor", "processes", "--workers", "2")


def started(folder, target, words):
    """A trial that holds its folder's lock, and so its own handlers of signals."""
    trial = trials.Trial(*[words[0], words[1:]], cwd=folder)
    while trial.running(0.002) and not (folder / target / ".lock").exists():
        pass
    return trial


def took(folder, target, words):
    """Seconds that a run takes from its lock to its end."""
    river.empty(folder, target)
    trial = started(folder, target, words)
    began = time.monotonic()
    assert trial.end().code == 0
    return time.monotonic() - began


@pytest.mark.parametrize("step", river.STEPS)
def test_killed_at_any_moment_a_rerun_comes_to_the_same_bytes(step, base, whole, full, count):
    words, target, needs = river.STEPS[step]
    folder = river.place(base, f"kills-{step}", needs)
    rng = random.Random(f"kills {step}")
    span = {False: took(folder, target, words)}
    killed, tried, wanted = 0, 0, ALL_KILLS if full else KILLS
    while killed < wanted:
        tried += 1
        assert tried < 4 * wanted, "the command is over before it can be killed"
        spread = step != "run" and tried % 5 == 0  # with workers, who must die with the group
        chosen = (*words, *WORKERS) if spread else words
        if spread not in span:
            span[spread] = took(folder, target, chosen)
        river.empty(folder, target)
        trial = started(folder, target, chosen)
        trial.running(rng.uniform(0, 0.9 * span[spread]))
        if not trial.kill():
            continue
        killed += 1
        assert not river.half(folder / target), "a half-written folder says that it is complete"
        if step == "filter" and killed % 3 == 0:
            river.lose_work(folder / target)
        river.unscratched(folder)
        river.again(folder, step, whole[step])
        count("kills survived")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("step", river.STEPS)
def test_a_signal_ends_a_command_in_order_and_it_can_go_on(step, number, base, whole, full, count):
    words, target, needs = river.STEPS[step]
    folder = river.place(base, f"stops-{step}-{number}", needs)
    rng = random.Random(f"stops {step} {number}")
    span = took(folder, target, words)
    stopped, tried, wanted = 0, 0, ALL_STOPS if full else STOPS
    while stopped < wanted:
        tried += 1
        assert tried < 9 * wanted, "the command is over before it can be stopped"
        river.empty(folder, target)
        trial = started(folder, target, words)
        trial.running(rng.uniform(0, 0.8 * span))
        trial.signal(number)
        ended = trial.end()
        assert "Traceback" not in ended.err, ended.err
        if ended.code == 0:
            continue
        assert ended.code == 128 + number and "hint: " in ended.err, (ended.code, ended.err)
        stopped += 1
        assert not river.leftovers(folder), "what was under way was not rolled back"
        assert not river.half(folder / target)
        river.again(folder, step, whole[step])
        count("stops survived")
