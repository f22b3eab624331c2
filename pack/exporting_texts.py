"""One record as a row of another trainer's text format, or the reason why that format cannot say it.

A format that drops something silently is worse than one that refuses: what would be lost or trained by mistake raises
`Unfit`, what is only written differently is counted in `notes`.

Cost: a few dictionaries a record.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from curate.record import Message, Record

Row = dict[str, Any]


class Unfit(Exception):
    """A record that a format cannot hold; the text is a short stable reason without data."""


@dataclass(frozen=True, slots=True)
class TextFormat:
    """How one format is written: the converter, the folder and suffix of its files, what to do when nothing fits."""

    convert: Callable[[Record, Counter[str]], Row]
    folder: str = ""
    suffix: str = "jsonl"
    config: str = "default"
    hint: str = "--to messages holds every record"

    def name(self, split: str) -> str:
        """The file of a split, relative to the export."""
        return f"{self.folder}{split}.{self.suffix}"


def _loaded(text: str | None) -> Any:
    if not text:
        return None
    try:
        return json.loads(text)
    except ValueError:
        raise Unfit("tools or tool calls are no JSON") from None


def message(one: Message) -> Row:
    """A message with the keys of the chat formats; keys without a value are left out, `content` never."""
    row: Row = {"role": one.role, "content": one.content}
    if one.name is not None:
        row["name"] = one.name
    if one.reasoning is not None:
        row["reasoning_content"] = one.reasoning
    if one.tool_calls is not None:
        row["tool_calls"] = _loaded(one.tool_calls)
    if not one.train:
        row["train"] = False
    return row


def messages(record: Record, notes: Counter[str]) -> Row:
    """Everything a record holds; `curate filter` reads it back to the same content digest."""
    row: Row = {"messages": [message(one) for one in record.messages]}
    if record.tools is not None:
        row["tools"] = _loaded(record.tools)
    if record.score is not None:
        row["score"] = record.score
    if record.extra is not None:
        row["extra"] = _loaded(record.extra)
    return row


def conversational(record: Record, notes: Counter[str]) -> Row:
    """TRL's conversational rows: `messages`, and `tools` where there are any; TRL trains every assistant turn."""
    _all_trained(record)
    row: Row = {"messages": [message(one) for one in record.messages]}
    if record.tools is not None:
        row["tools"] = _loaded(record.tools)
    return row


def _all_trained(record: Record) -> None:
    if any(one.role == "assistant" and not one.train for one in record.messages):
        raise Unfit("an assistant turn that must carry no loss")


def thought(one: Message, notes: Counter[str]) -> str:
    """The content with its reasoning before it in <think> tags, as reasoning models write it."""
    if not one.reasoning:
        return one.content or ""
    notes["turns with reasoning written as <think> tags"] += 1
    return f"<think>\n{one.reasoning}\n</think>\n\n{one.content or ''}"


def sharegpt(record: Record, notes: Counter[str]) -> Row:
    """LLaMA-Factory's sharegpt rows. Its converter drops what does not alternate and has no mask a turn."""
    _all_trained(record)
    turns: list[dict[str, str]] = []
    for index, one in enumerate(record.messages):
        if one.role == "system" and index:
            raise Unfit("a system text after the first message")
        if one.name is not None:
            notes["message names dropped"] += 1
        if one.tool_calls:
            if one.content or one.reasoning:
                raise Unfit("text beside a tool call")
            turns.append({"from": "function_call", "value": json.dumps(_calls(one), ensure_ascii=False)})
        else:
            turns.append({"from": _SHARE[one.role], "value": thought(one, notes)})
    body = turns[1:] if turns and turns[0]["from"] == "system" else turns
    if len(body) % 2:
        raise Unfit("it does not end with the assistant")
    if any(turn["from"] not in _PLACES[place % 2] for place, turn in enumerate(body)):
        raise Unfit("its turns do not alternate")
    return {"conversations": turns, "tools": record.tools or ""}


_SHARE: Final = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}
_PLACES: Final = (("human", "observation"), ("gpt", "function_call"))


def _calls(one: Message) -> list[Row]:
    calls = _loaded(one.tool_calls)
    found = []
    for call in calls if isinstance(calls, list) else [calls]:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, Mapping) or "name" not in function:
            raise Unfit("tools or tool calls are no JSON")
        found.append({"name": function["name"], "arguments": function.get("arguments", {})})
    return found


def multiturn(record: Record, notes: Counter[str]) -> Row:
    """verl's MultiTurnSFTDataset rows: role and text. Tools would get null keys from Parquet, so they do not fit."""
    _all_trained(record)
    if record.tools or any(one.tool_calls for one in record.messages):
        raise Unfit("tools or tool calls")
    if names := sum(one.name is not None for one in record.messages):
        notes["message names dropped"] += names
    return {"messages": [{"role": one.role, "content": thought(one, notes)} for one in record.messages]}


def preference(record: Record, notes: Counter[str]) -> Row:
    """TRL's explicit-prompt preference rows, from a record whose `extra` keeps the rejected side of its row."""
    extra = _loaded(record.extra)
    if not isinstance(extra, dict) or "rejected" not in extra:
        raise Unfit("no rejected side")
    whole = [message(one) for one in record.messages]
    lost = _side(extra["rejected"])
    if lost[0]["role"] == "assistant":
        cut = 1 + max((i for i, one in enumerate(whole) if one["role"] != "assistant"), default=-1)
    else:
        same = (_said(a) == _said(b) for a, b in zip(whole, lost, strict=False))
        cut = next((i for i, equal in enumerate(same) if not equal), min(len(whole), len(lost)))
        lost = lost[cut:]
    prompt, won = whole[:cut], whole[cut:]
    if not prompt or not won or not lost:
        raise Unfit("chosen and rejected are not two answers to one prompt")
    row: Row = {"prompt": prompt, "chosen": won, "rejected": lost}
    return row | ({"tools": _loaded(record.tools)} if record.tools is not None else {})


def _said(one: Row) -> tuple[Any, Any]:
    return one["role"], one.get("content")


def _side(value: Any) -> list[Row]:
    """The rejected side as messages: a text, one message, or a list of messages (of either key style)."""
    listed = [{"role": "assistant", "content": value}] if isinstance(value, str) else value
    listed = [listed] if isinstance(listed, dict) else listed
    if not isinstance(listed, Sequence) or not listed or not all(isinstance(one, dict) for one in listed):
        raise Unfit("the rejected side is neither text nor messages")
    rows = []
    for one in listed:
        role, content = str(one.get("role", one.get("from"))), one.get("content", one.get("value"))
        role = {"gpt": "assistant", "human": "user"}.get(role, role)
        if role not in _SHARE or not isinstance(content, str):
            raise Unfit("the rejected side is neither text nor messages")
        rows.append(
            {**{key: one[key] for key in one if key not in ("from", "value")}, "role": role, "content": content}
        )
    return rows


TEXTS: Final[dict[str, TextFormat]] = {
    "trl": TextFormat(conversational, "messages/", "parquet", "messages"),
    "llamafactory": TextFormat(sharegpt),
    "verl": TextFormat(multiturn, suffix="parquet"),
    "messages": TextFormat(messages),
    "preferences": TextFormat(
        preference, hint="curate preference rows by their chosen side: curate filter RAW OUT --preference chosen"
    ),
}
