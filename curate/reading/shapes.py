"""What a set of keys means when rows are simple: which columns are said, which are kept beside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from curate.formats import LISTS
from curate.formats.pairs import PAIRS

_LIST_SET: Final = frozenset(LISTS)


@dataclass(frozen=True, slots=True)
class Shape:
    """How a set of keys is read: `kind` is "messages", "sharegpt", "alpaca" or a pair; `columns` are the keys used."""

    kind: str
    columns: tuple[str, ...]
    rest: tuple[str, ...]
    blank: tuple[str, ...]


def shape_of(keys: tuple[str, ...]) -> Shape | None:
    """The simple shape of rows with these keys, or None when `curate.formats` must look at each row."""
    held = set(keys)
    if "chosen" in held or "instances" in held or "history" in held or "context" in held:
        return None
    pairs = [name for name, columns in PAIRS.items() if held.issuperset(columns)]
    lists = held & _LIST_SET
    answers = held & {"output", "response"}
    alpaca = "instruction" in held and bool(answers)
    if len(pairs) + len(lists) + alpaca != 1 or (lists and "system" in held):
        return None
    blank: tuple[str, ...] = ()
    columns: tuple[str, ...]
    if lists:
        kind, columns = "list", (next(iter(lists)),)
        blank = tuple(held & {"tools"})
    elif alpaca:
        if len(answers) != 1:
            return None
        kind, columns = "alpaca", ("instruction", next(iter(answers)), *(held & {"input"}))
        blank = tuple(held & {"system"})
    else:
        kind, columns = pairs[0], PAIRS[pairs[0]]
        blank = tuple(held & {"system"})
    return Shape(kind, columns, tuple(sorted(held.difference(columns, blank))), blank)
