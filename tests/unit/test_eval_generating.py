"""Batches do not change greedy answers, stop strings end them, and prompts hold their examples as they were packed."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from shards_fixture import make_tokenizer, write_shards

from curate.foundation.errors import UsageError
from pack.template import Renderer, Tokenizer
from train.asking import Asker
from train.evaluate import Prompting, ask_all
from train.generating import LOOK, generate
from train.tasks.items import Item


@pytest.fixture(scope="module")
def model():
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=22,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.5,
        max_position_embeddings=64,
    )
    return LlamaForCausalLM(config).eval()


PROMPTS = [[1, 5, 6], [7], [2, 3, 4, 5, 6, 7, 8, 9], [1, 1, 9, 9], [11] * 12]


def test_batched_greedy_equals_one_by_one_and_plain_generate(model):
    import torch

    together = generate(model, PROMPTS, 12, [3])
    assert together == [generate(model, [prompt], 12, [3])[0] for prompt in PROMPTS]
    assert together == generate(model, PROMPTS, 12, [3], batch=2)
    for prompt, answer in zip(PROMPTS, together, strict=True):
        ids = torch.tensor([prompt])
        plain = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, eos_token_id=3, pad_token_id=0
        )
        assert plain[0, len(prompt) :].tolist() == answer
    assert len({len(answer) for answer in together}) > 1, "some answers must leave the batch early"


def test_a_stop_ends_an_answer_at_the_same_token_in_any_batch(model):
    halt = lambda ids: ids.count(ids[0]) > 1  # noqa: E731
    whole = generate(model, PROMPTS, 30, [])
    together = generate(model, PROMPTS, 30, [], halt=halt)
    assert together == [generate(model, [prompt], 30, [], halt=halt)[0] for prompt in PROMPTS]
    for full, part in zip(whole, together, strict=True):
        assert full[: len(part)] == part and (len(part) % LOOK == 0 or len(part) == 30)
    assert any(len(part) < 30 for part in together)


def test_what_does_not_fit_the_positions_is_refused_before_anything_is_asked(model):
    with pytest.raises(UsageError, match="model has 64") as said:
        generate(model, PROMPTS, 60, [3])
    assert said.value.hint == "--max-new-tokens 52"


def packed_with(folder, **rules):
    make_tokenizer().save_pretrained(folder / "t")
    renderer = Renderer(Tokenizer.load(folder / "t"), engine="hf", **rules)
    return Asker.of_shards(write_shards(folder / "s", rendering=renderer.facts(), terminators=renderer.terminators))


SHOTS = [("1 plus 1", "2"), ("2 plus 2", "4")]


def test_a_chat_template_gets_examples_as_turns(tmp_path):
    asker = packed_with(tmp_path)
    text = "what is"
    expected = "<|user|>then 1 plus 1<|assistant|>2<|end|><|user|>2 plus 2<|assistant|>4<|end|><|user|>3<|assistant|>"
    tokenizer = make_tokenizer()
    assert asker.ask("3", SHOTS, "then") == tokenizer.encode(expected, add_special_tokens=False)
    assert asker.ask(text) == asker.ask(text, (), "") and asker.stops == []


def test_a_prompt_format_repeats_its_own_shape_and_stops_at_the_next_question(tmp_path):
    asker = packed_with(tmp_path, prompt_format="what {prompt} is ")
    ids = make_tokenizer().encode("what 1 plus 1 is 2 what 2 plus 2 is 4 what 3 is", add_special_tokens=False)
    assert asker.ask("3", SHOTS) == ids
    assert (
        asker.stops == ["\nwhat"] and asker.cut("5\nwhat 6") == ("5", True) and asker.cut("5 what") == ("5 what", False)
    )


def test_a_prompt_format_of_control_tokens_takes_no_examples(tmp_path):
    asker = packed_with(tmp_path, prompt_format="<|user|>{prompt}<|assistant|>")
    assert asker.ask("3")
    with pytest.raises(UsageError, match="control tokens"):
        asker.ask("3", SHOTS)


def test_an_answer_is_cut_at_the_stop_string_and_did_not_end_by_itself(tmp_path, model):
    asker = packed_with(tmp_path, prompt_format="what {prompt} is ")
    asker.terminators = []
    items = [Item(f"{n} plus 1", "2") for n in range(9)]
    whole = ask_all(model, asker, items, max_new_tokens=32)
    assert not any(said.halted for said in whole)
    word = whole[0].text[8:11]
    asker.stops = [word]
    cut = ask_all(model, asker, items, Prompting(), max_new_tokens=32, batch=1)
    assert [said.text for said in cut] == [said.text.partition(word)[0] for said in whole]
    assert cut[0].halted and not cut[0].ended and cut == ask_all(model, asker, items, max_new_tokens=32)
