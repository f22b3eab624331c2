"""What training promises: records are isolated, every trained token counts once, and a model is refused before it harms."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from shards_fixture import make_tokenizer, write_shards

from curate.foundation.errors import Offline, UsageError
from train import attention, selfcheck
from train.config import TinySettings, TrainConfig
from train.data import Shards, collate
from train.model import build_model, device_of, load_tokenizer
from train.objective import CHUNK, PackedLoss

SMALL = TinySettings(layers=2, hidden=32, heads=4, kv_heads=2)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return Shards(write_shards(tmp_path_factory.mktemp("training") / "shards"))


def made(config, backend=attention.SEGMENTS, seed=0):
    """A random model of some architecture on a backend."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    attention.register()
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    model.set_attn_implementation(backend)
    return PackedLoss(model).train()


def llama(**options):
    from transformers import LlamaConfig

    return LlamaConfig(**common(), **options)


def common():
    return {
        "vocab_size": 22,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
    }


def architectures():
    from transformers import Gemma3TextConfig, MistralConfig, Qwen2Config

    return {
        "llama": llama(),
        "qwen2": Qwen2Config(**common()),
        "mistral with a window shorter than segments": MistralConfig(**common(), sliding_window=5),
        "gemma3": Gemma3TextConfig(
            **common(), head_dim=8, sliding_window=6, layer_types=["sliding_attention", "full_attention"]
        ),
    }


@pytest.mark.parametrize("name", architectures())
def test_packed_equals_unpacked_for(name, shards):
    report = selfcheck.check(made(architectures()[name]), shards, torch.device("cpu"), "fp32")
    assert report.passed and report.loss_difference < 1e-5 and report.leak < 1e-6


@pytest.mark.parametrize("name", architectures())
def test_segment_attention_equals_the_materialised_mask_for(name, shards):
    rows = [shards.train[n] for n in range(4)]
    ours, theirs = made(architectures()[name]), made(architectures()[name], "sdpa")
    flat, _ = ours(collate(rows, shards.sources, flat=True))
    apart, _ = theirs(collate(rows, shards.sources, flat=False))
    assert flat.item() == pytest.approx(apart.item(), rel=1e-5)
    flat.backward()
    apart.backward()
    for ours_p, theirs_p in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(ours_p.grad, theirs_p.grad, rtol=1e-4, atol=1e-4)


def test_gradient_checkpointing_keeps_the_segments(shards):
    plain, spared = made(llama()), made(llama())
    spared.model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    batch = collate([shards.train[0]], [], flat=True)
    for module in (plain, spared):
        module(batch)[0].backward()
    for a, b in zip(plain.parameters(), spared.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_attention_that_leaks_is_refused(shards):
    from transformers import AttentionInterface

    def leaking(module, query, key, value, mask, segments=None, **kwargs):
        one = attention.Segments([segments.length])
        return attention.segment_attention(module, query, key, value, None, segments=one, **kwargs)

    objective = made(llama())
    AttentionInterface.register(attention.SEGMENTS, leaking)
    try:
        report = selfcheck.check(objective, shards, torch.device("cpu"), "fp32")
    finally:
        attention.register()
    assert not report.passed and report.leak > 1e-3
    with pytest.raises(selfcheck.Leak, match="not isolated") as error:
        selfcheck.require(report)
    assert error.value.exit_code == 1


def test_untrained_positions_have_no_gradient_and_their_labels_no_effect(shards):
    objective, row = made(llama()), shards.train[0]
    batch = collate([row], [], flat=True)
    logits = objective.logits(batch, 0)
    full = torch.full(batch.input_ids.shape, -100)
    full[0, batch.keep] = batch.targets[0]
    logits.retain_grad()
    torch.nn.functional.cross_entropy(logits[0], full[0], reduction="sum").backward()
    untrained = full[0] < 0
    assert untrained.any() and not logits.grad[0, untrained].any() and logits.grad[0, ~untrained].any()
    whole = [p.grad.clone() for p in objective.parameters()]
    objective.zero_grad()
    objective(batch)[0].backward()
    for a, p in zip(whole, objective.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad, rtol=1e-5, atol=1e-6)


def captured(objective):
    """What gradients reach the output of the body (hidden states) of a model, by position."""
    found = []

    def hook(module, arguments, output):
        output.last_hidden_state.register_hook(lambda grad: found.append(grad.clone()))

    objective.model.base_model.register_forward_hook(hook)
    return found


@pytest.mark.parametrize("chunked", [True, False])
def test_the_objective_sends_nothing_at_all_through_untrained_positions(shards, chunked):
    """Exactly 0, not nearly: both where the head runs in chunks and where it runs in the model's own code."""
    objective = made(llama() if chunked else scaled_logits())
    assert objective.chunked == chunked
    found, row = captured(objective), shards.train[0]
    batch = collate([row], [], flat=True)
    objective(batch)[0].backward()
    trained = torch.zeros(batch.input_ids.shape[1], dtype=torch.bool)
    trained[batch.keep] = True
    assert not found[0][0, ~trained].any() and found[0][0, trained].any(dim=-1).all()


def test_changing_an_untrained_label_leaves_every_gradient_bit_equal(shards):
    """The last token of a row is input to nothing after it, so it is its label alone that is changed here."""
    row = shards.train[0]
    end = len(row.input_ids) - row.pad - 1
    ids, labels = row.input_ids.copy(), row.labels.copy()
    labels[end] = -100
    found = []
    for token in (ids[end], (ids[end] + 1) % 22):
        changed = ids.copy()
        changed[end] = token
        objective = made(llama())
        objective(collate([replace(row, input_ids=changed, labels=labels)], [], flat=True))[0].backward()
        found.append({name: p.grad.clone() for name, p in objective.model.named_parameters()})
    for name in found[0]:
        assert torch.equal(found[0][name], found[1][name]), name


def scaled_logits():
    from transformers import GraniteConfig

    return GraniteConfig(**common(), logits_scaling=2.0)


@pytest.mark.parametrize(("config", "chunked"), [(llama(), True), (scaled_logits(), False)], ids=["llama", "granite"])
@pytest.mark.parametrize("positions", [1, 7, 10_000])
def test_loss_and_gradients_do_not_depend_on_the_chunks(config, chunked, positions, shards, monkeypatch):
    """Against the model's own logits of every position and torch's cross-entropy, in float64."""
    rows = [shards.train[n] for n in range(3)]
    ours, plain = made(config).double(), made(config, "sdpa").double()
    monkeypatch.setitem(CHUNK, "cpu", positions * 22)
    total, losses = ours(collate(rows, [], flat=True))
    (total * 3).backward()
    apart = collate(rows, [], flat=False)
    whole = plain.logits(apart, apart.keep).flatten(0, 1)
    (torch.nn.functional.cross_entropy(whole, apart.targets.flatten(), reduction="sum") * 3).backward()
    assert ours.chunked == chunked and losses.sum().item() == pytest.approx(total.item(), rel=1e-6)
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        assert (a.grad - b.grad).norm() <= 1e-6 * b.grad.norm()


def test_a_row_that_trains_less_adds_nothing_for_the_rest(shards):
    """Rows kept apart share positions: where one does not train, its loss and its gradient are 0."""
    objective = made(llama(), "sdpa")
    apart = collate([shards.train[0], shards.train[1]], [], flat=False)
    total, losses = objective(apart)
    untrained = apart.targets < 0
    assert untrained.any() and not losses[untrained].any()
    alone = sum(objective(collate([shards.train[n]], [], flat=False))[0].item() for n in (0, 1))
    assert total.item() == pytest.approx(alone, rel=1e-6)


def test_a_frozen_head_gets_no_gradient_and_still_passes_it_down(shards):
    objective = made(llama())
    objective.model.lm_head.weight.requires_grad_(False)
    objective(collate([shards.train[0]], [], flat=True))[0].backward()
    grads = {name: p.grad for name, p in objective.model.named_parameters()}
    assert grads["lm_head.weight"] is None and grads["model.norm.weight"].any()


def test_accumulation_gives_one_gradient_however_the_rows_are_split(shards):
    """1 x 4 == 4 x 1 == 2 x 2, with unequal trained-token counts."""
    numbers = sorted(range(len(shards.train)), key=lambda n: shards.train.row_trained[n])
    rows = [shards.train[n] for n in (numbers[0], numbers[1], numbers[-2], numbers[-1])]
    assert len({row.trained for row in rows}) > 1
    total = sum(row.trained for row in rows)
    found = []
    for size in (4, 1, 2):
        objective = made(llama())
        for start in range(0, 4, size):
            (objective(collate(rows[start : start + size], [], flat=True))[0] / total).backward()
        found.append([p.grad for p in objective.parameters()])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def saved_model(folder, config, tokenizer):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    if tokenizer:
        tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_model_with_the_shards_tokenizer_is_taken(tmp_path, shards):
    name = saved_model(tmp_path / "m", llama(), make_tokenizer())
    assert build_model(TrainConfig(model=name), shards).config.vocab_size == 22


def test_a_tokenizer_that_is_not_the_models_is_refused(tmp_path, shards):
    other = make_tokenizer()
    vocab = other.get_vocab()
    assert vocab["plus"] != vocab["minus"]
    swapped = (
        other.backend_tokenizer.to_str().replace('"plus"', '"_"').replace('"minus"', '"plus"').replace('"_"', '"minus"')
    )
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    name = saved_model(tmp_path / "m", llama(), PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(swapped)))
    with pytest.raises(UsageError, match="another tokenizer") as error:
        build_model(TrainConfig(model=name), shards)
    assert "--tokenizer" in error.value.hint


def test_a_vocabulary_too_small_is_refused_and_added_tokens_grow_it(tmp_path):
    base, grown = make_tokenizer(), make_tokenizer()
    grown.add_special_tokens({"additional_special_tokens": ["<|think|>"]})
    name = saved_model(tmp_path / "m", llama(), base)
    undeclared = Shards(write_shards(tmp_path / "a", tokenizer=grown))
    with pytest.raises(UsageError, match="23 token ids, the model has 22"):
        build_model(TrainConfig(model=name), undeclared)
    declared = Shards(write_shards(tmp_path / "b", tokenizer=grown, added_tokens=["<|think|>"]))
    model = build_model(TrainConfig(model=name), declared)
    assert model.get_input_embeddings().weight.shape[0] == model.get_output_embeddings().weight.shape[0] == 23


def test_rows_longer_than_the_models_positions_are_refused(tmp_path):
    name = saved_model(tmp_path / "m", llama(), make_tokenizer())
    shards = Shards(write_shards(tmp_path / "s", ctx=128))
    with pytest.raises(UsageError, match="64 positions") as error:
        build_model(TrainConfig(model=name), shards)
    assert "--ctx 64" in error.value.hint


def test_recurrent_and_hybrid_models_are_refused_with_the_reason(tmp_path, shards):
    from transformers import MambaConfig, Qwen3NextConfig

    for kind in (MambaConfig(vocab_size=22, hidden_size=16, num_hidden_layers=1), Qwen3NextConfig(vocab_size=22)):
        folder = tmp_path / kind.model_type
        kind.save_pretrained(folder)
        with pytest.raises(UsageError, match="runs across the records"):
            build_model(TrainConfig(model=str(folder)), shards)


def test_a_missing_model_and_an_unreachable_hub_name_the_local_way(tmp_path, shards):
    with pytest.raises(UsageError, match="no such folder"):
        build_model(TrainConfig(model=str(tmp_path / "nowhere")), shards)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="not a causal language model"):
        build_model(TrainConfig(model=str(tmp_path / "empty")), shards)
    with pytest.raises(Offline) as error:
        build_model(TrainConfig(model="nobody/has-this-model"), shards)
    assert "--model PATH" in error.value.hint


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_cuda_without_a_gpu_is_a_clear_error():
    with pytest.raises(UsageError, match="no GPU"):
        device_of(TrainConfig(device="cuda"))


def test_tiny_takes_vocabulary_positions_and_terminator_from_the_shards(shards):
    model = build_model(TrainConfig(tiny=SMALL), shards)
    assert model.config.vocab_size == len(load_tokenizer(shards.tokenizer)) == 22
    assert model.config.max_position_embeddings == 64 and model.config.eos_token_id == [3]
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_the_check_works_when_there_is_but_one_segment(tmp_path):
    shards = Shards(write_shards(tmp_path / "s", train=1, held=0))
    report = selfcheck.check(made(llama()), shards, torch.device("cpu"), "fp32")
    assert report.passed and len(report.lengths) == 2
    assert not replace(report, passed=False).passed
