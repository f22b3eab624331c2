"""Forms: what every conversation of one shape looks like when a template has printed it, proved once for the shape.

A prototype of the shape goes through the whole slow path of `template` (render, layout, spans, proof). If `tracing`
shows that the template only puts texts in places, and gives the same literals, then filling the literals with other
texts is what rendering them would print, and the spans move with the texts. What a shape is: roles, which messages
have reasoning, which may be trained. Conversations with tools, names or blank texts have no form.

Cost: two to four renders and a trace a shape, about a millisecond.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from curate.record import ROLES, Message
from pack.conversation import dissect
from pack.grammar import NEVER
from pack.rendering import TemplateFailed, watch
from pack.tracing import Hole, Question, Strip, Trace, Unprovable, trace

if TYPE_CHECKING:
    from pack.spans import Layout
    from pack.template import Renderer

CONTENT: Final = 0
REASONING: Final = 1
TRAIN_BIT: Final = 4
REASONING_BIT: Final = 8


@dataclass(frozen=True, slots=True)
class Slot:
    """A text of the conversation: message index, CONTENT or REASONING, and the strips the template applies."""

    message: int
    source: int
    strips: tuple[Strip, ...]


@dataclass(frozen=True, slots=True)
class Form:
    """literals[0] slot literals[1] ..., as UTF-8; places are (literal, byte offset).

    `spans` are the trained ones with the id each must end with (-1: none); `breaks` cut the text into pieces that
    are tokenised apart; `control` counts the template's own control tokens, which `cuts` names with their ids, the
    breaks (-1) among them.
    """

    literals: tuple[bytes, ...]
    slots: tuple[Slot, ...]
    questions: tuple[tuple[int, int, str, str], ...]
    spans: tuple[tuple[tuple[int, int], tuple[int, int], int], ...]
    breaks: tuple[tuple[int, int], ...]
    cuts: tuple[tuple[tuple[int, int], tuple[int, int], int], ...]
    control: int
    lost: tuple[str, ...]
    method: str
    open_end: bool


def shape_of(code: int) -> tuple[str, bool, bool]:
    """Role, train and reasoning of one message's code."""
    return ROLES[code & 3], bool(code & TRAIN_BIT), bool(code & REASONING_BIT)


def build_form(renderer: Renderer, codes: bytes) -> Form | None:
    """The form of a shape given as one code a message; None where the slow path must look at every record."""
    messages = []
    for index, code in enumerate(codes):
        role, train, thinks = shape_of(code)
        reasoning = f"Wq{index:05d}r" if thinks else None
        messages.append(Message(role, f"Wq{index:05d}c", reasoning=reasoning, train=train))
    try:
        with watch():
            plans = renderer.plan(messages)
            traced = None if renderer.plain else _traced(renderer, messages)
    except (TemplateFailed, Unprovable):
        return None
    if len(plans) != 1 or plans[0].layout.method not in ("sentinel", "tags", "format"):
        return None
    layout = plans[0].layout
    placed = [(slot.message, REASONING if slot.kind == "reasoning" else CONTENT) for slot, _, _ in layout.placed]
    edges = _literals(layout)
    literals = [layout.text[a:b] for a, b in edges]
    strips: list[tuple[Strip, ...]] = [() for _ in placed]
    questions: frozenset[Question] = frozenset()
    if traced is not None:
        questions, strips = traced.questions, [strip for _, strip in traced.slots]
        if traced.literals != literals or [divmod(slot, 2) for slot, _ in traced.slots] != placed:
            return None
    spans = []
    for start, end, stop in plans[0].spans:
        found = _place(edges, literals, start), _place(edges, literals, end)
        if found[0] is None or found[1] is None:
            return None
        spans.append((found[0], found[1], renderer.encoder.control.get(stop or "", -1)))
    breaks = [place for at in layout.breaks if (place := _place(edges, literals, at)) is not None]
    return Form(
        literals=tuple(literal.encode() for literal in literals),
        slots=tuple(Slot(*where, strip) for where, strip in zip(placed, strips, strict=True)),
        questions=tuple(sorted((*divmod(q.slot, 2), q.kind, q.what) for q in questions)),
        spans=tuple(spans),
        breaks=tuple(breaks),
        cuts=_cuts(renderer, literals, breaks),
        control=layout.control,
        lost=plans[0].lost,
        method=layout.method,
        open_end=layout.open_end,
    )


def _traced(renderer: Renderer, messages: list[Message]) -> Trace:
    assert renderer.grammar is not None
    chat = dissect(messages, None, NEVER).chat
    for index, entry in enumerate(chat):
        entry["content"] = Hole(2 * index + CONTENT)
        if "reasoning_content" in entry:
            entry["reasoning_content"] = Hole(2 * index + REASONING)
    return trace(renderer.grammar.template, chat)


def _literals(layout: Layout) -> list[tuple[int, int]]:
    """What lies between the placed texts, which stand in the order of the text."""
    ends = [0, *(end for _, _, end in layout.placed)]
    return list(zip(ends, [*(start for _, start, _ in layout.placed), len(layout.text)], strict=True))


def _cuts(
    renderer: Renderer, literals: list[str], breaks: list[tuple[int, int]]
) -> tuple[tuple[tuple[int, int], tuple[int, int], int], ...]:
    """The template's own control tokens and the breaks, in the order of the text."""
    found = [(place, place, -1) for place in breaks]
    for k, literal in enumerate(literals):
        for match in renderer.encoder.pattern.finditer(literal):
            start, end = (len(literal[:at].encode()) for at in match.span())
            found.append(((k, start), (k, end), renderer.encoder.control[match[0]]))
    return tuple(sorted(found))


def _place(edges: list[tuple[int, int]], literals: list[str], at: int) -> tuple[int, int] | None:
    """A character position as (literal, byte offset), None inside a text."""
    index = bisect_right(edges, (at, 1 << 60)) - 1
    start, end = edges[index]
    return (index, len(literals[index][: at - start].encode())) if start <= at <= end else None
