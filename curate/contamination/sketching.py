"""What a record keeps of its comparison with the eval sets until all records are known.

A sketch has one row a record: its place, and where something matched also its id, its source, the hits and the texts of
the messages they are in. Runs of words are settled here: a short item must be a sentence or a line of its own, and of
a question either all choices must follow (`offered.py`) or the answer, in the same message or at the start of the next.

Cost: `scan` on the messages in scope, and 20 bytes a record that matches nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curate.contamination.index import EvalIndex
from curate.contamination.offered import offered, reach
from curate.contamination.scan import RUN, WIDTH, scan
from curate.contamination.tokens import token_hash, tokenise
from curate.splitting import Hashes, Ints
from curate.stages.text import ASSISTANT, USER, Messages, joined, unfold, whole
from curate.words import words

SHORT: Final = 102  # kinds of hits beside those of `scan`: a short item, standing alone
ANSWER: Final = 103  # a question with its answer, or with all its choices
ALONE: Final = 2  # value of a SHORT hit that is the whole message; 1 for a sentence in it
FIELDS: Final = ("message", "kind", "key", "value", "start", "stop")
HIT: Final = pa.struct([pa.field(name, pa.int32(), nullable=False) for name in FIELDS])
TEXT: Final = pa.struct(
    [
        pa.field("message", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),  # of the content in `keytext.of_scope`, in characters
        pa.field("content", pa.large_string(), nullable=False),
    ]
)
SCHEMA: Final = pa.schema(
    [
        pa.field("position", pa.int64(), nullable=False),
        pa.field("id", pa.string()),
        pa.field("source", pa.string()),
        pa.field("file", pa.string()),
        pa.field("row", pa.int64()),
        pa.field("hits", pa.large_list(HIT), nullable=False),
        pa.field("texts", pa.large_list(TEXT), nullable=False),
    ]
)
LABELS: Final = np.array([token_hash(word) for word in ("answer", "a", "solution")], np.uint64)
_RUN: Final = re.compile(r"\w+")
_BREAK: Final = re.compile(r"[\n.!?:;。！？：；]")

Hits = NDArray[np.int32]


def sketch(index: EvalIndex, table: pa.Table, scope: str, start: int, *, every: bool = False) -> pa.Table:
    """One row a record of a batch under SCHEMA; `position` counts from `start`. `every` keeps all texts in scope."""
    messages = unfold(table)
    content = joined(messages.fields["content"])
    inside = np.flatnonzero(in_scope(messages, scope))
    hits = scan(index.plan, content if len(inside) == len(messages.roles) else content.take(pa.array(inside)))
    hits[:, 0] = inside[hits[:, 0]]
    hits = settled(index, hits, messages, content)
    rows = messages.rows[hits[:, 0]]
    places = inside if every else np.unique(hits[:, 0]).astype(np.int64)
    hits[:, 0] -= messages.starts[rows].astype(np.int32)
    owners = messages.rows[places]
    some = np.bincount(owners, minlength=table.num_rows) > 0
    here = pa.array(np.where(some, np.arange(table.num_rows), -1), mask=~some)
    origin = whole(table.column("origin"))
    local = pa.array((places - messages.starts[owners]).astype(np.int32))
    offsets = pa.array(_offsets(messages, places, inside[some[messages.rows[inside]]]))
    texts = pa.StructArray.from_arrays([local, offsets, content.take(pa.array(places))], fields=list(TEXT))
    columns = [
        pa.array(np.arange(start, start + table.num_rows, dtype=np.int64)),
        *(whole(table.column(name)).take(here) for name in ("id", "source")),
        *(origin.field(name).take(here) for name in ("file", "row")),
        _lists(rows, table.num_rows, pa.StructArray.from_arrays(list(hits.T.copy()), fields=list(HIT))),
        _lists(owners, table.num_rows, texts),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _offsets(messages: Messages, places: Ints, near: Ints) -> Ints:
    """Where the content of each of `places` begins in the text of its record's messages in scope.

    `near` are the messages in scope of the records that have any of `places`; all are sorted.
    """
    fields = [messages.fields[name].take(pa.array(near)) for name in ("reasoning", "content", "tool_calls")]
    sizes = [
        pc.utf8_length(field).fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64) + 1 for field in fields
    ]
    lengths = np.maximum(sum(sizes), 1)  # parts are joined by line feeds, an empty message is one line feed
    before = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    rows = messages.rows[near]
    here = np.searchsorted(near, places)
    out: Ints = before[here] - before[np.searchsorted(rows, rows[here])] + sizes[0][here]
    return out


def _lists(rows: Ints, size: int, values: Any) -> Any:
    """Values, sorted by row, as one list a row."""
    ends = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=size))]).astype(np.int64)
    return pa.LargeListArray.from_arrays(pa.array(ends), values)


def in_scope(messages: Messages, scope: str) -> NDArray[np.bool_]:
    """Which messages are compared; all of them, or those of one role."""
    if scope == "all":
        return np.ones(len(messages.roles), np.bool_)
    return np.asarray(messages.roles == (USER if scope == "user" else ASSISTANT))


def settled(index: EvalIndex, hits: Hits, messages: Messages, content: Any) -> Hits:
    """The hits, with runs of words replaced by the short items and the answered questions among them."""
    found = np.flatnonzero(hits[:, 1] == RUN)
    if not len(found):
        return hits
    message, text, where = -1, "", list[tuple[int, int]]()
    made: list[Hits] = []
    for hit in hits[found[np.argsort(hits[found, 0], kind="stable")]]:
        if index.short[hit[2]] or index.exact[hit[2]]:
            if hit[0] != message:
                message, text = int(hit[0]), content[int(hit[0])].as_py()
                where = located(text)[1]
            if value := standing(text, where, int(hit[4]), int(hit[5])):
                made.append(np.array([hit[0], SHORT, hit[2], value, hit[4], hit[5]], np.int32))
    completed = index.answered[hits[found, 2]] | index.offered[hits[found, 2]]
    made += _completed(index, hits[found[completed]], messages, content)
    rest = np.delete(hits, found, axis=0)
    hits = np.concatenate([rest, np.array(made, np.int32).reshape(-1, WIDTH)])
    return hits[np.argsort(hits[:, 0], kind="stable")]


def located(text: str) -> tuple[list[str], list[tuple[int, int]]]:
    """The words of a text and the characters [from, to) that each came from."""
    found: list[str] = []
    where: list[tuple[int, int]] = []
    for match in _RUN.finditer(text):
        run = match.group()
        if run.isascii():
            found.append(run.lower())
            where.append(match.span())
            continue
        for word in words(run):
            found.append(word)
            where.append(match.span())
    return found, where


def standing(text: str, where: Sequence[tuple[int, int]], start: int, stop: int) -> int:
    """Whether words [start, stop) are all of a text (ALONE), a sentence or a line of it (1), or neither (0).

    `where` says from which characters of the text each word came (`located`).
    """
    if stop > len(where):
        return 0  # characters that only count as words beside their neighbours
    if start == 0 and stop == len(where):
        return ALONE
    before = text[where[start - 1][1] : where[start][0]] if start else "\n"
    after = text[where[stop - 1][1] : where[stop][0]] if stop < len(where) else "\n"
    return int(bool(_BREAK.search(before) and _BREAK.search(after)))


def _completed(index: EvalIndex, hits: Hits, messages: Messages, content: Any) -> list[Hits]:
    """The questions whose choices follow, or whose answer does: in the message or, where that ends, in the assistant's."""
    if not len(hits):
        return []
    last = len(messages.roles) - 1
    needed = np.unique(np.concatenate([hits[:, 0], np.minimum(hits[:, 0] + 1, last)])).astype(np.int64)
    spoken = tokenise(content.take(pa.array(needed)))
    made = []
    for hit in hits:
        item, place = int(hit[2]), int(np.searchsorted(needed, hit[0]))
        if index.offered[item]:
            choices = index.choices_of(item)
            rest = _words(spoken.words, spoken.word_at, place)[hit[5] : hit[5] + reach(choices)]
            if offered(rest.tolist(), choices):
                made.append(np.array([hit[0], ANSWER, item, len(choices), hit[4], hit[5]], np.int32))
                continue
        if not index.answered[item]:
            continue
        answer = _words(index.answers, index.answer_at, item)
        need = len(answer) + 1  # a label may stand before it
        here = _words(spoken.words, spoken.word_at, place)[hit[5] : hit[5] + need]
        after = int(hit[0]) + 1
        if (
            len(here) < need
            and after <= last
            and messages.roles[after] == ASSISTANT
            and messages.rows[after] == messages.rows[hit[0]]
        ):
            there = _words(spoken.words, spoken.word_at, int(np.searchsorted(needed, after)))
            here = np.concatenate([here, there[: need - len(here)]])
        bare = here[1:] if len(here) and here[0] in LABELS else here
        if any(np.array_equal(given[: len(answer)], answer) for given in (here, bare)):
            made.append(np.array([hit[0], ANSWER, item, len(answer), hit[4], hit[5]], np.int32))
    return made


def _words(values: Hashes, at: Ints, item: int) -> Hashes:
    return values[at[item] : at[item + 1]]
