"""The card in a terminal: the same `Card`, drawn with rich; markup in data is never interpreted."""

from __future__ import annotations

import io
import os
import shutil
import sys

from curate.cards.model import Card, Fence, Figure, Table
from curate.cards.text import line, plain, show


def draw(card: Card, *, colour: bool | None = None, width: int | None = None) -> str:
    """The card as text of at most `width` columns, ending in a line break."""
    from rich import box
    from rich.console import Console, Group
    from rich.panel import Panel
    from rich.text import Text

    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR") if colour is None else colour
    columns = width or min(shutil.get_terminal_size((100, 24)).columns, 120)
    sink = io.StringIO()
    console = Console(
        file=sink, width=columns, force_terminal=coloured, no_color=not coloured, markup=False, highlight=False, emoji=False,
        color_system="standard" if coloured else None,
    )  # fmt: skip
    head = [Text(line(card.headline), style="bold")]
    head += [Text(line(text), style="yellow" if "OFF" in text else "green") for text in card.status]
    todos = card.numbers.get("todos") or []
    head += [Text(f"{len(todos)} open TODOs in card.yaml: {', '.join(todos)}", style="yellow")] if todos else []
    head += [Text(f"! {line(text)}", style="bold red") for text in card.warnings]
    console.print(Panel(Group(*head), title=Text(line(card.title)), box=box.ROUNDED, title_align="left"))
    for label, value in card.facts:
        console.print(Text(f"  {label:<20} {plain(value) if isinstance(value, str) else show(value):>18}"))
    for section in card.sections:
        console.print(Text(f"\n{section.title}", style="bold cyan"))
        for block in section.blocks:
            if isinstance(block, Table):
                console.print(_table(block))
            elif isinstance(block, Figure) and block.bars:
                for text in _bars(block, columns):
                    console.print(Text(text))
            elif isinstance(block, Fence):
                console.print(
                    Text(f"  {block.text}".replace("\n", "\n  "), style="dim" if block.language != "text" else "")
                )
            elif isinstance(block, str):
                console.print(Text(plain(block)))
    return "\n".join(row.rstrip() for row in sink.getvalue().split("\n"))


def _bars(figure: Figure, columns: int) -> list[str]:
    most = max((value for _, value in figure.bars), default=0) or 1
    room = max(10, columns - 44)
    return [
        f"  {line(label):>22.22} {'█' * round(room * value / most):<{room}} {value:>14,.0f}"
        for label, value in figure.bars
    ]


def _table(table: Table) -> object:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(box=box.SIMPLE_HEAD)
    for i, name in enumerate(table.headers):
        numeric = bool(table.rows) and all(isinstance(row[i], (int, float)) for row in table.rows)
        drawn.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(plain(cell)) for cell in row))
    return drawn
