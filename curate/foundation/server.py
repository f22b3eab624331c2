"""A process that has imported what workers need before they are forked from it: their start costs milliseconds.

It begins early, beside what the command does meanwhile, and holds no data: the standard library's fork server, with
modules named by the caller. Where forks of loaded libraries are not safe (not Linux), workers are spawned as ever.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing import connection, forkserver, resource_tracker
from multiprocessing.util import Finalize
from typing import Any

_SERVER: Any = forkserver._forkserver  # what the context "forkserver" uses; its end and its modules have no public name


def start_server(modules: Sequence[str]) -> None:
    """Start to import `modules` in a process from which `Processes` forks its workers from now on.

    None of the modules may start threads that a worker relies on: they do not live on in a fork.
    """
    if sys.platform != "linux" or running():
        return
    resource_tracker.ensure_running()  # here, for it unblocks the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # Ctrl-C is left to this process
    named = _SERVER._preload_modules
    try:
        _SERVER.set_forkserver_preload(list(modules))
        _SERVER.ensure_running()
    finally:
        _SERVER.set_forkserver_preload(named)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    # after the pools (100), whose workers are its children, and waited for, so that what they used is counted as ours
    Finalize(_SERVER, stop_server, args=(os.getpid(),), exitpriority=50)


def stop_server(owner: int = 0) -> None:
    """End the server, where this process (`owner`, if one is named) has one; its pools are closed by then."""
    if running() and owner in (0, os.getpid()):
        os.kill(_SERVER._forkserver_pid, signal.SIGTERM)  # it may still import
        _SERVER._stop()


def running() -> bool:
    """Whether this process has such a server."""
    return _SERVER._forkserver_pid is not None


def context() -> Any:
    """How workers begin: forked from the server where there is one, else spawned."""
    return multiprocessing.get_context("forkserver" if running() else "spawn")


def die_with_parent() -> None:
    """Called by a worker: the kernel kills it when its parent ends, or the server that it was forked from."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    if sys.platform == "linux":
        import ctypes
        import fcntl

        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
        # the parent holds the other end of this pipe, and writes nothing more: the one event is that it is gone
        fcntl.fcntl(parent.sentinel, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(parent.sentinel, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(parent.sentinel, fcntl.F_SETFL, fcntl.fcntl(parent.sentinel, fcntl.F_GETFL) | os.O_ASYNC)
        if connection.wait([parent.sentinel], 0):
            os._exit(1)
    else:  # pragma: no cover - measured on Linux only
        import threading

        threading.Thread(target=_watch, args=(parent.sentinel,), daemon=True).start()


def _watch(sentinel: int) -> None:  # pragma: no cover - see die_with_parent
    connection.wait([sentinel])
    os._exit(1)
