"""`metrics.jsonl`: one JSON line a step and one an evaluation.

The file is rewritten whole (atomically) at every checkpoint and evaluation and at least every ten seconds between
them, never appended to in place, so a reader always sees complete lines. A resumed run drops the lines after its
checkpoint first. Everything but the key `rates` is a pure function of config and shards.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from itertools import islice
from typing import Any, Final

from curate.foundation.store import Store

NAME: Final = "metrics.jsonl"
EVERY: Final = 10.0


class Metrics:
    """The lines of a run, in memory and on disk; disk only where `writes` (rank 0). `also` is handed every new line."""

    def __init__(
        self, store: Store, *, upto: int, writes: bool, also: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        self._store, self._writes, self._also = store, writes, also
        self.lines: list[dict[str, Any]] = []
        self._written = time.monotonic()
        path = store.path(NAME)
        if upto and path.is_file():
            known = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            self.lines = [line for line in known if line["step"] <= upto]

    def add(self, line: dict[str, Any]) -> None:
        """Record one line."""
        self.lines.append(line)
        if self._also:
            self._also(line)
        if time.monotonic() - self._written > EVERY:
            self.flush()

    def flush(self) -> None:
        """Write every line so far."""
        if self._writes:
            text = "".join(json.dumps(line, sort_keys=True, allow_nan=False) + "\n" for line in self.lines)
            self._store.write_bytes(NAME, text.encode())
        self._written = time.monotonic()

    def last(self, key: str) -> Any:
        """The latest value of a key, or None."""
        return next((line[key] for line in reversed(self.lines) if key in line), None)

    def latest(self, key: str, count: int) -> list[Any]:
        """The last `count` values of a key, newest first."""
        return list(islice((line[key] for line in reversed(self.lines) if key in line), count))

    def first(self, key: str) -> Any:
        """The earliest value of a key, or None."""
        return next((line[key] for line in self.lines if key in line), None)

    def evaluation(self, step: int | None) -> dict[str, Any]:
        """The line of the evaluation at a step, of the last one for None; empty when there is none."""
        found = (line for line in reversed(self.lines) if "eval_loss" in line and step in (None, line["step"]))
        return next(found, {})
