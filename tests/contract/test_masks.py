"""Real conversations through seven real tokenizers: ids, masks and losses against an oracle that shares no code.

The oracle renders with transformers' own `render_jinja_template`, tokenises with `tokenizers`, finds each family's
assistant turns by a regular expression, and marks tokens by their character offsets.
"""

from __future__ import annotations

import gzip
import json
import re

import numpy as np
import pytest

from curate.record import Message
from pack.rendering import TemplateFailed
from pack.template import Renderer
from pack.tokenizing import Tokenizer

pytestmark = pytest.mark.shared

CHATML = r"(?:<\|im_start\|>assistant\n(?:<think>\n\n</think>\n\n)?)(.*?<\|im_end\|>)"
FAMILIES = {
    "qwen2.5": CHATML,
    "qwen3": CHATML,
    "smollm2": CHATML,
    "llama-3.1": r"<\|start_header_id\|>assistant<\|end_header_id\|>\n\n(.*?<\|eot_id\|>)",
    "gemma-3": r"<start_of_turn>model\n(.*?<end_of_turn>)",
    "mistral-nemo": r"(?:\[/INST\]|\[/TOOL_RESULTS\]|(?<=</s>)(?!\[|$))(.*?</s>)",
}
NAMES = [*FAMILIES, "gpt2"]
GSM8K = {"gemma-3": 247_211, "gpt2": 205_243, "llama-3.1": 213_427, "mistral-nemo": 247_231, "qwen2.5": 244_625,
         "qwen3": 244_625, "smollm2": 250_685}  # fmt: skip


# transformers 5.23 counts 250,702 for smollm2: its GPT2Tokenizer drops the digit splitting that tokenizer.json asks for,
# which shows where two spaces precede a number (15 of the 1,319 texts).


def alpaca(row):
    asked = row["instruction"] + ("\n\n" + row["input"] if row["input"] else "")
    earlier = [Message(role, text) for pair in row.get("history") or []
               for role, text in zip(("user", "assistant"), pair, strict=True)]  # fmt: skip
    return [*earlier, Message("user", asked), Message("assistant", row["output"])], None


def glaive(row):
    roles = {"human": "user", "gpt": "assistant", "observation": "tool"}
    return [
        Message("assistant", None, tool_calls=json.dumps([json.loads(turn["value"])]))
        if turn["from"] == "function_call"
        else Message(roles[turn["from"]], turn["value"])
        for turn in row["conversations"]
    ], row["tools"]


def openai(row):
    return [
        Message(m["role"], m["content"], m.get("name"), json.dumps(m["tool_calls"]) if m.get("tool_calls") else None)
        for m in row["traj"]
    ], None


def typed(row):
    found = []
    for message in row["messages"]:
        kinds = {kind: [part["value"] for part in message["content"] if part["type"] == kind]
                 for kind in ("text", "reasoning", "tool_call")}  # fmt: skip
        calls = [json.loads(call) for call in kinds["tool_call"]]
        found.append(Message(message["role"], "".join(kinds["text"]), None, json.dumps(calls) if calls else None,
                             "".join(kinds["reasoning"]) or None, message.get("loss_weight") != 0.0))  # fmt: skip
    return found, row.get("tools")


@pytest.fixture(scope="module")
def sets(shared):
    sft = shared / "data" / "sft"

    def lines(name):
        return [json.loads(line) for line in (sft / name).read_text("utf-8").splitlines()]

    return {
        "glaive": [glaive(row) for row in json.loads((sft / "chat/glaive_toolcall_en_demo.json").read_text())[:100]],
        "tau": [openai(row) for row in json.loads((sft / "chat/tau_bench_gpt-4o-airline.json").read_text())[:30]],
        "lima": [alpaca(row) for row in json.loads((sft / "lima/lima.json").read_text())[:100]],
        "alpaca": [alpaca(row) for row in json.loads(gzip.open(sft / "alpaca/alpaca_data.json.gz").read())[:200]],
        "chinese": [alpaca(row) for row in json.loads((sft / "alpaca/alpaca_zh_demo.json").read_text())[:100]],
        "chosen": [([Message(**m) for m in row["chosen"]], None) for row in lines("chat/ultrafeedback_train_prefs.jsonl")[:100]],
        "weighted": [typed(row) for row in lines("chat/v1_sft_demo.jsonl")[:100]],
        "reason": [typed(row) for row in lines("chat/reason_tool_use_demo_50.jsonl")],
    }  # fmt: skip


@pytest.fixture(scope="module", params=NAMES)
def real(request, shared):
    tokenizer = Tokenizer.load(shared / "tokenizers" / request.param)
    return request.param, Renderer(tokenizer, template="chatml" if request.param == "gpt2" else None)


@pytest.fixture(scope="module")
def encoded(real, sets):
    _, renderer = real
    return {kind: renderer.encode_batch(records) for kind, records in sets.items()}


def test_token_totals_are_those_counted_elsewhere(real, shared):
    name, renderer = real
    rows = [json.loads(line) for line in (shared / "data/eval/gsm8k/test.jsonl").read_text("utf-8").splitlines()]
    texts = [f"{row['question']}\n{row['answer']}" for row in rows]
    encoded = renderer.encoder.engine.encode(texts)
    assert sum(map(len, encoded)) == GSM8K[name]


def test_nothing_fails_but_what_the_template_forbids(real, sets, encoded):
    name, _ = real
    for kind, found in encoded.items():
        for (messages, _tools), result in zip(sets[kind], found, strict=True):
            if not isinstance(result, TemplateFailed):
                continue
            turns = [m for m in messages if m.role == "assistant"]
            spoken = [m for m in turns if m.content and m.content.strip() and not m.tool_calls]
            if result.reason == "role-alternation":
                roles = [m.role for m in messages if m.role != "system"]
                assert name == "gemma-3" and roles != [("user", "assistant")[i % 2] for i in range(len(roles))]
            else:
                assert result.reason == "no-trained-token" and not spoken, (name, kind, str(result))
                assert name in ("llama-3.1", "smollm2", "gemma-3"), "these lose every tool call"


def test_ids_and_masks_equal_the_oracles(real, sets, encoded):
    name, renderer = real
    if name not in FAMILIES:
        pytest.skip("no chat template of its own: its masks come from generation tags, tested by hand")
    from transformers.utils.chat_template_utils import render_jinja_template

    template, special = renderer.tokenizer.template, renderer.tokenizer.special_strings
    pattern = re.compile(FAMILIES[name], re.DOTALL)
    compared = 0
    for kind in ("glaive", "lima", "alpaca", "chinese", "chosen"):
        for (messages, tools), result in list(zip(sets[kind], encoded[kind], strict=True))[:50]:
            if isinstance(result, TemplateFailed) or result[0].control or "tool_calls" in result[0].lost:
                continue
            (text,), _ = render_jinja_template([as_chat(messages)], as_tools(tools), chat_template=template, **special)
            ids, offsets = renderer.tokenizer.encode(text)
            assert result[0].ids.tolist() == ids
            spans = [match.span(1) for match in pattern.finditer(text)]
            expected = [any(a < end and b > start for start, end in spans) for a, b in offsets]
            assert result[0].mask.tolist() == expected, (name, kind)
            compared += 1
    assert compared > 150


def as_chat(messages):
    chat = []
    for message in messages:
        entry = {"role": message.role, "content": message.content or ""}
        if message.tool_calls:
            calls = json.loads(message.tool_calls)
            entry["tool_calls"] = [{"id": "abcdefgh1", "type": "function", "function": call} for call in calls]
        if message.role == "tool":
            entry["tool_call_id"] = "abcdefgh1"
        chat.append(entry)
    if "tool" in [m.role for m in messages]:
        return _with_our_ids(chat, messages)
    return chat


def _with_our_ids(chat, messages):
    # The data has no call ids: ours are made from positions, and only the template's text of them is of interest.
    from pack.conversation import _calls

    waiting = []
    for i, (entry, message) in enumerate(zip(chat, messages, strict=True)):
        if message.tool_calls:
            ids = [call["id"] for call in _calls(message.tool_calls, i, False)]
            for call, call_id in zip(entry["tool_calls"], ids, strict=True):
                call["id"] = call_id
            waiting = list(ids)
        elif message.role == "tool" and waiting:
            entry["tool_call_id"] = waiting.pop(0)
    return chat


def as_tools(tools):
    listed = json.loads(tools) if tools else []
    return [{"type": "function", "function": tool} for tool in listed] or None


def test_every_mask_ends_turns_with_a_terminator_and_holds_no_other_token_that_steers(real, encoded):
    _, renderer = real
    stops = set(renderer.terminators)
    for result in (part for found in encoded.values() for r in found if isinstance(r, list) for part in r):
        edges = np.flatnonzero(np.diff(np.concatenate([[False], result.mask, [False]]).astype(np.int8)))
        for start, end in edges.reshape(-1, 2).tolist():
            run = result.ids[start:end].tolist()
            assert run[-1] in stops
            # Adjacent turns may share one run (a result after a call in some templates), each with its own stop.
            assert 1 <= sum(token in stops for token in run) <= 2
        assert result.ids.dtype == np.int32 and result.mask.dtype == np.bool_ and len(result.ids) == len(result.mask)


def test_there_is_one_bos_at_most(real, encoded):
    name, renderer = real
    bos = renderer.tokenizer.token_id(renderer.tokenizer.special_strings.get("bos_token", ""))
    if name in ("smollm2", "gpt2") or bos is None:
        pytest.skip("its BOS is another token too, or it has none")
    assert all(r[0].ids.tolist().count(bos) == 1 and r[0].ids[0] == bos
               for found in encoded.values() for r in found if isinstance(r, list))  # fmt: skip


def test_lost_texts_match_a_count_by_hand(real, sets, encoded):
    name, _ = real
    for kind, found in encoded.items():
        for (messages, tools), result in zip(sets[kind], found, strict=True):
            if isinstance(result, TemplateFailed):
                continue
            lost = result[-1].lost
            system = [m for m in messages if m.role == "system" and m.content.strip()]
            gone = name == "mistral-nemo" and messages[-1].role != "user"
            assert lost.count("system") == (len(system) if gone else 0)
            thoughts = [i for i, m in enumerate(messages) if m.reasoning and m.reasoning.strip()]
            last_user = max(i for i, m in enumerate(messages) if m.role == "user")
            dropped = {"qwen3": sum(i < last_user for i in thoughts), "gpt2": 0}.get(name, len(thoughts))
            assert lost.count("reasoning") == dropped
            assert lost.count("user") == lost.count("tool") == 0
            beside = sum(bool(m.tool_calls and m.content and m.content.strip()) for m in messages)
            assert lost.count("assistant") == (beside if name == "mistral-nemo" else 0)
            blind = name in ("llama-3.1", "smollm2", "gemma-3")
            assert lost.count("tool_calls") == (sum(bool(m.tool_calls) for m in messages) if blind else 0)
            assert lost.count("tools") == int(blind and bool(tools) and json.loads(tools) != [])


def test_untrained_messages_are_not_trained(real, sets, encoded):
    _, renderer = real
    for (messages, _tools), result in zip(sets["weighted"], encoded["weighted"], strict=True):
        assert [m.train for m in messages] == [m.role == "assistant" for m in messages]
        text = renderer.tokenizer.decode(result[0].ids[result[0].mask].tolist())
        assert all(m.content.strip() in text for m in messages if m.train)


def test_gigatoken_and_tokenizers_give_the_same(real, sets, encoded):
    name, renderer = real
    assert renderer.verdict.engine == ("hf" if name == "smollm2" else "gigatoken"), renderer.verdict
    slow = Renderer(renderer.tokenizer, template="chatml" if name == "gpt2" else None, engine="hf")
    for kind in ("lima", "chinese", "reason"):
        for one, other in zip(encoded[kind][:60], slow.encode_batch(sets[kind][:60]), strict=True):
            if isinstance(one, TemplateFailed):
                assert one.reason == other.reason
                continue
            assert [p.ids.tolist() for p in one] == [p.ids.tolist() for p in other]
            assert [p.mask.tolist() for p in one] == [p.mask.tolist() for p in other]
    assert renderer.guard(sets["lima"][:50]).differing == 0


def test_literal_end_of_text_is_not_a_control_token(shared):
    import io

    import zstandard

    with (shared / "data/sft/t0_train/t0_train.jsonl.zst").open("rb") as raw:
        lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(raw), encoding="utf-8")
        rows = [json.loads(next(lines)) for _ in range(100)]
    renderer = Renderer(Tokenizer.load(shared / "tokenizers" / "qwen2.5"))
    for found in renderer.encode_batch(
        [([Message("user", r["prompt"]), Message("assistant", r["completion"])], None) for r in rows]
    ):
        assert found[0].control == 1 and 151643 not in found[0].ids
        assert renderer.tokenizer.decode(found[0].ids[found[0].mask].tolist()).endswith("<|endoftext|><|im_end|>")


def test_a_saved_tokenizer_serves_with_the_ids_it_was_trained_on(shared, tmp_path):
    from transformers import AutoTokenizer

    for name in ("smollm2", "qwen2.5"):
        ours = Tokenizer.load(shared / "tokenizers" / name)
        ours.save(tmp_path / name)
        theirs = AutoTokenizer.from_pretrained(tmp_path / name)
        for text in ("cost  12 dollars", "<|im_start|>user\n\t x  7<|im_end|>", "naïve 日本語"):
            assert theirs(text, add_special_tokens=False).input_ids == ours.encode(text)[0]
        assert theirs.chat_template == ours.template and theirs.eos_token_id == ours.eos_id
