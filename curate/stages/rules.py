"""The exact quality rules: text in, findings out. Slow and plain; `quality` calls them on candidates only.

A finding is a value in the rule's own unit and up to five spans, [start, stop) in characters.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from typing import Any, Final, NamedTuple

SPANS: Final = 5
CONTROL: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
ELLIPSIS: Final = re.compile(r"\.\.\.|\u2026")
FENCE: Final = re.compile(r"^[ \t]*(`{3,})([^`\n]*)$", re.MULTILINE)
PARAGRAPH: Final = re.compile(r"[^\r\n]+")

# Phrases at the head of an answer that declines, and phrases in which a model speaks of itself or of its training.
HEAD: Final = 200
REFUSAL: Final = (
    r"(?i)\b(?:i(?:['’]m| am) (?:very |really |so )?sorry,? (?:but )?(?:i|as an ai)|i apologi[sz]e,? but i"
    r"|i(?:['’]m| am) (?:unable|not able) to|i (?:cannot|can['’]t|can not|won['’]t) "
    r"(?:help|assist|provide|answer|comply|fulfil|do that|create|generate|discuss|support|engage)|as an ai\b[^.]{0,60}"
    r"\b(?:cannot|can['’]t|unable|don['’]t|do not))"
)
IDENTITY: Final = (
    r"\b(?:[Aa]s an AI\b|I(?:['’]m| am) (?:just )?an? (?:AI|artificial intelligence|(?:large )?language model)\b"
    r"|[Aa]s a (?:large )?language model|(?:trained|developed|created|made) by (?:OpenAI|Anthropic)"
    r"|I(?:['’]m| am) (?:ChatGPT|GPT-\d|Claude|Open Assistant))"
)
IDENTITY_WORDS: Final = "AI|artificial intelligence|language model|Anthropic|ChatGPT|GPT-|Claude|Open Assistant"
CUTOFF: Final = (
    r"\b(?:[Kk]nowledge cut-?off|[Tt]raining cut-?off|[Mm]y (?:last|latest) (?:knowledge |training )?update\b"
    r"|[Mm]y knowledge (?:only )?(?:goes|extends|is limited)|[Mm]y training data (?:only )?(?:goes|ends|extends))"
)
CUTOFF_WORDS: Final = "cutoff|cut-off|y last |y latest |y knowledge |y training "


class Finding(NamedTuple):
    """What a rule measured in one text, and where."""

    value: float
    spans: list[tuple[int, int]]


def matches(pattern: re.Pattern[str], text: str) -> Finding | None:
    """Every match of a pattern."""
    spans = [match.span() for match in pattern.finditer(text)]
    return Finding(len(spans), spans[:SPANS]) if spans else None


def damaged(text: str) -> Finding | None:
    """Runs of UTF-8 that was read as Latin-1 or Windows-1252."""
    from curate.stages.damage import mojibake

    spans = mojibake(text)
    return Finding(len(spans), spans[:SPANS]) if spans else None


def unfinished(text: str, where: str, under: int) -> Finding | None:
    """An answer under `under` characters that contains, or ends with, an ellipsis."""
    if len(text) >= under:
        return None
    found = [match.span() for match in ELLIPSIS.finditer(text) if not _sound(text, *match.span())]
    if where == "ends":
        found = [span for span in found if span[1] == len(text.rstrip())]
    return Finding(len(text), found[:SPANS]) if found else None


def _sound(text: str, start: int, stop: int) -> bool:
    """Whether an ellipsis is code or mathematics: `f(...args)`, `1...7`, `1 + 2 + ... + n`, `2, 4, ..., 10`."""
    if text[start - 1 : start].isdigit() and text[stop : stop + 1].isdigit():
        return True
    before, after = text[:start].rstrip()[-1:], text[stop:].lstrip()[:1]
    if before and before in "([{,=" and stop < len(text) and (text[stop].isalnum() or text[stop] in "_[{)]"):
        return True
    return bool(before and after) and before in ",+-*/<=" and after in ",+-*/<="


def open_fence(text: str) -> Finding | None:
    """A code fence that is never closed, by CommonMark's reading and by parity both."""
    marks = list(FENCE.finditer(text))
    opened: re.Match[str] | None = None
    for mark in marks:
        if opened is None:
            opened = mark
        elif len(mark[1]) >= len(opened[1]) and not mark[2].strip():
            opened = None
    return Finding(len(marks), [opened.span(1)]) if opened is not None and len(marks) % 2 else None


def repeated(text: str, times: int, min_chars: int) -> Finding | None:
    """The paragraph (a line of words) repeated most, outside code fences, where it makes up half of the text.

    Songs, tables and code repeat lines too, but not as most of what they say, or not in words.
    """
    seen: dict[str, list[tuple[int, int]]] = defaultdict(list)
    fenced = False
    for match in PARAGRAPH.finditer(text):
        body = match.group().strip()
        if body.startswith("```"):
            fenced = not fenced
        elif not fenced and len(body) >= min_chars and _worded(body):
            seen[body].append(match.span())
    spans = max(seen.values(), key=len, default=[])
    share = sum(stop - start for start, stop in spans) / max(1, len(text))
    return Finding(len(spans), spans[:SPANS]) if len(spans) >= times and share >= 0.5 else None


def _worded(body: str) -> bool:
    """Whether a line is words, not code or a table: letters and spaces make up 85 % of it."""
    return 100 * sum(char.isalpha() or char.isspace() for char in body) >= 85 * len(body)


def broken_calls(calls: str) -> Finding | None:
    """Tool calls whose argument text is not JSON; no arguments at all are fine."""
    try:
        items: Any = json.loads(calls)
    except ValueError:
        return Finding(1, [])
    bad = 0
    for item in items if isinstance(items, list) else [items]:
        inner = item.get("function", item) if isinstance(item, dict) else item
        arguments = inner.get("arguments") if isinstance(inner, dict) else inner
        if isinstance(arguments, str) and arguments.strip():
            try:
                json.loads(arguments)
            except ValueError:
                bad += 1
    return Finding(bad, []) if bad else None


REPLACEMENT: Final = re.compile("\ufffd")
REFUSAL_RE: Final = re.compile(REFUSAL)
IDENTITY_RE: Final = re.compile(IDENTITY)
CUTOFF_RE: Final = re.compile(CUTOFF)


def head(pattern: re.Pattern[str], text: str) -> Finding | None:
    """Matches of a pattern within the first `HEAD` characters."""
    return matches(pattern, text[:HEAD])
