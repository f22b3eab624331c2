"""The elements of a JSON array of any size, without parsing it.

A kernel walks a block from mark to mark (`scan.index`), counts brackets outside texts and notes the commas between
elements. Memory: one block and the largest element. Cost: about 1 s a GB, beside the reading of the elements.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from curate.compiled import compiled
from curate.reading.scan import Bytes, Ints, Marker
from curate.reading.streams import Cut


@dataclass(frozen=True, slots=True)
class Block:
    """Elements [start, stop) of some bytes, which stand at `offset` of the file."""

    block: bytes
    starts: Ints
    stops: Ints
    offset: int
    marks: Ints


class Elements:
    """Iterates over blocks of an array's elements; afterwards says how the array ended.

    `problem` is "" for a whole array, else what is wrong at byte `end`.
    """

    def __init__(self, source: Iterator[bytes], limit: int, target: int) -> None:
        self.source = source
        self.limit = limit
        self.target = target
        self.marker = Marker()
        self.problem = ""
        self.end = 0

    def __iter__(self) -> Iterator[Block]:
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
            marks = self.marker(buffer)
            starts, stops, used, done = bounds(np.frombuffer(buffer, np.uint8), marks)
            self.target = self.target if len(starts) else max(self.target, 2 * (len(buffer) - used))
            if done and count == 0 and len(starts) == 1 and starts[0] == stops[0]:
                starts = stops = starts[:0]
            count += len(starts)
            if len(starts):
                yield Block(buffer, starts, stops, offset, marks)
            buffer, offset = buffer[used:], offset + used
            if done:
                self._after(buffer, offset)
            elif more is None:
                if buffer.strip():
                    yield _one(buffer, offset, self.marker(buffer))
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


def _one(buffer: bytes, offset: int, marks: Ints) -> Block:
    """All bytes as one element."""
    start = len(buffer) - len(buffer.lstrip())
    return Block(buffer, np.array([start]), np.array([start + len(buffer.strip())]), offset, marks)


@compiled
def _blank(byte: int) -> bool:
    return byte == 32 or 9 <= byte <= 13


@compiled
def _after_text(data: Bytes, marks: Ints, mark: int) -> int:
    """The mark of the quote that closes the text opened at `mark`; past the last when there is none."""
    mark += 1
    while marks[mark] < len(data):
        at = marks[mark]
        if data[at] == 34:
            return mark
        mark += 1
        if data[at] == 92 and marks[mark] == at + 1:
            mark += 1
    return mark


@compiled
def bounds(data: Bytes, marks: Ints) -> tuple[Ints, Ints, int, bool]:
    """Starts and stops of the elements that end in the data, the bytes used, and whether the array ends there."""
    size = len(data)
    starts, stops = np.empty(1024, np.int64), np.empty(1024, np.int64)
    at, mark, depth, begun, count = 0, 0, 0, 0, 0
    while at < size:
        byte = data[at]
        if byte == 34:
            while marks[mark] < at:
                mark += 1
            mark = _after_text(data, marks, mark)
            at = marks[mark]
        elif byte == 123 or byte == 91:
            depth += 1
        elif (byte == 44 and depth == 0) or ((byte == 125 or byte == 93) and depth == 0):
            if count == len(starts):
                starts = np.concatenate((starts, np.empty(count, np.int64)))
                stops = np.concatenate((stops, np.empty(count, np.int64)))
            low, high = begun, at
            while low < high and _blank(data[low]):
                low += 1
            while high > low and _blank(data[high - 1]):
                high -= 1
            starts[count], stops[count] = low, high
            count, begun = count + 1, at + 1
            if byte != 44:
                return starts[:count], stops[:count], begun, True
        elif byte == 125 or byte == 93:
            depth -= 1
        at += 1
    return starts[:count], stops[:count], begun, False
