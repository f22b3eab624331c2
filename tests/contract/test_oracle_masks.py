"""Ids and masks against other people's renderers, which share no code with ours: `renderers` and TRL's tagged templates.

Qwen3 is a family that `renderers` writes token by token; TRL ships training templates with generation
tags for Qwen2.5, Qwen3, Llama 3.1 and Gemma 3. What they train beside the answer is taken off in the test, and named.
What neither knows (SmolLM2, Mistral, GPT-2) is written by hand in test_oracle_ids.py, and the others once more.
"""

from __future__ import annotations

import json

import pytest

from curate.record import Message
from pack.rendering import TemplateFailed
from pack.template import Renderer
from pack.tokenizing import Tokenizer

pytestmark = pytest.mark.shared

TALKS = [
    [("user", "What is 2 + 3?"), ("assistant", "5")],
    [("system", "Answer in one word."), ("user", "Sky?"), ("assistant", "Blue."), ("user", "Sea?"), ("assistant", "Green.")],
    [("user", "naïve 日本語 🙂"), ("assistant", "ok\n\n```py\nx = 1\n```")],
    [("user", "  spaces  "), ("assistant", "a  b\tc")],
]  # fmt: skip
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {
    "type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}}}]  # fmt: skip


def talk(turns):
    return [Message(role, text) for role, text in turns]


def chat(turns):
    return [{"role": role, "content": text} for role, text in turns]


@pytest.fixture(scope="module")
def loaded(shared):
    from transformers import AutoTokenizer

    kept: dict[str, tuple[object, Renderer]] = {}

    def load(name):
        if name not in kept:
            folder = shared / "tokenizers" / name
            kept[name] = AutoTokenizer.from_pretrained(folder), Renderer(Tokenizer.load(folder), engine="hf")
        return kept[name]

    return load


@pytest.mark.parametrize("turns", TALKS, ids=["one", "system", "unicode", "spaces"])
def test_qwen3_equals_renderers(loaded, turns):
    qwen = pytest.importorskip("renderers.qwen3")
    hf, ours = loaded("qwen3")
    theirs = qwen.Qwen3Renderer(hf).render(chat(turns))
    found = ours.encode(talk(turns))[0]
    assert found.ids.tolist() == list(theirs.token_ids)
    empty = [
        hf.convert_tokens_to_ids("<think>"),
        *hf.encode("\n\n"),
        hf.convert_tokens_to_ids("</think>"),
        *hf.encode("\n\n"),
    ]
    assert found.mask.tolist() == without(list(theirs.token_ids), list(theirs.sampled_mask), empty)


def without(ids, mask, run):
    """`renderers` trains the empty think block of a last turn; we leave it to the prompt (DESIGN.md, thinking)."""
    mask = list(map(bool, mask))
    for at in range(len(ids) - len(run) + 1):
        if ids[at : at + len(run)] == run:
            mask[at : at + len(run)] = [False] * len(run)
    return mask


def test_qwen3_tool_calls_and_results_equal_renderers(loaded):
    qwen = pytest.importorskip("renderers.qwen3")
    hf, ours = loaded("qwen3")
    call = {"name": "add", "arguments": {"a": 2, "b": 3}}
    messages = [Message("user", "2+3?"), Message("assistant", "", tool_calls=json.dumps([call]), reasoning="Use it."),
                Message("tool", "5"), Message("assistant", "It is 5.")]  # fmt: skip
    theirs = qwen.Qwen3Renderer(hf).render(
        [{"role": "user", "content": "2+3?"},
         {"role": "assistant", "content": "", "reasoning_content": "Use it.",
          "tool_calls": [{"id": "1", "type": "function", "function": call}]},
         {"role": "tool", "content": "5", "tool_call_id": "1"}, {"role": "assistant", "content": "It is 5."}],
        tools=TOOLS,
    )  # fmt: skip
    found = ours.encode(messages, json.dumps(TOOLS))[0]
    empty = [
        hf.convert_tokens_to_ids("<think>"),
        *hf.encode("\n\n"),
        hf.convert_tokens_to_ids("</think>"),
        *hf.encode("\n\n"),
    ]
    assert found.ids.tolist() == list(theirs.token_ids)
    assert found.mask.tolist() == without(list(theirs.token_ids), list(theirs.sampled_mask), empty)


# What TRL's tags enclose beside the answer and its terminator: what the prompt gives, or what follows the stop.
BESIDE = {"qwen2.5": {"\n"}, "qwen3": {"\n", "<think>", "</think>", "\n\n"}, "llama-3.1": {"\n\n"}, "gemma-3": {"\n"}}


@pytest.mark.parametrize("name", sorted(BESIDE))
def test_trls_tagged_templates_train_the_same_text(loaded, name):
    chat_template_utils = pytest.importorskip("trl.chat_template_utils")
    hf, ours = loaded(name)
    try:
        tagged = chat_template_utils.get_training_chat_template(tokenizer=hf) or hf.chat_template
    except ValueError:
        pytest.skip(f"TRL does not know the template of {name}")
    compared = 0
    for turns in TALKS:
        theirs = hf.apply_chat_template(
            chat(turns), chat_template=tagged, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        try:
            found = ours.encode(talk(turns))[0]
        except TemplateFailed:
            continue
        if found.ids.tolist() != list(theirs["input_ids"]):
            assert name == "qwen3", "TRL's Qwen3 template prints another think block, to be prefix-stable"
            continue
        for token, mine, other in zip(found.ids.tolist(), found.mask.tolist(), theirs["assistant_masks"], strict=True):
            assert mine == bool(other) or (other and ours.tokenizer.decode([token]) in BESIDE[name])
        compared += 1
    assert compared or name == "qwen3"
