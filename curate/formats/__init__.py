"""A row of any known schema becomes conversations; decided per row, from its keys and the types of their values.

A row that fits no schema, or more than one, is refused with the candidates named: guessing would train on the wrong
column. `convert` is the arbiter; `curate.reading.fast` must agree with it and hands it every row it does not accept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from curate.formats import chats, pairs, trees
from curate.formats.draft import Converted, Draft, Refused, Row, kind, pair, shown
from curate.foundation.store import canonical
from curate.record import Record
from curate.sources import SourceSettings

__all__ = ["LISTS", "Converted", "Draft", "Refused", "convert", "records"]

LISTS: Final = (
    "messages",
    "conversations",
    "conversation",
    "traj",
    "trajectory",
    "dialogue",
    "dialog",
    "chat",
    "turns",
)


def convert(row: Row, settings: SourceSettings, preference: str | None = None) -> Converted:
    """The conversations of a row; raises `Refused` with a reason that holds no text of the row."""
    if not isinstance(row, dict):
        raise Refused(f"not an object: the row is {kind(row)}")
    if not row:
        raise Refused("empty object")
    if settings.builds:
        return pairs.built(row, settings.system, settings.user, settings.assistant)
    if settings.fields:
        row = _mapped(row, settings.fields)
    found = _candidates(row, settings, preference or settings.preference)
    if settings.format is not None:
        if settings.format not in found:
            raise Refused(f"not {settings.format}: {_keys(row)}")
        found = {settings.format: found[settings.format]}
    if not found:
        raise Refused(f"no known format: {_keys(row)}")
    if len(found) > 1:
        raise Refused(f"ambiguous: {' or '.join(sorted(found))}; name one with `format:` or `fields:` of the source")
    return next(iter(found.values()))()


def _keys(row: Row) -> str:
    names = ", ".join(sorted(map(shown, row))[:8])
    return f"keys {names}" + (", ..." if len(row) > 8 else "")


def _mapped(row: Row, fields: dict[str, str]) -> Row:
    """The row under the names we know; a mapped name shadows no other column."""
    out = {key: value for key, value in row.items() if key not in fields.values()}
    for name, column in fields.items():
        if column not in row:
            raise Refused(f"missing column: {shown(column)}")
        if name in out:
            raise Refused(f"ambiguous: column {shown(name)} exists beside the mapped {shown(column)}")
        out[name] = row[column]
    return out


def _candidates(row: Row, settings: SourceSettings, preference: str | None) -> dict[str, Callable[[], Converted]]:
    if settings.format == "text":
        return {"text": lambda: pairs.plain_text(row)}
    if "chosen" in row and "rejected" in row:
        return {"preference": lambda: _preference(row, settings, preference)}
    found: dict[str, Callable[[], Converted]] = {}
    for key in LISTS:
        if key in row and (sort := _sort_of_list(row[key])):
            if sort in found:
                raise Refused(f"ambiguous: two columns hold {sort}")
            found[sort] = _reader(sort, row, key, settings)
    node = row.get("prompt")
    if isinstance(node, dict) and "replies" in node:
        found["reply tree"] = lambda: trees.replies(row, "prompt")
    if "instruction" in row and isinstance(row.get("instances"), list):
        found["instances"] = lambda: pairs.instances(row)
    if "instruction" in row and ("output" in row or "response" in row):
        found["alpaca"] = lambda: pairs.alpaca(row)
    for name, (left, right) in pairs.PAIRS.items():
        if left in row and right in row:
            found[name] = _pair_reader(row, name)
    return found


def _reader(sort: str, row: Row, key: str, settings: SourceSettings) -> Callable[[], Converted]:
    if sort == "messages":
        return lambda: chats.openai(row, key, settings.train_field)
    if sort == "sharegpt":
        return lambda: chats.sharegpt(row, key, settings.train_field)
    if sort == "dialogue states":
        return lambda: chats.dialogue(row, key)
    return lambda: trees.keyed(row, key, keep=settings.markers == "keep")


def _pair_reader(row: Row, name: str) -> Callable[[], Converted]:
    return lambda: pairs.question(row, name)


def _sort_of_list(value: Any) -> str | None:
    """Which kind of conversation a list or dictionary of turns is, by its first turn."""
    if isinstance(value, dict):
        return "keyed turns" if value and all(trees.TURN.match(key) for key in value) else None
    if not isinstance(value, list):
        return None
    first = value[0] if value else {"role": ""}  # an empty list is an empty conversation, refused by name
    if not isinstance(first, dict):
        return None
    if "role" in first:
        return "messages"
    if "from" in first and "value" in first:
        return "sharegpt"
    return "dialogue states" if "speaker" in first and "utterance" in first else None


def _preference(row: Row, settings: SourceSettings, preference: str | None) -> Converted:
    if preference != "chosen":
        raise Refused("preference row: add --preference chosen to keep the chosen side")
    side, prompt = row["chosen"], row.get("prompt")
    used = {"chosen"}
    if isinstance(side, list):
        # The chosen side of some sets repeats the prompt, of others it is only the answer.
        lead = prompt if isinstance(prompt, list) and side[: len(prompt)] != prompt else []
        if lead or isinstance(prompt, list):
            used.add("prompt")
        opens = not lead and bool(side) and isinstance(side[0], dict) and side[0].get("role") == "assistant"
        if opens and isinstance(prompt, str):
            lead = [{"role": "user", "content": prompt}]
            used.add("prompt")
        found = chats.openai({"messages": [*lead, *side]}, "messages", settings.train_field)
    elif isinstance(side, str) and isinstance(prompt, str):
        found = Converted("preference", [Draft(pair("", prompt, side))], set())
        used.add("prompt")
    else:
        raise Refused(f"preference row: chosen is {kind(side)} and prompt is {kind(prompt)}")
    return Converted("preference", found.drafts, used, found.notes)


def records(found: Converted, row: Row, source: str, file: str, number: int, settings: SourceSettings) -> list[Record]:
    """The records of a converted row: score taken out, every key that was not understood in `extra`."""
    used = found.used
    if settings.fields:
        row = _mapped(row, settings.fields)
    score = None
    if settings.score_field is not None:
        score = _score(row, settings.score_field)
        used = used | {settings.score_field}
    left = {key: value for key, value in row.items() if key not in used}
    return [
        Record(source, file, number, draft.messages, draft.part, draft.tools, score, _extra(left, draft.extra))
        for draft in found.drafts
    ]


def _extra(left: dict[str, Any], own: dict[str, Any]) -> str | None:
    out = dict(left)
    for name, value in own.items():
        while name in out:
            name += "_"
        out[name] = value
    return canonical(out) if out else None


def _score(row: Row, column: str) -> float:
    if column not in row:
        raise Refused(f"missing column: {shown(column)}")
    value = row[column]
    try:
        score = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        score = math.nan
    if not math.isfinite(score):
        raise Refused(f"score is not a number: {shown(column)} is {kind(value)}")
    return score
