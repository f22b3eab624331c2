"""Two evaluations of the same items, side by side: the difference, its interval, and who won what.

The items are paired, so the interval is Newcombe's for paired shares (method 10 of Newcombe 1998, "Improved confidence
intervals for the difference between binomial proportions based on paired data"): two Wilson intervals, joined by the
correlation of the pairs. It is closed-form, needs no seed, and holds its level at small counts, where a bootstrap of
few discordant pairs is too narrow. The p-value is McNemar's, exact (binomial over the discordant pairs).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from curate.foundation.console import printable, redact
from curate.foundation.errors import DataError, UsageError
from train.recording import FOLDER, run_of, settle
from train.scoring import wilson

ENDING: Final = ".responses.jsonl"
SHOWN: Final = 3
WIDTH: Final = 160
Rows = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Paired:
    """Counts of pairs: right in both, only in the first, only in the second, in neither."""

    both: int
    first: int
    second: int
    neither: int

    @property
    def total(self) -> int:
        """Pairs."""
        return self.both + self.first + self.second + self.neither

    @property
    def shares(self) -> tuple[float, float]:
        """The share that each got right."""
        return (self.both + self.first) / max(1, self.total), (self.both + self.second) / max(1, self.total)

    @property
    def difference(self) -> float:
        """The second's share less the first's."""
        return (self.second - self.first) / max(1, self.total)

    @property
    def interval(self) -> tuple[float, float]:
        """Of the difference, 95 % (Newcombe 1998, method 10)."""
        n = self.total
        if not n:
            return -1.0, 1.0
        ours, theirs = self.both + self.second, self.both + self.first
        (low, high), (other_low, other_high) = wilson(ours, n), wilson(theirs, n)
        share, other = ours / n, theirs / n
        phi = self._correlation()
        down = (share - low) ** 2 - 2 * phi * (share - low) * (other_high - other) + (other_high - other) ** 2
        up = (high - share) ** 2 - 2 * phi * (high - share) * (other - other_low) + (other - other_low) ** 2
        return self.difference - math.sqrt(max(0.0, down)), self.difference + math.sqrt(max(0.0, up))

    def _correlation(self) -> float:
        """Newcombe's phi: corrected towards 0 where it is positive."""
        ours, theirs = self.both + self.second, self.both + self.first
        square = ours * (self.total - ours) * theirs * (self.total - theirs)
        if not square:
            return 0.0
        product = float(self.both * self.neither - self.first * self.second)
        if product > 0:
            product = max(product - self.total / 2, 0.0)
        return product / math.sqrt(square)

    @property
    def p_value(self) -> float:
        """McNemar's exact test, two-sided."""
        discordant, fewer = self.first + self.second, min(self.first, self.second)
        tail = sum(math.comb(discordant, k) for k in range(fewer + 1))
        return min(1.0, float(2 * tail / 2**discordant))

    def facts(self) -> dict[str, Any]:
        """For `--json`."""
        low, high = self.interval
        counts = {name: getattr(self, name) for name in ("both", "first", "second", "neither", "total")}
        shares = {"first_share": self.shares[0], "second_share": self.shares[1]}
        return {**counts, **shares, "difference": self.difference, "low": low, "high": high, "p_value": self.p_value}


def paired(first: Rows, second: Rows) -> Paired:
    """Count the pairs; raises `DataError` when the two did not answer the same items, or one was not judged."""
    alone = [sum(item not in other for item in rows) for rows, other in ((first, second), (second, first))]
    if any(alone) or not first:
        raise DataError(
            f"the two did not answer the same items: {alone[0]:,} only the first, {alone[1]:,} only the second",
            hint="evaluate both with the same --task, --n and --seed",
        )
    if any(row.get("correct") is None for rows in (first, second) for row in rows.values()):
        raise DataError("some answers were not judged", hint="evaluate code with --execute")
    pairs = [(bool(first[item]["correct"]), bool(second[item]["correct"])) for item in first]
    return Paired(*(pairs.count(kind) for kind in ((True, True), (True, False), (False, True), (False, False))))


def compare(a: Path, b: Path, task: str | None = None) -> tuple[dict[str, Any], str]:
    """Compare two response files, or the evaluations that two folders share; raises `UsageError`, `DataError`."""
    pairs = _files(a, b, task)
    facts, texts = {}, []
    for name, (one, two) in pairs.items():
        first, second = read_responses(one), read_responses(two)
        found = paired(first, second)
        won, lost = _changed(first, second, True), _changed(first, second, False)
        facts[name] = found.facts() | {"wins": won, "losses": lost}
        texts.append("\n".join([name, *table(found, str(a), str(b)), *examples(first, second, won, lost)]))
    return facts, "\n\n".join(texts)


def _files(a: Path, b: Path, task: str | None) -> dict[str, tuple[Path, Path]]:
    """Which files are compared, by the name of their task."""
    if a.is_file() and b.is_file():
        return {task or b.name.removesuffix(ENDING): (a, b)}
    found = []
    for path in (a, b):
        if run := run_of(path):
            settle(run)
        folder = next((f for f in (path / FOLDER, path.parent / FOLDER) if path.is_dir() and f.is_dir()), None)
        if folder is None:
            raise UsageError(
                f"{path}: no responses there",
                hint=f"name two files of responses, or two models evaluated before: train eval {path} --task TASK",
            )
        found.append({file.name.removesuffix(ENDING): file for file in sorted(folder.glob(f"*{ENDING}"))})
    names = [name for name in found[0] if name in found[1] and task in (None, name)]
    if not names:
        raise UsageError(
            f"{a} and {b} share no evaluation" + (f" called {task}" if task else ""),
            hint=f"evaluate both: train eval {b} --task TASK",
        )
    return {name: (found[0][name], found[1][name]) for name in names}


def read_responses(path: Path) -> dict[str, dict[str, Any]]:
    """Responses by item; raises `DataError` naming a line that is none, or an item that comes twice."""
    rows: dict[str, dict[str, Any]] = {}
    for number, text in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n"), 1):
        if not text.strip():
            continue
        try:
            row = dict(json.loads(text))
            again = rows.setdefault(str(row["item"]), row) is not row
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{path}, line {number}: not a response", hint="evaluate the model again") from error
        if again:
            raise DataError(f"{path}, line {number}: an item that was answered before", hint="evaluate the model again")
    return rows


def _changed(first: Rows, second: Rows, won: bool) -> list[str]:
    return sorted(i for i in first if bool(second[i]["correct"]) is won and bool(first[i]["correct"]) is not won)


def table(found: Paired, one: str, two: str) -> list[str]:
    """The comparison in lines."""
    low, high = found.interval
    width = max(len(one), len(two), 10)
    right = (found.both + found.first, found.both + found.second)
    rows = [
        f"{name:<{width}}  {count:>6,} of {found.total:,}  {share:>6.1%}  ({a:.1%} to {b:.1%})"
        for name, count, share in zip((one, two), right, found.shares, strict=True)
        for a, b in [wilson(count, found.total)]
    ]
    return [
        *rows,
        f"{'difference':<{width}}  {found.difference * 100:+.1f} points, 95 % interval {low * 100:+.1f} to {high * 100:+.1f} "
        f"(paired); McNemar p = {found.p_value:.3g}",
        f"right in both {found.both:,}, won {found.second:,}, lost {found.first:,}, wrong in both {found.neither:,}",
    ]


def examples(first: Rows, second: Rows, won: Sequence[str], lost: Sequence[str]) -> list[str]:
    """A few items that changed sides: safe to print, with secrets masked."""
    out = []
    for title, items in (("won", won), ("lost", lost)):
        for item in items[:SHOWN]:
            one, two = first[item], second[item]
            out.append(f"{title}: {shown(one.get('prompt'))}")
            out.append(f"    reference {_tail(one.get('reference'))}")
            for name, row in (("first", one), ("second", two)):
                said = row.get("extracted") if row.get("extracted") not in (None, "") else row.get("response")
                out.append(f"    {name} ({row.get('outcome')}) {_tail(said)}")
    return out


def shown(text: Any) -> str:
    """One line of a text, shortened, printable, secrets masked."""
    line = redact(printable(" ".join(str(text or "").split())))
    return line if len(line) <= WIDTH else line[: WIDTH - 3] + "..."


def _tail(text: Any) -> str:
    line = redact(printable(" ".join(str(text or "").split())))
    return line if len(line) <= WIDTH else "..." + line[3 - WIDTH :]
