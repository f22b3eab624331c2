import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.foundation.errors import DataError, UsageError
from curate.foundation.store import Store
from pack.shards import (
    IGNORE,
    SCHEMA,
    TRAINED_BIT,
    Layout,
    ShardManifest,
    ShardReader,
    batch_rows,
    packed_batch,
    write_part,
)

CTX = 16
PAD = 7


def rows_of(draw_lengths):
    """Rows of segment lengths as a buffer with known tokens, and the layout that describes it."""
    rng = np.random.default_rng(len(draw_lengths))
    buffer = rng.integers(0, 1 << 32, (len(draw_lengths), CTX), dtype=np.uint32)  # garbage where pad will be
    flat = [length for row in draw_lengths for length in row]
    for row, lengths in enumerate(draw_lengths):
        used = sum(lengths)
        buffer[row, :used] = rng.integers(10, 1000, used) | np.where(rng.random(used) < 0.5, TRAINED_BIT, 0).astype(
            np.uint32
        )
    layout = Layout(
        rows=np.concatenate(([0], np.cumsum([len(row) for row in draw_lengths]))).astype(np.int64),
        lengths=np.array(flat, dtype=np.int64),
        epochs=np.zeros(len(flat), dtype=np.int32),
        ids=pa.array([f"{i:032x}" for i in range(len(flat))]),
        sources=pa.array(["s"] * len(flat)),
    )
    return buffer, layout


@st.composite
def packings(draw):
    rows = []
    for _ in range(draw(st.integers(1, 5))):
        left, row = CTX, []
        while left and (not row or draw(st.booleans())):
            row.append(draw(st.integers(1, left)))
            left -= row[-1]
        rows.append(row)
    return rows


@settings(max_examples=150, deadline=None)
@given(packings())
def test_a_row_holds_what_its_columns_say(lengths):
    buffer, layout = rows_of(lengths)
    given_buffer = buffer.copy()
    batch = packed_batch(buffer, layout, PAD)
    batch.validate(full=True)
    assert batch.schema.equals(SCHEMA)
    for row, packed in enumerate(batch.to_pylist()):
        used = sum(lengths[row])
        assert all(len(packed[name]) == CTX for name in ("input_ids", "labels", "loss_mask", "position_ids"))
        assert packed["input_ids"][:used] == (given_buffer[row, :used] & 0x7FFFFFFF).tolist()
        assert packed["input_ids"][used:] == [PAD] * (CTX - used)
        assert packed["pad"] == CTX - used
        assert packed["seq_lengths"] == lengths[row] + ([CTX - used] if used < CTX else [])
        assert packed["position_ids"] == [p for length in packed["seq_lengths"] for p in range(length)]
        firsts = {segment["start"] for segment in packed["segments"]}
        for place, (token, label, bit) in enumerate(
            zip(packed["input_ids"], packed["labels"], packed["loss_mask"], strict=True)
        ):
            wanted = place < used and place not in firsts and bool(given_buffer[row, place] >= TRAINED_BIT)
            assert bit == wanted
            assert label == (token if wanted else IGNORE)
        assert [segment["length"] for segment in packed["segments"]] == lengths[row]
        for segment in packed["segments"]:
            span = packed["loss_mask"][segment["start"] : segment["start"] + segment["length"]]
            assert segment["trained"] == sum(span)
        assert packed["trained"] == sum(packed["loss_mask"])


def test_there_is_no_attention_mask_column():
    assert "attention_mask" not in SCHEMA.names


@pytest.mark.parametrize("bad", [[[9, 8]], [[0, 4]], [[]]])
def test_a_layout_that_does_not_fit_is_refused(bad):
    flat = [length for row in bad for length in row] or [1]
    layout = Layout(
        np.concatenate(([0], np.cumsum([len(row) for row in bad]))).astype(np.int64),
        np.array(flat, dtype=np.int64),
        np.zeros(len(flat), np.int32),
        pa.array(["x"] * len(flat)),
        pa.array(["s"] * len(flat)),
    )
    with pytest.raises(ValueError, match="segments of at least one token"):
        packed_batch(np.zeros((1, CTX), np.uint32), layout, PAD)


def test_batches_hold_at_most_a_thousand_rows_and_four_million_tokens():
    assert batch_rows(256) == 1_000
    assert batch_rows(131_072) == 32


def test_the_reader_finds_every_row_over_batches_and_parts(tmp_path):
    made = [packed_batch(*rows_of([[4, 3], [16], [2, 2, 2]]), PAD) for _ in range(3)]
    write_part(tmp_path / "part-00000.arrow", made[:2])
    write_part(tmp_path / "part-00001.arrow", made[2:])
    reader = ShardReader([tmp_path / "part-00000.arrow", tmp_path / "part-00001.arrow"], CTX)
    expected = [row for batch in made for row in batch.to_pylist()]
    assert len(reader) == 9
    for index, row in enumerate(expected):
        got = reader[index]
        for name in ("input_ids", "labels", "position_ids", "seq_lengths"):
            assert got[name].dtype == np.int32
            assert got[name].tolist() == row[name]
        assert reader.segments(index) == row["segments"]
    with pytest.raises(IndexError):
        reader[9]


def test_shards_are_memory_mapped_not_copied(tmp_path):
    batch = packed_batch(*rows_of([[16]] * 100), PAD)
    write_part(tmp_path / "part-00000.arrow", [batch])
    before = pa.total_allocated_bytes()
    reader = ShardReader([tmp_path / "part-00000.arrow"], CTX)
    assert reader[50]["input_ids"].tolist() == batch.column("input_ids")[50].as_py()
    assert pa.total_allocated_bytes() - before < 1_000


def test_a_damaged_or_foreign_part_is_named(tmp_path):
    path = tmp_path / "part-00000.arrow"
    path.write_bytes(b"not arrow at all")
    with pytest.raises(DataError, match=r"part-00000\.arrow"):
        ShardReader([path], CTX)


def test_a_folder_of_another_kind_is_refused(tmp_path):
    Store(tmp_path, "records").commit({}, [])
    with pytest.raises(UsageError, match="records, not shards"):
        ShardManifest.read(tmp_path)
    with pytest.raises(UsageError, match="no such folder"):
        ShardManifest.read(tmp_path / "absent")
