"""The text that a verdict's spans count characters of, message by message, as the stages compose it.

Cost: one record at a time, in Python; the stages build the same texts for whole batches (`stages/minhash.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class KeyText:
    """A text and where in it (offset, role) each of its messages begins."""

    text: str
    labels: tuple[tuple[int, str], ...]


def compose(messages: Sequence[Message], chosen: Sequence[int] | None = None) -> KeyText:
    """The chosen messages (all, when None) joined by line feeds: reasoning, content and tool calls of each."""
    parts, labels, at = [], [], 0
    for index in range(len(messages)) if chosen is None else chosen:
        said = [messages[index].get(name) for name in ("reasoning", "content", "tool_calls")]
        parts.append("\n".join(text for text in said if text is not None))
        labels.append((at, str(messages[index]["role"])))
        at += len(parts[-1]) + 1
    return KeyText("\n".join(parts), tuple(labels))


def of_key(messages: Sequence[Message], key: str) -> KeyText:
    """The key text of a record for near-duplicates; system messages are in none (see `stages/minhash.py`)."""
    roles = [message["role"] for message in messages]
    answers = [index for index, role in enumerate(roles) if role == "assistant"]
    if key == "first-user":
        chosen = [index for index, role in enumerate(roles) if role == "user"][:1]
    elif key == "response":
        chosen = answers[-1:]
    else:
        end = answers[-1] if key == "prompt" and answers else len(roles)
        chosen = [index for index, role in enumerate(roles[:end]) if role != "system"]
    return compose(messages, chosen)


def of_exact_key(messages: Sequence[Message], key: str) -> KeyText:
    """The same for exact duplicates, where system messages count."""
    roles = [message["role"] for message in messages]
    if key in ("first-user", "response"):
        return of_key(messages, key)
    answers = [index for index, role in enumerate(roles) if role == "assistant"]
    return compose(messages, range(answers[-1] if key == "prompt" and answers else len(roles)))
