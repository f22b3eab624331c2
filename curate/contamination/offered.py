"""Whether the choices of a multiple-choice item follow its question: all of them, in any order, however labelled.

Before the first choice words such as "answer choices" may stand, before each one a label (a letter, a digit, "option b")
or "or". A choice without a word (`+`) cannot be told and is passed over.

Cost: a search over which choice comes next, of at most BUDGET steps; real items take one step a choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from curate.contamination.tokens import token_hash

LEAD: Final = 8  # words before the first choice
LABEL: Final = 2  # words before each of the others
MOST: Final = 26  # choices of an item that is looked at; an item with more holds references, not choices
BUDGET: Final = 2_000
LABELS: Final = (*"abcdefghijklmnopqrstuvwxyz0123456789", "option", "choice", "or", "and")
LEADS: Final = (
    *("the", "following", "possible", "answer", "answers", "choices", "options", "are"),
    *("choose", "pick", "select", "from", "one", "of", "among", "between"),
)
_LABELS: Final = frozenset(map(token_hash, LABELS))
_LEADS: Final = _LABELS.union(map(token_hash, LEADS))


def reach(choices: Sequence[Sequence[int]]) -> int:
    """Words after a question that have to be looked at."""
    return LEAD + LABEL * len(choices) + sum(map(len, choices))


def offered(after: Sequence[int], choices: Sequence[Sequence[int]]) -> bool:
    """Whether word hashes begin with all `choices` (word hashes too, none empty)."""
    kinds = sorted({tuple(choice) for choice in choices}, key=lambda choice: (-len(choice), choice))
    counts = tuple(sum(tuple(choice) == kind for choice in choices) for kind in kinds)
    todo, seen = [(0, counts, 0)], set[tuple[int, tuple[int, ...], int]]()
    while todo and len(seen) < BUDGET:
        state = todo.pop()
        if state in seen:
            continue
        seen.add(state)
        at, left, skipped = state
        if not any(left):
            return True
        first = left == counts
        if at < len(after) and skipped < (LEAD if first else LABEL) and after[at] in (_LEADS if first else _LABELS):
            todo.append((at + 1, left, skipped + 1))
        for number, kind in enumerate(kinds):
            if left[number] and tuple(after[at : at + len(kind)]) == kind:
                todo.append((at + len(kind), (*left[:number], left[number] - 1, *left[number + 1 :]), 0))
    return False
