"""Conversations that are lists: OpenAI and typed messages, ShareGPT, dialogue states.

A list of typed parts becomes one message: text parts are joined as they stand (counted when there are several),
reasoning goes to `reasoning`, calls to `tool_calls`. Message keys we have no column for (`tool_call_id`, frames of a
dialogue) go to `extra` under `message_fields`, with the index of the message.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from curate.formats.draft import (
    Converted,
    Draft,
    Refused,
    Row,
    calls_json,
    kind,
    optional,
    role,
    shown,
    tool_call,
    tools,
)
from curate.record import Message

WEIGHTS: Final = ("loss_weight", "weight", "train")
REASONINGS: Final = ("reasoning_content", "reasoning", "thinking")
CONTENT_KEYS: Final = frozenset({"role", "content", "name", "tool_calls", "function_call", *WEIGHTS, *REASONINGS})
SHARE_ROLES: Final = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "system": "system",
    "function_call": "function_call",
    "observation": "tool",
    "tool": "tool",
    "function_response": "tool",
}
SPEAKERS: Final = {"user": "user", "system": "assistant"}


def openai(row: Row, key: str, train_field: str | None = None) -> Converted:
    """Messages with `role` and `content` under `key`."""
    notes: Counter[str] = Counter()
    messages, fields = message_list(row[key], notes, train_field)
    used = {key}
    system = _system(row, messages, used)
    draft = Draft(system + messages, tools(row, used), extra=_fields(fields, len(system)))
    return Converted("messages", [draft], used, notes)


def message_list(
    values: Any, notes: Counter[str], train_field: str | None = None
) -> tuple[list[Message], list[dict[str, Any]]]:
    """The messages of a list and, per message, the keys that have no column."""
    if not isinstance(values, list):
        raise Refused(f"messages are {kind(values)}, not a list")
    if not values:
        raise Refused("empty conversation")
    messages, fields = [], []
    for index, value in enumerate(values):
        if not isinstance(value, dict):
            raise Refused(f"message is {kind(value)}: message {index}")
        message, left = _message(value, f"message {index}", notes, train_field)
        messages.append(message)
        if left:
            fields.append({"index": index, **left})
    return messages, fields


def _fields(fields: list[dict[str, Any]], shift: int) -> dict[str, Any]:
    return {"message_fields": [{**item, "index": item["index"] + shift} for item in fields]} if fields else {}


def _system(row: Row, messages: list[Message], used: set[str]) -> list[Message]:
    """The row's own `system` text as a message, unless the conversation opens with one."""
    if not isinstance(row.get("system", ""), str | None) or messages[0].role == "system":
        return []
    if "system" in row:
        used.add("system")
    value = optional(row, "system")
    return [Message("system", value)] if value else []


def _message(
    value: dict[str, Any], where: str, notes: Counter[str], train_field: str | None
) -> tuple[Message, dict[str, Any]]:
    known = role(value.get("role"), where, notes)
    content, reasoning, calls = _content(value.get("content"), where, notes)
    left: dict[str, Any] = {}
    for key in REASONINGS:
        if value.get(key) is not None:
            if not isinstance(value[key], str) or reasoning is not None:
                raise Refused(f"reasoning is given twice or is not text: {where}")
            reasoning = value[key]
    listed = value.get("tool_calls")
    if listed is None and value.get("function_call") is not None:
        listed = [value["function_call"]]
    if listed is not None:
        if not isinstance(listed, list):
            raise Refused(f"tool_calls is {kind(listed)}: {where}")
        calls += [tool_call(call, where) for call in listed]
        if any(
            isinstance(call, dict) and set(call) - {"id", "type", "function", "name", "arguments"} for call in listed
        ):
            left["tool_calls"] = listed
    if content is None and not calls and reasoning is None:
        raise Refused(f"message without content: {where}")
    name = value.get("name")
    if name is not None and not isinstance(name, str):
        raise Refused(f"message name is {kind(name)}: {where}")
    skip = CONTENT_KEYS | ({train_field} if train_field else set())
    left |= {key: item for key, item in value.items() if key not in skip and item is not None}
    if "index" in left:
        left["index_"] = left.pop("index")
    return Message(known, content, name, calls_json(calls), reasoning, weight(value, where, train_field)), left


def weight(value: dict[str, Any], where: str, train_field: str | None) -> bool:
    """Whether a message may carry loss; weights other than 0 and 1 are refused."""
    given = [value[key] for key in ((train_field,) if train_field else WEIGHTS) if value.get(key) is not None]
    for item in given:
        if not isinstance(item, (bool, int, float)) or item not in (0, 1):
            raise Refused(f"message weight is neither 0 nor 1: {where}")
    if len({bool(item) for item in given}) > 1:
        raise Refused(f"message weights disagree: {where}")
    return bool(given[0]) if given else True


def _content(value: Any, where: str, notes: Counter[str]) -> tuple[str | None, str | None, list[dict[str, Any]]]:
    """Content, reasoning and calls of a message whose content is text, null or a list of typed parts."""
    if value is None or isinstance(value, str):
        return value, None, []
    if not isinstance(value, list):
        raise Refused(f"content is {kind(value)}: {where}")
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for part in value:
        if isinstance(part, str):
            texts.append(part)
            continue
        sort = part.get("type") if isinstance(part, dict) else None
        if sort in ("text", "input_text", "output_text", "tool_result"):
            texts.append(_part_text(part, ("text", "value", "content"), where))
        elif sort in ("reasoning", "thinking"):
            thoughts.append(_part_text(part, ("value", "text", "reasoning", "thinking", "content"), where))
        elif sort in ("tool_call", "function_call"):
            calls.append(tool_call(part.get("value", part.get("tool_call", part)), where))
        else:
            raise Refused(f"unknown part type: {where} has a part {shown(sort)}")
    for name, parts in (("text", texts), ("reasoning", thoughts)):
        if len(parts) > 1:
            notes[f"{name} parts joined"] += 1
    return "".join(texts) if texts else None, "".join(thoughts) if thoughts else None, calls


def _part_text(part: dict[str, Any], keys: tuple[str, ...], where: str) -> str:
    given = [part[key] for key in keys if part.get(key) is not None]
    if (
        len(given) != 1
        or not isinstance(given[0], str)
        or any(part[key] is not None for key in set(part) - {"type", *keys})
    ):
        raise Refused(f"part is not one text: {where} has a part {shown(part.get('type'))}")
    return given[0]


def sharegpt(row: Row, key: str, train_field: str | None = None) -> Converted:
    """Turns with `from` and `value` under `key`; `function_call` turns become tool calls of the assistant."""
    values = row[key]
    if not values:
        raise Refused("empty conversation")
    messages: list[Message] = []
    fields: list[dict[str, Any]] = []
    for index, value in enumerate(values):
        where = f"message {index}"
        if not isinstance(value, dict):
            raise Refused(f"message is {kind(value)}: {where}")
        origin = value.get("from")
        known = SHARE_ROLES.get(origin) if isinstance(origin, str) else None
        if known is None:
            raise Refused(f"unknown role: {where} is from {shown(origin) if isinstance(origin, str) else kind(origin)}")
        if not isinstance(value.get("value"), str):
            raise Refused(f"not text: {where} has a value that is {kind(value.get('value'))}")
        train = weight(value, where, train_field)
        if known == "function_call":
            messages.append(
                Message("assistant", None, tool_calls=calls_json(_calls(value["value"], where)), train=train)
            )
        else:
            messages.append(Message(known, value["value"], train=train))
        skip = {"from", "value", *WEIGHTS, train_field}
        if left := {name: item for name, item in value.items() if name not in skip and item is not None}:
            if "index" in left:
                left["index_"] = left.pop("index")
            fields.append({"index": index, **left})
    used = {key}
    system = _system(row, messages, used)
    draft = Draft(system + messages, tools(row, used), extra=_fields(fields, len(system)))
    return Converted("sharegpt", [draft], used)


def _calls(value: str, where: str) -> list[dict[str, Any]]:
    from curate.formats.strict import Broken, loads

    try:
        parsed = loads(value)
    except Broken as error:
        raise Refused(f"tool call is not JSON: {where}: {error}") from None
    listed = parsed if isinstance(parsed, list) else [parsed]
    if not listed:
        raise Refused(f"tool call is an empty list: {where}")
    return [tool_call(call, where) for call in listed]


def dialogue(row: Row, key: str) -> Converted:
    """Turns with `speaker` and `utterance`; frames with service calls and results stay in `extra`, by message."""
    messages, fields = [], []
    for index, turn in enumerate(row[key]):
        where = f"message {index}"
        speaker = turn.get("speaker") if isinstance(turn, dict) else None
        known = SPEAKERS.get(speaker.lower()) if isinstance(speaker, str) else None
        if known is None:
            raise Refused(f"unknown speaker: {where}")
        if not isinstance(turn.get("utterance"), str):
            raise Refused(f"not text: {where} has an utterance that is {kind(turn.get('utterance'))}")
        messages.append(Message(known, turn["utterance"]))
        if left := {name: item for name, item in turn.items() if name not in ("speaker", "utterance") and item}:
            if "index" in left:
                left["index_"] = left.pop("index")
            fields.append({"index": index, **left})
    return Converted("dialogue states", [Draft(messages, extra=_fields(fields, 0))], {key})
