"""Ids and masks against expectations written by hand, for all seven tokenizers.

Each case is the text its template prints, written out from the template's source and cut where training begins and
ends (`⟦` and `⟧`), and the ids of each piece (tests/data/oracle_ids.json), found by applying the merges of
tokenizer.json one by one. Neither Jinja, transformers, `tokenizers` nor this project had a part in either.
"""

from __future__ import annotations

import json
import re

import pytest

from curate.record import Message
from pack.template import Renderer
from pack.tokenizing import Tokenizer

ADD = {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {}}}
TOOL = (
    '{"type": "function", "function": {"name": "add", "description": "Adds.", '
    '"parameters": {"type": "object", "properties": {}}}}'
)
CALL = json.dumps([{"id": "abcdefgh1", "type": "function", "function": {"name": "add", "arguments": {"a": 12}}}])


def user(text):
    return Message("user", text)


def bot(text, **more):
    return Message("assistant", text, **more)


SYSTEM = Message("system", "Be brief.")
ONE = [user("What is 12 + 30?"), bot("It is 42.")]
TWO = [user("Sky?"), bot("Blue."), user("Sea?"), bot("Green, mostly.")]
OPEN = [SYSTEM, user("Sky?"), bot("Blue."), user("Sea?")]
TOOLS = [user("Add 12."), bot("", tool_calls=CALL), Message("tool", "42"), bot("It is 42.")]
THOUGHTS = [user("Sky?"), bot("Blue.", reasoning="By day."), user("Sea?"), bot("Green.", reasoning="Mostly so.")]

IM = "<|im_start|>"
SMOL = IM + "system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
QWEN = IM + "system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
SIGNATURES = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function "
    "signatures within <tools></tools> XML tags:\n<tools>\n" + TOOL + "\n</tools>\n\nFor each function call, return a "
    "json object with function name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n'
)
CALLED = '<tool_call>\n{"name": "add", "arguments": {"a": 12}}\n</tool_call>'
ML_ONE = f"{IM}user\nWhat is 12 + 30?<|im_end|>\n{IM}assistant\n⟦It is 42.<|im_end|>⟧\n"
ML_TWO = (
    f"{IM}user\nSky?<|im_end|>\n{IM}assistant\n⟦Blue.<|im_end|>⟧\n"
    f"{IM}user\nSea?<|im_end|>\n{IM}assistant\n⟦Green, mostly.<|im_end|>⟧\n"
)
ML_OPEN = (
    f"{IM}system\nBe brief.<|im_end|>\n{IM}user\nSky?<|im_end|>\n{IM}assistant\n⟦Blue.<|im_end|>⟧\n"
    f"{IM}user\nSea?<|im_end|>\n"
)
ML_TOOLS = (
    f"{IM}user\nAdd 12.<|im_end|>\n{IM}assistant\n⟦{CALLED}<|im_end|>⟧\n"
    f"{IM}user\n<tool_response>\n42\n</tool_response><|im_end|>\n{IM}assistant\n⟦It is 42.<|im_end|>⟧\n"
)
HEAD = "<|start_header_id|>"

# (tokenizer, case): (rules, messages, tools, printed text, lost texts)
CASES = {
    ("smollm2", "default system"): ({}, ONE, None, SMOL + ML_ONE, ()),
    ("smollm2", "two turns"): ({}, [SYSTEM, *TWO], None, f"{IM}system\nBe brief.<|im_end|>\n{ML_TWO}", ()),
    ("smollm2", "ends with the user"): ({}, OPEN, None, ML_OPEN, ()),
    ("smollm2", "calls are not printed"): (
        {}, TOOLS, [ADD],
        f"{SMOL}{IM}user\nAdd 12.<|im_end|>\n{IM}assistant\n<|im_end|>\n{IM}tool\n42<|im_end|>\n"
        f"{IM}assistant\n⟦It is 42.<|im_end|>⟧\n",
        ("tools", "tool_calls"),
    ),
    ("mistral-nemo", "one turn"): ({}, ONE, None, "<s>[INST]What is 12 + 30?[/INST]⟦It is 42.</s>⟧", ()),
    ("mistral-nemo", "two turns, system lost"): (
        {}, [SYSTEM, *TWO], None,
        "<s>[INST]Sky?[/INST]⟦Blue.</s>⟧[INST]Sea?[/INST]⟦Green, mostly.</s>⟧",
        ("system",),
    ),
    ("mistral-nemo", "ends with the user, who brings the system"): (
        {}, OPEN, None, "<s>[INST]Sky?[/INST]⟦Blue.</s>⟧[INST]Be brief.\n\nSea?[/INST]", (),
    ),
    ("mistral-nemo", "tools"): (
        {}, TOOLS, [ADD],
        f"<s>[AVAILABLE_TOOLS][{TOOL}][/AVAILABLE_TOOLS][INST]Add 12.[/INST]"
        '⟦[TOOL_CALLS][{"name": "add", "arguments": {"a": 12}, "id": "abcdefgh1"}]</s>⟧'
        '[TOOL_RESULTS]{"content": 42, "call_id": "abcdefgh1"}[/TOOL_RESULTS]⟦It is 42.</s>⟧',
        (),
    ),
    ("gpt2", "chatml, two turns"): (
        {"template": "chatml"}, [SYSTEM, *TWO], None, f"{IM}system\nBe brief.<|im_end|>\n{ML_TWO}", (),
    ),
    ("gpt2", "chatml, ends with the user"): ({"template": "chatml"}, OPEN, None, ML_OPEN, ()),
    ("gpt2", "chatml, tools and reasoning"): (
        {"template": "chatml"}, [*TOOLS[:3], bot("It is 42.", reasoning="Read it.")], [ADD],
        f"{IM}tools\n[{TOOL}]<|im_end|>\n{IM}user\nAdd 12.<|im_end|>\n{IM}assistant\n⟦{CALLED}<|im_end|>⟧\n"
        f"{IM}tool\n42<|im_end|>\n{IM}assistant\n⟦<think>\nRead it.\n</think>\n\nIt is 42.<|im_end|>⟧\n",
        (),
    ),
    ("gpt2", "qwen, tools"): (
        {"template": "qwen"}, TOOLS, [ADD],
        f"{IM}system\nYou are a helpful assistant.\n\n# Tools\n\nFunctions you may call, one JSON signature a line:\n"
        f"<tools>\n{TOOL}\n</tools>\n\nWrite each call as JSON with a name and arguments between <tool_call> and "
        f"</tool_call>.<|im_end|>\n{ML_TOOLS}",
        (),
    ),
    ("gpt2", "a file's template"): (
        {"template": "FILE"}, TWO, None,
        "user:\nSky?\n\nassistant:\n⟦Blue.<|endoftext|>⟧\n\nuser:\nSea?\n\nassistant:\n⟦Green, mostly.<|endoftext|>⟧\n\n",
        (),
    ),
    ("gpt2", "a prompt format"): (
        {"prompt_format": "Question: {prompt}\nAnswer: "}, ONE, None,
        "Question: What is 12 + 30?\nAnswer: ⟦It is 42.<|endoftext|>⟧", (),
    ),
    ("qwen2.5", "default system"): ({}, ONE, None, f"{QWEN}<|im_end|>\n{ML_ONE}", ()),
    ("qwen2.5", "tools"): ({}, TOOLS, [ADD], f"{QWEN}\n\n{SIGNATURES}{ML_TOOLS}", ()),
    ("qwen2.5", "ends with the user"): ({}, OPEN, None, ML_OPEN, ()),
    ("qwen3", "reasoning of the last turn alone"): (
        {}, THOUGHTS, None,
        f"{IM}user\nSky?<|im_end|>\n{IM}assistant\nBlue.<|im_end|>\n{IM}user\nSea?<|im_end|>\n"
        f"{IM}assistant\n⟦<think>\nMostly so.\n</think>\n\nGreen.<|im_end|>⟧\n",
        ("reasoning",),
    ),
    ("qwen3", "an empty think block"): (
        {}, ONE, None,
        f"{IM}user\nWhat is 12 + 30?<|im_end|>\n{IM}assistant\n<think>\n\n</think>\n\n⟦It is 42.<|im_end|>⟧\n", (),
    ),
    ("qwen3", "tools"): (
        {}, TOOLS, [ADD],
        f"{IM}system\n{SIGNATURES}" + ML_TOOLS.replace("⟦It", "<think>\n\n</think>\n\n⟦It"), (),
    ),
    ("llama-3.1", "two turns"): (
        {}, [SYSTEM, *TWO], None,
        f"<|begin_of_text|>{HEAD}system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        f"{HEAD}user<|end_header_id|>\n\nSky?<|eot_id|>{HEAD}assistant<|end_header_id|>\n\n⟦Blue.<|eot_id|>⟧"
        f"{HEAD}user<|end_header_id|>\n\nSea?<|eot_id|>{HEAD}assistant<|end_header_id|>\n\n⟦Green, mostly.<|eot_id|>⟧",
        (),
    ),
    ("llama-3.1", "calls are not printed"): (
        {}, TOOLS, [ADD],
        f"<|begin_of_text|>{HEAD}user<|end_header_id|>\n\nAdd 12.<|eot_id|>{HEAD}assistant<|end_header_id|>\n\n<|eot_id|>"
        f"{HEAD}tool<|end_header_id|>\n\n42<|eot_id|>{HEAD}assistant<|end_header_id|>\n\n⟦It is 42.<|eot_id|>⟧",
        ("tools", "tool_calls"),
    ),
    ("gemma-3", "two turns, the system in the first"): (
        {}, [SYSTEM, *TWO], None,
        "<bos><start_of_turn>user\nBe brief.\n\nSky?<end_of_turn>\n<start_of_turn>model\n⟦Blue.<end_of_turn>⟧\n"
        "<start_of_turn>user\nSea?<end_of_turn>\n<start_of_turn>model\n⟦Green, mostly.<end_of_turn>⟧\n",
        (),
    ),
    ("gemma-3", "ends with the user, texts trimmed"): (
        {}, [user(" Sky? "), bot(" Blue.\n"), user("Sea?")], None,
        "<bos><start_of_turn>user\nSky?<end_of_turn>\n<start_of_turn>model\n⟦Blue.<end_of_turn>⟧\n"
        "<start_of_turn>user\nSea?<end_of_turn>\n",
        (),
    ),
}  # fmt: skip
FILE = (
    "{% for m in messages %}{{ m.role + ':\\n' + m.content + (eos_token if m.role == 'assistant' else '') + '\\n\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant:\\n' }}{% endif %}"
)


NAMES = sorted({name for name, _ in CASES})


def pieces(printed):
    """(trained, text) of each piece."""
    parts = re.split("[⟦⟧]", printed)
    return [(bool(k % 2), part) for k, part in enumerate(parts) if part]


@pytest.fixture(scope="module")
def expected(root):
    return json.loads((root / "tests/data/oracle_ids.json").read_text("utf-8"))


def spelled(name, spec, ids):
    """What ids spell, from the vocabulary alone; what `--template chatml` adds to GPT-2's lies behind it."""
    text = {i: token for token, i in spec["model"]["vocab"].items()}
    added = {token["id"]: token["content"] for token in spec["added_tokens"]}
    if name == "gpt2":
        added |= {50257: "<|im_start|>", 50258: "<|im_end|>"}
    return "".join(
        added[i] if i in added else text[i].replace("Ġ", " ").replace("Ċ", "\n").replace("▁", " ") for i in ids
    )


@pytest.mark.shared
@pytest.mark.parametrize("name", NAMES)
def test_the_ids_written_here_spell_the_texts_written_here(shared, expected, name):
    spec = json.loads((shared / "tokenizers" / name / "tokenizer.json").read_bytes())
    for (family, case), (*_, printed, _lost) in CASES.items():
        if family == name:
            listed = expected[name][case]
            assert [spelled(name, spec, ids) for ids in listed] == [text for _, text in pieces(printed)], case


@pytest.fixture(scope="module", params=NAMES)
def loaded(request, shared):
    return request.param, Tokenizer.load(shared / "tokenizers" / request.param)


@pytest.mark.shared
def test_ids_and_masks_are_those_written_by_hand(loaded, expected, tmp_path):
    name, tokenizer = loaded
    (tmp_path / "t.jinja").write_text(FILE)
    renderers = {}
    for case, (rules, messages, tools, printed, lost) in ((c, v) for (family, c), v in CASES.items() if family == name):
        rules = {key: str(tmp_path / "t.jinja") if value == "FILE" else value for key, value in rules.items()}
        key = json.dumps(rules)
        renderers[key] = renderers.get(key) or Renderer(tokenizer, **rules)
        (found,) = renderers[key].encode(messages, json.dumps(tools) if tools else None)
        listed = expected[name][case]
        mask = [trained for (trained, _), ids in zip(pieces(printed), listed, strict=True) for _ in ids]
        assert found.ids.tolist() == [i for ids in listed for i in ids], case
        assert found.mask.tolist() == mask, case
        assert found.lost == lost, case


@pytest.mark.shared
def test_every_tokenizer_there_is_has_cases(shared):
    assert sorted(folder.name for folder in (shared / "tokenizers").iterdir() if folder.is_dir()) == NAMES
