"""Byte kernels over Arrow string buffers, compiled by numba.

`measure` reads every byte once: code points, stripped code points, and a byte of flags that tells which later rule may
apply at all. `assemble` writes the normalised key of every conversation: each field with white space collapsed as
`" ".join(text.split())` does, fields and messages set apart by control characters that collapsed text cannot hold.

Cost: both read eight bytes at a time, at several GB/s, where a text is ASCII with single spaces, and byte by byte where
it is not; they release the GIL and allocate only their outputs. The first call on a new machine compiles (seconds);
the machine code is cached where a cache can be written.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from curate.compiled import compiled
from curate.lanes import HIGH, below, equal, holds, load8, repeated, store8

NON_ASCII: Final = 1
C0_CONTROL: Final = 2  # below U+0020 but not tab, line feed, carriage return; or U+007F
LATIN_LEAD: Final = 4  # byte C3: U+00C0 to U+00FF, where misread UTF-8 begins
C1_LEAD: Final = 8  # byte C2: U+0080 to U+00BF
LAST_BLOCK: Final = 16  # byte EF: U+F000 to U+FFFF, so U+FFFD
NFC_SUSPECT: Final = 32  # may change under NFC

# What sets the parts of a key apart. str.split() takes all of U+001C to U+001F for white space.
TOOLS, MESSAGE, FIELD = 0x1D, 0x1E, 0x1F


def _space_table() -> NDArray[np.uint8]:
    """Byte classes: 1 = white space, 2 = may begin a multi-byte white space, 0 = neither."""
    table = np.zeros(256, np.uint8)
    table[[9, 10, 11, 12, 13, 28, 29, 30, 31, 32]] = 1
    table[[0xC2, 0xE1, 0xE2, 0xE3]] = 2
    return table


SPACE: Final = _space_table()
SOLID: Final = np.uint8(0)
BLANK: Final = np.uint8(1)

# For tests on eight bytes at once: a byte repeated, or the distance of a bound from 0x80.
NONE: Final = np.uint64(0)
ONE, SEVEN, EIGHT = np.uint64(1), np.uint64(7), np.uint64(8)
TAB, LINE_FEED, RETURN, BLANKS, DELETE = (repeated(byte) for byte in (9, 10, 13, 32, 127))
UNDER_BLANK = repeated(0x80 - 32)
C2, E0_TO_E3, SIX_BITS = repeated(0xC2), repeated(0xE0), repeated(0xFC)


@compiled
def _wide_space(data: NDArray[np.uint8], at: int, stop: int) -> int:
    """The bytes of the non-ASCII white space that begins at `at`, 0 when there is none (the set of str.split)."""
    first = data[at]
    if first == 0xC2:
        return 2 if at + 1 < stop and (data[at + 1] == 0x85 or data[at + 1] == 0xA0) else 0
    if at + 2 >= stop:
        return 0
    second, third = data[at + 1], data[at + 2]
    if first == 0xE2:
        if second == 0x80:
            return 3 if third <= 0x8A or third == 0xA8 or third == 0xA9 or third == 0xAF else 0
        return 3 if second == 0x81 and third == 0x9F else 0
    if first == 0xE3:
        return 3 if second == 0x80 and third == 0x80 else 0
    return 3 if first == 0xE1 and second == 0x9A and third == 0x80 else 0


@compiled
def _nfc_suspect(data: NDArray[np.uint8], start: int, stop: int) -> bool:
    """Whether text may change under NFC: False only where every character is a starter that never composes."""
    for at in range(start, stop):
        lead = data[at]
        if lead < 0xCC:  # ASCII, continuation bytes, U+0080 to U+02FF
            continue
        if lead == 0xD0 or lead == 0xD1 or (0xE4 <= lead <= 0xE9) or lead == 0xEB or lead == 0xEC:
            continue  # Cyrillic to U+047F, U+4000 to U+9FFF, U+B000 to U+CFFF
        second = data[at + 1]
        if lead == 0xE2 and (second == 0x80 or second == 0x81):
            if second == 0x80 and data[at + 2] <= 0x81:  # U+2000 and U+2001 become U+2002 and U+2003
                return True
        elif lead == 0xE3 and 0x80 <= second <= 0x83:
            point = ((second & 0x3F) << 6) | (data[at + 2] & 0x3F)
            if 0x2A <= point <= 0x2F or point == 0x99 or point == 0x9A:
                return True
        elif not ((lead == 0xEF and second >= 0xBC) or (lead == 0xF0 and second == 0x9F)):
            return True
    return False


@compiled
def measure(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    space: NDArray[np.uint8],
    chars: NDArray[np.int64],
    stripped: NDArray[np.int64],
    flags: NDArray[np.uint8],
) -> None:
    """Fill, for each text, its code points, its code points once stripped as str.strip does, and its flags."""
    for item in range(offsets.size - 1):
        start, stop = offsets[item], offsets[item + 1]
        whole = start + ((stop - start) & ~7)
        high = NONE
        control = NONE
        for at in range(start, whole, 8):
            word = load8(data, at)
            high |= word
            allowed = equal(word, TAB) | equal(word, LINE_FEED) | equal(word, RETURN)
            control |= (below(word, UNDER_BLANK) & ~allowed) | equal(word, DELETE)
        for byte in data[whole:stop]:
            high |= np.uint64(byte)
            control |= np.uint64(((byte < 32) & (byte != 9) & (byte != 10) & (byte != 13)) | (byte == 127))
        found = C0_CONTROL if control else 0
        total = stop - start
        if high & HIGH:
            found |= NON_ASCII
            seen: Any = SOLID
            follow = np.int64(0)
            for byte in data[start:stop]:
                follow += (byte & 0xC0) == 0x80
                seen |= np.uint8((byte == 0xC3) * 4) | np.uint8((byte == 0xC2) * 8) | np.uint8((byte == 0xEF) * 16)
            total -= follow
            found |= seen
            if _nfc_suspect(data, start, stop):
                found |= NFC_SUSPECT
        chars[item] = total
        flags[item] = found
        stripped[item] = total - _margins(data, start, stop, space)


@compiled
def _margins(data: NDArray[np.uint8], start: int, stop: int, space: NDArray[np.uint8]) -> int:
    """The white space characters at both ends (all of them when there is nothing else)."""
    count = 0
    while start < stop:
        kind = space[data[start]]
        width = 1 if kind == 1 else (_wide_space(data, start, stop) if kind == 2 else 0)
        if width == 0:
            break
        start += width
        count += 1
    while start < stop:
        last = stop - 1
        while last > start and (data[last] & 0xC0) == 0x80:
            last -= 1
        kind = space[data[last]]
        width = 1 if kind == 1 else (_wide_space(data, last, stop) if kind == 2 else 0)
        if width == 0:
            break
        stop = last
        count += 1
    return count


@compiled
def collapse(
    data: NDArray[np.uint8], start: int, stop: int, space: NDArray[np.uint8], out: NDArray[np.uint8], to: int
) -> int:
    """Write data[start:stop] to out[to:] with white space collapsed and stripped; return where it ends."""
    begin = to
    before = ONE  # as if a space stood before: leading white space is overwritten
    at = start
    while at < stop:
        while at + 8 <= stop:  # eight bytes with no white space but single spaces are copied as they are
            word = load8(data, at)
            spaces = equal(word, BLANKS)
            if below(word, UNDER_BLANK) | (spaces & ((spaces << EIGHT) | (before << SEVEN))):
                break
            if word & HIGH and holds(word & SIX_BITS, E0_TO_E3) | holds(word, C2):
                break
            store8(out, to, word)
            before = spaces >> np.uint64(63)
            to += 8
            at += 8
        limit = min(stop, at + 8)
        while at < limit:
            byte = data[at]
            kind = space[byte]
            width = 1
            if kind == 2:
                wide = _wide_space(data, at, stop)
                kind = SOLID if wide == 0 else BLANK
                width = wide if wide else 1
            out[to] = 32 if kind else byte
            to += 1 - int(kind & before)
            before = np.uint64(kind)
            at += width
    return to - 1 if before and to > begin else to


@compiled
def assemble(
    first: NDArray[np.int64],
    last: NDArray[np.int64],
    roles: NDArray[np.uint8],
    content: NDArray[np.uint8],
    content_at: NDArray[np.int64],
    more: tuple[NDArray[np.uint8], ...],
    more_at: tuple[NDArray[np.int64], ...],
    tools: NDArray[np.uint8],
    tools_at: NDArray[np.int64],
    space: NDArray[np.uint8],
    out: NDArray[np.uint8],
    ends: NDArray[np.int64],
    filled: NDArray[np.bool_],
) -> None:
    """Write the key of each row, the messages first[row] to last[row]; `filled` says whether it holds any text.

    A message is MESSAGE, a role digit and its content; then FIELD, a digit and the text for each filled field of
    `more`. TOOLS and the tool list close the key where there is one.
    """
    to = 0
    for row in range(first.size):
        some = False
        for item in range(first[row], last[row]):
            out[to] = MESSAGE
            out[to + 1] = 48 + roles[item]
            to += 2
            end = collapse(content, content_at[item], content_at[item + 1], space, out, to)
            some |= end > to
            to = end
            for field in range(3):
                texts, texts_at = more[field], more_at[field]
                if texts_at.size > 1 and texts_at[item + 1] > texts_at[item]:
                    end = collapse(texts, texts_at[item], texts_at[item + 1], space, out, to + 2)
                    if end > to + 2:
                        out[to] = FIELD
                        out[to + 1] = 48 + field
                        to = end
                        some |= field < 2
        if tools_at.size > 1 and tools_at[row + 1] > tools_at[row]:
            out[to] = TOOLS
            to = collapse(tools, tools_at[row], tools_at[row + 1], space, out, to + 1)
        ends[row] = to
        filled[row] = some
