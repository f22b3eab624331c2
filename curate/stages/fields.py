"""What a condition may look at: one value a record.

Turns are user messages. A script's share is its letters over all letters (Unicode script property of the regular
expression engine's tables) in user and assistant text: `script.cjk` is Han, kana, bopomofo and Hangul together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate.record import ROLES
from curate.stages.text import ASSISTANT, SYSTEM, USER, Messages, joined, measure, unfold

SCRIPTS: Final = {
    "latin": r"\p{Latin}",
    "cjk": r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Hangul}",
    "cyrillic": r"\p{Cyrillic}",
    "arabic": r"\p{Arabic}",
    "greek": r"\p{Greek}",
    "hebrew": r"\p{Hebrew}",
    "devanagari": r"\p{Devanagari}",
    "thai": r"\p{Thai}",
}


def _column(name: str) -> Callable[[pa.Table], Any]:
    return lambda table: table.column(name).combine_chunks()


def _turns(table: pa.Table) -> Any:
    return _count(table, USER)


def _count(table: pa.Table, role: int) -> Any:
    messages = unfold(table)
    return pa.array(messages.per_row((messages.roles == role).astype(np.int64)))


def _chars(table: pa.Table, role: int | None = None) -> Any:
    messages = unfold(table)
    where = None if role is None else messages.roles == role
    return pa.array(messages.per_row(messages.content.chars, where))


def _tools(table: pa.Table) -> Any:
    listed = np.asarray(pc.not_equal(pc.fill_null(joined(table.column("tools")), "[]"), "[]"), dtype=np.bool_)
    return pa.array(listed | np.asarray(_calls(table), dtype=np.bool_))


def _calls(table: pa.Table) -> Any:
    messages = unfold(table)
    return pa.array(messages.per_row(messages.calls.astype(np.int64)) > 0)


def _reasoning(table: pa.Table) -> Any:
    messages = unfold(table)
    filled = measure(messages.fields["reasoning"]).stripped > 0
    return pa.array(messages.per_row(filled.astype(np.int64)) > 0)


def _texts(table: pa.Table, role: int) -> Any:
    """The texts of one role joined by line feeds; null where the role is silent."""
    messages = unfold(table)
    return _joined_texts(messages, messages.roles == role)


def _joined_texts(messages: Messages, where: Any) -> Any:
    counts = messages.per_row(where.astype(np.int64))
    chosen = pc.fill_null(messages.fields["content"].filter(pa.array(where)), "")
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
    texts = pc.binary_join(pa.LargeListArray.from_arrays(offsets, chosen), pa.scalar("\n", pa.large_string()))
    return pc.if_else(pa.array(counts > 0), texts, pa.scalar(None, pa.large_string()))


def _script(table: pa.Table, name: str) -> Any:
    import polars as pl

    messages = unfold(table)
    where = (messages.roles == USER) | (messages.roles == ASSISTANT)
    texts = pl.Series(pc.fill_null(_joined_texts(messages, where), ""))
    letters = texts.str.count_matches(r"\p{L}").to_numpy().astype(np.float64)
    found = texts.str.count_matches(rf"[[{SCRIPTS[name]}]&&\p{{L}}]").to_numpy().astype(np.float64)
    share = np.divide(found, letters, out=np.zeros(len(found)), where=letters > 0)
    return pa.array(share, mask=letters == 0)


def _extra(table: pa.Table, path: str) -> list[Any]:
    import orjson

    column = joined(table.column("extra"))
    keys = path.split(".")
    found: list[Any] = [None] * len(column)
    # A key stands in the JSON as it is spelled, or with escapes: only then can the row hold it.
    held = pc.or_(pc.match_substring(column, keys[-1]), pc.match_substring(column, "\\"))
    rows = np.flatnonzero(np.asarray(pc.fill_null(held, False).to_numpy(zero_copy_only=False), dtype=np.bool_))
    for row, text in zip(rows.tolist(), column.take(pa.array(rows)).to_pylist(), strict=True):
        found[row] = _at(orjson.loads(text), keys)
    return found


def _at(value: Any, keys: list[str]) -> Any:
    for position, key in enumerate(keys):
        if not isinstance(value, dict):
            return None
        rest = ".".join(keys[position:])
        if rest in value:  # a key may itself hold dots
            return value[rest]
        value = value.get(key)
    return value


def _bound(function: Callable[..., Any], argument: Any) -> Callable[[pa.Table], Any]:
    return lambda table: function(table, argument)


FIELDS: Final[dict[str, Callable[[pa.Table], Any]]] = {
    **{name: _column(name) for name in ("id", "content", "source", "score")},
    "file": lambda table: table.column("origin").combine_chunks().field("file"),
    "turns": _turns,
    "tools": _tools,
    "tool_calls": _calls,
    "reasoning": _reasoning,
    "chars": _chars,
    **{f"roles.{name}": _bound(_count, code) for code, name in enumerate(ROLES)},
    **{f"chars.{name}": _bound(_chars, code) for code, name in enumerate(ROLES)},
    **{f"text.{ROLES[code]}": _bound(_texts, code) for code in (SYSTEM, USER, ASSISTANT)},
    **{f"script.{name}": _bound(_script, name) for name in SCRIPTS},
}


def read_field(table: pa.Table, name: str) -> Any:
    """The values of a known field, or of a dotted path below `extra`."""
    return _extra(table, name[len("extra.") :]) if name.startswith("extra.") else FIELDS[name](table)
