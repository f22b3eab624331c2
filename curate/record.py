"""Contract 1: the record. One record is one conversation.

`SCHEMA` is the Arrow schema of `out/records/`. Identity and content are digests: `id` names a row of a file, `content`
what it says. Both are xxh3_128 in hex, stable across runs, machines and worker counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import xxhash

ROLES: Final = ("system", "user", "assistant", "tool")

MESSAGE: Final = pa.struct(
    [
        pa.field("role", pa.string(), nullable=False),
        pa.field("content", pa.large_string()),
        pa.field("name", pa.string()),
        pa.field("tool_calls", pa.large_string()),
        pa.field("reasoning", pa.large_string()),
        pa.field("train", pa.bool_(), nullable=False),
    ]
)
ORIGIN: Final = pa.struct(
    [
        pa.field("file", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("part", pa.int32(), nullable=False),
    ]
)
SCHEMA: Final = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("content", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("origin", ORIGIN, nullable=False),
        pa.field("messages", pa.large_list(MESSAGE), nullable=False),
        pa.field("tools", pa.large_string()),
        pa.field("score", pa.float64()),
        pa.field("extra", pa.large_string()),
    ]
)


@dataclass(slots=True)
class Message:
    """One turn. `tool_calls` is canonical JSON of a list; `train` says whether its tokens may carry loss."""

    role: str
    content: str | None
    name: str | None = None
    tool_calls: str | None = None
    reasoning: str | None = None
    train: bool = True


@dataclass(slots=True)
class Record:
    """One conversation and where it came from; `tools` and `extra` are canonical JSON."""

    source: str
    file: str
    row: int
    messages: list[Message] = field(default_factory=list)
    part: int = 0
    tools: str | None = None
    score: float | None = None
    extra: str | None = None

    @property
    def id(self) -> str:
        """The record's identity: xxh3_128 of source, file, row and part."""
        return record_id(self.source, self.file, self.row, self.part)

    @property
    def content(self) -> str:
        """The digest of what the record says: xxh3_128 of the canonical JSON of messages and tools."""
        return content_digest(self.messages, self.tools)


def record_id(source: str, file: str, row: int, part: int) -> str:
    """xxh3_128 of the four fields joined by NUL, 32 hex characters."""
    return xxhash.xxh3_128_hexdigest(f"{source}\0{file}\0{row}\0{part}".encode())


def canonical_messages(messages: Iterable[Message], tools: str | None) -> str:
    """The canonical JSON of a conversation: fixed key order, every key present, no spaces, UTF-8 text kept."""
    return json.dumps(
        {
            "messages": [
                {
                    "role": m.role,
                    "content": m.content,
                    "name": m.name,
                    "tool_calls": m.tool_calls,
                    "reasoning": m.reasoning,
                    "train": m.train,
                }
                for m in messages
            ],
            "tools": tools,
        },
        ensure_ascii=False,
        separators=(",", ":"),
    )


def content_digest(messages: Iterable[Message], tools: str | None) -> str:
    """xxh3_128 of `canonical_messages`, 32 hex characters."""
    return xxhash.xxh3_128_hexdigest(canonical_messages(messages, tools).encode())


def from_row(row: Mapping[str, Any]) -> Record:
    """A Record from one row of `Table.to_pylist()` under SCHEMA."""
    origin = row["origin"]
    return Record(
        source=row["source"],
        file=origin["file"],
        row=origin["row"],
        part=origin["part"],
        messages=[Message(**message) for message in row["messages"]],
        tools=row["tools"],
        score=row["score"],
        extra=row["extra"],
    )


def to_table(records: Iterable[Record]) -> pa.Table:
    """An Arrow table under SCHEMA, ids and content digests computed here."""
    rows = [
        {
            "id": r.id,
            "content": r.content,
            "source": r.source,
            "origin": {"file": r.file, "row": r.row, "part": r.part},
            "messages": [
                {
                    "role": m.role,
                    "content": m.content,
                    "name": m.name,
                    "tool_calls": m.tool_calls,
                    "reasoning": m.reasoning,
                    "train": m.train,
                }
                for m in r.messages
            ],
            "tools": r.tools,
            "score": r.score,
            "extra": r.extra,
        }
        for r in records
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)
