"""Ctrl-C and SIGTERM as an exception that is raised where the command stands, and that nothing swallows.

It is no `Exception`, or a template that was interrupted would be a template that raised, and the record quarantined. Nor
a `KeyboardInterrupt`, which click turns into an exit code of its own. What a signal handler raises is lost where Python
has nobody to pass it to: in a `__del__`, in a callback of the garbage collector. `sys.unraisablehook` gets it there, and
sends the signal once more, a moment later. What a library catches is raised again by `check`, between two units.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
import traceback
from typing import Any, Final

from curate.foundation.errors import Interrupted

AGAIN: Final = "run the same command again to go on from the last finished unit"
_LATER: Final = 0.01  # seconds: what swallowed the exception has returned by then, or the next one is sent
_came: list[Interrupted] = []


class Signalled(BaseException):
    """A signal came; `error` is what to tell about it."""

    def __init__(self, error: Interrupted) -> None:
        super().__init__(error.message)
        self.error = error


def listen() -> None:
    """From now on SIGTERM and Ctrl-C raise; a SIGINT that is ignored stays so, for then we run in the background."""
    sys.unraisablehook = _unraised
    signal.signal(signal.SIGTERM, _raise)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _raise)


def stopped() -> Interrupted | None:
    """The first signal that came, if one did."""
    return _came[0] if _came else None


def check() -> None:
    """Raise the signal that came, if one did and its exception was caught by somebody whom it did not concern."""
    if _came and threading.current_thread() is threading.main_thread():
        raise Signalled(_came[0])


def let_go(error: BaseException) -> None:
    """Close what the frames of `error` still hold open, now: generators that were cut off roll back what they wrote.

    A signal that arrives on the first instruction of an `__exit__` leaves its context entered, and the traceback keeps
    it alive until modules are torn down, when nothing can be unlinked any more. A further signal ends the process.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is _raise:
            signal.signal(number, signal.SIG_DFL)
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        traceback.clear_frames(one.__traceback__)
        todo += [one.__cause__, one.__context__]
    gc.collect()


def _raise(number: int, _frame: object) -> None:
    error = Interrupted("interrupted" if number == signal.SIGINT else "stopped by a signal", hint=AGAIN)
    error.exit_code = 128 + number
    _came.append(error)
    raise Signalled(error)


def _unraised(lost: Any) -> None:
    if not isinstance(lost.exc_value, Signalled):
        sys.__unraisablehook__(lost)
        return
    threading.Thread(target=_send, args=(lost.exc_value.error.exit_code - 128,), daemon=True).start()


def _send(number: int) -> None:
    time.sleep(_LATER)
    if signal.getsignal(number) is _raise:  # else the command is being left already
        os.kill(os.getpid(), number)
