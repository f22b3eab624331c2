"""What a format makes of a row, and the small rules all formats share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from curate.formats.strict import Broken, loads
from curate.foundation.store import canonical
from curate.record import Message

Row = Mapping[str, Any]
ROLES: Final = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
    "ipython": "tool",
}


class Refused(Exception):
    """A row that gives no record, with the reason; the reason names keys and types, never the row's text."""


@dataclass(slots=True)
class Draft:
    """One conversation of a row; `extra` is what belongs to this part of the row only."""

    messages: list[Message]
    tools: str | None = None
    part: int = 0
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Converted:
    """The conversations of a row, the row keys that were understood, and named rewrites by count."""

    format: str
    drafts: list[Draft]
    used: set[str]
    notes: Counter[str] = field(default_factory=Counter)


def kind(value: object) -> str:
    """The JSON name of a value's type."""
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)


def text(row: Row, key: str) -> str:
    """The text under `key`; refuses null and everything that is not text."""
    value = row[key]
    if not isinstance(value, str):
        raise Refused(f"not text: {shown(key)} is {kind(value)}")
    return value


def optional(row: Row, key: str) -> str:
    """The text under `key`, "" when it is missing or null."""
    return "" if row.get(key) is None else text(row, key)


def shown(key: object) -> str:
    """A key as a reason shows it: cut, with control characters escaped."""
    return repr(str(key)[:40])[1:-1]


def role(value: object, where: str, notes: Counter[str]) -> str:
    """Our name of a role; other names than ours are counted as notes."""
    known = ROLES.get(value) if isinstance(value, str) else None
    if known is None:
        raise Refused(f"unknown role: {where} has role {shown(value) if isinstance(value, str) else kind(value)}")
    if known != value:
        notes[f"role {value} -> {known}"] += 1
    return known


def tools(row: Row, used: set[str]) -> str | None:
    """The tool list of a row as canonical JSON; an empty list is null."""
    if "tools" not in row:
        return None
    used.add("tools")
    value = row["tools"]
    if isinstance(value, str) and value.strip():
        try:
            value = loads(value)
        except Broken as error:
            raise Refused(f"tools is not JSON: {error}") from None
    if not value:
        return None
    if not isinstance(value, (list, dict)):
        raise Refused(f"tools is {kind(value)}")
    return canonical(value if isinstance(value, list) else [value])


def tool_call(value: object, where: str) -> dict[str, Any]:
    """One call as {"id", "type", "function": {"name", "arguments"}}; arguments that are JSON objects are parsed."""
    if isinstance(value, str):
        try:
            value = loads(value)
        except Broken as error:
            raise Refused(f"tool call is not JSON: {where}: {error}") from None
    if not isinstance(value, dict):
        raise Refused(f"tool call is {kind(value)}: {where}")
    function = value.get("function", value)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise Refused(f"tool call without a name: {where}")
    arguments = function.get("arguments", function.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            parsed = loads(arguments)
        except Broken:
            parsed = None
        arguments = parsed if isinstance(parsed, dict) else arguments
    ident = value.get("id")
    if ident is not None and not isinstance(ident, str):
        raise Refused(f"tool call id is {kind(ident)}: {where}")
    return {"id": ident, "type": "function", "function": {"name": function["name"], "arguments": arguments}}


def calls_json(calls: list[dict[str, Any]]) -> str | None:
    """Canonical JSON of a list of calls, null when there are none."""
    return canonical(calls) if calls else None


def pair(system: str, user: str, assistant: str) -> list[Message]:
    """A conversation of one question and one answer, with a system text when there is one."""
    head = [Message("system", system)] if system else []
    return [*head, Message("user", user), Message("assistant", assistant)]
