"""Attention by choice: every backend that runs here gives one loss, and one that cannot is refused with the reason."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from shards_fixture import write_shards

from curate.foundation.console import Console
from curate.foundation.errors import MissingExtra, UsageError
from train import attention, commands
from train.config import TinySettings, TrainConfig
from train.data import Shards, collate
from train.plan import make_plan
from train.running import train
from train.starting import kernels, make

SMALL = TinySettings(layers=2, hidden=32, heads=4, kv_heads=2)
CONFIG = TrainConfig(tiny=SMALL, max_steps=4, batch=4, micro_batch=2, save_steps=4, smoke_tokens=4)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("attention") / "shards")


class Soft:
    """A configuration whose scores are capped, as Gemma 2's are."""

    attn_logit_softcapping = 50.0

    def get_text_config(self):
        return self


class Plain(Soft):
    attn_logit_softcapping = None


@pytest.mark.parametrize("wanted", ["sdpa", "eager"])
def test_a_run_gives_the_same_losses_with(wanted, tmp_path, shards):
    found = []
    for name in ("segments", wanted):
        run = tmp_path / name
        manifest = train(
            CONFIG.model_copy(update={"attention": name}), shards, run, Console(quiet=True), batch_chosen=True
        )
        found.append(manifest["results"]["loss_last"])
        assert manifest["selfcheck"]["passed"]
        assert manifest["selfcheck"]["backend"] == (attention.SEGMENTS if name == "segments" else wanted)
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_left_to_itself_it_suits_device_model_and_precision(monkeypatch):
    assert attention.choose(Plain(), "cpu") == attention.SEGMENTS
    assert attention.choose(Soft(), "cpu") == attention.choose(Soft(), "cuda", "auto", "bf16") == "eager"
    for there, precision, expected in (
        (False, "bf16", "sdpa"),
        (True, "bf16", attention.FLASH),
        (True, "fp32", "sdpa"),
    ):
        monkeypatch.setattr(attention, "_has_flash", lambda there=there: there)
        assert attention.choose(Plain(), "cuda", "auto", precision) == expected
    assert attention.choose(Plain(), "cuda", "flex") == "flex_attention"


def test_what_cannot_run_is_refused_with_the_reason(monkeypatch):
    monkeypatch.setattr(attention, "_has_flash", lambda: False)
    with pytest.raises(MissingExtra, match="flash-attn"):
        attention.choose(Plain(), "cuda", "flash", "bf16")
    for config, device, wanted, said in (
        (Plain(), "cuda", "flash", "bf16 or fp16"),
        (Plain(), "cpu", "flex", "needs a GPU"),
        (Plain(), "cuda", "segments", "for CPU"),
        (Soft(), "cpu", "sdpa", "caps its scores"),
    ):
        with pytest.raises(UsageError, match=said):
            attention.choose(config, device, wanted, "fp32")


def test_flash_attention_is_told_where_segments_begin(shards):
    packed = Shards(shards)
    rows = [packed.train[0], packed.train[1]]
    batch = collate(rows, [], flat=True)
    given = attention.inputs(batch, attention.FLASH)
    assert "attention_mask" not in given and given["use_cache"] is False
    bounds = given["cu_seq_lens_q"]
    assert bounds.dtype == torch.int32 and torch.equal(bounds, given["cu_seq_lens_k"])
    starts = np.flatnonzero(batch.position_ids[0].numpy() == 0)
    assert bounds[:-1].tolist() == starts.tolist() and int(bounds[-1]) == batch.input_ids.shape[1]
    assert given["max_length_q"] == given["max_length_k"] == int(bounds.diff().max())
    assert set(attention.inputs(collate(rows, [], flat=False), "sdpa")) == {"input_ids", "position_ids", "use_cache"}


def test_the_check_prints_each_segment_packed_and_alone(shards):
    resolved = commands.settings(shards, None, ["tiny.hidden=32", "tiny.heads=4"], {"attention": "sdpa"})
    report, facts, text = commands.check(shards, resolved)
    assert facts["backend"] == "sdpa" and report.passed
    for number, length in enumerate(report.lengths):
        assert f"{number:>8} {length:>7} {report.packed[number]:>12.6f} {report.alone[number]:>12.6f}" in text


def test_deterministic_kernels_are_asked_for_while_a_run_lasts_and_no_longer(tmp_path, shards):
    config = CONFIG.model_copy(update={"deterministic": True})
    with kernels(config):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    train(config, shards, tmp_path / "run", Console(quiet=True), batch_chosen=True)
    assert not torch.are_deterministic_algorithms_enabled()


def test_gradient_checkpointing_is_not_reentrant(shards):
    config = CONFIG.model_copy(update={"gradient_checkpointing": True})
    packed = Shards(shards)
    made = make(config, packed, make_plan(config, packed, chosen=True), Path("none"))
    layers = made.inner.model.model.layers
    assert all(layer.gradient_checkpointing for layer in layers)
    assert all(layer._gradient_checkpointing_func.keywords == {"use_reentrant": False} for layer in layers)
