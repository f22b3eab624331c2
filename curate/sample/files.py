"""The files of the sample corpus: which schema and container each has, and how a row is written in it.

Bytes are the same on every machine: JSON with fixed separators, gzip without a time stamp, single-threaded zstd, and
Parquet of one row group without statistics of the writer's host.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from curate.record import Message
from curate.sample.corpus import Row

Shape = Callable[[list[Message]], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Target:
    """One file: its path under raw/ (the first folder is the source), its schema, and its share of the rows."""

    path: str
    shape: Shape
    share: int
    pairs_only: bool

    @property
    def lines(self) -> bool:
        """Whether a row is a line of JSON, which alone can be broken without breaking the file."""
        return ".jsonl" in self.path


def _chat(messages: list[Message]) -> dict[str, Any]:
    return {"messages": [{"role": m.role, "content": m.content} for m in messages]}


def _sharegpt(messages: list[Message]) -> dict[str, Any]:
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    return {"conversations": [{"from": names[m.role], "value": m.content} for m in messages]}


def _alpaca(messages: list[Message]) -> dict[str, Any]:
    return {"instruction": messages[0].content, "input": "", "output": messages[1].content}


def _pair(asks: str, answers: str) -> Shape:
    return lambda messages: {asks: messages[0].content, answers: messages[1].content}


TARGETS: Final = (
    Target("chat/part-0.jsonl", _chat, 22, False),
    Target("chat/part-1.jsonl.gz", _chat, 12, False),
    Target("sharegpt/conversations.json", _sharegpt, 18, False),
    Target("alpaca/tasks.json", _alpaca, 8, True),
    Target("alpaca/more.jsonl", _alpaca, 6, True),
    Target("completion/pairs.parquet", _pair("prompt", "completion"), 12, True),
    Target("quiz/questions.csv", _pair("question", "answer"), 12, True),
    Target("solutions/problems.jsonl.zst", _pair("problem", "solution"), 10, True),
)


def fits(target: Target, row: Row) -> bool:
    """Whether a row can be said in a file: pairs hold two messages, and only JSON lines can be broken one by one."""
    if row.kind == "broken_json":
        return target.lines
    return not target.pairs_only or [m.role for m in row.messages] == ["user", "assistant"]


def encode(target: Target, rows: Sequence[Row]) -> bytes:
    """The bytes of a file."""
    shaped = [{**target.shape(row.messages), "level": row.level} for row in rows]
    if target.path.endswith(".csv"):
        return _csv(shaped)
    if target.path.endswith(".parquet"):
        return _parquet(shaped)
    texts = [json.dumps(row, ensure_ascii=False, separators=(", ", ": ")) for row in shaped]
    if target.path.endswith(".json"):
        return ("[\n" + ",\n".join(texts) + "\n]\n").encode()
    lines = [
        text[: len(text) * 2 // 3] if row.kind == "broken_json" else text for text, row in zip(texts, rows, strict=True)
    ]
    data = "".join(f"{line}\n" for line in lines).encode()
    if target.path.endswith(".gz"):
        return gzip.compress(data, mtime=0)
    if target.path.endswith(".zst"):
        import zstandard

        return zstandard.ZstdCompressor(level=3).compress(data)
    return data


def _csv(rows: Sequence[dict[str, Any]]) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def _parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    table = pa.Table.from_pylist(list(rows))
    pq.write_table(table, out, compression="zstd", row_group_size=1 << 20)
    return out.getvalue()
