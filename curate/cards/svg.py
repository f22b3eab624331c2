"""A small canvas that writes SVG: fixed number formats, so the same figure is the same bytes.

Legible on light and dark pages: a ground of its own, which follows the reader's colour scheme. The series colours are
Okabe and Ito's (2008), told apart by colour-blind readers, slightly deepened for contrast.
"""

from __future__ import annotations

import unicodedata
from typing import Final

from curate.cards.text import shorten, xml

SERIES: Final = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8b7fd6", "#a89b2d")
KEPT: Final = "#0072b2"
LOST: Final = "#e07b39"
GREY: Final = "#8c959f"
WIDTH: Final = 880
_STYLE: Final = (
    "text{font-family:system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;font-size:13px}"
    ".bg{fill:#fff;stroke:#d0d7de}.t{fill:#1f2328}.m{fill:#59636e}.h{fill:#1f2328;font-size:15px;font-weight:600}"
    ".g{stroke:#d8dee4}.k{fill:#eef1f4}.w{fill:#fff}"
    "@media(prefers-color-scheme:dark){.bg{fill:#0d1117;stroke:#3d444d}.t,.h{fill:#f0f6fc}.m{fill:#9aa4af}"
    ".g{stroke:#30363d}.k{fill:#212830}}"
)


def number(value: float) -> str:
    """A coordinate: two decimals at most, no trailing zeros."""
    return f"{value:.2f}".rstrip("0").rstrip(".") or "0"


def fit(text: str, pixels: float, size: float = 13) -> str:
    """Text shortened in its middle so that it takes at most about `pixels`; wide characters count double."""
    width = sum(1.0 if unicodedata.east_asian_width(char) in "WF" else 0.56 for char in text) * size
    return text if width <= pixels else shorten(text, max(4, int(len(text) * pixels / width)))


class Canvas:
    """Shapes in the order they are drawn; `svg` closes the document."""

    def __init__(self, title: str, description: str, height: float) -> None:
        self.height = height
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {number(height)}" width="{WIDTH}" '
            f'height="{number(height)}" role="img" aria-labelledby="t d">',
            f'<title id="t">{xml(title)}</title><desc id="d">{xml(description)}</desc><style>{_STYLE}</style>',
            f'<rect class="bg" x="0.5" y="0.5" width="{WIDTH - 1}" height="{number(height - 1)}" rx="8"/>',
        ]
        self.text(20, 28, title, kind="h")

    def text(self, x: float, y: float, text: str, *, kind: str = "t", anchor: str = "start", size: float = 0) -> None:
        """Write one line; `y` is its base line."""
        style = f' style="font-size:{number(size)}px"' if size else ""
        end = "" if anchor == "start" else f' text-anchor="{anchor}"'
        self.parts.append(f'<text class="{kind}" x="{number(x)}" y="{number(y)}"{end}{style}>{xml(text)}</text>')

    def rect(
        self,
        x: float,
        y: float,
        w: float,
        h: float,
        fill: str = "",
        *,
        tip: str = "",
        opacity: float = 1,
        rx: float = 2,
    ) -> None:
        """Draw a box; without a fill it is the pale track."""
        paint = f'fill="{fill}"' if fill else 'class="k"'
        if opacity < 1:
            paint += f' fill-opacity="{number(opacity)}"'
        box = f'<rect x="{number(x)}" y="{number(y)}" width="{number(max(w, 0))}" height="{number(h)}" rx="{number(rx)}" {paint}'
        self.parts.append(f"{box}><title>{xml(tip)}</title></rect>" if tip else f"{box}/>")

    def rule(self, x1: float, y1: float, x2: float, y2: float) -> None:
        """Draw a grid line."""
        points = f'x1="{number(x1)}" y1="{number(y1)}" x2="{number(x2)}" y2="{number(y2)}"'
        self.parts.append(f'<line class="g" {points}/>')

    def path(self, points: list[tuple[float, float]], colour: str, *, width: float = 2) -> None:
        """Draw a line through points."""
        if points:
            line = "L".join(f"{number(x)} {number(y)}" for x, y in points)
            self.parts.append(f'<path d="M{line}" fill="none" stroke="{colour}" stroke-width="{number(width)}"/>')

    def dot(self, x: float, y: float, colour: str, tip: str) -> None:
        """Draw a marker."""
        shape = f'<circle cx="{number(x)}" cy="{number(y)}" r="4" fill="{colour}">'
        self.parts.append(f"{shape}<title>{xml(tip)}</title></circle>")

    def legend(self, y: float, items: list[tuple[str, str]], x: float = 20) -> None:
        """A row of colour keys, right below the title."""
        room = (WIDTH - 40) / max(len(items), 1) - 24
        for colour, label in items:
            shown = fit(label, max(room, 30), 12)
            self.rect(x, y - 10, 11, 11, colour)
            self.text(x + 16, y, shown, kind="m", size=12)
            x += 16 + 7.2 * len(shown) + 14

    def svg(self) -> str:
        """The document."""
        return "\n".join([*self.parts, "</svg>"]) + "\n"
