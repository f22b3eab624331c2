"""Copies of a text at known distances: words changed, sentences moved, cut, re-cased, re-spaced, said otherwise.

Every edit is a function of the text and a seeded generator; what an edit did to the similarity is measured afterwards.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Final

from curate.selftest.measuring import words

_WORD: Final = re.compile(r"\w+")
_SYLLABLES: Final = [first + second for first in "bdfgklmnprstvz" for second in "aeiou"]
_SENTENCE: Final = re.compile(r"(?<=[.!?。！？])\s*|\n+")
SAID_OTHERWISE: Final = {
    "also": "too", "answer": "reply", "because": "since", "begin": "start", "big": "large", "but": "yet", "buy": "purchase",
    "create": "make", "describe": "depict", "difficult": "hard", "each": "every", "end": "finish", "example": "instance",
    "explain": "clarify", "find": "discover", "following": "next", "get": "obtain", "give": "provide", "good": "fine",
    "great": "excellent", "happy": "glad", "help": "assist", "help you": "assist you", "how": "in what way", "however": "still",
    "idea": "notion", "important": "essential", "list": "enumerate", "make": "build", "many": "numerous", "must": "has to",
    "need": "require", "new": "fresh", "often": "frequently", "people": "persons", "problem": "issue", "quick": "fast",
    "say": "state", "sentence": "phrase", "show": "display", "small": "little", "some": "a few", "story": "tale",
    "then": "after that", "thing": "item", "think": "believe", "time": "moment", "use": "employ", "very": "quite",
    "way": "manner", "when": "at the time that", "word": "term", "work": "labour", "world": "globe", "write": "compose",
}  # fmt: skip
# Abraham Lincoln, Gettysburg, 1863: public domain, and in many corpora.
FAMOUS: Final = (
    "Four score and seven years ago our fathers brought forth on this continent, a new nation, conceived in Liberty, and "
    "dedicated to the proposition that all men are created equal. Now we are engaged in a great civil war, testing whether "
    "that nation, or any nation so conceived and so dedicated, can long endure. We are met on a great battle-field of that "
    "war. We have come to dedicate a portion of that field, as a final resting place for those who here gave their lives "
    "that that nation might live. It is altogether fitting and proper that we should do this."
)


def fresh_word(draw: random.Random) -> str:
    """A word that no text has, of four syllables."""
    return "".join(draw.choices(_SYLLABLES, k=4))


def places(text: str) -> list[tuple[int, int]]:
    """Where words that can be replaced stand, as [from, to) in characters; a run of Han or kana counts by character."""
    out: list[tuple[int, int]] = []
    for match in _WORD.finditer(text):
        start, stop = match.span()
        alone = stop - start > 1 and len(words(match.group())) == stop - start
        out += [(at, at + 1) for at in range(start, stop)] if alone else [(start, stop)]
    return out


def replace(text: str, chosen: Sequence[tuple[int, int]], new: Callable[[], str]) -> str:
    """The text with other words at the chosen places, each set off by spaces where it must be."""
    out, at = [], 0
    for start, stop in sorted(chosen):
        word = new()
        before = " " if start and text[start - 1].isalnum() else ""
        after = " " if stop < len(text) and text[stop].isalnum() else ""
        out += [text[at:start], before, word, after]
        at = stop
    return "".join([*out, text[at:]])


def one_in(number: int) -> Callable[[str, random.Random], str]:
    """An edit that changes every `number`-th word, from a random one on."""

    def edit(text: str, draw: random.Random) -> str:
        found = places(text)
        chosen = found[draw.randrange(number) :: number] if len(found) >= number else []
        return replace(text, chosen, lambda: fresh_word(draw))

    return edit


def re_cased(text: str, draw: random.Random) -> str:
    """Capitals where there were small letters, or the other way round where there were none."""
    return text.upper() if text.upper() != text else text.lower()


def re_spaced(text: str, draw: random.Random) -> str:
    """Other white space: line breaks and double spaces between the same words."""
    return "  ".join(text.split(" ")).replace(".  ", ".\n\n") + "\n"


def reordered(text: str, draw: random.Random) -> str:
    """The sentences in another order."""
    parts = [part for part in _SENTENCE.split(text) if part.strip()]
    order = list(range(len(parts)))
    draw.shuffle(order)
    return " ".join(parts[index] for index in order) if order != sorted(order) else " ".join(reversed(parts))


def truncated(text: str, draw: random.Random) -> str:
    """The first 60 to 95 % of the words."""
    found = places(text)
    keep = int(len(found) * draw.choice((0.6, 0.75, 0.85, 0.95)))
    return text[: found[keep - 1][1]] if keep else text


def said_otherwise(text: str, draw: random.Random) -> str:
    """A paraphrase by table: common words by others, the sentences' halves exchanged at a comma, and a lead-in."""

    def other(match: re.Match[str]) -> str:
        return SAID_OTHERWISE.get(match.group().lower(), match.group())

    parts = [part for part in _SENTENCE.split(_WORD.sub(other, text)) if part.strip()]
    turned = [", ".join(reversed(part.rstrip(".").split(", ", 1))) if ", " in part else part for part in parts]
    return "Put differently: " + ". ".join(turned)


def numbered(text: str, slots: Sequence[tuple[int, int]], draw: random.Random) -> str:
    """The text as a template: the same slots filled with other numbers."""
    return replace(text, slots, lambda: str(draw.randrange(1_000, 1_000_000)))


def quoting(text: str, length: int) -> str:
    """The text with the first `length` words of a famous one after it."""
    return f"{text}\n\n\u201c{' '.join(FAMOUS.split()[:length])}\u201d"
