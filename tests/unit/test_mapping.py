"""A mapped file whose pages were given back reads as before, and takes no resident memory until then."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from curate.mapping import Mapped


def resident() -> int:
    """Bytes of files among this process's resident memory."""
    with Path("/proc/self/status").open() as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("RssFile"))


def test_pages_given_back_are_gone_and_read_again_as_they_were(tmp_path: Path):
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc/self/status")
    values = np.arange(8 << 20)
    table = pa.table({"a": values, "b": [f"row {at % 7}" for at in range(8)] * (1 << 20)})
    with pa.ipc.new_file(str(tmp_path / "t.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=1 << 20)
    mapped = Mapped(tmp_path / "t.arrow")
    batches = mapped.table.to_batches()
    assert mapped.table.equals(table)  # every page is touched
    before = resident()
    for batch in batches:
        mapped.give_back(batch)
    assert before - resident() > 0.9 * table.nbytes
    assert mapped.table.equals(table)


def test_a_batch_without_rows_has_no_pages(tmp_path: Path):
    schema = pa.schema([("a", pa.int64()), ("b", pa.string())])
    with pa.ipc.new_file(str(tmp_path / "t.arrow"), schema) as writer:
        writer.write_batch(pa.RecordBatch.from_pylist([], schema))
    mapped = Mapped(tmp_path / "t.arrow")
    for batch in mapped.table.to_batches():
        mapped.give_back(batch)
    assert mapped.table.num_rows == 0
