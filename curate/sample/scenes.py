"""The wording of the word problems: scenes that start with a number and let it rise or fall.

A scene gives an opening with `{n}`, events that add, events that take away, and a question. One event makes a problem of
one step, two events one of two steps. `HELD_OUT` scenes never occur in raw data: their verbs do, their sentences do not.
`LEAKED` scenes are held out too, and planted in raw data as leaks; nothing scored uses them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Scene:
    """Sentences of one situation; `{who}` and `{what}` are filled once, `{n}` by each operand in turn."""

    opening: str
    gains: tuple[str, ...]
    losses: tuple[str, ...]
    question: str


NAMES: Final = (
    "Ada", "Amir", "Bela", "Carla", "Dan", "Emma", "Finn", "Gita", "Hugo", "Ines", "Jonas", "Kim", "Lena", "Mateo", "Nora",
    "Omar", "Priya", "Rosa", "Sam", "Tom",
)  # fmt: skip
THINGS: Final = (
    "apples", "books", "boxes", "buttons", "cards", "coins", "cups", "eggs", "flowers", "keys", "lemons", "marbles", "nuts",
    "pears", "pencils", "plates", "shells", "stamps", "stickers", "stones",
)  # fmt: skip

SCENES: Final = (
    Scene(
        "{who} has {n} {what}.",
        ("{who} gets {n} more.", "{who} finds {n} more."),
        ("{who} gives away {n}.", "{who} loses {n}."),
        "How many {what} does {who} have now?",
    ),
    Scene(
        "There are {n} {what} in a box.",
        ("{who} puts in {n} more.", "{who} adds {n}."),
        ("{who} takes out {n}.", "{who} removes {n}."),
        "How many {what} are in the box?",
    ),
    Scene(
        "A shop has {n} {what}.",
        ("It buys {n} more.", "It gets {n} more."),
        ("It sells {n}.", "It gives away {n}."),
        "How many {what} does the shop have?",
    ),
    Scene(
        "{n} people are on a bus.",
        ("{n} more get on.", "Then {n} people join."),
        ("{n} get off.", "Then {n} people leave."),
        "How many people are on the bus?",
    ),
    Scene(
        "{who} saved {n} dollars.",
        ("{who} earns {n} dollars.", "{who} gets {n} dollars."),
        ("{who} spends {n} dollars.", "{who} loses {n} dollars."),
        "How many dollars does {who} have?",
    ),
    Scene(
        "{who} collected {n} {what}.",
        ("A friend gives {who} {n} more.", "{who} buys {n} more."),
        ("{who} sells {n}.", "A friend takes {n}."),
        "What is the number of {what} now?",
    ),
    Scene(
        "A team has {n} points.",
        ("It wins {n} points.", "It earns {n} points."),
        ("It loses {n} points.", "The judge removes {n} points."),
        "How many points does the team have?",
    ),
    Scene(
        "{n} birds sit in a tree.",
        ("{n} more arrive.", "Then {n} birds join."),
        ("{n} fly away.", "Then {n} birds leave."),
        "How many birds are in the tree?",
    ),
    Scene(
        "{n} cars stand in a street.",
        ("{n} more arrive.", "Then {n} cars come."),
        ("{n} drive away.", "Then {n} cars leave."),
        "How many cars are in the street?",
    ),
    Scene(
        "{who} baked {n} cookies.",
        ("{who} bakes {n} more.", "A friend adds {n}."),
        ("{who} eats {n}.", "A friend takes {n}."),
        "How many cookies are there?",
    ),
    Scene(
        "A tank holds {n} liters.",
        ("{who} adds {n} liters.", "Rain brings {n} more."),
        ("{who} takes out {n} liters.", "The tank loses {n} liters."),
        "How many liters are in the tank?",
    ),
    Scene(
        "{who} has read {n} pages.",
        ("{who} reads {n} more.", "Then {who} adds {n} pages."),
        ("{who} skips back {n}.", "Then {who} removes {n} pages."),
        "How many pages is that?",
    ),
)

HELD_OUT: Final = (
    Scene(
        "{n} {what} are in a shop.",
        ("{who} adds {n} more.", "Then {n} {what} arrive."),
        ("{who} buys {n} and takes them away.", "The shop sells {n} {what}."),
        "How many {what} are there now?",
    ),
    Scene(
        "A street has {n} people.",
        ("{n} people arrive.", "{n} people come and join."),
        ("{n} people drive away.", "{n} people get on a bus and leave."),
        "What is the number of people in the street?",
    ),
    Scene(
        "{who} earns {n} points.",
        ("{who} wins {n} more.", "A friend gives {who} {n} points."),
        ("{who} loses {n} more.", "A friend takes away {n} points."),
        "How many points does {who} have?",
    ),
)

LEAKED: Final = (
    Scene(
        "{who} counts {n} {what} in a tank.",
        ("Then {who} finds {n} {what}.", "Rain brings {n} {what}."),
        ("The judge takes {n}.", "Then {who} sells {n} {what}."),
        "What is the number of {what} in the tank now?",
    ),
)
