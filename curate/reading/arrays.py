"""The elements of a JSON array of any size, without parsing it.

Quotes, brackets and commas are found in a block by table lookup; their running sums say which commas stand between
elements. Memory: one block and the largest element. Cost: about 2 s a GB, beside the decoding of the elements.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from curate.reading.streams import Cut

_MARKS: Final = np.zeros(256, dtype=bool)
_MARKS[[ord(char) for char in '"{}[],']] = True
_DEPTH: Final = np.zeros(256, dtype=np.int64)
_DEPTH[[ord("{"), ord("[")]] = 1
_DEPTH[[ord("}"), ord("]")]] = -1


class Elements:
    """Iterates over lists of (offset, bytes) of an array's elements; afterwards says how the array ended.

    `problem` is "" for a whole array, else what is wrong at byte `end`.
    """

    def __init__(self, source: Iterator[bytes], limit: int, target: int) -> None:
        self.source = source
        self.limit = limit
        self.target = target
        self.problem = ""
        self.end = 0

    def __iter__(self) -> Iterator[list[tuple[int, bytes]]]:
        """Blocks of elements; the first byte of the source other than white space must be the opening bracket."""
        buffer, offset, started, count, done = b"", 0, False, 0, False
        while not done:
            try:
                more = next(self.source, None)
            except Cut as cut:
                self.problem, more = str(cut), None
            buffer += more or b""
            if more is not None and len(buffer) < min(self.target, self.limit):
                continue
            if not started:
                skip = len(buffer) - len(buffer.lstrip()) + 1
                buffer, offset, started = buffer[skip:], offset + skip, True
            found, used, done = _split(buffer)
            self.target = max(self.target, 2 * (len(buffer) - used)) if not found else self.target
            if done and count == 0 and len(found) == 1 and not found[0][1]:
                found = []
            count += len(found)
            if found:
                yield [(offset + place, text) for place, text in found]
            buffer, offset = buffer[used:], offset + used
            if done:
                self._after(buffer, offset)
            elif more is None:
                if buffer.strip():
                    yield [(offset, buffer.strip())]
                    offset += len(buffer)
                self.problem, self.end = self.problem or "the array is not closed", offset
                return
            elif len(buffer) > self.limit:
                self.problem, self.end = f"an element is over {self.limit:,} bytes", offset
                return

    def _after(self, buffer: bytes, offset: int) -> None:
        """Whatever follows the closing bracket must be white space."""
        try:
            while True:
                if buffer.strip():
                    self.problem, self.end = "text after the end of the array", offset
                    return
                offset += len(buffer)
                block = next(self.source, None)
                if block is None:
                    return
                buffer = block
        except Cut as cut:
            self.problem, self.end = str(cut), offset


def _split(buffer: bytes) -> tuple[list[tuple[int, bytes]], int, bool]:
    """Complete elements of a buffer that begins between two of them, the bytes used, and whether the array ended."""
    data = np.frombuffer(buffer, dtype=np.uint8)
    at = np.flatnonzero(_MARKS[data])
    marks = data[at]
    quote = marks == 34
    escaped = np.flatnonzero(quote & (data[np.maximum(at - 1, 0)] == 92) & (at > 0))
    back = 2
    while escaped.size:
        quote[escaped] = ~quote[escaped]
        place = at[escaped] - back
        escaped = escaped[(place >= 0) & (data[np.maximum(place, 0)] == 92)]
        back += 1
    outside = (np.cumsum(quote) & 1) == 0
    depth = np.cumsum(np.where(outside & (marks != 34), _DEPTH[marks], 0))
    closing = np.flatnonzero(depth < 0)
    last = int(closing[0]) if closing.size else len(at)
    bounds = at[:last][outside[:last] & (marks[:last] == 44) & (depth[:last] == 0)].tolist()
    if closing.size:
        bounds.append(int(at[last]))
    found, start = [], 0
    for stop in bounds:
        text = buffer[start:stop]
        found.append((start + len(text) - len(text.lstrip()), text.strip()))
        start = stop + 1
    return found, start, bool(closing.size)
