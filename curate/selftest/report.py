"""`curate selftest` for people: one line a kind, then the verdict; a missed floor is exit 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from curate.foundation.console import Console
from curate.foundation.errors import DataError
from curate.selftest.running import measure


def selftest(out: Path, rows: int, seed: int, console: Console) -> tuple[dict[str, Any], str]:
    """Run the test on a curated folder; what misses a floor is printed, then raised as a `DataError`."""
    facts = measure(out, rows, seed, console)
    text = table(facts)
    if facts["below"]:
        console.result(facts, text)
        raise DataError(
            f"{out}: below the floor in {len(facts['below'])} place(s): {'; '.join(facts['below'][:3])}",
            hint="for near-duplicates raise minhash.bands or lower minhash.rows; see all counts with --json",
        )
    return facts, text


def table(facts: dict[str, Any]) -> str:
    """The counts by kind."""
    lines = [f"{name}: {_settings(values)}" for name, values in facts["stages"].items()]
    lines += [f"{facts['sample']:,} of your records, seed {facts['seed']}", ""]
    if facts["kinds"]:
        lines += _kinds(facts["kinds"], "pairs", "Jaccard")
    leaks = facts.get("leaks")
    if leaks is not None:
        among = f"{leaks['items']:,} usable ones in {len(leaks['sets']):,} sets"
        about = f"decontaminate: {leaks['planted']:,} evaluation items planted, of {among}"
        lines += ["", about, *(_kinds(leaks["kinds"], "items", "bigrams") if leaks["kinds"] else [])]
    floors = facts["floors"]
    state = "BELOW THE FLOOR" if facts["below"] else "passed"
    lines += ["", f"{state}: recall at least {floors['recall']:g}, precision at least {floors['precision']:g}"]
    return "\n".join([*lines, *(f"  {line}" for line in facts["below"])])


def _kinds(kinds: dict[str, dict[str, Any]], counted: str, measured: str) -> list[str]:
    """A head and one line a kind."""
    names = ("planted", counted, measured, "must go", "went", "recall", "removed", "wrongly", "precision")
    meaning = any(kind["by_meaning"] for kind in kinds.values())
    lines = [_row(*names, *(["by meaning"] if meaning else []))]
    for name, kind in kinds.items():
        shown = kind["jaccard"]
        span = f"{shown[0]:.2f}\N{EN DASH}{shown[1]:.2f}" if shown else ""
        cells = [name, kind["pairs"], span, kind["must_go"], kind["went"], _share(kind["recall"])]
        cells += [kind["removed"], kind["wrong"], _share(kind["precision"])]
        lines.append(_row(*cells, *([kind["by_meaning"]] if meaning else [])))
    return lines


def _settings(values: dict[str, Any]) -> str:
    shown = ("key", "threshold", "ngram", "bands", "rows", "recall", "model")
    return ", ".join(f"{name} {values[name]}" for name in shown if values.get(name) is not None)


def _share(value: float | None) -> str:
    return "\N{EN DASH}" if value is None else f"{value:.4f}"


def _row(first: str, *cells: Any) -> str:
    parts = [f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in cells]
    return f"{first:<28}" + "".join(f"{part:>11}" for part in parts)
