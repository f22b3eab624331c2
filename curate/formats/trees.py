"""Conversations that are trees or dictionaries: reply trees (OASST) and keyed turns (MOSS)."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, Final

from curate.formats.draft import Converted, Draft, Refused, Row, calls_json, kind, optional
from curate.record import Message

REPLIERS: Final = {"prompter": "user", "user": "user", "assistant": "assistant", "system": "system"}
TURN: Final = re.compile(r"turn_(\d{1,9})$")
FIELDS: Final = ("Human", "Inner Thoughts", "Commands", "Tool Responses", "MOSS")
_OPEN: Final = {
    "Human": "<|Human|>:",
    "Inner Thoughts": "<|Inner Thoughts|>:",
    "Commands": "<|Commands|>:",
    "Tool Responses": "<|Results|>:",
    "MOSS": "<|MOSS|>:",
}
_CLOSE: Final = dict(zip(FIELDS, ("<eoh>", "<eot>", "<eoc>", "<eor>", "<eom>"), strict=True))
_CALL: Final = re.compile(r"\s*([\w][\w .-]*?)\s*\((.*)\)\s*", re.DOTALL)
_BETWEEN: Final = re.compile(r"(?<=\))\s*,\s*(?=[A-Za-z]\w*\()")


def replies(row: Row, key: str) -> Converted:
    """One conversation for each last assistant turn of a path.

    Prompts that nobody answered go to `extra` of the first conversation that passes the turn they reply to.
    """
    notes: Counter[str] = Counter()
    drafts: list[Draft] = []
    told: set[int] = set()  # nodes whose unanswered replies a draft keeps
    stack: list[list[dict[str, Any]]] = [[row[key]]]
    while stack:
        path = stack.pop()
        node = path[-1]
        children, role = node.get("replies") or [], node.get("role")
        known = isinstance(role, str) and role in REPLIERS
        if not isinstance(node.get("text"), str) or not known or not isinstance(children, list):
            raise Refused("broken reply tree: a node without text, a known role or a list of replies")
        if not all(isinstance(child, dict) for child in children):
            raise Refused("broken reply tree: a reply is not an object")
        stack.extend([*path, child] for child in reversed(children))
        if node["role"] != "assistant" or any(map(_answered, children)):
            continue
        draft = Draft([Message(REPLIERS[item["role"]], item["text"]) for item in path], part=len(drafts))
        draft.extra["message_fields"] = [
            {"index": index} | {name: value for name, value in item.items() if name not in ("text", "role", "replies")}
            for index, item in enumerate(path)
        ]
        fresh = [item for item in path if id(item) not in told]
        told.update(map(id, fresh))
        left = [child for item in fresh for child in item.get("replies") or [] if not _answered(child)]
        if left:
            draft.extra["unanswered"] = left
            notes["unanswered replies kept in extra"] += 1
        drafts.append(draft)
    if not drafts:
        raise Refused("no assistant reply in the tree")
    return Converted("reply tree", drafts, {key}, notes)


def _answered(node: dict[str, Any]) -> bool:
    """Whether a subtree holds an assistant turn."""
    stack = [node]
    while stack:
        item = stack.pop()
        if item.get("role") == "assistant":
            return True
        replies = item.get("replies")
        stack.extend(child for child in (replies if isinstance(replies, list) else []) if isinstance(child, dict))
    return False


def keyed(row: Row, key: str, *, keep: bool) -> Converted:
    """Turns keyed `turn_N`; literal markers such as `<eoh>` are stripped (counted) unless `keep`."""
    notes: Counter[str] = Counter()
    turns = sorted(row[key].items(), key=lambda item: int(item[0].removeprefix("turn_")))
    messages: list[Message] = []
    used = {key}
    if "meta_instruction" in row:
        used.add("meta_instruction")
        if system := optional(row, "meta_instruction"):
            messages.append(Message("system", system))
    fields: list[dict[str, Any]] = []
    for name, turn in turns:
        if (
            not isinstance(turn, dict)
            or not isinstance(turn.get("Human"), str)
            or not isinstance(turn.get("MOSS"), str)
        ):
            raise Refused(f"turn without Human and MOSS text: {name}")
        given = {field: _field(turn, field, keep, notes) for field in FIELDS}
        if left := {field: value for field, value in turn.items() if field not in FIELDS and value is not None}:
            fields.append({"index": len(messages), "fields": left})
        messages += _turn(given, notes)
    extra = {"message_fields": fields} if fields else {}
    return Converted("keyed turns", [Draft(messages, extra=extra)], used, notes)


def _field(turn: dict[str, Any], field: str, keep: bool, notes: Counter[str]) -> str | None:
    """A field of a turn, null when it is missing or says None."""
    value = turn.get(field)
    if value is None:
        return None
    if not isinstance(value, str):
        raise Refused(f"not text: {field} is {kind(value)}")
    bare = value
    if bare.startswith(_OPEN[field]):
        # The marker owns one separator after it: a blank, or a line end for results.
        bare = re.sub(r"\A[ \n]", "", bare[len(_OPEN[field]) :])
    trimmed = bare.rstrip("\n")
    if trimmed.endswith(_CLOSE[field]):
        bare = trimmed.removesuffix(_CLOSE[field])
        bare = bare.removesuffix("\n") if field == "Tool Responses" else bare
    if field not in ("Human", "MOSS") and bare.strip() in ("", "None"):
        return None
    if keep:
        return value
    if bare != value:
        notes[f"markers {_OPEN[field][:-1]} {_CLOSE[field]} stripped"] += 1
    return bare


def _turn(given: dict[str, str | None], notes: Counter[str]) -> list[Message]:
    out = [Message("user", given["Human"])]
    thought, command, result = given["Inner Thoughts"], given["Commands"], given["Tool Responses"]
    if command is not None:
        calls = [_command(part, notes) for part in _BETWEEN.split(command)]
        out.append(Message("assistant", None, tool_calls=calls_json(calls), reasoning=thought))
        thought = None
    if result is not None:
        if command is None:
            notes["tool responses without a command"] += 1
        out.append(Message("tool", result))
    return [*out, Message("assistant", given["MOSS"], reasoning=thought)]


def _command(text: str, notes: Counter[str]) -> dict[str, Any]:
    """`Name(arguments)` as a call; the arguments stay the text they were."""
    match = _CALL.fullmatch(text)
    if match is None:
        notes["commands that are no call, kept whole"] += 1
    name, arguments = (match.group(1), match.group(2)) if match else ("command", text)
    return {"id": None, "type": "function", "function": {"name": name, "arguments": arguments}}
