"""Rows of the packed shards: mapped, in a reproducible order, shifted without crossing a segment."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from shards_fixture import write_shards

from curate.foundation.errors import DataError, UsageError
from curate.foundation.store import Store
from pack.shards import IGNORE
from train.data import Order, Row, Shards, collate, order


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return Shards(write_shards(tmp_path_factory.mktemp("rows") / "shards"))


def test_rows_are_views_and_not_copies(shards):
    assert not shards.train[0].input_ids.flags.owndata
    assert shards.train[0].input_ids.shape == (64,)


def test_an_epoch_visits_every_row_once_and_epochs_differ():
    first, second = order(7, 0, 1000), order(7, 1, 1000)
    assert sorted(first) == list(range(1000)) == sorted(second)
    assert (first != second).any() and (first != order(8, 0, 1000)).any()


def test_the_order_is_the_same_on_every_machine():
    assert order(0, 0, 10).tolist() == [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]


def test_sample_k_does_not_depend_on_where_the_run_began():
    whole = Order(3, 17).slice(0, 60)
    assert Order(3, 17).slice(23, 41) == whole[23:41]


@pytest.mark.parametrize("flat", [True, False])
def test_every_trained_token_is_a_target_once(shards, flat):
    rows = [shards.train[n] for n in range(5)]
    batch = collate(rows, shards.sources, flat=flat)
    assert int((batch.targets != IGNORE).sum()) == sum(row.trained for row in rows)
    wanted = sorted(int(t) for row in rows for t in row.labels if t != IGNORE)
    assert sorted(batch.targets[batch.targets != IGNORE].tolist()) == wanted


def test_a_flat_batch_drops_the_pad_tails(shards):
    rows = [shards.train[n] for n in range(5)]
    batch = collate(rows, shards.sources, flat=True)
    assert batch.input_ids.shape[1] == sum(64 - row.pad for row in rows) == sum(batch.lengths)
    assert (batch.position_ids == 0).sum() == len(batch.lengths)


def test_a_trained_first_token_is_refused(shards):
    row = shards.train[0]
    labels = row.labels.copy()
    labels[row.seq_lengths[0]] = 5
    with pytest.raises(DataError, match="first token"):
        collate(
            [Row(row.input_ids, labels, row.position_ids, row.seq_lengths, row.segments, row.trained, row.pad)],
            [],
            flat=True,
        )


def test_a_corrupted_shard_is_named(tmp_path):
    root = write_shards(tmp_path / "shards")
    part = root / "train" / "part-00000.arrow"
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    with pytest.raises(DataError, match=r"train/part-00000\.arrow: corrupted"):
        Shards(root)


def test_a_missing_folder_and_a_missing_part_name_the_command(tmp_path):
    with pytest.raises(UsageError) as error:
        Shards(tmp_path / "nowhere")
    assert "pack build" in error.value.hint
    root = write_shards(tmp_path / "shards")
    (root / "eval" / "part-00000.arrow").unlink()
    with pytest.raises(DataError, match="missing"):
        Shards(root)


def test_shards_that_train_nothing_are_refused(tmp_path):
    import pyarrow as pa

    from pack.shards import SCHEMA, write_part

    root = write_shards(tmp_path / "shards", held=0)
    part = root / "train" / "part-00000.arrow"
    batch = pa.ipc.open_file(str(part)).get_batch(0)
    empty = batch.set_column(6, SCHEMA.field("trained"), pa.array(np.zeros(batch.num_rows, np.int32)))
    write_part(part, [empty])
    store = Store(root, "shards")
    facts = {k: v for k, v in store.manifest().items() if k not in ("files", "digest")}
    store.commit(facts, [name for name in store.names() if name != "manifest.json"])
    with pytest.raises(DataError, match="no token is trained"):
        Shards(root)
