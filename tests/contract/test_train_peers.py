"""Twenty steps on the same shards by three trainers: ours, TRL's SFTTrainer and transformers' Trainer, step for step."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from shards_fixture import make_tokenizer, write_shards

from curate.foundation.console import Console
from pack.shards import ShardManifest
from train import checkpoint
from train.config import TrainConfig
from train.data import Order
from train.running import train

STEPS, ROWS, MICRO, RATE = 20, 4, 2, 1e-4


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Shards and a random Llama, saved."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    root = tmp_path_factory.mktemp("peers")
    write_shards(root / "shards", train=600, held=0)
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=22,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        initializer_range=0.2,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(root / "model")
    make_tokenizer().save_pretrained(root / "model")
    return root


@pytest.fixture(scope="module")
def ours(place):
    """Losses, gradient norms and rates of our run, and its weights at the end."""
    config = TrainConfig(
        model=str(place / "model"), lr=RATE, schedule="linear", warmup=0.0, batch=ROWS, micro_batch=MICRO,
        max_steps=STEPS, save_steps=STEPS, smoke_tokens=4,
    )  # fmt: skip
    train(config, place / "shards", place / "run", Console(quiet=True), batch_chosen=True)
    lines = [json.loads(line) for line in (place / "run" / "metrics.jsonl").read_text().splitlines()]
    from safetensors.torch import load_file

    return lines, load_file(checkpoint.saved(place / "run")[-1] / "model.safetensors")


def rows_in_order(place, columns):
    """The rows that our run takes, in its order, as a dataset to be read from first to last."""
    from datasets import Dataset

    reader = ShardManifest.read(place / "shards").open("train")
    numbers = Order(0, len(reader)).slice(0, STEPS * ROWS)
    return Dataset.from_list([{name: reader.row(n)[name].tolist() for name in columns} for n in numbers])


def arguments(place, name, kind, **more):
    return kind(
        output_dir=str(place / name), max_steps=STEPS, learning_rate=RATE, lr_scheduler_type="linear", warmup_steps=0,
        per_device_train_batch_size=MICRO, gradient_accumulation_steps=ROWS // MICRO, weight_decay=0.0,
        max_grad_norm=1.0, train_sampling_strategy="sequential", logging_steps=1, save_strategy="no", report_to=[],
        use_cpu=True, bf16=False, disable_tqdm=True, optim="adamw_torch_fused", **more,
    )  # fmt: skip


def compare(trainer, ours):
    trainer.train()
    lines, weights = ours
    theirs = [line for line in trainer.state.log_history if "loss" in line]
    assert len(theirs) == len(lines) == STEPS
    for mine, other in zip(lines, theirs, strict=True):
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-5), mine["step"]
        assert mine["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4), mine["step"]
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(parameter.detach(), weights[name], rtol=1e-4, atol=2e-6)
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_our_loss_curve_is_that_of_trl(place, ours):
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    model = AutoModelForCausalLM.from_pretrained(place / "model", dtype=torch.float32)
    model.config.use_cache = False
    settings = arguments(
        place, "trl", SFTConfig, padding_free=True, max_length=None, dataset_kwargs={"skip_prepare_dataset": True}
    )
    data = rows_in_order(place, ["input_ids", "labels", "position_ids", "seq_lengths"])
    tokenizer = AutoTokenizer.from_pretrained(place / "model")
    compare(SFTTrainer(model=model, args=settings, train_dataset=data, processing_class=tokenizer), ours)


def test_our_loss_curve_is_that_of_transformers(place, ours):
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    model = AutoModelForCausalLM.from_pretrained(place / "model", dtype=torch.float32)
    model.config.use_cache = False
    data = rows_in_order(place, ["input_ids", "labels", "position_ids"])
    compare(Trainer(model=model, args=arguments(place, "hf", TrainingArguments), train_dataset=data), ours)
