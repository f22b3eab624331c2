"""What a card says, before anyone decides how it looks: README, terminal and card.json are views of one `Card`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True, frozen=True)
class Figure:
    """An SVG figure: file stem, alt text, the drawing, and bars (label, value) for a terminal."""

    name: str
    alt: str
    svg: str
    bars: Sequence[tuple[str, float]] = ()


@dataclass(slots=True, frozen=True)
class Table:
    """Rows under headers; numbers are set right. Cells that are `Markdown` are ours, everything else is escaped."""

    headers: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(slots=True, frozen=True)
class Fence:
    """A code block; the text may come from data."""

    text: str
    language: str = "text"


@dataclass(slots=True, frozen=True)
class Example:
    """One redacted sample, folded away under a one-line caption."""

    caption: Sequence[Any]
    text: str


@dataclass(slots=True, frozen=True)
class Section:
    """A heading and its blocks: str or Markdown (a paragraph), Table, Figure, Fence, Example."""

    title: str
    blocks: Sequence[Any]


@dataclass(slots=True)
class Card:
    """One card: title, headline, status lines, facts, sections, and the machine-readable part."""

    kind: str
    title: str
    headline: str
    status: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    facts: list[tuple[str, Any]] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    front: dict[str, Any] = field(default_factory=dict)
    numbers: dict[str, Any] = field(default_factory=dict)

    def figures(self) -> list[Figure]:
        """Every figure, in the order of the card."""
        return [block for section in self.sections for block in section.blocks if isinstance(block, Figure)]
