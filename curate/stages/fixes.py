"""Rewriting rules, all off by default: each changes only form, is counted, and leaves the original behind.

`fences`: the language of a code fence in its usual spelling, no blanks at the end of a fence line. `line_ends`: CRLF
becomes LF. A rewritten record keeps its id, gets the content digest of its new text, and its old messages lie in
`extra` under `_original_messages`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curate.foundation.store import canonical
from curate.record import MESSAGE, Message, content_digest
from curate.stages.candidates import Texts
from curate.stages.settings import Fixes
from curate.stages.text import Messages

ORIGINAL: Final = "_original_messages"
FENCE_LINE: Final = re.compile(r"^([ \t]*`{3,})[ \t]*([^`\r\n]*?)[ \t]*(\r?)$", re.MULTILINE)
SPELLING: Final = {
    "py": "python",
    "python3": "python",
    "js": "javascript",
    "ts": "typescript",
    "c++": "cpp",
    "c#": "csharp",
    "golang": "go",
    "yml": "yaml",
    "rb": "ruby",
    "rs": "rust",
}


def fix_fences(text: str) -> str:
    """Fence lines in their usual spelling; info strings of more than one word keep their words."""

    def spelled(match: re.Match[str]) -> str:
        info = match[2]
        if info and " " not in info:
            info = SPELLING.get(info.lower(), info.lower())
        return match[1] + info + match[3]

    return FENCE_LINE.sub(spelled, text)


def fix_line_ends(text: str) -> str:
    """CRLF as LF."""
    return text.replace("\r\n", "\n")


def apply_fixes(
    table: pa.Table, messages: Messages, texts: Texts, settings: Fixes, spared: NDArray[np.bool_]
) -> tuple[pa.Table, dict[str, int]]:
    """The batch with the chosen rules applied to the rows not `spared`, and the rows each rule changed."""
    rules = []
    everywhere = ~spared[messages.rows]
    touched = np.zeros(len(messages.rows), np.bool_)
    if settings.line_ends == "on":
        rules.append(("fix.line_ends", fix_line_ends))
        touched |= texts.literal("\r\n", everywhere)
    if settings.fences == "on":
        rules.append(("fix.fences", fix_fences))
        touched |= texts.literal("```", everywhere)
    rows = np.unique(messages.rows[touched]).tolist()
    if not rows:
        return table, {}
    counted: Counter[str] = Counter()
    changed: dict[int, dict[str, Any]] = {}
    columns = ["content", "messages", "tools", "extra"]
    for row, record in zip(rows, table.select(columns).take(pa.array(rows)).to_pylist(), strict=True):
        fixed = [dict(message) for message in record["messages"]]
        for name, rule in rules:
            before = [message["content"] for message in fixed]
            for message in fixed:
                message["content"] = message["content"] and rule(message["content"])
            counted[name] += before != [message["content"] for message in fixed]
        if fixed != record["messages"]:
            extra = json.loads(record["extra"] or "{}")
            extra.setdefault(ORIGINAL, record["messages"])
            digest = content_digest([Message(**message) for message in fixed], record["tools"])
            changed[row] = {"content": digest, "messages": fixed, "extra": canonical(extra)}
    return _replaced(table, changed), {name: number for name, number in counted.items() if number}


def _replaced(table: pa.Table, changed: dict[int, dict[str, Any]]) -> pa.Table:
    """The table with some rows of some columns exchanged, everything else taken over."""
    if not changed:
        return table
    rows = sorted(changed)
    index = np.arange(table.num_rows)
    index[rows] = table.num_rows + np.arange(len(rows))
    for name, kind in (
        ("content", pa.string()),
        ("messages", pa.large_list(MESSAGE)),
        ("extra", pa.large_string()),
    ):
        new = pa.array([changed[row][name] for row in rows], kind)
        at = table.schema.get_field_index(name)
        column = pa.chunked_array([*table.column(name).chunks, new]).combine_chunks()
        table = table.set_column(at, table.schema.field(name), column.take(pa.array(index)))
    return table
