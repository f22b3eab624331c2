"""What a run did and when, one JSON object a line: `OUT/.events.jsonl`.

Everything else in an output folder is a function of input and settings; this file holds the clock. It is hidden, no
manifest names it, no digest covers it, and removing it costs nothing. It is a log, so it is the one file that is
appended in place: each event is one write, a line cut off by a kill is passed over, and a failed write never fails the
run. `curate status` reads it from another terminal. No text of the data is in it.

    started    command, pid, host                  finished / stopped    seconds, error
    stage      stage, of, unit                     stage finished        stage, done, seconds
    unit       stage, name, done, of, seconds and the unit's counts          progress    stage, done, of
    alarm      stage, source, in, removed          warning               text
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from curate.foundation.errors import GristmillError
from curate.foundation.signals import Signalled
from curate.foundation.store import EVENTS as EVENTS

LARGEST: Final = 16 << 20  # a log over this size is started afresh
_TAIL: Final = 1 << 20
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Timed(Generic[Item, Result]):
    """A task that also says how long it took; it crosses process borders as the task does."""

    task: Callable[[Item], Result]

    def __call__(self, item: Item) -> tuple[float, Result]:
        """Seconds of the wall clock, and the result."""
        began = time.perf_counter()
        result = self.task(item)
        return time.perf_counter() - began, result


class Events:
    """Writes events of a run; without a folder it writes nothing."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.held: list[bytes] = []

    def emit(self, event: str, **facts: Any) -> None:
        """Append one event with the time."""
        if self.path is None:
            return
        entry = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **facts}
        self.held.append(json.dumps(entry, ensure_ascii=True, default=str).encode() + b"\n")
        if event == "started":  # a mistake found before the first stage leaves no file behind
            return
        with suppress(OSError):
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            try:
                os.write(handle, b"".join(self.held))
            finally:
                os.close(handle)
        self.held.clear()

    def unit(self, stage: str, name: str, done: int, of: int, seconds: float, counts: Mapping[str, Any]) -> None:
        """A finished unit, with those of its counts that are numbers."""
        numbers = {key: value for key, value in counts.items() if type(value) is int}
        self.emit("unit", stage=stage, name=name, done=done, of=of, seconds=round(seconds, 3), counts=numbers)

    @contextmanager
    def recording(self, root: Path, command: str) -> Iterator[None]:
        """Record what happens inside under `root`, from `started` to `finished` or `stopped`."""
        self.path, self.held = root / EVENTS, []
        with suppress(OSError):
            if self.path.stat().st_size > LARGEST:
                self.path.unlink()
        began = time.perf_counter()
        self.emit("started", command=command, pid=os.getpid(), host=socket.gethostname())
        try:
            yield
        except BaseException as error:
            if not self.held:
                told = error.error if isinstance(error, Signalled) else error
                code = told.exit_code if isinstance(told, GristmillError) else 1
                spent = round(time.perf_counter() - began, 3)
                self.emit("stopped", error=type(told).__name__, exit_code=code, seconds=spent)
            raise
        else:
            self.emit("finished", seconds=round(time.perf_counter() - began, 3))
        finally:
            self.path = None


def last_run(root: Path) -> list[dict[str, Any]]:
    """The events of the last run in a folder, oldest first, of those in the log's last megabyte; none when unknown."""
    try:
        with (root / EVENTS).open("rb") as file:
            file.seek(max(0, (root / EVENTS).stat().st_size - _TAIL))
            lines = file.read(2 * _TAIL).splitlines()
    except OSError:
        return []
    found: list[dict[str, Any]] = []
    for line in lines:
        try:
            entry = json.loads(line)
            datetime.fromisoformat(entry["time"])
            if entry["event"] == "started":
                found = []
            found.append(entry)
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
    return found


def stages(run: list[dict[str, Any]], now: datetime | None = None) -> list[dict[str, Any]]:
    """Each stage of a run: done of how many, seconds, units a second, seconds left (None once it ended, or unknown).

    `now` is the clock of a run that is alive; without it a stage that did not finish ends with its last event.
    """
    out: dict[str, dict[str, Any]] = {}
    for entry in run:
        name, at = str(entry.get("stage", "")), datetime.fromisoformat(entry["time"])
        if entry["event"] == "stage":
            out[name] = {"stage": name, "done": 0, "of": entry.get("of", 0), "began": at, "ended": None, "last": at}
        elif name in out and entry["event"] in ("unit", "progress", "stage finished"):
            out[name] |= {"last": at, "done": entry.get("done", out[name]["done"])}
            if entry["event"] == "stage finished":
                out[name]["ended"] = at
    for stage in out.values():
        began, ended, last = (stage.pop(key) for key in ("began", "ended", "last"))
        seconds = ((ended or now or last) - began).total_seconds()
        rate = stage["done"] / seconds if seconds > 0 else 0.0
        left = (stage["of"] - stage["done"]) / rate if rate and ended is None and now else None
        stage |= {"finished": ended is not None, "seconds": round(seconds, 1), "rate": round(rate, 3)}
        stage["left"] = None if left is None else round(left)
    return list(out.values())
