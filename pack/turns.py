"""Which spans of a layout are trained, and the proof that they hold the right texts and no other."""

from __future__ import annotations

from collections.abc import Sequence

from pack.conversation import Slot
from pack.rendering import TemplateFailed
from pack.spans import Layout, Turn


def prove(turns: Sequence[Turn], placed: Sequence[tuple[Slot, int, int]]) -> None:
    """Every text of a trained turn lies inside it, and no text of another message does.

    Raises TemplateFailed("span-mismatch").
    """
    for turn in turns:
        for slot, start, end in placed:
            inside = turn.start <= start and end <= turn.end
            if slot.message == turn.message and not inside:
                raise TemplateFailed("span-mismatch", f"a turn does not hold its {slot.kind} text")
            if slot.message != turn.message and start < turn.end and turn.start < end:
                raise TemplateFailed("span-mismatch", f"a turn holds another message's {slot.kind} text")


def tagged_turns(turns: list[Turn], tags: list[tuple[int, int]]) -> list[Turn]:
    """The turns as the template's generation tags draw them, each with the terminator that follows it."""
    found = []
    for start, end in tags:
        owner = next((turn for turn in turns if start < turn.end and turn.start < max(end, start + 1)), None)
        if owner is None:
            raise TemplateFailed("span-mismatch", "a generation tag holds no assistant turn")
        reach = owner.end if owner.stop is None or end >= owner.end - len(owner.stop) else end
        found.append(
            Turn(
                owner.message,
                start,
                reach if end <= owner.end else owner.end,
                owner.stop if reach == owner.end else None,
            )
        )
    reached = {turn.message: turn.end for turn in found}
    if any(reached.get(turn.message) != turn.end for turn in turns):
        raise TemplateFailed("no-terminator", "a generation tag closes before the turn's terminator")
    return found


def all_but(closed: list[tuple[int, int]], layout: Layout) -> list[tuple[int, int, str | None]]:
    """The whole text without some spans, as spans."""
    edges = [0, *(edge for span in closed for edge in span), len(layout.text)]
    return [(a, b, None) for a, b in zip(edges[::2], edges[1::2], strict=True) if b > a]
