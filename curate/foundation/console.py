"""stdout is data, stderr is talk: one sink for tables, JSON, progress and errors.

Every command builds a `Console` from `--json` and `--quiet`, prints its result once with `result`, and talks with `say`
and `warn`. `run` is the only place where an exception becomes an exit code.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from curate.foundation import signals
from curate.foundation.addresses import guard
from curate.foundation.errors import GristmillError, Interrupted, MachineError
from curate.foundation.events import Events
from curate.foundation.redaction import redact

__all__ = ["Console", "oneline", "printable", "redact", "run"]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_BROKEN = re.compile(r"\n(?!  )")


def printable(text: str) -> str:
    """Replace control and bidirectional characters, so that data cannot drive a terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def oneline(text: str) -> str:
    """`printable` text whose line ends are shown as such: for names of files and sources."""
    return printable(text.replace("\n", "\\n"))


class Console:
    """Where a command's words go; `--json` leaves stdout to one JSON value, `--quiet` drops the talk."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.tty = sys.stderr.isatty() and not quiet and not os.environ.get("NO_COLOR")
        self.events = Events()

    def say(self, text: str) -> None:
        """Print one line of talk to stderr."""
        if not self.quiet:
            print(printable(text), file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """Print a warning to stderr, also under `--quiet`."""
        self.events.emit("warning", text=printable(text))
        print(f"warning: {printable(text)}", file=sys.stderr, flush=True)

    def result(self, data: Any, text: str) -> None:
        """Print the command's result to stdout: `data` as JSON, or `text` for people."""
        try:
            if self.as_json:
                plain = (sys.stdout.encoding or "utf-8").lower().replace("-", "") != "utf8"
                print(json.dumps(data, ensure_ascii=plain, indent=2, sort_keys=True), flush=True)
            elif text:
                print(text, flush=True)
        except BrokenPipeError:  # the reader (head, less) has seen enough
            _hush()

    @contextmanager
    def progress(self, label: str, total: int, unit: str = "units") -> Iterator[Callable[[int], None]]:
        """Yield `advance(n)`; draws a bar with rate and ETA on a terminal, plain lines otherwise; an event at each end."""
        began = spoke = time.monotonic()
        done = 0
        self.events.emit("stage", stage=label, of=total, unit=unit)
        with self._drawing(label, total, unit) as draw:

            def advance(n: int) -> None:
                nonlocal done, spoke
                done += n
                if time.monotonic() - spoke >= 2.0:
                    spoke = time.monotonic()
                    self.events.emit("progress", stage=label, done=done, of=total)
                draw(done, done / max(time.monotonic() - began, 1e-9))

            yield advance
        self.events.emit("stage finished", stage=label, done=done, seconds=round(time.monotonic() - began, 3))

    @contextmanager
    def _drawing(self, label: str, total: int, unit: str) -> Iterator[Callable[[int, float], None]]:
        """Yield `draw(done, rate)`."""
        if self.tty and total:
            from rich.console import Console as RichConsole
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            words = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            columns = (*words, TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
            with Progress(*columns, console=RichConsole(stderr=True), transient=True) as bar:
                task = bar.add_task(label, total=total, rate="")
                yield lambda done, rate: bar.update(task, completed=done, rate=f"{rate:,.1f} {unit} a second")
            return
        last = time.monotonic()

        def draw(done: int, rate: float) -> None:
            nonlocal last
            if time.monotonic() - last >= 5.0:
                last = time.monotonic()
                left = (total - done) / rate
                self.say(f"{label}: {done:,} of {total:,} {unit}, {rate:,.1f} a second, {left:,.0f} s left")

        yield draw


def _oserror(error: OSError) -> GristmillError:
    import errno

    where = f"{error.filename}: " if error.filename else ""
    hints = {
        errno.ENOSPC: "free some space, then run the same command again: finished units are kept",
        errno.EFBIG: "raise the limit on file sizes (ulimit -f), then run the same command again",
        errno.EACCES: "check the permissions of that path",
        errno.EPERM: "check the permissions of that path",
        errno.EROFS: "the file system is read-only; choose another folder",
    }
    reason = error.strerror or str(error)
    return MachineError(f"{where}{reason}", hint=hints.get(error.errno or 0, "check the path and run again"))


def _hush() -> None:
    """Leave quietly: nobody reads stdout any more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)


def run(app: Callable[..., Any]) -> None:
    """Run a typer app; the one place where an exception becomes a message and an exit code."""
    signals.listen()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot write is shown escaped
            stream.reconfigure(errors="backslashreplace")
    debug = bool(os.environ.get("GRISTMILL_DEBUG"))
    guard(app)
    try:
        app()
    except GristmillError as error:
        # A library that a signal interrupts may pass it on as an error of its own: the signal is what happened.
        _report(signals.stopped() or error, error, debug)
    except signals.Signalled as stop:
        _report(stop.error, stop, debug)
    except KeyboardInterrupt as stop:
        _report(Interrupted("interrupted", hint=signals.AGAIN), stop, debug)
    except BrokenPipeError:
        _hush()
    except OSError as error:
        _report(signals.stopped() or _oserror(error), error, debug)
    except Exception as error:
        if not (stopped := signals.stopped()):
            raise
        _report(stopped, error, debug)


def _report(error: GristmillError, raised: BaseException, debug: bool) -> None:
    if debug:
        raise error from raised if error is not raised else error.__cause__
    signals.let_go(raised)
    message = _BROKEN.sub("\n  ", error.message)  # so a name from the data cannot pose as a hint
    try:
        print(f"error: {printable(message)}", file=sys.stderr)
        if error.hint:
            print(f"hint: {oneline(error.hint)}", file=sys.stderr, flush=True)
    except OSError:  # nobody hears it, or its file may not grow: the exit code still tells
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    sys.exit(error.exit_code)
