"""A heatmap of counts, bounded: the largest rows and columns by name, everything else summed into one of each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Final

from curate.cards.model import Figure
from curate.cards.svg import KEPT, WIDTH, Canvas, fit
from curate.cards.text import compact

TOP: Final = 12
_LEFT: Final = 190
_OTHER: Final = "\0other"


def heatmap(
    name: str, title: str, cells: Mapping[tuple[str, str], int], *, rows: str, columns: str, rest: int = 0
) -> Figure:
    """Counts by (row, column), darker for more on a logarithmic scale; `rest` counts what `cells` leaves out."""
    down, across = _largest(cells, 0), _largest(cells, 1)
    folded: Counter[tuple[str, str]] = Counter()
    for (row, column), count in cells.items():
        folded[row if row in down else _OTHER, column if column in across else _OTHER] += count
    if rest:
        folded[_OTHER, _OTHER] += rest
    down += [_OTHER] if any(row == _OTHER for row, _ in folded) else []
    across += [_OTHER] if any(column == _OTHER for _, column in folded) else []
    ranked = sorted(folded.items(), key=lambda item: (-item[1], item[0]))
    told = "; ".join(f"{_say(row)} to {_say(column)} {count:,}" for (row, column), count in ranked[:6])
    alt = f"{title}: {rows} (rows) by {columns} (columns). {told}."
    most = max(folded.values(), default=0) or 1
    slot, high = min(92.0, (WIDTH - _LEFT - 24) / max(len(across), 1)), 26
    narrow = any(fit(_say(column), slot - 6, 11) != _say(column) for column in across)  # then names take two lines
    top = 108 if narrow else 92
    canvas = Canvas(title, alt, top + high * len(down) + 22)
    canvas.text(_LEFT - 12, top - 10, rows, kind="m", anchor="end", size=11)
    canvas.text(_LEFT, 58, columns, kind="m", size=11)
    for index, column in enumerate(across):
        y, room = (top - 10 - 16 * (index % 2), 2 * slot - 12) if narrow else (top - 10, slot - 6)
        canvas.text(_LEFT + slot * (index + 0.5), y, fit(_say(column), room, 11), anchor="middle", size=11)
    for line, row in enumerate(down):
        y = top + high * line
        canvas.text(_LEFT - 12, y + 17, fit(_say(row), _LEFT - 32), anchor="end")
        for index, column in enumerate(across):
            x, count = _LEFT + slot * index, folded[row, column]
            canvas.rect(x + 1, y + 1, slot - 2, high - 2)
            if count:
                shade = 0.18 + 0.82 * (math.log1p(count) / math.log1p(most))
                tip = f"{rows} {_say(row)}, {columns} {_say(column)}: {count:,}"
                canvas.rect(x + 1, y + 1, slot - 2, high - 2, KEPT, opacity=shade, tip=tip)
                kind = "w" if shade > 0.55 else "t"
                canvas.text(x + slot / 2, y + 17, compact(count), kind=kind, anchor="middle", size=11)
    return Figure(name, alt, canvas.svg())


def _say(name: str) -> str:
    return "all others" if name == _OTHER else name


def _largest(cells: Mapping[tuple[str, str], int], axis: int) -> list[str]:
    """The TOP names of one axis, by count and then by name."""
    total: Counter[str] = Counter()
    for key, count in cells.items():
        total[key[axis]] += count
    return [name for name, _ in sorted(total.items(), key=lambda item: (-item[1], item[0]))[:TOP]]
