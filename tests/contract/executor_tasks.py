"""Top-level tasks that spawned workers can import."""

import os
import signal
import time
from pathlib import Path

from curate.foundation.errors import DataError


def square(number):
    return number * number


def slow_first(number):
    time.sleep(0.2 if number == 0 else 0)
    return number


def fails_on_three(number):
    if number == 3:
        raise ValueError("three")
    return number


def data_error_on_three(number):
    if number == 3:
        raise DataError("bad row", hint="mend it")
    return number


def killed_on_three(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def killed_once(job):
    number, folder = job
    flag = Path(folder) / "killed"
    if number == 3 and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def write_pid_and_wait(job):
    (Path(job[1]) / f"{os.getpid()}.pid").touch()
    signal.pause()


def leaves_a_pool_open():
    """Maps over two workers, and ends without a word to them."""
    from curate.foundation.executor import Processes

    assert list(Processes(2).map(square, range(4))) == [0, 1, 4, 9]


def busy(seconds):
    """Uses so much of a processor, and says how much that was."""
    began = time.process_time()
    while time.process_time() - began < seconds:
        pass
    return time.process_time() - began
