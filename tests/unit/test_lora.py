"""Adapters: only they train, merged is unmerged, added tokens train too, final/ loads, a resumed run gives the same bytes."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[1]))
from shards_fixture import make_tokenizer, write_shards

from curate.config import validate
from curate.foundation.console import Console
from curate.foundation.errors import MissingExtra, UsageError
from train import adapters, checkpoint
from train.config import LoraSettings, TrainConfig
from train.data import Shards, collate
from train.model import build_model
from train.objective import PackedLoss
from train.plan import make_plan
from train.running import train
from train.starting import make, prepared

QUIET = Console(quiet=True)
LORA = LoraSettings(r=4, alpha=8, dropout=0.1, targets="attention+mlp")


def base(folder, tie=True, tokenizer=None):
    """A saved random Llama with its tokenizer."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(1)
    tokenizer = tokenizer or make_tokenizer()
    config = LlamaConfig(
        vocab_size=22,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tie,
        initializer_range=0.3,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def settings(model, **more):
    options = {
        "lora": LORA,
        "max_steps": 6,
        "batch": 4,
        "micro_batch": 2,
        "save_steps": 2,
        "keep": 9,
        "smoke_tokens": 4,
    }
    return TrainConfig(model=model, lr=1e-2, **{**options, **more})


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return base(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("lora") / "shards")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, model, shards):
    run = tmp_path_factory.mktemp("whole") / "run"
    train(settings(model), shards, run, QUIET, batch_chosen=True)
    return run


def logits(model):
    ids = torch.arange(20)[None] % 22
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


def test_the_adapters_layers_are_read_from_the_model(model, shards):
    made = build_model(TrainConfig(model=model), Shards(shards))
    attention = ["k_proj", "o_proj", "q_proj", "v_proj"]
    assert adapters.targets(made, LoraSettings()) == attention
    assert adapters.targets(made, LORA) == sorted([*attention, "gate_proj", "up_proj", "down_proj"])
    assert adapters.targets(made, LoraSettings(targets=["v_proj", "q_proj"])) == ["q_proj", "v_proj"]
    with pytest.raises(UsageError, match="no linear layer w_q") as error:
        adapters.targets(made, LoraSettings(targets=["w_q"]))
    assert "q_proj" in error.value.hint


def test_only_the_adapter_trains_in_float32_over_a_base_in_the_runs_precision(model, shards):
    config = settings(model, precision="bf16")
    made, _ = prepared(config, Shards(shards), "cpu", "bf16")
    trained = {name for name, p in made.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    kinds = {p.requires_grad: p.dtype for p in made.parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}
    assert made.model.rotary_emb.inv_freq.dtype == torch.float32


def test_an_adapter_step_moves_the_adapter_alone(model, shards, whole):
    weights = load_file(whole / "checkpoints" / "step-00000006" / "model.safetensors")
    state = load_file(whole / "checkpoints" / "step-00000006" / "state.safetensors")
    assert all("lora_" in name for name in weights) and any(v.any() for n, v in weights.items() if "lora_B" in n)
    assert {name.partition("/")[2] for name in state} == set(weights)


def test_merged_equals_unmerged(tmp_path, model, shards, whole):
    run = tmp_path / "run"
    train(settings(model, merge=True), shards, run, QUIET, batch_chosen=True)
    apart, wrong = adapters.load_saved(whole / "final")
    plain, _ = adapters.load_saved(run / "final")
    assert wrong == [] and type(plain).__name__ == "LlamaForCausalLM" and not (run / "final" / adapters.CONFIG).exists()
    torch.testing.assert_close(logits(apart), logits(plain), rtol=1e-4, atol=1e-5)
    untrained, _ = adapters.load_saved(Path(model))
    assert (logits(untrained) - logits(plain)).abs().max() > 1e-2


def test_final_holds_the_adapter_and_says_how_to_load_it(model, whole):
    facts = json.loads((whole / "final" / adapters.CONFIG).read_bytes())
    assert facts["base_model_name_or_path"] == str(Path(model).resolve())
    assert facts["target_modules"] == sorted(facts["target_modules"]) and facts["r"] == 4 and facts["lora_alpha"] == 8
    assert "AutoPeftModelForCausalLM" in (whole / "final" / "README.md").read_text()
    manifest = json.loads((whole / "manifest.json").read_bytes())
    assert manifest["smoke"]["with"] == "peft" and 0 < manifest["trained_parameters"] < manifest["parameters"]
    from transformers import AutoModelForCausalLM

    direct = AutoModelForCausalLM.from_pretrained(whole / "final")
    again = adapters.load_saved(whole / "final")[0]
    torch.testing.assert_close(logits(direct), logits(again))
    assert again.generation_config.eos_token_id == [3]


@pytest.mark.parametrize("tie", [True, False], ids=["tied", "apart"])
def test_tokens_that_pack_added_are_trained_whole_merged_and_loaded(tmp_path, tie):
    grown = make_tokenizer()
    grown.add_special_tokens({"additional_special_tokens": ["<|think|>"]})
    shards = write_shards(tmp_path / "s", tokenizer=grown, added_tokens=["<|think|>"])
    name = base(tmp_path / "base", tie=tie)
    config = settings(name, max_steps=2, save_steps=2)
    for merge in (False, True):
        run = tmp_path / f"run-{merge}"
        train(config.model_copy(update={"merge": merge}), shards, run, QUIET, batch_chosen=True)
    saved = load_file(run / "checkpoints" / "step-00000002" / "model.safetensors")
    assert any("embed_tokens" in key for key in saved) and any("lm_head" in key for key in saved) == (not tie)
    apart, merged = (adapters.load_saved(tmp_path / f"run-{merge}" / "final")[0] for merge in (False, True))
    assert merged.get_input_embeddings().weight.shape[0] == 23
    torch.testing.assert_close(logits(apart), logits(merged), rtol=1e-4, atol=1e-5)
    assert merged.config.tie_word_embeddings == tie


def test_the_head_that_an_adapter_trains_is_still_chunked(tmp_path, shards):
    name = base(tmp_path / "base", tie=False)
    lora = LORA.model_copy(update={"modules_to_save": ["lm_head"], "dropout": 0.0})
    model, _ = prepared(settings(name, lora=lora), Shards(shards), "cpu", "fp32")
    objective = PackedLoss(model)
    batch = collate([Shards(shards).train[0]], [], flat=True)
    total, _ = objective(batch)
    total.backward()
    assert objective.chunked and objective.head.weight.grad.any()
    objective.chunked = False
    assert objective(batch)[0].item() == pytest.approx(total.item(), rel=1e-5)


def test_a_resumed_adapter_gives_the_same_bytes(tmp_path, model, shards, whole):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "manifest.json").unlink()
    shutil.rmtree(run / "final")
    for path in checkpoint.saved(run)[1:]:
        shutil.rmtree(path)
    train(settings(model), shards, run, QUIET, batch_chosen=True)
    for name in ("final/adapter_model.safetensors", "final/adapter_config.json"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()


def test_another_model_under_the_adapter_is_named_on_resume(tmp_path, shards):
    name, run = base(tmp_path / "base"), tmp_path / "run"
    train(settings(name, max_steps=2), shards, run, QUIET, batch_chosen=True)
    (run / "manifest.json").unlink()
    from transformers import AutoModelForCausalLM

    other = AutoModelForCausalLM.from_pretrained(name)
    other.model.layers[0].mlp.up_proj.weight.data[0, 0] += 1
    other.save_pretrained(name)
    with pytest.raises(UsageError, match="model under the adapter"):
        train(settings(name, max_steps=2), shards, run, QUIET, batch_chosen=True)


def test_an_adapter_learns_at_its_own_default_rate(model):
    assert TrainConfig(model=model, lora=LoraSettings()).learning_rate == 2e-4
    assert TrainConfig(model=model).learning_rate == 2e-5


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"merge": True}, "merge is for an adapter"),
        ({"load_in_4bit": True}, "load_in_4bit is for an adapter"),
        ({"lora": {}}, "give merge too"),
        ({"lora": {"rank": 3}, "merge": True}, "unknown key"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(values, said):
    with pytest.raises(UsageError, match=said):
        validate(TrainConfig, values, "train")


@pytest.mark.parametrize(
    ("package", "more"),
    [("peft", {}), ("bitsandbytes", {"load_in_4bit": True}), ("bitsandbytes", {"optimizer": "adamw_8bit"})],
)
def test_a_package_that_is_not_there_is_named_with_its_install_line(
    package, more, model, shards, tmp_path, monkeypatch
):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == package else found(name, *a))
    with pytest.raises(MissingExtra, match=package) as error:
        train(settings(model, **more), shards, tmp_path / "run", QUIET, batch_chosen=True)
    assert error.value.exit_code == 3 and "pip install 'gristmill[" in error.value.hint


@pytest.mark.parametrize("optimizer", ["adamw_8bit", "paged_adamw_8bit"])
def test_8_bit_moments_resume_to_the_same_bytes(optimizer, tmp_path, shards):
    from train.config import TinySettings

    tiny = TinySettings(layers=1, hidden=64, heads=2, intermediate=128)  # matrices of 4,096 elements and more
    config = TrainConfig(tiny=tiny, optimizer=optimizer, max_steps=4, batch=2, save_steps=2, smoke_tokens=4)
    runs = [tmp_path / "whole", tmp_path / "again"]
    train(config, shards, runs[0], QUIET, batch_chosen=True)
    state = load_file(runs[0] / "checkpoints" / "step-00000002" / "state.safetensors")
    assert any(tensor.dtype == torch.uint8 for tensor in state.values())
    shutil.copytree(runs[0], runs[1])
    (runs[1] / "manifest.json").unlink()
    shutil.rmtree(runs[1] / "checkpoints" / "step-00000004")
    train(config, shards, runs[1], QUIET, batch_chosen=True)
    first, second = ((run / "final" / "model.safetensors").read_bytes() for run in runs)
    assert first == second


def test_a_4_bit_base_trains_an_adapter_and_merges_into_the_whole_model(tmp_path, model, shards):
    config = settings(model, load_in_4bit=True, merge=True, max_steps=2)
    train(config, shards, tmp_path / "run", QUIET, batch_chosen=True)
    plain, wrong = adapters.load_saved(tmp_path / "run" / "final")
    assert wrong == [] and {p.dtype for p in plain.parameters()} == {torch.float32}
    assert getattr(plain.config, "quantization_config", None) is None


def test_the_live_optimizer_has_what_was_asked_for(model, shards):
    config = settings(model, weight_decay=0.01, betas=(0.8, 0.9), eps=1e-6, schedule="linear", warmup_steps=2)
    made = make(config, Shards(shards), make_plan(config, Shards(shards), chosen=True), Path("none"))
    (group,) = made.optimizer.param_groups
    assert (group["initial_lr"], group["weight_decay"], group["betas"], group["eps"]) == (1e-2, 0.01, (0.8, 0.9), 1e-6)
    assert group["fused"] and made.scheduler.get_last_lr() == [0.0]
    assert made.wrapped.peft_config["default"].lora_dropout == 0.1
