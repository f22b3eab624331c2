"""The messages of a batch as flat columns: what every stage looks at.

`unfold` makes views, not copies, of the list's children; row i owns the messages `starts[i]:starts[i+1]`.
"""

from __future__ import annotations

import unicodedata
import weakref
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curate.record import ROLES

SYSTEM, USER, ASSISTANT, TOOL = range(4)


@dataclass(slots=True, frozen=True)
class Measures:
    """Per text: code points, code points without white space at the ends, and `kernels` flags."""

    chars: NDArray[np.int64]
    stripped: NDArray[np.int64]
    flags: NDArray[np.uint8]


@dataclass(eq=False)
class Messages:
    """The messages of a batch: `starts` int64[rows + 1], `roles` uint8 indices into ROLES, one entry a message."""

    starts: NDArray[np.int64]
    fields: dict[str, Any]

    @cached_property
    def roles(self) -> NDArray[np.uint8]:
        """Role codes; the columns of `ROLES` in order."""
        codes = pc.index_in(self.fields["role"], pa.array(ROLES, self.fields["role"].type))
        return np.asarray(codes.to_numpy(zero_copy_only=False)).astype(np.uint8)

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """The row that each message belongs to."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    @cached_property
    def content(self) -> Measures:
        """Measures of `content`, null as empty."""
        return measure(self.fields["content"])

    @cached_property
    def calls(self) -> NDArray[np.bool_]:
        """Whether a message carries tool calls."""
        return np.asarray(pc.is_valid(self.fields["tool_calls"]).to_numpy(zero_copy_only=False), dtype=np.bool_)

    def per_row(self, values: NDArray[Any], where: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """The sum of a value over the messages of each row, or over those where `where` holds."""
        chosen = values if where is None else np.where(where, values, 0)
        sums = np.concatenate([[0], np.cumsum(chosen, dtype=np.int64)])
        return np.asarray(sums[self.starts[1:]] - sums[self.starts[:-1]], dtype=np.int64)

    def last(self, where: NDArray[np.bool_]) -> NDArray[np.int64]:
        """For each row the index of its last message where `where` holds, -1 without one."""
        at = np.where(where, np.arange(len(where)), -1)
        seen = np.concatenate([[-1], np.maximum.accumulate(at)]) if len(at) else np.array([-1])
        found = seen[self.starts[1:]]
        return np.asarray(np.where(found >= self.starts[:-1], found, -1), dtype=np.int64)


class _Latest:
    """The messages of the table unfolded last, so that stages in a row measure a batch once; dropped with the table.

    Table and messages are one value: threads unfold at the same time.
    """

    pair: tuple[Any, Messages] | None = None

    @classmethod
    def drop(cls, reference: Any) -> None:
        if cls.pair is not None and cls.pair[0] is reference:
            cls.pair = None


def unfold(table: pa.Table) -> Messages:
    """The messages of a table under `record.SCHEMA`; the same object for the same table (tables do not change)."""
    latest = _Latest.pair
    if latest is not None and latest[0]() is table:
        return latest[1]
    column = whole(table.column("messages"))
    offsets = np.asarray(column.offsets.to_numpy(zero_copy_only=False)).astype(np.int64)
    if len(column) == 0:
        offsets = np.zeros(1, np.int64)
    struct = column.flatten() if column.null_count else column.values.slice(offsets[0], offsets[-1] - offsets[0])
    names = [struct.type.field(i).name for i in range(struct.type.num_fields)]
    children = struct.flatten() if struct.null_count else [struct.field(i) for i in range(len(names))]
    messages = Messages(starts=offsets - offsets[0], fields=dict(zip(names, children, strict=True)))
    _Latest.pair = weakref.ref(table, _Latest.drop), messages
    return messages


def whole(column: Any) -> Any:
    """A chunked column as one array: a view where there is one chunk (`combine_chunks` copies even then)."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def joined(column: Any) -> Any:
    """A string column, chunked or not, as one large_string array."""
    array = whole(column) if isinstance(column, pa.ChunkedArray) else column
    return array.cast(pa.large_string()) if array.type != pa.large_string() else array


def buffers(array: Any) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The bytes and the int64[n + 1] offsets of a string array; nulls as empty texts."""
    if array.type != pa.large_string():
        array = array.cast(pa.large_string())
    if array.null_count:
        array = pc.fill_null(array, "")
    _, offsets, data = array.buffers()
    if len(array) == 0:
        return np.zeros(0, np.uint8), np.zeros(1, np.int64)
    at = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    return (np.zeros(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)), at


def measure(array: Any) -> Measures:
    """Count and classify every text of a large_string array."""
    from curate import kernels

    data, at = buffers(array)
    size = len(at) - 1
    chars, stripped, flags = np.empty(size, np.int64), np.empty(size, np.int64), np.empty(size, np.uint8)
    kernels.measure(data, at, kernels.SPACE, chars, stripped, flags)
    return Measures(chars, stripped, flags)


def nfc(array: Any, flags: NDArray[np.uint8] | None = None) -> Any:
    """A large_string array in Unicode NFC; only texts that may change are looked at."""
    from curate import kernels

    array = joined(array)
    flags = measure(array).flags if flags is None else flags
    suspects = np.flatnonzero(flags & kernels.NFC_SUSPECT)
    if not len(suspects):
        return array
    texts = array.take(pa.array(suspects)).to_pylist()
    changed = [(at, new) for at, old in zip(suspects, texts, strict=True) if (new := _composed(old)) != old]
    if not changed:
        return array
    mask = np.zeros(len(array), np.bool_)
    mask[[at for at, _ in changed]] = True
    return pc.replace_with_mask(array, pa.array(mask), pa.array([new for _, new in changed], pa.large_string()))


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)
