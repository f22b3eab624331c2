"""Parquet and Arrow files of the river, written through the store with the same settings everywhere.

Streams are written batch by batch, so memory is one batch whatever the size of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from curate.foundation.store import Store

# Columns whose values repeat; a dictionary over texts would only be tried and thrown away.
DICTIONARY: Final = ["source", "origin.file", "messages.list.element.role", "stage", "rule"]


class Sink:
    """A set of Parquet (or Arrow IPC) files opened on first use and made visible together when the block ends well."""

    def __init__(self, store: Store, stack: ExitStack) -> None:
        self.store = store
        self.stack = stack
        self.writers: dict[str, Any] = {}

    def write(self, name: str, table: pa.Table, *, always: bool = False) -> None:
        """Append a table to file `name`; empty tables open no file unless `always`."""
        if table.num_rows == 0 and not (always and name not in self.writers):
            return
        if name not in self.writers:
            durable = not name.startswith(".")
            temp = self.stack.enter_context(self.store.writing(name, durable=durable))
            self.writers[name] = self.stack.enter_context(_writer(temp, table.schema, name))
        self.writers[name].write_table(table)

    def names(self) -> list[str]:
        """The files written, hidden intermediates left out."""
        return sorted(name for name in self.writers if not name.startswith("."))


@contextmanager
def sink(store: Store) -> Iterator[Sink]:
    """Yield a `Sink`; files appear under their names only when the block ends without an exception."""
    with ExitStack() as stack:
        yield Sink(store, stack)


def _writer(path: Path, schema: pa.Schema, name: str) -> Any:
    if name.endswith(".arrow"):
        return pa.ipc.new_file(str(path), schema)
    present = set(schema.names)
    dictionary = [column for column in DICTIONARY if column.split(".")[0] in present]
    return pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=dictionary,
        write_statistics=["source", "id"] if {"source", "id"} <= present else False,
    )


def read_arrow(path: Path) -> pa.Table:
    """Memory-map an Arrow IPC file."""
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


def batches(path: Path, rows: int = 8_192) -> Iterator[pa.Table]:
    """The tables of a Parquet or Arrow file, bounded in rows."""
    if path.suffix == ".arrow":
        with pa.memory_map(str(path)) as source:
            reader = pa.ipc.open_file(source)
            for index in range(reader.num_record_batches):
                yield pa.Table.from_batches([reader.get_batch(index)])
        return
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=rows):
            yield pa.Table.from_batches([batch])
