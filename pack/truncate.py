"""`--overlong truncate-turns`: whole turns go until a conversation fits, and what is left ends with the assistant.

Turns go from the end first, so no answer loses the context it was given. Where not even the first exchange fits, they
go from the front, by whole exchanges; a leading system message stays. What is left is rendered anew: a template that
treats the last turn in its own way (reasoning, generation prompts) sees the conversation as it now ends.

Cost: log2(turns) renderings of each over-long record, in batches; nothing for a record that fits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from curate.record import Message

if TYPE_CHECKING:
    from pack.template import Conversation, Encoded, Renderer, TemplateFailed

    Result = list[Encoded] | TemplateFailed


def fit(render: Renderer, records: Sequence[Conversation], results: list[Result], limit: int) -> list[int]:
    """Replace the results over `limit` tokens by those of shorter conversations; the places of those that now fit.

    A record that cannot be made to fit keeps its result, and is over-long.
    """
    over = [place for place, result in enumerate(results) if isinstance(result, list) and not _fits(result, limit)]
    fitted = []
    for cuts in (_heads, _tails):
        rest = [place for place in over if place not in fitted]
        choices = {place: found for place in rest if (found := list(cuts(records[place][0])))}
        for place, result in _search(render, records, choices, limit):
            results[place] = result
            fitted.append(place)
    return sorted(fitted)


def _heads(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """The conversation up to each answer but the last turn's, shortest first."""
    for end in range(1, len(messages)):
        if messages[end - 1].role == "assistant" and messages[end].role != "assistant":
            yield messages[:end]


def _tails(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """Runs of whole exchanges that begin later and end with an answer, by length: the last exchange of all first."""
    lead = next((place for place, message in enumerate(messages) if message.role != "system"), len(messages))
    ends = [end for end in range(1, len(messages) + 1) if messages[end - 1].role == "assistant"]
    for start in range(len(messages) - 1, lead, -1):
        asked = messages[start].role == "user" and messages[start - 1].role == "assistant"
        if asked and ends and start < ends[-1]:
            yield [*messages[:lead], *messages[start : ends[-1]]]


def _search(
    render: Renderer, records: Sequence[Conversation], choices: dict[int, list[Sequence[Message]]], limit: int
) -> Iterator[tuple[int, Result]]:
    """The longest choice of each record that fits, by bisection, all records of a round in one batch."""
    low = dict.fromkeys(choices, 0)
    high = {place: len(found) for place, found in choices.items()}
    best: dict[int, Result] = {}
    while asked := [place for place in choices if low[place] < high[place]]:
        middle = {place: (low[place] + high[place]) // 2 for place in asked}
        batch = [(choices[place][middle[place]], records[place][1]) for place in asked]
        for place, result in zip(asked, render.encode_batch(batch), strict=True):
            if isinstance(result, list) and _fits(result, limit):
                best[place], low[place] = result, middle[place] + 1
            else:
                high[place] = middle[place]
    yield from sorted(best.items())


def _fits(result: Sequence[Encoded], limit: int) -> bool:
    return all(len(part.ids) <= limit for part in result)
