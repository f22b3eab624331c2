"""Two texts beside each other with what they share marked: two columns where there is room, else one under the other.

Long texts are shown around their shared parts; every cut says how many characters it leaves out. Marks are styles on
a terminal and `[[`, `]]` in plain text. Cost: linear in both texts.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from curate.foundation.console import printable

SHOWN: Final = 1_200  # a text up to so many characters is shown whole
CONTEXT: Final = 160  # around a shared part, and at both ends of the text
SHARED: Final = 480  # of a shared part; a longer one is cut in its middle
SMALLEST: Final = 60  # a cut leaves out at least so many characters
COLUMNS: Final = 100  # the narrowest page with two columns
STYLES: Final = {"shared": "bold green", "label": "dim", "cut": "dim italic", "plain": ""}

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two: what it is, its text, where its messages begin (offset, role), and the parts to mark."""

    title: str
    text: str
    labels: Sequence[tuple[int, str]] = ()
    spans: Sequence[Span] = ()


def fragments(side: Side) -> list[tuple[str, str]]:
    """The side as (kind, text), kind one of plain, shared, label, cut; nothing of it can drive a terminal."""
    size = len(side.text)
    marked = _merged([(max(0, a), min(size, b)) for a, b in side.spans])
    shown = _windows(size, marked)
    stops = {at for a, b in (*marked, *shown) for at in (a, b)} | {at for at, _ in side.labels} | {0, size}
    edges = sorted(at for at in stops if 0 <= at <= size)
    out: list[tuple[str, str]] = []
    missing = told = 0  # characters left out since the last text, labels told or passed over
    for index, at in enumerate(edges):
        stop = edges[index + 1] if index + 1 < len(edges) else size
        visible = _inside(at, shown) or at == size
        begun = sum(offset <= at for offset, _ in side.labels)
        if visible and begun > told:
            missing = _cut(out, missing)
            fresh = [role for offset, role in side.labels[told:begun] if offset == at] or [side.labels[begun - 1][1]]
            out += [("label", f"{_fresh(out)}{printable(role)}:\n") for role in fresh]
            told = begun
        if stop > at and visible:
            missing = _cut(out, missing)
            out.append(("shared" if _inside(at, marked) else "plain", printable(side.text[at:stop])))
        elif stop > at:
            missing += stop - at
    _cut(out, missing)
    return out


def _fresh(out: Sequence[tuple[str, str]]) -> str:
    """A line feed, unless the line is already new."""
    return "" if not out or out[-1][1].endswith("\n") else "\n"


def _cut(out: list[tuple[str, str]], missing: int) -> int:
    if missing:
        out.append(("cut", f" [\N{HORIZONTAL ELLIPSIS} {missing:,} characters \N{HORIZONTAL ELLIPSIS}] "))
    return 0


def _inside(at: int, spans: Sequence[Span]) -> bool:
    return any(a <= at < b for a, b in spans)


def _merged(spans: Sequence[Span], gap: int = 0) -> list[Span]:
    """Spans in order, those that overlap or lie at most `gap` apart made one; empty ones are dropped."""
    out: list[Span] = []
    for a, b in sorted(span for span in spans if span[0] < span[1]):
        if out and a <= out[-1][1] + gap:
            out[-1] = (out[-1][0], max(out[-1][1], b))
        else:
            out.append((a, b))
    return out


def _windows(size: int, marked: Sequence[Span]) -> list[Span]:
    """The parts of a text to show: both ends, and what is marked with its surroundings."""
    if size <= SHOWN:
        return [(0, size)]
    ends = SHOWN // 2 if not marked else CONTEXT
    parts = [(0, ends), (size - ends, size)]
    for a, b in marked:
        middle = [(a, b)] if b - a <= SHARED else [(a, a + SHARED // 2), (b - SHARED // 2, b)]
        parts += [(max(0, middle[0][0] - CONTEXT), middle[0][1]), (middle[-1][0], min(size, b + CONTEXT))]
    return _merged(parts, SMALLEST)


def columns(left: Side, right: Side | None, *, width: int | None = None, colour: bool | None = None) -> str:
    """Both sides as text; `width` in columns (default: the terminal's, two columns only there or when it is given)."""
    from rich import box
    from rich.table import Table

    terminal = sys.stdout.isatty()
    coloured = terminal and not os.environ.get("NO_COLOR") if colour is None else colour
    page = width or min(shutil.get_terminal_size((COLUMNS, 24)).columns, 200)
    sides = [left] if right is None else [left, right]
    sink, console = _console(page, coloured)
    if len(sides) == 2 and page >= COLUMNS and (terminal or width is not None):
        table = Table(box=box.SIMPLE_HEAD, expand=True, padding=(0, 1), pad_edge=False)
        for side in sides:
            table.add_column(_line(side.title, "bold"), ratio=1, overflow="fold")
        table.add_row(*(_body(side, coloured) for side in sides))
        console.print(table)
    else:
        for side in sides:
            console.print(_line(side.title, "bold"))
            console.print(_body(side, coloured))
            console.print()
    return "\n".join(row.rstrip() for row in sink.getvalue().rstrip("\n").split("\n"))


def _console(width: int, coloured: bool) -> tuple[io.StringIO, Any]:
    from rich.console import Console

    sink = io.StringIO()
    system: Any = "standard" if coloured else None
    told: dict[str, Any] = {"markup": False, "highlight": False, "emoji": False, "legacy_windows": False}
    console = Console(
        file=sink, width=width, force_terminal=coloured, no_color=not coloured, color_system=system, **told
    )
    return sink, console


def _line(text: str, style: str) -> Any:
    from rich.text import Text

    return Text(printable(text), style=style)


def _body(side: Side, coloured: bool) -> Any:
    from rich.text import Text

    body = Text()
    for kind, text in fragments(side):
        shown = _bracketed(text) if kind == "shared" and not coloured else text
        body.append(shown, style=STYLES[kind] if coloured else None)
    return body


def _bracketed(text: str) -> str:
    """Marks for plain text; line feeds at the end stay outside, so that a mark never begins a line of its own."""
    bare = text.rstrip("\n")
    return f"[[{bare}]]{text[len(bare) :]}" if bare else text
