"""The loops of the batch path over Arrow buffers: scanning, filling, spelling, masking. Each is one pass over bytes.

Cost: about 1 ns a byte to scan and fill, 5 ns a token to check and mask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numba
import numpy as np

FLAG_BLANK: Final = 1  # white space only
FLAG_ODD: Final = 2  # holds a character of the table given

OK: Final = 0
SPELLS_ELSE: Final = 1  # the ids do not spell the text
STEERS_ELSE: Final = 2  # another number of control tokens than the template writes
SPAN_ELSE: Final = 3  # a trained span is empty or does not end with its terminator


def _compiled(function: Callable[..., Any]) -> Any:
    """Compile on the first call; with no folder to cache in, every process compiles anew."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:
        return numba.njit(nogil=True, cache=False)(function)


@_compiled
def _decode(data: Any, at: int) -> Any:
    """The code point at a byte of valid UTF-8, and its width."""
    first = np.int64(data[at])
    if first < 0x80:
        return first, 1
    if first < 0xE0:
        return (first & 0x1F) << 6 | np.int64(data[at + 1]) & 0x3F, 2
    if first < 0xF0:
        return (first & 0x0F) << 12 | (np.int64(data[at + 1]) & 0x3F) << 6 | np.int64(data[at + 2]) & 0x3F, 3
    rest = (np.int64(data[at + 1]) & 0x3F) << 12 | (np.int64(data[at + 2]) & 0x3F) << 6 | np.int64(data[at + 3]) & 0x3F
    return (first & 0x07) << 18 | rest, 4


@_compiled
def _is_space(code: int) -> bool:
    """str.isspace of one character."""
    if code < 0x80:
        return 9 <= code <= 13 or 28 <= code <= 32
    return (
        code == 0x85 or code == 0xA0 or code == 0x1680 or 0x2000 <= code <= 0x200A
        or code == 0x2028 or code == 0x2029 or code == 0x202F or code == 0x205F or code == 0x3000
    )  # fmt: skip


@_compiled
def scan_kernel(data: Any, starts: Any, ends: Any, odd: bool, table: Any) -> Any:
    """FLAG_BLANK and FLAG_ODD of each text, uint8 [texts]; `odd` False leaves the second out."""
    out = np.zeros(len(starts), np.uint8)
    for i in range(len(starts)):
        at, end, blank = starts[i], ends[i], True
        while at < end:
            if data[at] < 0x80:
                if blank and not _is_space(np.int64(data[at])):
                    blank = False
                    if not odd:
                        break
                at += 1
                continue
            code, width = _decode(data, at)
            if blank and not _is_space(code):
                blank = False
                if not odd:
                    break
            if odd and table[code]:
                out[i] |= FLAG_ODD
                blank = False
                break
            at += width
        if blank:
            out[i] |= FLAG_BLANK
    return out


@_compiled
def strip_kernel(data: Any, starts: Any, ends: Any, left: bool, right: bool, newlines: bool) -> None:
    """Move borders inwards over white space, or over line feeds alone, as str.strip does; in place."""
    for i in range(len(starts)):
        while left and starts[i] < ends[i]:
            code, width = _decode(data, starts[i])
            if not (code == 10 if newlines else _is_space(code)):
                break
            starts[i] += width
        while right and starts[i] < ends[i]:
            at = ends[i] - 1
            while at > starts[i] and data[at] & 0xC0 == 0x80:
                at -= 1
            code, _width = _decode(data, at)
            if not (code == 10 if newlines else _is_space(code)):
                break
            ends[i] = at


@_compiled
def fill_kernel(
    content: Any, reasoning: Any, sources: Any, starts: Any, ends: Any, blob: Any, edges: Any, marks: Any,
    out: Any, row_at: Any, places: Any,
) -> None:  # fmt: skip
    """Write each row's literals and texts into `out` from `row_at`, and where its marks came to lie.

    starts, ends int64 [rows, slots]; sources [slots] is 1 for reasoning; literal k is blob[edges[k]:edges[k + 1]];
    marks int64 [marks, 2] of (literal, offset); places int64 [rows, marks] is filled.
    """
    slots = starts.shape[1]
    for r in range(len(row_at)):
        at = row_at[r]
        for k in range(slots + 1):
            for m in range(len(marks)):
                if marks[m, 0] == k:
                    places[r, m] = at + marks[m, 1]
            size = edges[k + 1] - edges[k]
            out[at : at + size] = blob[edges[k] : edges[k + 1]]
            at += size
            if k < slots:
                size = ends[r, k] - starts[r, k]
                if sources[k] == 1:
                    out[at : at + size] = reasoning[starts[r, k] : ends[r, k]]
                else:
                    out[at : at + size] = content[starts[r, k] : ends[r, k]]
                at += size


@_compiled
def mark_kernel(
    ids: Any, first: Any, text: Any, starts: Any, ends: Any, spans: Any, stops: Any, control: int,
    blob: Any, edges: Any, steers: Any, mask: Any, verdict: Any, straddled: Any, surplus: Any,
) -> None:  # fmt: skip
    """Spell each row's ids, compare with its text, mark the tokens that overlap its spans, check the terminators.

    Row r has ids first[r]..first[r + 1] and the text starts[r]..ends[r]; spans int64 [rows, 2 x spans] are byte
    positions in `text`, ascending; stops [spans] the id a span must end with, or -1; token i spells
    blob[edges[i]:edges[i + 1]]. Fills mask [ids], verdict uint8 [rows], straddled and surplus (control tokens beyond
    the template's own) int64 [rows].
    """
    count = len(stops)
    for r in range(len(verdict)):
        at, steering, span, good = starts[r], 0, 0, True
        last, last_end, first_start = -1, np.int64(-1), np.int64(-1)  # of the current span's tokens
        for t in range(first[r], first[r + 1]):
            token = ids[t]
            start, low, size = at, edges[token], edges[token + 1] - edges[token]
            if start + size > ends[r]:
                good = False
                break
            for j in range(size):
                if text[start + j] != blob[low + j]:
                    good = False
                    break
            if not good:
                break
            at = start + size
            steering += steers[token]
            while span < count and start >= spans[r, 2 * span + 1]:  # the span before has all its tokens
                if not _closes(last, last_end, ids, stops[span], spans[r, 2 * span + 1]):
                    verdict[r] = SPAN_ELSE
                if first_start >= 0 and first_start < spans[r, 2 * span]:
                    straddled[r] += 1
                span += 1
                last, first_start = -1, np.int64(-1)
            ahead = span
            while ahead < count and start < spans[r, 2 * ahead + 1] and at > spans[r, 2 * ahead]:
                mask[t] = True
                if ahead > span:
                    verdict[r] = SPAN_ELSE  # one token in two spans: for the slow path to judge
                    break
                last, last_end = t, at
                if first_start < 0:
                    first_start = start
                ahead += 1
        if not good or at != ends[r]:
            verdict[r] = SPELLS_ELSE
            continue
        while span < count:
            if not _closes(last, last_end, ids, stops[span], spans[r, 2 * span + 1]):
                verdict[r] = SPAN_ELSE
            if first_start >= 0 and first_start < spans[r, 2 * span]:
                straddled[r] += 1
            span += 1
            last, first_start = -1, np.int64(-1)
        if steering != control:
            verdict[r] = STEERS_ELSE
            surplus[r] = steering - control


@_compiled
def _closes(last: int, last_end: int, ids: Any, stop: int, end: int) -> bool:
    """Whether a span has tokens and ends with its terminator."""
    return last >= 0 and (stop < 0 or (ids[last] == stop and last_end == end))


@_compiled
def store_kernel(
    ids: Any, mask: Any, first: Any, rows: Any, lead: Any, tail: int, at: Any, bit: Any, out: Any, trained: Any
) -> None:
    """Write rows' ids, led by `lead` and closed by `tail` (an id or -1), with the trained bit, from at[row].

    out uint32; trained [rows] counts trained tokens but a segment's first, which no label can have.
    """
    for k in range(len(rows)):
        r, o = rows[k], at[k]
        for token in lead:
            out[o] = token
            o += 1
        count, begins = 0, at[k]
        for t in range(first[r], first[r + 1]):
            out[o] = np.uint32(ids[t])
            if mask[t]:
                out[o] |= bit
                count += o > begins
            o += 1
        if tail >= 0:
            out[o] = np.uint32(tail)
            if o > begins and out[o - 1] & bit:
                out[o] |= bit
                count += 1
        trained[k] = count


@_compiled
def weave_kernel(ids: Any, borders: Any, pieces: int, cuts: Any, steers: Any, out: Any, first: Any) -> Any:
    """Put control tokens back between the pieces of rows cut at them; whether each row's pieces hold none themselves.

    Row r has `pieces` pieces, piece p of all lies in ids[borders[p]:borders[p + 1]]; every odd one is a cut's own text
    and gives way to its id (none for -1). Fills out and first [rows + 1].
    """
    rows, o = len(first) - 1, 0
    clean = np.ones(rows, np.bool_)
    for r in range(rows):
        first[r] = o
        for p in range(pieces):
            low, high = borders[r * pieces + p], borders[r * pieces + p + 1]
            if p % 2 == 0:
                for t in range(low, high):
                    clean[r] &= not steers[ids[t]]
                    out[o] = ids[t]
                    o += 1
            elif cuts[p // 2] >= 0:
                out[o] = cuts[p // 2]
                o += 1
    first[rows] = o
    return clean
