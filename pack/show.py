"""Looking at shards: one row painted, the counts of a build.

Painting decodes a row once, run by run (segment x trained), so it costs milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np

from curate.foundation.console import printable
from curate.foundation.errors import UsageError
from pack.shards import ShardManifest

COLOURS: Final = ("cyan", "magenta", "yellow", "green", "blue", "red")
Said = tuple[Any, str]


def runs(labels: np.ndarray, start: int, length: int) -> list[tuple[int, int, bool]]:
    """Maximal stretches [start, stop) of one segment that are all trained or all not."""
    trained = labels[start : start + length] >= 0
    edges = [0, *(np.flatnonzero(np.diff(trained)) + 1).tolist(), length]
    return [(start + a, start + b, bool(trained[a])) for a, b in pairwise(edges)]


def row(shards: ShardManifest, split: str, index: int) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """One row as JSON data and as (style, text) pieces; a style is "" for plain text."""
    from pack.tokenizing import Tokenizer

    reader = shards.open(split)
    if not 0 <= index < len(reader):
        last = f"rows are 0 to {len(reader) - 1}" if len(reader) else f"the split {split!r} is empty"
        raise UsageError(f"--row {index}: no such row in {shards.root}/{split}", hint=last)
    tokenizer, packed, segments = Tokenizer.load(shards.tokenizer), reader.row(index), reader.segments(index)
    pieces: list[tuple[str, str]] = [("bold", f"{split} row {index}, {reader.ctx} tokens, {len(segments)} segments\n")]
    for number, segment in enumerate(segments):
        colour = COLOURS[number % len(COLOURS)]
        told = f"{segment['id']}  {segment['source']}  epoch {segment['epoch']}"
        counts = f"{segment['start']}+{segment['length']}, {segment['trained']} trained"
        pieces.append((f"reverse {colour}", printable(f"── segment {number}  {told}  {counts} ──")))
        pieces.append(("", "\n"))
        segment["text"] = []
        for start, stop, trained in runs(packed["labels"], segment["start"], segment["length"]):
            text = printable(tokenizer.decode(packed["input_ids"][start:stop].tolist()))
            segment["text"].append({"start": start, "trained": trained, "text": text})
            pieces.append((f"bold {colour}" if trained else f"dim {colour}", text))
        pieces.append(("", "\n"))
    pad = reader.ctx - sum(segment["length"] for segment in segments)
    pieces.append(("dim", f"── pad {pad} ──\n"))
    return {"split": split, "row": index, "segments": segments, "pad": pad}, pieces


def painted(pieces: list[tuple[str, str]]) -> str:
    """The pieces as plain text: trained text between guillemets, which no colour needs to carry."""
    return "".join(f"«{text}»" if style.startswith("bold ") else text for style, text in pieces)


def paint(pieces: list[tuple[str, str]]) -> None:
    """Print the pieces to the terminal in colour."""
    from rich.console import Console
    from rich.text import Text

    out = Text()
    for style, text in pieces:
        out.append(text, style=style)
    Console(highlight=False, soft_wrap=True).print(out, end="")


def stats(root: Path) -> Said:
    """The counts of a build, from the manifest alone."""
    facts = ShardManifest.read(root).facts
    keys = (
        "ctx",
        "stages",
        "splits",
        "sources",
        "totals",
        "lengths",
        "engine",
        "tokenizer",
        "fingerprint",
        "embedded_tokenizer",
    )
    return {key: facts.get(key) for key in keys}, report(facts)


def mixture_table(sources: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What is drawn from each source, one aligned line each, and the sum."""
    keys = ("available", "records", "documents", "tokens", "trained")
    total = {key: sum(entry[key] for entry in sources.values()) for key in keys}
    rows: list[tuple[str, ...]] = [
        ("source", "available", "records", "documents", "tokens", "trained", "share %", "epochs")
    ]
    for name, entry in [*sources.items(), ("total", total)]:
        share = f"{100 * entry['tokens'] / total['tokens']:.1f}" if total["tokens"] else "-"
        epochs = f"{entry['epochs']:g}" if "epochs" in entry else ""
        rows.append((printable(name), *(f"{entry[key]:,}" for key in keys), share, epochs))
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def report(facts: Any) -> str:
    """The closing table of a build: the law by source, then rows, fill and bound by split."""
    heads = (
        "source",
        "records",
        "packed",
        "eval",
        "over-long",
        "template",
        "not drawn",
        "tokens",
        "trained %",
        "epochs",
    )
    rows: list[tuple[str, ...]] = [heads]
    for name, entry in [*facts["sources"].items(), ("total", facts["totals"])]:
        counts = [
            entry[key] for key in ("records", "packed", "eval", "overlong", "template_failed", "not_drawn", "tokens")
        ]
        share = f"{100 * entry['trained'] / entry['tokens']:.1f}" if entry["tokens"] else "-"
        epochs = f"{entry['epochs']:g}" if "epochs" in entry else ""
        rows.append((printable(name), *(f"{count:,}" for count in counts), share, epochs))
    lines = aligned(rows)
    if len(stages := facts.get("stages") or []) > 1:
        for stage in stages:
            lines += [f"stage {stage['name']}:", *mixture_table(stage["sources"])]
    order = [stage["split"] for stage in stages or [{"split": "train"}]]
    for split in (name for name in (*order, "eval") if name in facts["splits"]):
        entry = facts["splits"][split]
        lines.append(
            f"{split}: {entry['rows']:,} rows of {entry.get('ctx', facts['ctx']):,} (bound {entry['lower_bound']:,}), "
            f"fill {100 * entry['fill']:.2f} %, {entry['segments']:,} segments, "
            f"{entry['tokens']:,} tokens, {entry['trained']:,} trained"
        )
    lost = [f"{printable(n)} {k} {c:,}" for n, e in facts["sources"].items() for k, c in e["lost"].items()]
    if lost:
        lines.append("texts the template does not print: " + ", ".join(lost))
    return "\n".join(line.rstrip() for line in lines)
