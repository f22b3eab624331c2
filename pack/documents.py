"""Every segment of every record, in id order: what the plan decides over.

Cost: one sort of the segments; 44 bytes a segment resident, about twice that while sorting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.foundation.errors import DataError
from pack.mixture import Words, hex_words
from pack.tokenstore import TokenStore

Ints = npt.NDArray[np.integer]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Documents:
    """Segments in id order: `number` in the token store, the `record` each belongs to, its tokens; all [segments].

    `first` [records] is the first segment of each record; `content` [records] the first half of its content digest.
    """

    number: Ints
    record: Ints
    first: Ints
    ids: Words
    content: npt.NDArray[np.uint64]
    source: Ints
    segment: Ints
    length: Ints
    trained: Ints
    names: list[str]

    def any(self, flags: Bools) -> Bools:
        """Whether any segment of each record is flagged, bool [records]."""
        found: Bools = np.logical_or.reduceat(flags, self.first) if len(self.first) else flags
        return found

    def sum(self, values: Ints) -> npt.NDArray[np.int64]:
        """The values of each record's segments added up, int64 [records]."""
        if not len(self.first):
            return np.empty(0, dtype=np.int64)
        found: npt.NDArray[np.int64] = np.add.reduceat(values, self.first, dtype=np.int64)
        return found

    def longest(self) -> Ints:
        """Tokens of the longest segment of each record."""
        found: Ints = np.maximum.reduceat(self.length, self.first)
        return found

    @classmethod
    def read(cls, tokens: TokenStore) -> Documents:
        """Sort the documents of a token store by id; two records with one id are a DataError."""
        import pyarrow as pa
        import pyarrow.compute as pc

        table = tokens.table
        try:
            ids, content = hex_words(table.column("id")), hex_words(table.column("content"), words=1)
        except ValueError as error:
            raise DataError(f"a record's id or content is no digest: {error}", hint="run: curate verify") from error
        segment = tokens.column("segment").astype(np.int32)
        number = np.lexsort((segment, ids[:, 1], ids[:, 0])).astype(np.uint32)
        ids, segment = ids[number], segment[number]
        same = np.concatenate(([False], (ids[1:] == ids[:-1]).all(axis=1)))
        if (same & (segment == 0)).any():
            twice = table.column("id")[int(number[np.flatnonzero(same & (segment == 0))[0]])]
            raise DataError(f"two records have the id {twice}", hint="run: curate verify")
        names = sorted(pc.unique(table.column("source")).to_pylist())
        codes: Any = pc.index_in(table.column("source"), value_set=pa.array(names, type=pa.string()))
        first = np.flatnonzero(~same).astype(np.uint32)
        return cls(
            number,
            (np.cumsum(~same, dtype=np.uint32) - np.uint32(1)).astype(np.uint32),
            first,
            ids,
            content[number[first], 0],
            codes.to_numpy().astype(np.int32)[number],
            segment,
            tokens.lengths[number].astype(np.int32),
            tokens.column("trained").astype(np.int32)[number],
            names,
        )
