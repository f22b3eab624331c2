"""Answers come down to a number, batches do not change them, and intervals are Wilson's."""

import pytest

from curate.foundation.errors import DataError, UsageError
from train.evaluate import extract, generate, read_items, wilson


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("5 + 5 = 10\n#### 10", "10"),
        ("#### 1,234", "1234"),
        ("#### -7", "-7"),
        ("#### $18.00", "18"),
        ("#### 3.50 dollars", "3.5"),
        ("#### 12\n#### 13", "12"),
        ("42", "42"),
        (" 42. ", "42"),
        ("007", "7"),
        ("-0", "0"),
        ("it is 42", "it is 42"),
        ("  Paris \n", "Paris"),
        ("####", ""),
    ],
)
def test_an_answer_comes_down_to(text, answer):
    assert extract(text) == answer


def test_the_interval_is_wilsons():
    low, high = wilson(8, 10)
    assert low == pytest.approx(0.4901625, abs=1e-6) and high == pytest.approx(0.9433178, abs=1e-6)
    assert wilson(0, 0) == (0.0, 1.0)


def test_batched_greedy_equals_one_by_one_and_plain_generate():
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
    model = LlamaForCausalLM(config).eval()
    prompts = [[1, 5, 6], [7], [2, 3, 4, 5, 6, 7, 8, 9], [1, 1, 9, 9], [11] * 12]
    together = generate(model, prompts, 12, [3])
    assert together == [generate(model, [prompt], 12, [3])[0] for prompt in prompts]
    assert together == generate(model, prompts, 12, [3], batch=2)
    for prompt, answer in zip(prompts, together, strict=True):
        ids = torch.tensor([prompt])
        plain = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, eos_token_id=3, pad_token_id=0
        )
        assert plain[0, len(prompt) :].tolist() == answer
    assert len({len(answer) for answer in together}) > 1, "some answers must leave the batch early"


def test_a_broken_task_names_its_line(tmp_path):
    task = tmp_path / "task.jsonl"
    task.write_text('{"prompt": "1+1", "answer": 2}\n{"question": "x"}\n')
    with pytest.raises(DataError, match="line 2"):
        read_items(task)
    assert read_items(task, 1)[0].answer == "2"
    with pytest.raises(UsageError, match="no such file"):
        read_items(tmp_path / "none.jsonl")
