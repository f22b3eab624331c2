"""An Arrow IPC file, memory-mapped, whose pages can be given back once they were read.

Mapped pages count as resident memory until the system wants them for something else; who passes over a file once gives
them back, so that a process shows what it needs. Pages that are wanted again come from the page cache.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import pyarrow as pa


class Mapped:
    """A mapped file: `table` reads from it without a copy."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        buffer = pa.py_buffer(self._map)
        self._base = buffer.address
        self.table = pa.ipc.open_file(pa.BufferReader(buffer)).read_all()

    def give_back(self, batch: Any) -> None:
        """Drop the pages of a record batch of `table` from this process."""
        found = [one for column in batch.columns for one in column.buffers() if one is not None and one.size]
        if not found or not hasattr(mmap, "MADV_DONTNEED"):
            return
        first = min(one.address for one in found) - self._base
        last = max(one.address + one.size for one in found) - self._base
        if first >= 0 and last <= len(self._map):  # decompressed or empty buffers lie elsewhere
            start = first - first % mmap.PAGESIZE
            self._map.madvise(mmap.MADV_DONTNEED, start, last - start)


def nothing() -> None:
    """What there is to give back of a table in memory."""
