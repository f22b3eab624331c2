"""The configured stages on planted records, in a temporary folder, and what they left of them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from curate.curated import CuratedUnit
from curate.foundation.console import Console
from curate.foundation.executor import Inline
from curate.foundation.store import digest_file, digest_of
from curate.pipeline import Work, run
from curate.record import Record, to_table
from curate.settings import CurateConfig

Leak = tuple[str, str, str]  # id of a record, eval set, item


@dataclass(frozen=True, slots=True)
class Left:
    """Of each removed record the stage and the twin; which were marked only; every match of a record with an item."""

    removed: dict[str, tuple[str, str]]
    marked: frozenset[str]
    leaks: frozenset[Leak]


class _Muted(Console):
    """The stages' own talk is about planted records: not for the user."""

    def say(self, text: str) -> None:
        """Nothing."""

    def warn(self, text: str) -> None:
        """Nothing."""


def run_on(records: Iterable[Record], config: CurateConfig) -> Left:
    """Run the stages of a configuration on records, in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="gristmill-selftest-") as name:
        raw, target = Path(name) / "planted.parquet", Path(name) / "out"
        pq.write_table(to_table(records), raw)
        digest = digest_of([[raw.name, digest_file(raw)]])
        unit = CuratedUnit("planted", raw.name, "selftest", name, (raw.name,), digest)
        manifest = run(Work(target, [unit], config), Inline(), _Muted(quiet=True), "curate selftest")
        removed: dict[str, tuple[str, str]] = {}
        marked: set[str] = set()
        for file in manifest["files"]:
            if file.startswith("removed/"):
                table = pq.read_table(target / file, columns=["id", "stage", "twin_id"])
                removed |= {row["id"]: (row["stage"], row["twin_id"]) for row in table.to_pylist()}
            elif file.startswith("flags/"):
                marked |= set(pq.read_table(target / file, columns=["id"]).column("id").to_pylist())
        matches = target / "contamination.parquet"
        rows = pq.read_table(matches, columns=["id", "eval", "item"]).to_pylist() if matches.exists() else []
        leaks = frozenset((row["id"], row["eval"], row["item"]) for row in rows)
    return Left(removed, frozenset(marked), leaks)
