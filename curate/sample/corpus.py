"""What the sample corpus holds, before it is given a schema: clean rows, then planted flaws at random places.

Every clean conversation is distinct, so whatever a stage finds beyond `truth.json` is a false alarm. A planted row names
what it was made from (`twin`), so that recall can be counted pair by pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from curate.record import Message
from curate.sample.chats import chat, long_chat
from curate.sample.draw import Draw
from curate.sample.problems import LEVELS, Problem, problem
from curate.sample.scenes import HELD_OUT, LEAKED, SCENES, Scene

GENERAL_SHARE: Final = 0.06
# Planted rows of each kind, for every 30,000 rows.
PLANTED: Final = {
    "exact_duplicate": 360,
    "near_duplicate": 300,
    "leaked_pair": 60,
    "leaked_template": 40,
    "mojibake": 120,
    "unfinished": 120,
    "over_long": 30,
    "broken_json": 60,
}
SCORED_PAIRS: Final = 400
SCORED_TEMPLATES: Final = 200
_OPENERS: Final = ("Hello.", "Hi!", "Please help.", "Exercise:", "Quickly:", "Problem:", "Now:")


@dataclass(slots=True)
class Row:
    """One row to write: a conversation, its level (0 for general chats), and what was planted, if anything."""

    messages: list[Message]
    level: int
    kind: str = ""
    twin: Row | None = None


def clean(draw: Draw, count: int) -> list[Row]:
    """`count` distinct rows: general chats, and problems of the four levels in equal parts."""
    rows: list[Row] = []
    seen: set[tuple[str, ...]] = set()
    while len(rows) < count:
        row = Row(chat(draw), 0) if draw.chance(GENERAL_SHARE) else asked(problem(draw, 1 + draw.below(len(LEVELS))))
        key = tuple(message.content or "" for message in row.messages)
        if key not in seen:
            seen.add(key)
            rows.append(row)
    return rows


def asked(item: Problem) -> Row:
    """A problem as a conversation."""
    return Row([Message("user", item.question), Message("assistant", item.work)], item.level)


def evaluation(seed: int) -> tuple[dict[str, list[Problem]], dict[str, list[Problem]]]:
    """The scored held-out sets and the leaked ones, each by `pairs` and `templates`."""
    scored = {
        "pairs": _distinct(Draw(seed, "scored pairs"), SCORED_PAIRS, SCENES, "scored"),
        "templates": _distinct(Draw(seed, "scored templates"), SCORED_TEMPLATES, HELD_OUT, "raw"),
    }
    leaked = {
        "pairs": _distinct(Draw(seed, "leaked pairs"), PLANTED["leaked_pair"], SCENES, "leaked"),
        "templates": _distinct(Draw(seed, "leaked templates"), PLANTED["leaked_template"], LEAKED, "raw"),
    }
    return scored, leaked


def _distinct(draw: Draw, count: int, scenes: tuple[Scene, ...], pairs_from: str) -> list[Problem]:
    found: dict[str, Problem] = {}
    while len(found) < count:
        item = problem(draw, 1 + len(found) % len(LEVELS), scenes, pairs_from)
        found.setdefault(item.question, item)
    return list(found.values())


def planted(draw: Draw, rows: list[Row], leaked: dict[str, list[Problem]], share: float) -> list[Row]:
    """The flawed rows for a corpus of `rows`; at least two of each kind."""
    problems = [row for row in rows if row.level]
    draw.shuffle(problems)
    counts = {kind: max(2, round(number * share)) for kind, number in PLANTED.items()}
    take = iter(problems)
    out = [_copy(next(take)) for _ in range(counts["exact_duplicate"])]
    out += [_near(draw, next(take)) for _ in range(counts["near_duplicate"])]
    for kind, items in (("leaked_pair", leaked["pairs"]), ("leaked_template", leaked["templates"])):
        for item in items[: counts[kind]]:
            row = asked(item)
            row.kind = kind
            out.append(row)
    fresh = _distinct(draw, sum(counts[kind] for kind in ("mojibake", "unfinished", "broken_json")), SCENES, "raw")
    pool = iter(asked(item) for item in fresh)
    out += [_mojibake(next(pool)) for _ in range(counts["mojibake"])]
    out += [_unfinished(next(pool)) for _ in range(counts["unfinished"])]
    out += [Row(next(pool).messages, 0, "broken_json") for _ in range(counts["broken_json"])]
    out += [Row(long_chat(draw, 220), 0, "over_long") for _ in range(counts["over_long"])]
    return out


def _copy(twin: Row) -> Row:
    return Row(list(twin.messages), twin.level, "exact_duplicate", twin)


def _near(draw: Draw, twin: Row) -> Row:
    question, answer = twin.messages
    text = f"{draw.pick(_OPENERS)} {question.content}"
    return Row([Message("user", text), answer], twin.level, "near_duplicate", twin)


def _mojibake(row: Row) -> Row:
    question, answer = row.messages
    text = f"The café’s note says: {question.content}".encode().decode("cp1252")
    return Row([Message("user", text), answer], row.level, "mojibake")


def _unfinished(row: Row) -> Row:
    question, answer = row.messages
    cut = (answer.content or "").split(",")[0]
    return Row([question, Message("assistant", f"{cut}...")], row.level, "unfinished")
