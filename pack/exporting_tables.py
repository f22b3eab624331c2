"""The Parquet schemas of text exports.

Tool calls and tools differ from row to row; as plain structs Parquet and JSON readers would give each the keys of all
the others, null, and a chat template would print them. `datasets` knows a type for that, `Json`: its columns are Arrow's
json extension type, announced in the schema's metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

_TAIL: Final = [pa.field("id", pa.string()), pa.field("source", pa.string()), pa.field("drawn", pa.int32())]
VERL: Final = pa.schema(
    [
        pa.field("messages", pa.list_(pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())]))),
        *_TAIL,
    ]
)
_TEXTS: Final = ("role", "content", "name", "reasoning_content")
_JSONS: Final = pa.list_(pa.string())
_STORED: Final = pa.schema(
    [
        pa.field(
            "messages",
            pa.list_(pa.struct([*(pa.field(name, pa.string()) for name in _TEXTS), pa.field("tool_calls", _JSONS)])),
        ),
        pa.field("tools", _JSONS),
        *_TAIL,
    ]
)


def _text(kind: str = "string") -> dict[str, str]:
    return {"dtype": kind, "_type": "Value"}


_LISTED: Final = {"feature": {"_type": "Json"}, "_type": "List"}
_FEATURES: Final = {
    "messages": {"feature": {**{name: _text() for name in _TEXTS}, "tool_calls": _LISTED}, "_type": "List"},
    "tools": _LISTED,
    "id": _text(),
    "source": _text(),
    "drawn": _text("int32"),
}
_INFO: Final = {"huggingface": json.dumps({"info": {"features": _FEATURES}})}


def _as_json(column: Any) -> Any:
    """A list<string> array as list<json>."""
    return pa.ListArray.from_arrays(
        column.offsets, pa.ExtensionArray.from_storage(pa.json_(), column.values), mask=column.is_null()
    )


def verl(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows of role and text."""
    return pa.Table.from_pylist(list(rows), schema=VERL)


def conversations(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows with `messages` and `tools` as `datasets` loads them: every call and tool with its own keys only."""
    stored = pa.Table.from_pylist([_dumped(row) for row in rows], schema=_STORED).combine_chunks()
    messages = stored.column("messages").combine_chunks()
    parts = messages.values
    columns = [*(parts.field(name) for name in _TEXTS), _as_json(parts.field("tool_calls"))]
    listed = pa.ListArray.from_arrays(messages.offsets, pa.StructArray.from_arrays(columns, [*_TEXTS, "tool_calls"]))
    tools = _as_json(stored.column("tools").combine_chunks())
    rest = [stored.column(field.name).combine_chunks() for field in _TAIL]
    names = ["messages", "tools", *(field.name for field in _TAIL)]
    return pa.Table.from_arrays([listed, tools, *rest], names).replace_schema_metadata(_INFO)


def _dumped(row: Mapping[str, Any]) -> dict[str, Any]:
    messages = [{**one, "tool_calls": _listed(one.get("tool_calls"))} for one in row["messages"]]
    return {**row, "messages": messages, "tools": _listed(row.get("tools"))}


def _listed(value: Any) -> list[str] | None:
    if value is None:
        return None
    return [json.dumps(item, ensure_ascii=False) for item in (value if isinstance(value, list) else [value])]
