"""Quality rules fire on damage and unfinished work, and on nothing that is merely code, short or foreign."""

import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.record import Message, Record, content_digest, from_row, to_table
from curate.stages import candidates, rules
from curate.stages.damage import mojibake
from curate.stages.quality import QualityStage
from curate.stages.settings import QualitySettings
from curate.stages.text import unfold


def table(*answers, **more):
    return to_table(
        Record("s", "f", row, [Message("user", "q"), Message("assistant", answer)], **more)
        for row, answer in enumerate(answers)
    )


def judged(*answers, **chosen):
    judgement = pickle.loads(pickle.dumps(QualityStage(QualitySettings(**chosen)))).judge(table(*answers))
    return [(verdict.index, verdict.rule) for verdict in judgement.removals], judgement


SOUND = [
    "Une « réalité » à voir, l’été à 20 °C — c’est déjà ça…",
    "« Beauté » : la città è… “perché…” “CAFÉ” CAFÉ–BAR",
    "MANHÃ, NÃO, “MANHÔ e «MANHû, LÃ… AÇÃO",
    "Tôi là người Việt Nam… “Đúng thế”, cà phê – bánh mì",
    "Ångström: 5 Å± 2, 10×½ and 2×3, ÄÖÜ–äöüß… Spaß–Bad",
    "Größe: 5 µm² ± 0,1 · «Straße» ðŒ þ",
    "中文回答，很好。日本語「です」。한국어 Привет мир",
    "ÅÄÖ ñandú ¿Qué? ¡Sí! ½ ¼ §5 №7 ™ ©",
    "naïve façade coöperate Île-de-France",
]


@pytest.mark.parametrize("text", SOUND)
def test_sound_text_in_many_languages_is_not_called_mojibake(text):
    assert mojibake(text) == []


@pytest.mark.parametrize(
    "text",
    ["it’s", "“so”", "café", "naïve", "£480", "Привет", "10 °C", "日本語", "→ x", "😀", "für Škoda Jiří"],
)
@pytest.mark.parametrize("codec", ["latin-1", "cp1252"])
def test_utf8_read_as_a_one_byte_code_is_found(text, codec):
    broken = "".join(bytes([byte]).decode(codec, "ignore") or chr(byte) for byte in f"we say {text} here".encode())
    [*spans] = mojibake(broken)
    assert spans and all(0 <= start < stop <= len(broken) for start, stop in spans)


def test_encoding_damage_is_removed_with_its_spans():
    found, judgement = judged("fine", "itâ€™s", "bad \ufffd", "bell \x07", "c1 \x97", "tab\tline\r\nend")
    assert found == [
        (1, "encoding.mojibake"),
        (2, "encoding.replacement"),
        (3, "encoding.control"),
        (4, "encoding.control"),
    ]
    assert json.loads(judgement.removals[0].evidence) == {"message": 1, "spans": [[2, 5]]}


@pytest.mark.parametrize(("size", "expected"), [(99, [(0, "unfinished")]), (100, [])])
def test_unfinished_answers_are_those_under_100_characters(size, expected):
    assert judged("a" * (size - 3) + "...")[0] == expected
    assert judged("..." + "a" * (size - 3))[0] == expected
    assert judged("é" * (size - 1) + "…")[0] == expected


def test_unfinished_may_ask_for_the_end_only():
    chosen = {"unfinished": {"where": "ends"}}
    assert judged("well... yes", "well yes... ", **chosen)[0] == [(1, "unfinished")]
    assert judged("well... yes", unfinished=False)[0] == []


def test_code_mathematics_json_and_short_answers_pass():
    fine = [
        "4", "B", "x", "{}", '{"a": [1, 2]}', r"\frac{1}{2}", "def f(*a): ...[0]" * 9, "f(...args)", "[...a, ...b]",
        "1 + 2 + ... + n", "for i in 1...7", "```py\nx = 1\n```", "```\na\n```\n\n```\nb\n```", "`x`", "```inline```",
        "````md\n```py\nx\n```\n````", "x = x\n" * 40, "| a | b |\n|---|---|\n" + "| 1 | 2 |\n" * 30,
        "    layer.Dense(128, activation='relu', bias=True),\n" * 6,
    ]  # fmt: skip
    assert judged(*fine)[0] == []


def test_an_open_fence_and_a_loop_are_found():
    loop = "I will now say the same sentence over and over again.\n" * 4
    assert judged("see\n```python\nx = 1", loop)[0] == [(0, "code_fences"), (1, "repeated_paragraphs")]


@pytest.mark.parametrize(
    ("roles", "called", "message"),
    [
        ("ua", (), None), ("sua", (), None), ("uata", (1,), None), ("uattaua", (1,), None), ("uatu", (1,), None),
        ("uata", (), 2), ("a", (), 0), ("sa", (), 1), ("uua", (), 1), ("uaa", (), 2), ("uasua", (), 2), ("ssua", (), 1),
    ],
)  # fmt: skip
def test_the_order_of_roles(roles, called, message):
    names = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    messages = [Message(names[role], "x", tool_calls="[]" if at in called else None) for at, role in enumerate(roles)]
    good = [Message("user", "x"), Message("assistant", "y")]
    batch = to_table([Record("s", "f", 0, good), Record("s", "f", 1, messages), Record("s", "f", 2, [])])
    found = QualityStage(QualitySettings()).judge(batch)
    assert [(v.index, v.rule, v.value) for v in found.removals] == (
        [] if message is None else [(1, "role_order", message)]
    )
    if message is None and roles[-1] != "a":
        assert [(v.index, v.rule) for v in found.flags] == [(1, "no_final_answer")]


@pytest.mark.parametrize(
    ("arguments", "broken"), [('{"a": 1}', False), ("", False), ('{"a": ', True), ({"a": 1}, False), (None, False)]
)
def test_tool_call_arguments_must_be_json(arguments, broken):
    calls = json.dumps([{"type": "function", "function": {"name": "f", "arguments": arguments}}])
    messages = [Message("user", "x"), Message("assistant", None, tool_calls=calls), Message("assistant", "y")]
    found = QualityStage(QualitySettings(role_order="off")).judge(to_table([Record("s", "f", 0, messages)]))
    assert [v.rule for v in found.removals] == (["tool_json"] if broken else [])


def test_refusals_identity_and_cutoff_are_flagged_and_kept():
    found, judgement = judged(
        "I'm sorry, but I cannot help with that.",
        "As an AI language model, I have no body.",
        "As of my knowledge cutoff in 2021, yes.",
        "Cannot say; the AI said: language models are fun.",
    )
    assert found == []
    assert {(v.index, v.rule) for v in judgement.flags} == {(0, "refusal"), (1, "identity"), (2, "cutoff")}


def test_every_rule_can_be_switched_off_and_flagged():
    texts = ("itâ€™s", "\ufffd", "\x07", "so...", "```\nx")
    switched = ("mojibake", "replacement", "control", "unfinished", "code_fences")
    assert judged(*texts, **dict.fromkeys(switched, "off"))[0] == []
    found, judgement = judged(*texts, **dict.fromkeys(switched, "flag"))
    assert found == [] and [v.index for v in judgement.flags] == [0, 1, 2, 3, 4]


def test_fixes_are_off_by_default_counted_and_keep_the_original():
    text = "see\r\n```Py  \r\nx = 1  \r\n```\r\n"
    assert judged(text)[1].table.equals(table(text))
    before = table(text, "fine", extra='{"k":1}')
    judgement = QualityStage(QualitySettings(fix={"fences": True, "line_ends": True})).judge(before)
    assert judgement.fixed == {"fix.line_ends": 1, "fix.fences": 1}
    old, new = (from_row(batch.to_pylist()[0]) for batch in (before, judgement.table))
    assert new.messages[1].content == "see\n```python\nx = 1  \n```\n"
    row = judgement.table.to_pylist()[0]
    assert row["id"] == old.id and row["content"] == content_digest(new.messages, None) != old.content
    extra = json.loads(row["extra"])
    assert extra["k"] == 1 and extra["_original_messages"][1]["content"] == text
    assert judgement.table.slice(1).equals(before.slice(1))


PIECES = st.sampled_from(
    ["Ã©", "â€™", "É", "–", "»", "\x07", "\x85", "\ufffd", "...", "…", "```", "\n",
     "a line of words that is long enough to count\n",
     "As an AI",
     "as a language model", " I'm ", "an AI", "knowledge cutoff", "my last update", "I'm sorry, but I ", "ï»¿", "ok "]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.one_of(PIECES, st.text(max_size=8)), max_size=12).map("".join), min_size=1, max_size=4))
def test_the_vectorised_search_lets_everything_through_that_a_rule_would_catch(answers):
    batch = table(*answers)
    messages = unfold(batch)
    texts = candidates.Texts(messages)
    stage = QualityStage(QualitySettings())
    contents = messages.fields["content"].to_pylist()
    every = ("mojibake", "replacement", "control", "unfinished", "code_fences", "repeated_paragraphs", "refusal",
             "identity", "cutoff")  # fmt: skip
    for rule in every:
        where, check, _ = stage._rule(rule, messages, texts)
        caught = np.array([check(content) is not None for content in contents])
        caught[messages.roles != 2] &= rule in ("mojibake", "replacement", "control")
        assert not (caught & ~where).any(), rule


def test_spans_are_capped():
    assert len(rules.matches(rules.CONTROL, "\x07" * 50).spans) == rules.SPANS
