"""`metrics.jsonl`: one JSON line a step and one an evaluation.

The file is rewritten whole (atomically) at every checkpoint and evaluation and at least every ten seconds between
them, never appended to in place, so a reader always sees complete lines. A resumed run keeps the lines that its checkpoint
counted, if they are still the ones it digested, and drops those after them. Everything but the key `rates` is a pure
function of config and shards.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, Final

from curate.foundation.errors import DataError
from curate.foundation.store import Store, digest_bytes

NAME: Final = "metrics.jsonl"
EVERY: Final = 10.0


class Metrics:
    """The lines of a run, in memory and on disk; disk only where `writes` (rank 0). `also` is handed every new line."""

    def __init__(
        self,
        store: Store,
        *,
        kept: Mapping[str, Any] | None,
        writes: bool,
        also: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        """`kept` is what `state` gave when the checkpoint was saved, None for a run from the start."""
        self._store, self._writes, self._also = store, writes, also
        self._written = time.monotonic()
        self.lines: list[dict[str, Any]] = [] if kept is None else _known(store, kept)

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
            self._store.write_bytes(NAME, _encoded(self.lines))
        self._written = time.monotonic()

    def state(self) -> dict[str, Any]:
        """How many lines there are, and their digest."""
        return {"lines": len(self.lines), "digest": digest_bytes(_encoded(self.lines))}

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


def _encoded(lines: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(line, sort_keys=True, allow_nan=False) + "\n" for line in lines).encode()


def _known(store: Store, kept: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The lines that a checkpoint counted; raises `DataError` when they are not there as they were."""
    path = store.path(NAME)
    data = b"".join((path.read_bytes() if path.is_file() else b"").splitlines(keepends=True)[: kept["lines"]])
    if digest_bytes(data) != kept["digest"]:
        raise DataError(
            f"{path}: altered or cut since the checkpoint was saved",
            hint="put the file back, or start again with --no-resume",
        )
    return [json.loads(line) for line in data.splitlines()]
