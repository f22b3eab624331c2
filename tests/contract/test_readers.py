"""Who can read our shards, and whether they compute the loss we mean: pyarrow, datasets, torch, HF Trainer, TRL."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.config import resolve
from curate.foundation.console import Console
from curate.foundation.executor import Inline
from curate.foundation.store import Store
from curate.record import Message, Record, to_table
from pack.build import Build, build, open_records
from pack.config import PackConfig
from pack.shards import SCHEMA, ShardManifest

CTX = 128
BATCH = 2


@pytest.fixture(scope="module")
def shards(tmp_path_factory, root):
    folder = tmp_path_factory.mktemp("readers")
    rng = np.random.default_rng(0)
    records = [
        Record(
            "sums",
            "f.jsonl",
            i,
            [Message("user", f"{a} + {b}?"), Message("assistant", str(a + b) + " units" * (i % 4))],
        )
        for i, (a, b) in enumerate(rng.integers(1, 99, (60, 2)).tolist())
    ]
    store = Store(folder / "out", "records")
    with store.writing("records/sums.parquet") as temp:
        pq.write_table(to_table(records), temp)
    store.commit({"recipe": {}, "sources": {}, "alarms": [], "config_digest": "c"}, ["records/sums.parquet"])
    flags = {"ctx": CTX, "tokenizer": str(root / "tests/data/bytes_tokenizer"), "eval_fraction": 0.2}
    job = Build(
        folder / "out", folder / "shards", open_records(folder / "out"), resolve("pack", PackConfig, flags=flags)
    )
    build(job, Inline(), Console(quiet=True))
    return ShardManifest.read(folder / "shards")


@pytest.fixture(scope="module")
def rows(shards):
    """The first rows of the train split through our own reader."""
    reader = shards.open("train")
    return [reader.row(index) for index in range(2 * BATCH)]


@pytest.fixture(scope="module")
def model():
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=259,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=CTX,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config).eval()


def summed_loss(logits, labels):
    import torch

    flat = logits[:, :-1].reshape(-1, logits.shape[-1]).float()
    return float(torch.nn.functional.cross_entropy(flat, labels[:, 1:].reshape(-1), ignore_index=-100, reduction="sum"))


@pytest.fixture(scope="module")
def unpacked_loss(model, rows):
    """Mean loss over the trained tokens of the first batch, each segment run alone: what every reader must reach."""
    import torch

    total, count = 0.0, 0
    with torch.no_grad():
        for row in rows[:BATCH]:
            start = 0
            for length in row["seq_lengths"].tolist():
                ids = torch.tensor(row["input_ids"][start : start + length].astype(np.int64))[None]
                labels = torch.tensor(row["labels"][start : start + length].astype(np.int64))[None]
                total += summed_loss(model(input_ids=ids, use_cache=False).logits, labels)
                count += int((labels >= 0).sum())
                start += length
    return total / count


def test_plain_pyarrow_opens_a_part(shards, rows):
    with pa.memory_map(str(shards.parts("train")[0])) as source:
        table = pa.ipc.open_file(source).read_all()
    assert table.schema.equals(SCHEMA)
    assert table.num_rows == shards.rows("train")
    assert table.column("input_ids")[1].as_py() == rows[1]["input_ids"].tolist()


def test_datasets_loads_the_arrow_files(shards, rows, tmp_path):
    from datasets import load_dataset

    files = [str(path) for path in shards.parts("train")]
    loaded = load_dataset("arrow", data_files=files, split="train", cache_dir=str(tmp_path))
    assert loaded.num_rows == shards.rows("train")
    assert loaded[1]["labels"] == rows[1]["labels"].tolist()
    assert [segment["id"] for segment in loaded[1]["segments"]] == [s["id"] for s in shards.open("train").segments(1)]


def test_datasets_loads_the_folder_with_both_splits_and_nothing_removed(shards, rows, tmp_path):
    from datasets import load_dataset

    loaded = load_dataset(str(shards.root), cache_dir=str(tmp_path))
    assert {name: part.num_rows for name, part in loaded.items()} == {
        "train": shards.rows("train"),
        "eval": shards.rows("eval"),
    }
    assert loaded["train"][0]["position_ids"] == rows[0]["position_ids"].tolist()


def test_torch_reads_a_row_and_a_direct_forward_equals_the_unpacked_loss(shards, rows, model, unpacked_loss):
    import torch

    stack = {
        name: torch.from_numpy(np.stack([row[name] for row in rows[:BATCH]]).astype(np.int64))
        for name in ("input_ids", "labels", "position_ids")
    }
    with torch.no_grad():
        logits = model(input_ids=stack["input_ids"], position_ids=stack["position_ids"], use_cache=False).logits
    trained = int((stack["labels"] >= 0).sum())
    assert summed_loss(logits, stack["labels"]) / trained == pytest.approx(unpacked_loss, abs=2e-5)


def loaded_rows(shards, cache, columns):
    from datasets import load_dataset

    files = [str(path) for path in shards.parts("train")]
    loaded = load_dataset("arrow", data_files=files, split="train", cache_dir=str(cache))
    return loaded.select_columns(columns).select(range(BATCH))


def test_the_hf_trainer_with_its_default_collator_reaches_the_same_loss(shards, model, unpacked_loss, tmp_path):
    from transformers import Trainer, TrainingArguments

    model.config.use_cache = False
    arguments = TrainingArguments(
        output_dir=str(tmp_path), per_device_eval_batch_size=BATCH, report_to=[], use_cpu=True, disable_tqdm=True
    )
    columns = ["input_ids", "labels", "position_ids"]
    trainer = Trainer(model=model, args=arguments, eval_dataset=loaded_rows(shards, tmp_path / "cache", columns))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(unpacked_loss, abs=2e-5)


def trl_loss(shards, model, root, cache, *, padding_free):
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    model.config.use_cache = False
    arguments = SFTConfig(
        output_dir=str(cache / "run"),
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=BATCH,
        padding_free=padding_free,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        report_to=[],
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
    )
    data = loaded_rows(shards, cache / "cache", ["input_ids", "labels", "position_ids", "seq_lengths"])
    tokenizer = AutoTokenizer.from_pretrained(shards.tokenizer)
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=data, eval_dataset=data, processing_class=tokenizer)
    return trainer.evaluate()["eval_loss"]


def test_trl_with_padding_free_and_skip_prepare_reaches_the_same_loss(shards, model, root, unpacked_loss, tmp_path):
    assert trl_loss(shards, model, root, tmp_path, padding_free=True) == pytest.approx(unpacked_loss, abs=2e-5)


def test_trl_without_padding_free_drifts_and_that_is_why_the_docs_say_so(shards, model, root, unpacked_loss, tmp_path):
    """Its collator adds an all-ones attention_mask, and with one transformers no longer isolates packed samples."""
    drift = abs(trl_loss(shards, model, root, tmp_path, padding_free=False) - unpacked_loss)
    assert drift > 1e-4
