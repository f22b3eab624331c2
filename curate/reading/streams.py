"""Bytes of a file in bounded blocks, decompressed within caps, and the rows of line files.

A bomb, a damaged member or trailing garbage raises `Cut` after the bytes before it were handed on: nothing that could
be read is lost, and memory stays at one block and one row.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import xxhash

from curate.sources import ReadSettings

BLOCK: Final = 1 << 22
RATIO_FLOOR: Final = 64 << 20
BOM: Final = b"\xef\xbb\xbf"


def line_ends(data: bytes, start: int = 0, stop: int | None = None) -> int:
    """Line ends in data[start:stop]; ten times faster than `bytes.count` of one byte."""
    return int(np.count_nonzero(np.frombuffer(data, np.uint8)[start:stop] == 10))


class Cut(Exception):
    """A stream that ends before its end, with the reason."""


def blocks(path: Path, packing: str, read: ReadSettings, start: int = 0, stop: int = -1) -> Iterator[bytes]:
    """The decompressed bytes of a file; `start` and `stop` only for plain files. Raises `Cut`."""
    with path.open("rb") as file:
        if packing == "":
            file.seek(start)
            left = stop - start if stop >= 0 else path.stat().st_size
            while left > 0 and (block := file.read(min(BLOCK, left))):
                left -= len(block)
                yield block
            return
        source = _gunzip(file) if packing == "gz" else _unzstd(file)
        total = 0
        for block in source:
            total += len(block)
            if total > read.max_file_bytes:
                raise Cut(f"decompressed size is over {read.max_file_bytes:,} bytes")
            if total > RATIO_FLOOR and total > read.max_ratio * max(file.tell(), 1):
                raise Cut(f"decompression ratio is over {read.max_ratio}")
            yield block


def _gunzip(file: BinaryIO) -> Iterator[bytes]:
    member, members, open_member, pending = zlib.decompressobj(31), 0, False, b""
    while pending or (pending := file.read(1 << 18)):
        try:
            block = member.decompress(pending, BLOCK)
        except zlib.error as error:
            if members and not open_member:
                raise Cut("bytes after the end of the gzip data") from None
            raise Cut(f"damaged gzip data ({str(error).split(':')[-1].strip()[:60]})") from None
        pending, open_member = member.unconsumed_tail, True
        if block:
            yield block
        if member.eof:
            pending = member.unused_data.lstrip(b"\0")  # tools pad members with zeros
            member, members, open_member = zlib.decompressobj(31), members + 1, False
    if open_member:
        raise Cut("the gzip data ends early")


def _unzstd(file: BinaryIO) -> Iterator[bytes]:
    """Frames of zstd; fed 2 KiB at a time, because an object's output for one input is not bounded otherwise."""
    import zstandard

    def fresh() -> zstandard.ZstdDecompressionObj:
        return zstandard.ZstdDecompressor().decompressobj(read_across_frames=False)

    frame, frames, open_frame, pending = fresh(), 0, False, b""
    held: list[bytes] = []
    size = 0
    while pending or (pending := file.read(1 << 11)):
        try:
            block = frame.decompress(pending)
        except zstandard.ZstdError as error:
            yield b"".join(held)
            if frames and not open_frame:
                raise Cut("bytes after the end of the zstd data") from None
            raise Cut(f"damaged zstd data ({str(error).split(':')[-1].strip()[:60]})") from None
        pending, open_frame = b"", True
        held.append(block)
        size += len(block)
        if frame.eof:
            pending = frame.unused_data
            frame, frames, open_frame = fresh(), frames + 1, False
        if size >= BLOCK:
            yield b"".join(held)
            held, size = [], 0
    yield b"".join(held)
    if open_frame:
        raise Cut("the zstd data ends early")


class Chunk:
    """Whole lines of a file: `data` ends at a line end (or the file's), `row` and `offset` are of its first line."""

    __slots__ = ("data", "offset", "row")

    def __init__(self, data: bytes, row: int, offset: int) -> None:
        self.data, self.row, self.offset = data, row, offset


class LongLine:
    """A line over the cap: its head, its size and the digest of all of it."""

    __slots__ = ("digest", "head", "offset", "row", "size")

    def __init__(self, head: bytes, row: int, offset: int, size: int, digest: str) -> None:
        self.head, self.row, self.offset, self.size, self.digest = head, row, offset, size, digest


def chunks(source: Iterator[bytes], read: ReadSettings, row: int = 0, offset: int = 0) -> Iterator[Chunk | LongLine]:
    """Cut blocks into chunks of whole lines of about `batch_bytes`; lines over `max_line_bytes` come as `LongLine`.

    On `Cut` the whole lines before it are handed on first.
    """
    held: list[bytes] = []
    size = 0
    cut: Cut | None = None
    guarded = _guard(source)
    while True:
        block = next(guarded, None)
        if isinstance(block, Cut):
            cut = block
            block = None
        if block is None:
            break
        end = block.rfind(b"\n") + 1
        if end and size + end + BLOCK // 2 > read.batch_bytes:
            data = b"".join([*held, block[:end]])
            yield Chunk(data, row, offset)
            row, offset = row + line_ends(data), offset + len(data)
            held, size = ([block[end:]], len(block) - end) if end < len(block) else ([], 0)
            continue
        held.append(block)
        size += len(block)
        if size <= read.max_line_bytes or end:
            continue
        data = b"".join(held)
        start = data.rfind(b"\n") + 1
        if start:
            yield Chunk(data[:start], row, offset)
            row, offset = row + line_ends(data, 0, start), offset + start
        held, size = [data[start:]], len(data) - start
        if size > read.max_line_bytes:
            long, rest = _swallow(held[0], guarded, row, offset, read)
            yield long
            row, offset = row + 1, offset + long.size
            held, size = ([rest], len(rest)) if rest else ([], 0)
    data = b"".join(held)
    if data:
        yield Chunk(data, row, offset)
    if cut is not None:
        raise cut


def _guard(source: Iterator[bytes]) -> Iterator[bytes | Cut]:
    try:
        yield from source
    except Cut as cut:
        yield cut


def _swallow(
    head: bytes, source: Iterator[bytes | Cut], row: int, offset: int, read: ReadSettings
) -> tuple[LongLine, bytes]:
    """Read past a line that is over the cap, holding only its head; returns it and the bytes after it."""
    state = xxhash.xxh3_128(head)
    size, rest = len(head), b""
    for block in source:
        if isinstance(block, Cut):
            raise block
        end = block.find(b"\n") + 1
        state.update(block[:end] if end else block)
        size += end or len(block)
        if end:
            rest = block[end:]
            break
    return LongLine(head[: read.raw_bytes], row, offset, size, state.hexdigest()), rest
