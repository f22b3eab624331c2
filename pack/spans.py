"""Where a template puts each text, and which characters an assistant turn owns.

The conversation is rendered twice: as it is, and with sentinels for its texts. The second render is a skeleton of
literals and numbered slots. Filled with the texts it must give the first render character by character; then the
place of every text is proved, and a text without a slot is lost. A turn starts where the prompt for it would end
(the skeleton of the messages before it, with the generation header) and ends after its terminator.

Cost: one render a record; the skeleton and its prompts are rendered once a shape of conversation and kept.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from pack.conversation import SENTINEL, Dissection, Slot
from pack.rendering import Template, TemplateFailed

_EMPTY_THOUGHT = re.compile(r"\s*<think>\s*</think>\s*")
_OPEN_THOUGHT = re.compile(r"\s*<think>\s*(</think>\s*)?\Z")


@dataclass(slots=True)
class Turn:
    """An assistant turn: characters [start, end) of the text; `stop` is its terminator, None when EOS must be added."""

    message: int
    start: int
    end: int
    stop: str | None


@dataclass(slots=True)
class Layout:
    """One rendered conversation: its text, where each text of the record lies, its assistant turns.

    `control` counts the template's own control tokens, all inside `literals`. `breaks` are forced token borders;
    `open_end` says that the last turn has no terminator of its own.
    """

    text: str
    turns: list[Turn]
    placed: list[tuple[Slot, int, int]]
    lost: list[Slot]
    method: str
    control: int
    literals: list[tuple[int, int]] = field(default_factory=list)
    breaks: list[int] = field(default_factory=list)
    open_end: bool = False

    def pieces(self) -> list[str]:
        """The texts to tokenise apart: one, but for prompt formats."""
        edges = [0, *self.breaks, len(self.text)]
        return [self.text] if len(edges) == 2 else [self.text[a:b] for a, b in pairwise(edges)]


@dataclass(slots=True)
class Skeleton:
    """literals[0] slot literals[1] slot ... literals[-1]; turns as (literal, offset) positions."""

    literals: list[str]
    slots: list[int]
    turns: list[tuple[int, tuple[int, int], tuple[int, int], str | None]]
    control: int


@dataclass(slots=True)
class Grammar:
    """What is known of a template: its control tokens, its terminators, its generation header."""

    template: Template
    control: re.Pattern[str]
    stops: list[str] = field(default_factory=list)
    header: str = ""


def take_apart(text: str) -> tuple[list[str], list[int]]:
    """Literals and slot numbers of a sentinel render."""
    pieces = SENTINEL.split(text)
    return pieces[0::2], [int(number) for number in pieces[1::2]]


def build_skeleton(grammar: Grammar, parts: Dissection) -> Skeleton:
    """The skeleton of a conversation's shape and the borders of its assistant turns.

    Raises TemplateFailed: whatever the template raises, no-header, no-terminator.
    """
    text, _ = grammar.template.render(parts.bare_chat, parts.bare_tools)
    literals, numbers = take_apart(text)
    skeleton = Skeleton(literals, numbers, [], sum(len(grammar.control.findall(piece)) for piece in literals))
    for index, message in enumerate(parts.bare_chat):
        if message["role"] == "assistant":
            start = _turn_start(grammar, parts, skeleton, index)
            end, stop = _turn_end(grammar, parts, skeleton, index, start)
            skeleton.turns.append((index, start, end, stop))
    return skeleton


def _turn_start(grammar: Grammar, parts: Dissection, skeleton: Skeleton, index: int) -> tuple[int, int]:
    """Where the prompt for this turn ends, found in the full skeleton; an empty think block is skipped.

    The generation header right before the turn's first text says it; where that is not one clear place (no header,
    a turn without texts), the prompt itself is rendered and its tail looked for.
    """
    found = _after_header(grammar, parts, skeleton, index) or _after_prompt(grammar, parts, skeleton, index)
    if found is None:
        raise TemplateFailed("no-header", "the generation header is not where the assistant turn starts")
    literal, offset = found
    empty = _EMPTY_THOUGHT.match(skeleton.literals[literal], offset)
    return (literal, empty.end()) if empty else found


def _after_header(grammar: Grammar, parts: Dissection, skeleton: Skeleton, index: int) -> tuple[int, int] | None:
    """After the header in the literal before the turn's first text, if it stands there exactly once."""
    own = next((k for k, number in enumerate(skeleton.slots) if parts.slots[number].message == index), None)
    if own is None or not grammar.header or skeleton.literals[own].count(grammar.header) != 1:
        return None
    return own, skeleton.literals[own].index(grammar.header) + len(grammar.header)


def _after_prompt(grammar: Grammar, parts: Dissection, skeleton: Skeleton, index: int) -> tuple[int, int] | None:
    if index == 0:
        return None
    try:
        prompt, _ = grammar.template.render(parts.bare_chat[:index], parts.bare_tools, generate=True)
    except TemplateFailed:
        return None
    literals, numbers = take_apart(prompt)
    place = 0
    if numbers:
        times = numbers.count(numbers[-1])
        at = [k for k, number in enumerate(skeleton.slots) if number == numbers[-1]]
        if not at:
            return None
        place = at[min(times, len(at)) - 1] + 1
    for tail in (literals[-1], _OPEN_THOUGHT.sub("", literals[-1]), _OPEN_THOUGHT.sub("\n", literals[-1])):
        if skeleton.literals[place].startswith(tail):
            return place, len(tail)
    return None


def _turn_end(
    grammar: Grammar, parts: Dissection, skeleton: Skeleton, index: int, start: tuple[int, int]
) -> tuple[tuple[int, int], str | None]:
    """After the first terminator that follows the turn's last text; (end of text, None) where the template has none."""
    own = [k for k, n in enumerate(skeleton.slots) if parts.slots[n].message == index and k >= start[0]]
    literal = own[-1] + 1 if own else start[0]
    offset = 0 if own else start[1]
    stop = find_stop(grammar, skeleton.literals[literal], offset)
    if stop is not None:
        return (literal, stop[1]), skeleton.literals[literal][stop[0] : stop[1]]
    last = literal == len(skeleton.literals) - 1
    if not last or any(message["role"] == "assistant" for message in parts.bare_chat[index + 1 :]):
        raise TemplateFailed("no-terminator", "nothing marks the end of an assistant turn")
    return (literal, len(skeleton.literals[literal])), None


def find_stop(grammar: Grammar, text: str, offset: int = 0) -> tuple[int, int] | None:
    """The first terminator at or after `offset`: a known one, else any control token."""
    known = [(at, at + len(stop)) for stop in grammar.stops if (at := text.find(stop, offset)) >= 0]
    if known:
        return min(known)
    match = grammar.control.search(text, offset)
    return match.span() if match else None


def lay_out(grammar: Grammar, parts: Dissection, skeleton: Skeleton, text: str) -> Layout | None:
    """The skeleton filled with the record's texts, None unless that is the rendered text exactly."""
    at = _align(skeleton.literals, skeleton.slots, parts.slots, text)
    if at is None:
        return None
    bases = [0, *(end for _, end in at)]

    def real(place: tuple[int, int]) -> int:
        return bases[place[0]] + place[1]

    turns = [Turn(index, real(start), real(end), stop) for index, start, end, stop in skeleton.turns]
    placed = [(parts.slots[number], *span) for number, span in zip(skeleton.slots, at, strict=True)]
    seen = set(skeleton.slots)
    lost = [slot for number, slot in enumerate(parts.slots) if number not in seen]
    literals = [(base, base + len(piece)) for base, piece in zip(bases, skeleton.literals, strict=True)]
    left_open = any(turn.stop is None for turn in turns)
    return Layout(text, turns, placed, lost, "sentinel", skeleton.control, literals, [], left_open)


def place_literals(
    literals: list[str], numbers: list[int], slots: list[Slot], text: str
) -> list[tuple[int, int]] | None:
    """Character spans of the literals in `text`, None unless literals and texts together give it."""
    at = _align(literals, numbers, slots, text)
    return None if at is None else _gaps(at, len(text))


def _align(literals: list[str], numbers: list[int], slots: list[Slot], text: str) -> list[tuple[int, int]] | None:
    """Character spans of the slots in `text`, None if no known rewriting of the texts gives it."""
    pos, spans = len(literals[0]), []
    if not text.startswith(literals[0]):
        return None
    for number, literal in zip(numbers, literals[1:], strict=True):
        source = slots[number].text
        for rewrite in _REWRITES:
            form = rewrite(source)
            end = pos + len(form)
            if text.startswith(form, pos) and text.startswith(literal, end):
                break
        else:
            return None
        spans.append((pos, end))
        pos = end + len(literal)
    return spans if pos == len(text) else None


_REWRITES: tuple[Callable[[str], str], ...] = (
    lambda text: text,
    lambda text: text.strip(),
    lambda text: text.lstrip("\n"),
    lambda text: text.strip("\n"),
    lambda text: text.rstrip(),
    lambda text: text.lstrip(),
    lambda text: text.rstrip("\n"),
    lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    lambda text: json.dumps(text)[1:-1],
)


def by_prefixes(grammar: Grammar, parts: Dissection, text: str) -> Layout:
    """The layout from renders of the conversation's prefixes, for texts that make the template behave otherwise.

    Every prefix must be a prefix of the whole. Raises TemplateFailed("span-mismatch") where one is not.
    """
    turns, placed, lost, seen = [], [], [], 0
    for index, message in enumerate(parts.chat):
        own = [slot for slot in parts.slots if slot.message == index]
        if message["role"] == "assistant":
            prompt, _ = grammar.template.render(parts.chat[:index], parts.tools, generate=True)
            if not text.startswith(prompt):
                raise TemplateFailed("span-mismatch", "the prompt of a turn is no prefix of the conversation")
            empty = _EMPTY_THOUGHT.match(text, len(prompt))
            seen = start = empty.end() if empty else len(prompt)
        for slot in own:
            needle = slot.text.strip()
            at = text.find(needle, seen)
            if at < 0:
                lost.append(slot)
                continue
            placed.append((slot, at, at + len(needle)))
            seen = at + len(needle)
        if message["role"] == "assistant":
            stop = find_stop(grammar, text, seen)
            if stop is None and (index < len(parts.chat) - 1 or text[seen:].strip()):
                raise TemplateFailed("no-terminator", "nothing marks the end of an assistant turn")
            end = stop[1] if stop else len(text)
            turns.append(Turn(index, start, end, text[stop[0] : end] if stop else None))
            seen = end
    lost += [slot for slot in parts.slots if slot.message < 0 and slot.text not in text]
    spans = [(start, end) for _, start, end in placed]
    inside = [m for m in grammar.control.finditer(text) if _covered(m.span(), spans)]
    control = len(grammar.control.findall(text)) - len(inside)
    left_open = any(turn.stop is None for turn in turns)
    return Layout(text, turns, placed, lost, "prefix", control, _gaps(spans, len(text)), [], left_open)


def _covered(span: tuple[int, int], spans: list[tuple[int, int]]) -> bool:
    at = bisect_right(spans, (span[0], 1 << 60)) - 1
    return at >= 0 and span[0] < spans[at][1]


def _gaps(spans: list[tuple[int, int]], length: int) -> list[tuple[int, int]]:
    ends = [0, *(end for _, end in spans)]
    return list(zip(ends, [*(start for start, _ in spans), length], strict=True))
