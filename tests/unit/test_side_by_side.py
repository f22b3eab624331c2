"""Two texts beside each other: every shared part is marked, every cut is counted, and data cannot drive a terminal."""

import re

import pytest

from curate.keytext import compose, of_exact_key, of_key
from curate.record import Message, Record, to_table
from curate.side_by_side import SHOWN, Side, columns, fragments
from curate.stages.minhash import key_texts
from curate.stages.text import unfold

CUT = re.compile(r"\[… ([\d,]+) characters …\]")


def rebuilt(side):
    """The text that the fragments show, with every cut as so many question marks."""
    out = ""
    for kind, text in fragments(side):
        if kind == "cut":
            out += "?" * int(CUT.search(text).group(1).replace(",", ""))
        elif kind != "label":
            out += text
    return out


@pytest.mark.parametrize("size", [0, 1, SHOWN, SHOWN + 1, 20_000])
@pytest.mark.parametrize("spans", [(), ((3, 9),), ((0, 20_000),), ((50, 900), (880, 1_000), (9_000, 9_400))])
def test_what_is_shown_and_what_is_cut_is_the_whole_text(size, spans):
    text = "".join(chr(97 + n % 23) for n in range(size))
    side = Side("t", text, ((0, "user"),), [(a, b) for a, b in spans if a < size])
    shown = rebuilt(side)
    assert len(shown) == size
    assert all(a in ("?", b) for a, b in zip(shown, text, strict=True))
    assert sum(len(part) for kind, part in fragments(side) if kind != "cut") < 4_500


def test_only_the_shared_part_is_marked():
    side = Side("t", "one two three", (), [(4, 7)])
    assert fragments(side) == [("plain", "one "), ("shared", "two"), ("plain", " three")]
    assert "one [[two]] three" in columns(side, None, width=60, colour=False)
    coloured = columns(side, None, width=60, colour=True)
    assert "[[" not in coloured and "\x1b[1;32mtwo\x1b[0m" in coloured


def test_two_columns_only_where_there_is_room():
    left, right = Side("left", "same here", (), [(0, 4)]), Side("right", "same there", (), [(0, 4)])
    wide = columns(left, right, width=120, colour=False).split("\n")
    assert any("[[same]] here" in line and "[[same]] there" in line for line in wide)
    narrow = columns(left, right, width=60, colour=False).split("\n")
    assert not any("here" in line and "there" in line for line in narrow if "[[same]] here" in line)
    assert max(map(len, narrow)) <= 60 and max(map(len, wide)) <= 120


def test_roles_stand_before_their_messages_also_after_a_cut():
    text = "question\n" + "x" * 5_000 + " shared end"
    shown = columns(Side("t", text, ((0, "user"), (9, "assistant")), [(5_010, 5_020)]), None, width=80, colour=False)
    assert "user:\nquestion\nassistant:\n" in shown and CUT.search(" ".join(shown.split()))
    deep = fragments(Side("t", "q" * 2_000 + "\n" + "x" * 5_000, ((0, "user"), (2_001, "tool")), [(6_000, 6_010)]))
    assert [text for kind, text in deep if kind == "label"] == ["user:\n", "\ntool:\n"]


def test_data_cannot_drive_a_terminal():
    shown = columns(
        Side("\x1b[2J", "a\x1b[31m\x07\u202eb [bold]c[/bold]", ((0, "user\x1b"),), [(0, 2)]), None, width=60
    )
    assert "\x1b" not in shown and "\x07" not in shown and "\u202e" not in shown and "[bold]c[/bold]" in shown


MESSAGES = [
    Message("system", "be brief"),
    Message("user", "first"),
    Message("assistant", None, tool_calls="[1]", reasoning="hm"),
    Message("tool", ""),
    Message("user", "second"),
    Message("assistant", "last", reasoning="so"),
    Message("user", "thanks"),
]


@pytest.mark.parametrize("key", ["conversation", "prompt", "first-user", "response"])
@pytest.mark.parametrize("count", range(len(MESSAGES) + 1))
def test_key_texts_are_those_of_the_stage(key, count):
    record = Record("s", "f", 0, MESSAGES[:count])
    table = to_table([record, Record("s", "f", 1, [Message("user", "other")])])
    found = of_key(table.to_pylist()[0]["messages"], key)
    assert found.text == key_texts(unfold(table), key)[0].as_py()
    for (at, _), part in zip(found.labels, found.text.split("\n"), strict=False):
        assert at == 0 or found.text[at - 1] == "\n", part


def test_exact_keys_have_system_messages():
    messages = to_table([Record("s", "f", 0, MESSAGES)]).to_pylist()[0]["messages"]
    assert of_exact_key(messages, "conversation") == compose(messages)
    assert (
        of_exact_key(messages, "prompt").text.startswith("be brief\n")
        and "last" not in of_exact_key(messages, "prompt").text
    )
    assert of_exact_key(messages, "first-user").text == "first"
