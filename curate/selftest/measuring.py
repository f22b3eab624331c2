"""What two records share, and what each stage promises of them: plain Python over sets of words, on purpose.

Written from the documented rules alone (words: NFKC, lower case, runs of word characters, each Han or kana character
by itself; shingles: n words in a row, a shorter text one shingle of its own length). Cost: some 5 MB/s of text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from curate.record import Message, Record

ALONE: Final = ("CJK UNIFIED", "CJK COMPATIBILITY IDEOGRAPH", "HIRAGANA", "KATAKANA", "IDEOGRAPHIC", "HENTAIGANA")


def words(text: str) -> list[str]:
    """The words of a text."""
    out: list[str] = []
    for run in re.findall(r"\w+", unicodedata.normalize("NFKC", text).lower()):
        if run.isascii():
            out.append(run)
            continue
        piece = ""
        for char in run:
            if unicodedata.name(char, "").startswith(ALONE):
                out += [piece, char]
                piece = ""
            else:
                piece += char
        out.append(piece)
    return [word for word in out if word]


def shingles(text: str, ngram: int) -> set[tuple[str, ...]]:
    """The word n-grams of a text; none when it has no words."""
    found = words(text)
    size = min(ngram, len(found))
    return {tuple(found[at : at + size]) for at in range(len(found) - size + 1)} if found else set()


def jaccard(one: set[Any], two: set[Any]) -> float:
    """Shared over all; 0 when both are empty."""
    return len(one & two) / len(one | two) if one or two else 0.0


def keyed(messages: Sequence[Message], key: str, *, system: bool) -> list[Message]:
    """The messages that a key compares; `system` says whether system messages belong to it."""
    wanted = [message for message in messages if system or message.role != "system"]
    if key == "first-user":
        return [message for message in messages if message.role == "user"][:1]
    answers = [at for at, message in enumerate(wanted) if message.role == "assistant"]
    if key == "response":
        return [wanted[answers[-1]]] if answers else []
    return wanted[: answers[-1]] if key == "prompt" and answers else wanted


def spoken(messages: Sequence[Message]) -> str:
    """Reasoning, content and tool calls of messages, joined by line feeds."""
    parts = [part for m in messages for part in (m.reasoning, m.content, m.tool_calls) if part is not None]
    return "\n".join(parts)


class Promise(Protocol):
    """What a stage says of two records."""

    @property
    def stage(self) -> str:
        """Its name."""
        ...

    def holds(self, one: Record, two: Record) -> bool | None:
        """Whether one of them must go; None where only the stage itself can say."""
        ...


@dataclass(frozen=True, slots=True)
class Equal:
    """Stage `exact`: the key texts are equal in NFC with white space collapsed."""

    key: str
    stage: str = "exact"

    def holds(self, one: Record, two: Record) -> bool | None:
        """Equal, and not empty."""
        left, right = self._normal(one), self._normal(two)
        return left == right and any("".join(part[1:]) for part in left)

    def _normal(self, record: Record) -> list[tuple[str, ...]]:
        messages = keyed(record.messages, self.key, system=True)
        whole = self.key != "first-user"
        fields = [(m.role, m.content, *((m.tool_calls, m.reasoning, m.name) if whole else ())) for m in messages]
        tools = [("tools", record.tools)] if self.key in ("conversation", "prompt") else []
        return [
            tuple(" ".join(unicodedata.normalize("NFC", part or "").split()) for part in row)
            for row in (*fields, *tools)
        ]


@dataclass(frozen=True, slots=True)
class Alike:
    """Stage `minhash`: the exact Jaccard of the key texts' shingle sets reaches the threshold."""

    key: str
    threshold: float
    ngram: int
    stage: str = "minhash"

    def similarity(self, one: Record, two: Record) -> float:
        """Exact Jaccard of the two key texts."""
        return jaccard(*(shingles(self.text(record), self.ngram) for record in (one, two)))

    def text(self, record: Record) -> str:
        """The key text of a record."""
        return spoken(keyed(record.messages, self.key, system=False))

    def holds(self, one: Record, two: Record) -> bool | None:
        """At or above the threshold."""
        return self.similarity(one, two) >= self.threshold


@dataclass(frozen=True, slots=True)
class Meaning:
    """Stage `embedding`: cosine of a model, which no other code can foretell, save that equal texts have cosine 1."""

    key: str
    stage: str = "embedding"

    def holds(self, one: Record, two: Record) -> bool | None:
        """Equal key texts must part; of others only the model can say, and what it removes is counted apart."""
        left, right = (spoken(keyed(record.messages, self.key, system=False)) for record in (one, two))
        return True if left == right and left.strip() else None


def promises(config: Mapping[str, Any]) -> list[Promise]:
    """The promises of the configured stages that remove duplicates, in stage order."""
    made: list[Promise] = []
    for stage in config["stages"]:
        settings = config.get(stage) or {}
        if stage == "exact":
            made.append(Equal(settings["key"]))
        elif stage == "minhash":
            made.append(Alike(settings["key"], settings["threshold"], settings["ngram"]))
        elif stage == "embedding":
            made.append(Meaning(settings["key"]))
    return made
