"""stdout is data, stderr is talk: one sink for tables, JSON, progress and errors.

Every command builds a `Console` from `--json` and `--quiet`, prints its result once with `result`, and talks with `say`
and `warn`. `run` is the only place where an exception becomes an exit code.
"""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from curate.foundation.errors import GristmillError, Interrupted, MachineError

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_AGAIN = "run the same command again to go on from the last finished unit"
_SECRETS = (
    (re.compile(r"\b[\w.+-]+@[\w-]+\.[\w.-]+\b"), "[e-mail]"),
    (re.compile(r"\b(?:sk|pk|ghp|gho|hf|xox[abp])[-_][A-Za-z0-9_-]{16,}\b"), "[secret]"),
    (re.compile(r"\bAKIA[0-9A-Z]{16}\b"), "[secret]"),
    (re.compile(r"\b(?:\d[ -]?){13,19}\b"), "[number]"),
    (re.compile(r"(?<![\w.])\+?\d{1,3}[ .-]?\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}\b"), "[phone]"),
)


def printable(text: str) -> str:
    """Replace control and bidirectional characters, so that data cannot drive a terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def redact(text: str) -> str:
    """Mask e-mail addresses, keys, card and phone numbers in a sample that is shown."""
    for pattern, label in _SECRETS:
        text = pattern.sub(label, text)
    return text


class Console:
    """Where a command's words go; `--json` leaves stdout to one JSON value, `--quiet` drops the talk."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.tty = sys.stderr.isatty() and not quiet and not os.environ.get("NO_COLOR")

    def say(self, text: str) -> None:
        """Print one line of talk to stderr."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """Print a warning to stderr, also under `--quiet`."""
        print(f"warning: {text}", file=sys.stderr, flush=True)

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
        """Yield `advance(n)`; draws a bar with rate and ETA on a terminal, plain lines otherwise."""
        if self.tty and total:
            from rich.console import Console as RichConsole
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            with Progress(*columns, console=RichConsole(stderr=True), transient=True) as bar:
                task = bar.add_task(label, total=total)
                yield lambda n: bar.advance(task, n)
            return
        began = last = time.monotonic()
        done = 0

        def advance(n: int) -> None:
            nonlocal done, last
            done += n
            now = time.monotonic()
            if now - last >= 5.0:
                last = now
                rate = done / (now - began)
                self.say(
                    f"{label}: {done:,} of {total:,} {unit}, {rate:,.1f} a second, {(total - done) / rate:,.0f} s left"
                )

        yield advance


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


def _stop(signum: int, _frame: object) -> None:
    error = Interrupted("interrupted" if signum == signal.SIGINT else "stopped by a signal", hint=_AGAIN)
    error.exit_code = 128 + signum
    raise error


def run(app: Callable[..., Any]) -> None:
    """Run a command-line app; the one place where an exception becomes a message and an exit code."""
    signal.signal(signal.SIGTERM, _stop)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored: we run in the background
        signal.signal(signal.SIGINT, _stop)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot write is shown escaped
            stream.reconfigure(errors="backslashreplace")
    debug = bool(os.environ.get("GRISTMILL_DEBUG"))
    try:
        app()
    except GristmillError as error:
        _report(error, debug)
    except KeyboardInterrupt:
        _report(Interrupted("interrupted", hint=_AGAIN), debug)
    except BrokenPipeError:
        _hush()
    except OSError as error:
        _report(_oserror(error), debug)


def _report(error: GristmillError, debug: bool) -> None:
    if debug:
        raise error
    print(f"error: {printable(error.message)}", file=sys.stderr)
    if error.hint:
        print(f"hint: {printable(error.hint)}", file=sys.stderr)
    sys.exit(error.exit_code)
