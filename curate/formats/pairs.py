"""Rows of columns: Alpaca, question and answer in their many names, nested instances, text, format strings."""

from __future__ import annotations

from collections import Counter
from string import Formatter
from typing import Any, Final

from curate.formats.draft import Converted, Draft, Refused, Row, kind, optional, pair, shown, text
from curate.foundation.store import canonical
from curate.record import Message

PAIRS: Final = {
    "prompt/completion": ("prompt", "completion"),
    "prompt/response": ("prompt", "response"),
    "question/answer": ("question", "answer"),
    "query/response": ("query", "response"),
    "problem/solution": ("problem", "solution"),
}


def question(row: Row, name: str) -> Converted:
    """A question and its answer under one of the pairs of names; both may be message lists (conversational prompts)."""
    left, right = PAIRS[name]
    used = {left, right}
    if isinstance(row[left], list) and isinstance(row[right], list):
        from curate.formats.chats import openai

        return _renamed(openai({"messages": [*row[left], *row[right]]}, "messages"), name, used)
    user, assistant = text(row, left), text(row, right)
    return Converted(name, [Draft(pair(_take_system(row, used), user, assistant))], used)


def _renamed(found: Converted, name: str, used: set[str]) -> Converted:
    return Converted(name, found.drafts, used, found.notes)


def _take_system(row: Row, used: set[str]) -> str:
    if "system" in row:
        used.add("system")
    return optional(row, "system")


def joined(instruction: str, given: str) -> str:
    """The user text of an Alpaca row: the instruction, then a blank line and the input when there is one."""
    return f"{instruction}\n\n{given}" if given else instruction


def alpaca(row: Row) -> Converted:
    """`instruction`, `input` (or `context`) and `output` or `response`, after `system` and `history`."""
    used = {"instruction"}
    notes: Counter[str] = Counter()
    given = ""
    for key in ("input", "context"):
        if key in row:
            if given and row[key]:
                raise Refused("ambiguous: both input and context")
            given = given or optional(row, key)
            used.add(key)
    answers = [key for key in ("output", "response") if row.get(key) is not None]
    if len(answers) == 2 and row["output"] != row["response"]:
        raise Refused("ambiguous: output and response differ")
    if not answers:
        raise Refused("not text: the answer is null")
    if len(answers) == 2:
        notes["response equal to output"] += 1
    used |= {"output", "response"}
    system = _take_system(row, used)
    messages = [Message("system", system)] if system else []
    messages += _history(row, used)
    messages += pair("", joined(text(row, "instruction"), given), text(row, answers[0]))
    return Converted("alpaca", [Draft(messages)], used, notes)


def _history(row: Row, used: set[str]) -> list[Message]:
    if "history" not in row:
        return []
    used.add("history")
    turns = row["history"] or []
    if not isinstance(turns, list):
        raise Refused(f"history is {kind(turns)}")
    out = []
    for turn in turns:
        if not isinstance(turn, list) or len(turn) != 2 or not all(isinstance(item, str) for item in turn):
            raise Refused("history is not a list of [user, assistant] texts")
        out += pair("", turn[0], turn[1])
    return out


def instances(row: Row) -> Converted:
    """One conversation for each of `instances`; bad ones are counted and kept in `extra` of the first good one."""
    instruction = text(row, "instruction")
    used = {"instruction", "instances"}
    notes: Counter[str] = Counter()
    drafts: list[Draft] = []
    bad = []
    for index, item in enumerate(row["instances"]):
        given = item.get("input") if isinstance(item, dict) else 0
        if (given is not None and not isinstance(given, str)) or not isinstance(item.get("output"), str):
            bad.append({"part": index, "instance": item})
            notes["instances that are not text, kept in extra"] += 1
            continue
        left = {key: value for key, value in item.items() if key not in ("input", "output")}
        messages = pair("", joined(instruction, given or ""), item["output"])
        drafts.append(Draft(messages, part=index, extra={"instance": left} if left else {}))
    if not drafts:
        raise Refused("no usable instance")
    if bad:
        drafts[0].extra["bad_instances"] = bad
    return Converted("instances", drafts, used, notes)


def plain_text(row: Row) -> Converted:
    """`text` as one assistant turn; only when `format: text` asks for it."""
    if "text" not in row:
        raise Refused("missing column: text")
    return Converted("text", [Draft([Message("assistant", text(row, "text"))])], {"text"})


def built(row: Row, system: str | None, user: str | None, assistant: str | None) -> Converted:
    """A conversation from format strings over columns; values that are not text are written as canonical JSON."""
    used: set[str] = set()
    messages = [
        Message(role, _fill(template, row, used))
        for role, template in (("system", system), ("user", user), ("assistant", assistant))
        if template is not None
    ]
    return Converted("format strings", [Draft(messages)], used)


def _fill(template: str, row: Row, used: set[str]) -> str:
    out = []
    for literal, name, _, _ in Formatter().parse(template):
        out.append(literal)
        if name is None:
            continue
        if row.get(name) is None:
            raise Refused(f"missing column: {shown(name)}")
        used.add(name)
        value: Any = row[name]
        out.append(value if isinstance(value, str) else canonical(value))
    return "".join(out)
