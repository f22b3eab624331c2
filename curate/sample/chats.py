"""General chats of the sample corpus: short, varied, and free of numbers, so that they never decide an exact match."""

from __future__ import annotations

from typing import Final

from curate.record import Message
from curate.sample.draw import Draw
from curate.sample.scenes import NAMES

_WORDS: Final = (
    "anchor autumn basket beacon blanket bridge bucket candle canvas castle cellar chimney circle cloud copper corner "
    "cotton cradle curtain desert dinner dragon engine evening falcon farmer feather fiddle finger forest fountain garden "
    "garlic gentle ginger glacier grain guitar hammer harbor harvest hollow honey island jacket jungle kettle kitchen "
    "ladder lantern leather letter lumber market meadow mirror morning mountain needle north oatmeal ocean orange orchard "
    "paper pepper picture pigeon pillow planet pocket pottery prairie quarry quiet rabbit raven ribbon river rocket saddle "
    "salmon season shadow shelter silver simple slipper spider spring station stove summer sunset table temple thunder "
    "ticket timber tower train travel tunnel valley velvet village violin wagon walnut water weather whistle willow window "
    "winter wooden yellow"
)
WORDS: Final = tuple(_WORDS.split())

_VERBS: Final = ("carries", "covers", "crosses", "follows", "guards", "hides", "holds", "leaves", "meets", "shows")
_PLACES: Final = ("above", "behind", "beside", "near", "over", "past", "under", "with")
_SYSTEM: Final = ("You are a helpful assistant.", "Answer in one short sentence.", "You are a friendly teacher.")


def sentence(draw: Draw) -> str:
    """One grammatical sentence of common words."""
    first, second, third = (draw.pick(WORDS) for _ in range(3))
    return f"The {first} {draw.pick(_VERBS)} the {second} {draw.pick(_PLACES)} the {third}."


def chat(draw: Draw) -> list[Message]:
    """One general conversation of two to five messages; some start with a system message."""
    first, second, third = (draw.pick(WORDS) for _ in range(3))
    turns = _KINDS[draw.below(len(_KINDS))](draw, first, second, third)
    messages = [Message("user" if place % 2 == 0 else "assistant", text) for place, text in enumerate(turns)]
    if draw.chance(0.25):
        messages.insert(0, Message("system", draw.pick(_SYSTEM)))
    return messages


def long_chat(draw: Draw, sentences: int) -> list[Message]:
    """A conversation far longer than the demo's context: a story of distinct sentences."""
    seen: dict[str, None] = {}
    while len(seen) < sentences:
        seen[sentence(draw)] = None
    topic = draw.pick(WORDS)
    return [Message("user", f"Tell me a long story about the {topic}."), Message("assistant", " ".join(seen))]


def _order(draw: Draw, first: str, second: str, third: str) -> list[str]:
    return [f"Which word comes first in the alphabet, {first} or {second}?", f"{min(first, second).capitalize()}."]


def _list(draw: Draw, first: str, second: str, third: str) -> list[str]:
    return [f"Make a list of {first}, {second} and {third}.", f"- {first}\n- {second}\n- {third}"]


def _capitals(draw: Draw, first: str, second: str, third: str) -> list[str]:
    return [f"Write these words in capitals: {first} {second}", f"{first} {second}".upper()]


def _story(draw: Draw, first: str, second: str, third: str) -> list[str]:
    return [f"Give me a sentence with {first} and {second}.", f"The {first} {draw.pick(_VERBS)} the {second}."]


def _memory(draw: Draw, first: str, second: str, third: str) -> list[str]:
    name = draw.pick(NAMES)
    return [
        f"Hello, I am {name}. I like the {first} and the {second}.",
        f"Hello {name}! Nice to meet you.",
        "What did I say I like?",
        f"You like the {first} and the {second}.",
    ]


_KINDS: Final = (_order, _list, _capitals, _story, _memory)
