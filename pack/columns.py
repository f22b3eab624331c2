"""The messages column of a batch of records as flat Arrow buffers: no Python object a record.

Shapes are bytes, one a message; texts stay where they are and are named by start and end. Cost: a scan of the texts.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curate.record import ROLES
from pack.forms import CONTENT, REASONING, REASONING_BIT, TRAIN_BIT
from pack.kernels import FLAG_BLANK, FLAG_ODD, scan_kernel, strip_kernel
from pack.tracing import Strip

Ints = NDArray[np.int64]
_ASSISTANT = ROLES.index("assistant")
_NO_TOOLS = ("", "[]")
_ASKS: Final[dict[str, Any]] = {
    "contains": pc.match_substring,
    "startswith": pc.starts_with,
    "endswith": pc.ends_with,
    "matches": pc.match_substring_regex,
}


@dataclass(slots=True)
class Texts:
    """One text field of all messages: UTF-8 bytes, borders a message, and its Arrow array for searching."""

    array: Any
    data: NDArray[np.uint8]
    starts: Ints
    ends: Ints
    found: dict[tuple[str, str], NDArray[np.bool_]] = field(default_factory=dict)
    cut: dict[tuple[Strip, ...], tuple[Ints, Ints]] = field(default_factory=dict)

    def answers(self, kind: str, what: str) -> NDArray[np.bool_]:
        """Whether each text contains, starts with, ends with, equals or (a regular expression) matches `what`."""
        key = (kind, what)
        if key not in self.found:
            ask = _ASKS.get(kind)
            raw = pc.equal(self.array, what) if ask is None else ask(self.array, pattern=what)
            self.found[key] = np.asarray(pc.fill_null(raw, False))
        return self.found[key]

    def stripped(self, strips: tuple[Strip, ...]) -> tuple[Ints, Ints]:
        """Borders after the strips, in turn."""
        if strips not in self.cut:
            starts, ends = self.starts, self.ends
            for side, characters in strips:
                starts, ends = starts.copy(), ends.copy()
                strip_kernel(self.data, starts, ends, side != "rstrip", side != "lstrip", characters == "\n")
            self.cut[strips] = starts, ends
        return self.cut[strips]


@dataclass(slots=True)
class Columns:
    """`offsets` are the borders of the records' messages; `shape` is one code a message; `plain` says of each record
    whether it may have a form: no tools, calls, names, blank texts or texts of a kind that engines disagree on.
    """

    offsets: Ints
    shape: bytes
    plain: NDArray[np.bool_]
    texts: tuple[Texts, Texts]


def columns_of(batch: pa.RecordBatch, normalizes: bool) -> Columns:
    """The columns of a batch under `curate.record.SCHEMA`; `normalizes` also sets apart what a normalizer may change."""
    lists = batch.column("messages")
    offsets = np.asarray(lists.offsets).astype(np.int64)
    offsets, flat = offsets - offsets[0], lists.flatten()
    parts = {
        name: pc.struct_field(flat, name) for name in ("role", "content", "name", "tool_calls", "reasoning", "train")
    }
    roles = np.asarray(pc.fill_null(pc.index_in(parts["role"], value_set=pa.array(ROLES)), -1)).astype(np.int64)
    texts = (_texts(parts["content"]), _texts(parts["reasoning"]))
    flags = [_scan(one, normalizes) for one in texts]
    thinks = np.asarray(parts["reasoning"].is_valid())
    simple = (roles >= 0) & np.asarray(parts["name"].is_null()) & np.asarray(parts["tool_calls"].is_null())
    simple &= (flags[CONTENT] & (FLAG_BLANK | FLAG_ODD)) == 0
    simple &= ~thinks | ((flags[REASONING] & (FLAG_BLANK | FLAG_ODD)) == 0)
    # Reasoning written into an answer is taken apart by the slow path.
    simple &= (roles != _ASSISTANT) | ~texts[CONTENT].answers("contains", "</think>")
    codes = (roles & 3) | np.where(np.asarray(parts["train"]), TRAIN_BIT, 0) | np.where(thinks, REASONING_BIT, 0)
    tools = batch.column("tools")
    plain = np.asarray(pc.fill_null(pc.is_in(tools, value_set=pa.array(_NO_TOOLS, tools.type)), True))
    plain = (plain | np.asarray(tools.is_null())) & (np.diff(offsets) > 0)
    wrong = np.concatenate(([0], np.cumsum(~simple)))
    plain &= wrong[offsets[1:]] == wrong[offsets[:-1]]
    return Columns(offsets, codes.astype(np.uint8).tobytes(), plain, texts)


def _texts(array: Any) -> Texts:
    if not pa.types.is_large_string(array.type):
        array = array.cast(pa.large_string())
    _, offsets, data = array.buffers()
    borders = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    raw = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    return Texts(array, raw, borders[:-1], borders[1:])


def _scan(texts: Texts, normalizes: bool) -> NDArray[np.uint8]:
    odd = normalizes and bool(len(texts.data)) and bool(texts.data.max() >= 0x80)
    flags: NDArray[np.uint8] = scan_kernel(
        texts.data, texts.starts, texts.ends, odd, odd_table() if odd else np.empty(0, np.bool_)
    )
    return flags


@cache
def odd_table() -> NDArray[np.bool_]:
    """By code point: whether a text holding it may be changed by a Unicode normalizer, or is unassigned.

    Combining characters, Hangul vowels and finals, and characters that are not NFC alone: a text without any of them
    is in NFC (Unicode Standard Annex 15, section 9).
    """
    table = np.ones(0x110000, dtype=np.bool_)
    for first, last in _SETTLED:
        table[first:last] = False
    for code in (*range(0x3400), *range(0xA000, 0xAC00), *range(0xF900, 0x20000), *range(0x2F800, 0x2FA20)):
        char = chr(code)
        if unicodedata.category(char) not in ("Mn", "Mc", "Me", "Cn"):
            table[code] = not unicodedata.is_normalized("NFC", char)
    table[0x1161:0x1176] = table[0x11A8:0x11C3] = True
    return table


# CJK ideographs, Hangul syllables and private use: assigned, settled, and most of the code points.
_SETTLED = (
    (0x4E00, 0x9FFD),
    (0x20000, 0x2A6DE),
    (0xAC00, 0xD7A4),
    (0xE000, 0xF900),
    (0xF0000, 0xFFFFE),
    (0x100000, 0x10FFFE),
)
