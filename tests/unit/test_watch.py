"""What is watched: spikes and stops name their segments, speed and memory are counted, trackers get every number."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from shards_fixture import write_shards

from curate.config import validate
from curate.foundation.console import Console
from curate.foundation.errors import DataError, MissingExtra, UsageError
from pack.following import places
from pack.shards import ShardManifest
from train import loop, tracking
from train.config import TinySettings, TrainConfig
from train.running import train
from train.watching import LEAST, Work, is_spike, memory

SMALL = TinySettings(layers=1, hidden=16, heads=2)
CONFIG = TrainConfig(tiny=SMALL, max_steps=20, batch=2, save_steps=20, smoke_tokens=4)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("watch") / "shards")


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_spike_is_far_above_the_recent_losses_and_needs_some_of_them():
    calm = [1.0, 1.1, 0.9, 1.0] * 5
    assert is_spike(calm, 2.0, 6.0) and not is_spike(calm, 1.3, 6.0) and not is_spike(calm, 0.1, 6.0)
    assert not is_spike(calm[: LEAST - 1], 9.0, 6.0)
    assert not is_spike([1.0] * 20, 1.05, 6.0), "a flat curve has room to move"


def test_a_spike_logs_the_batchs_segments_and_the_run_goes_on(tmp_path, shards, monkeypatch, capsys):
    real = loop.Trainer._record

    def spoiled(self, line, split, numbers):
        real(self, line | {"loss": line["loss"] * (4 if self.progress.step == 18 else 1)}, split, numbers)

    monkeypatch.setattr(loop.Trainer, "_record", spoiled)
    run = tmp_path / "run"
    train(CONFIG.model_copy(update={"track": ["tensorboard"]}), shards, run, Console(quiet=True), batch_chosen=True)
    found = [line for line in lines(run) if "spike" in line]
    assert [line["step"] for line in found] == [18]
    assert all(places(ShardManifest.read(shards), one) for one in found[0]["spike"])
    assert (
        f"the loss rose to {found[0]['loss']:.4f}; segments of that batch: {found[0]['spike'][0]}"
        in capsys.readouterr().err
    )

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / tracking.FOLDER / tracking.PROJECT))
    events.Reload()
    seen = {(event.step, round(event.value, 4)) for event in events.Scalars("loss")}
    assert seen == {(line["step"], round(line["loss"], 4)) for line in lines(run) if "loss" in line}
    assert {"eval_loss", "lr", "grad_norm", "loss_by_source/even", "rates/tokens_a_second"} <= set(
        events.Tags()["scalars"]
    )


def test_every_step_says_how_fast_it_was_and_what_it_held(tmp_path, shards):
    train(CONFIG.model_copy(update={"max_steps": 3}), shards, tmp_path / "run", Console(quiet=True), batch_chosen=True)
    steps = [line for line in lines(tmp_path / "run") if "loss" in line]
    assert len(steps) == 3
    for line in steps:
        assert {"samples_a_second", "tokens_a_second", "trained_tokens_a_second", "peak_memory_bytes"} <= set(
            line["rates"]
        )
        assert line["grad_norm"] > 0 and set(line["loss_by_source"]) == {"even", "odd"}
        assert line["rates"]["tokens_a_second"] > line["rates"]["trained_tokens_a_second"] > 0
    assert memory(torch.device("cpu")) > 2**20


def test_a_loss_that_is_no_number_leaves_its_segments_in_the_metrics(tmp_path, shards):
    with pytest.raises(DataError, match="not a number"):
        config = CONFIG.model_copy(update={"lr": 1e30, "warmup": 0.0})
        train(config, shards, tmp_path / "run", Console(quiet=True), batch_chosen=True)
    last = lines(tmp_path / "run")[-1]
    assert "not a number" in last["stopped"] and places(ShardManifest.read(shards), last["segments"][0])


def test_the_work_of_a_step_is_what_torch_counts(shards):
    """Forward and backward of one segment, against torch's own counter of floating-point operations."""
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForCausalLM, LlamaConfig

    size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=50, num_key_value_heads=4, tie_word_embeddings=False, **size)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    length = 40
    ids = torch.arange(length)[None] % 50
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, use_cache=False).logits.sum().backward()
    work = Work.of(model, adapter=False)
    ours = work.flops([length], length)
    attention = work.by_length * length * length  # torch counts the whole square, we its causal half
    assert ours + attention == pytest.approx(counter.get_total_flops(), rel=0.02)


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_a_tracker_that_is_not_installed_is_named_before_anything_is_loaded(name, tmp_path, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    with pytest.raises(MissingExtra, match=f"--track {name} needs the package {name}") as error:
        train(CONFIG.model_copy(update={"track": [name]}), tmp_path / "none", tmp_path / "run", Console(quiet=True))
    assert error.value.exit_code == 3 and error.value.hint == f"pip install '{name}'"


def test_trackers_are_named_one_or_many_and_known():
    assert validate(TrainConfig, {"track": "wandb"}, "train").track == ["wandb"]
    with pytest.raises(UsageError, match=r"train\.track"):
        validate(TrainConfig, {"track": ["mlflow"]}, "train")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"precision": "fp16"}, "fp16 needs a GPU"),
        ({"attention": "flash"}, "flash needs a GPU"),
        ({"attention": "flex"}, "flex needs a GPU"),
        ({"fsdp": True}, "there is one"),
        ({"compile": True}, "compile is for a GPU"),
    ],
)
def test_what_needs_a_gpu_or_more_processes_says_so(values, said, tmp_path, shards):
    with pytest.raises(UsageError, match=said) as error:
        train(CONFIG.model_copy(update=values), shards, tmp_path / "run", Console(quiet=True), batch_chosen=True)
    assert error.value.exit_code == 2 and not (tmp_path / "run" / "manifest.json").exists()
