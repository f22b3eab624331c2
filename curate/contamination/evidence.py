"""What a record and an item share, as character spans in both, and the evidence of a verdict as canonical JSON.

Cost: one pair of texts at a time, in Python: about 0.2 ms for 100 words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from curate.contamination.sketching import located
from curate.evidence import longest_runs
from curate.foundation.store import canonical

MOST: Final = 16  # runs shown
RUN: Final = 4  # words of a run that is shown for a match by n-grams
Span = tuple[int, int]


def shared(text: str, item: str, start: int, stop: int, ngram: int) -> list[tuple[Span, Span]]:
    """The longest runs of `ngram` words or more that an item shares with words [start, stop) of a text.

    In characters of both, in the order of the text; `start` -1 stands for the whole text.
    """
    here, where = located(text)
    if start >= 0:
        here, where = here[start:stop], where[start:stop]
    there, whereto = located(item)
    numbers: dict[str, int] = {}
    left, right = (
        np.array([numbers.setdefault(word, len(numbers)) for word in found], np.uint64) for found in (here, there)
    )
    runs = np.empty((MOST, 3), np.int64)
    count = longest_runs(left, len(left), right, len(right), ngram, runs)
    found = [
        ((where[a][0], where[a + n - 1][1]), (whereto[b][0], whereto[b + n - 1][1]))
        for a, b, n in runs[:count].tolist()
    ]
    return sorted(found)


def spans_of(rule: str, text: str, item: str, start: int, stop: int) -> list[tuple[Span, Span]]:
    """The shared spans that show why a rule matched."""
    if rule in ("bigram", "answer"):
        return shared(text, item, start, stop, 2)
    return shared(text, item, -1, -1, RUN) or shared(text, item, -1, -1, 2)


def evidence(match: Mapping[str, Any], spans: list[tuple[Span, Span]], offset: int, scope: str, others: int) -> str:
    """Canonical JSON: `here` counts characters of the record's turns in scope joined, `item` those of `item_text`.

    The content of message `message` begins at `offset` of these.
    `match` has eval, item, question, rule and message; `others` items are matched too. The answer is not in it.
    """
    return canonical(
        {
            "eval": match["eval"],
            "item": match["item"],
            "item_text": match["question"],
            "rule": match["rule"],
            "scope": scope,
            "message": match["message"],
            "offset": offset,
            "others": others,
            "spans": [{"here": [offset + a, offset + b], "item": [c, d]} for (a, b), (c, d) in spans],
        }
    )
