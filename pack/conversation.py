"""A record's messages as chat templates want them, and the same with every text replaced by a numbered sentinel.

The second form is what makes masks provable: rendered, it shows where the template puts each text, and which it loses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import xxhash

from curate.record import Message
from pack.rendering import TemplateFailed

SENTINEL = re.compile(r"QzGm(\d{5})mGzQ")
# Reasoning written into the answer: the tags are markup, what they hold and what follows are two texts.
_THOUGHT = re.compile(r"(\s*<think>\s*)(.*?)(\s*</think>\s*)(.*)", re.DOTALL)


@dataclass(slots=True)
class Slot:
    """One text of a record: its kind (a role, reasoning, tool_calls, tools), its message's index, itself."""

    kind: str
    message: int
    text: str


@dataclass(slots=True)
class Dissection:
    """Both forms of a conversation; sentinel n stands for slots[n]."""

    chat: list[dict[str, Any]]
    tools: list[Any] | None
    bare_chat: list[dict[str, Any]]
    bare_tools: list[Any] | None
    slots: list[Slot]
    key: str


Rewrite = Callable[[str], str]


def dissect(
    messages: Sequence[Message], tools: str | None, control: re.Pattern[str], *, nine: bool = False
) -> Dissection:
    """The two forms; `nine` gives tool calls the nine-character ids that Mistral's templates insist on.

    Raises TemplateFailed("tool-json") for tools or tool calls that are no JSON lists.
    """
    slots: list[Slot] = []
    chat: list[dict[str, Any]] = []
    bare: list[dict[str, Any]] = []
    waiting: list[str] = []
    for index, message in enumerate(messages):
        entry: dict[str, Any] = {"role": message.role, "content": message.content or ""}
        twin: dict[str, Any] = {"role": message.role, "content": _bare_content(message, index, slots)}
        if message.name is not None:
            entry["name"] = twin["name"] = message.name
        if message.reasoning:
            entry["reasoning_content"] = message.reasoning
            twin["reasoning_content"] = _take(slots, "reasoning", index, message.reasoning)
        if message.tool_calls:
            calls = _calls(message.tool_calls, index, nine)
            entry["tool_calls"] = calls
            twin["tool_calls"] = [_bare_call(call, index, slots, control) for call in calls]
            waiting = [call["id"] for call in calls]
        if message.role == "tool":
            entry["tool_call_id"] = twin["tool_call_id"] = waiting.pop(0) if waiting else _nine(f"tool {index}")
        chat.append(entry)
        bare.append(twin)
    listed = _tools(tools)
    bare_tools = None if listed is None else [_bare_tool(tool, slots, control) for tool in listed]
    key = json.dumps([bare, bare_tools], ensure_ascii=False)
    return Dissection(chat, listed, bare, bare_tools, slots, key)


def _take(slots: list[Slot], kind: str, index: int, text: str) -> str:
    """A new slot's sentinel; blank text stays as it is, because templates ask whether there is any."""
    if not text.strip():
        return text
    slots.append(Slot(kind, index, text))
    return f"QzGm{len(slots) - 1:05d}mGzQ"


def _bare_content(message: Message, index: int, slots: list[Slot]) -> str:
    content = message.content or ""
    thought = _THOUGHT.fullmatch(content) if message.role == "assistant" and "</think>" in content else None
    if thought is None:
        return _take(slots, message.role, index, content)
    before, inner, between, answer = thought.groups()
    return before + _take(slots, "reasoning", index, inner) + between + _take(slots, "assistant", index, answer)


def _load(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise TemplateFailed("tool-json", "tools or tool calls are no JSON") from None


def _calls(text: str, index: int, nine: bool) -> list[dict[str, Any]]:
    calls = _load(text)
    calls = [calls] if isinstance(calls, dict) else calls
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise TemplateFailed("tool-json", "tool calls are no list of objects")
    found = []
    for k, call in enumerate(calls):
        function = call["function"] if isinstance(call.get("function"), dict) else call
        arguments = function.get("arguments", {})
        if isinstance(arguments, str):
            try:
                parsed = json.loads(arguments)
            except ValueError:
                parsed = None
            arguments = parsed if isinstance(parsed, dict) else arguments
        given = call.get("id")
        name = given if isinstance(given, str) and given else f"call {index} {k}"
        call_id = name if name == given and not nine else _nine(name)
        body = {"name": str(function.get("name", "")), "arguments": arguments}
        found.append({"id": call_id, "type": "function", "function": body})
    return found


def _nine(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9]{9}", name) else xxhash.xxh3_64_hexdigest(name.encode())[:9]


def _tools(text: str | None) -> list[Any] | None:
    if not text:
        return None
    tools = _load(text)
    tools = [tools] if isinstance(tools, dict) else tools
    if not isinstance(tools, list):
        raise TemplateFailed("tool-json", "tools are no list")
    wrapped = [
        {"type": "function", "function": tool} if isinstance(tool, dict) and "function" not in tool else tool
        for tool in tools
    ]
    return wrapped or None


def _bare_call(call: dict[str, Any], index: int, slots: list[Slot], control: re.Pattern[str]) -> dict[str, Any]:
    function = call["function"]
    name = _take(slots, "tool_calls", index, function["name"])
    arguments = _mark(function["arguments"], "tool_calls", index, slots, control)
    return {**call, "function": {"name": name, "arguments": arguments}}


def _bare_tool(tool: Any, slots: list[Slot], control: re.Pattern[str]) -> Any:
    marked = _mark(tool, "tools", -1, slots, control)
    function = marked.get("function") if isinstance(marked, dict) else None
    if isinstance(function, dict) and isinstance(tool["function"].get("name"), str):
        function["name"] = _take(slots, "tools", -1, tool["function"]["name"])
    return marked


def _mark(value: Any, kind: str, index: int, slots: list[Slot], control: re.Pattern[str]) -> Any:
    """The same JSON value with each literal control token in its strings replaced by a sentinel."""
    if isinstance(value, str):
        return control.sub(lambda match: _take(slots, kind, index, match[0]), value)
    if isinstance(value, dict):
        return {key: _mark(item, kind, index, slots, control) for key, item in value.items()}
    if isinstance(value, list):
        return [_mark(item, kind, index, slots, control) for item in value]
    return value


def map_texts(message: Message, change: Rewrite) -> Message:
    """A copy of a message with every text passed through `change`."""
    content = None if message.content is None else change(message.content)
    reasoning = None if message.reasoning is None else change(message.reasoning)
    calls = None if message.tool_calls is None else change(message.tool_calls)
    return Message(message.role, content, message.name, calls, reasoning, message.train)
