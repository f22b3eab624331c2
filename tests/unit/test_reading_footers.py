"""What is read of a Parquet footer equals what pyarrow says of it; a damaged one ends nothing."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.reading.claims import _chunks, _footer
from curate.reading.thrift import struct


def written(version, columns, rows=3_000, **options):
    file = io.BytesIO()
    kinds = {
        "text": pa.array([f"text {n}" for n in range(rows)]),
        "few": pa.array(["a", "b", None] * (rows // 3)),
        "list": pa.array([[{"role": "user", "content": str(n)}] * (n % 3) for n in range(rows)]),
        "number": pa.array(range(rows)),
        "flag": pa.array([n % 2 == 0 for n in range(rows)]),
    }
    table = pa.table({f"{name}{n}": kinds[name] for n in range(columns) for name in kinds})
    table = table.replace_schema_metadata({"note": "x" * 500})
    pq.write_table(table, file, row_group_size=700, version=version, **options)
    return file


@pytest.mark.parametrize(
    "options", [{}, {"use_dictionary": False}, {"write_page_index": True, "data_page_version": "2.0"}]
)
@pytest.mark.parametrize(("version", "columns"), [("1.0", 1), ("2.6", 1), ("2.6", 5)])
def test_chunks_are_those_that_pyarrow_sees(version, columns, options):
    file = written(version, columns, **options)
    meta = pq.read_metadata(file)
    found = _chunks(_footer(file), meta.num_row_groups, meta.num_columns)
    for number, group in enumerate(found):
        for index, chunk in enumerate(group):
            other = meta.row_group(number).column(index)
            starts = [place for place in (other.dictionary_page_offset, other.data_page_offset) if place]
            assert chunk == (other.num_values, other.total_compressed_size, min(starts))


def test_other_bytes_are_refused_and_never_loop():
    footer = _footer(written("2.6", 1, rows=900))
    meta = pq.read_metadata(written("2.6", 1, rows=900))
    told = 0
    for place in range(0, len(footer), 3):
        for byte in (0, 0x19, 0xFF):
            body = footer[:place] + bytes([byte]) + footer[place + 1 :]
            try:
                _chunks(body, meta.num_row_groups, meta.num_columns)
            except pa.ArrowInvalid:
                told += 1
    assert told
    with pytest.raises(IndexError):
        struct(b"\x19\xff\xff\xff\xff\xff\x0f")  # a list of more values than there are bytes
