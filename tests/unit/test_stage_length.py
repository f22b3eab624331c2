"""Length bounds are inclusive, in characters, and a tool call is an answer."""

import pickle

import pytest

from curate.record import Message, Record, to_table
from curate.stages.length import LengthStage
from curate.stages.settings import LengthSettings


def broken(messages, **chosen):
    stage = pickle.loads(pickle.dumps(LengthStage(LengthSettings(**chosen))))
    return [(v.rule, v.value, v.threshold) for v in stage.judge(to_table([Record("s", "f", 0, messages)])).removals]


def chat(user, assistant, **more):
    return [Message("user", user), Message("assistant", assistant, **more)]


def test_by_default_only_empty_sides_go():
    assert broken(chat("?", "4")) == []
    assert broken(chat("q", " \n\u3000")) == [("assistant_chars", 0, 1)]
    assert broken(chat("", "a")) == [("user_chars", 0, 1)]
    assert broken(chat("q", None)) == [("assistant_chars", 0, 1)]
    assert broken([]) == [("user_chars", 0, 1)]
    assert broken(chat("q", "x" * 100_000)) == []


def test_a_tool_call_is_an_answer():
    assert broken(chat("q", None, tool_calls='[{"name":"f"}]')) == []
    assert broken(chat("q" * 50, None, tool_calls='[{"name":"f"}]'), min_field_chars=50, min_assistant_chars=50) == []


@pytest.mark.parametrize("letter", ["a", "é", "汉", "😀"])
@pytest.mark.parametrize(("size", "expected"), [(49, [("field_chars", 49, 50)]), (50, [])])
def test_fifty_characters_a_field_is_enough(letter, size, expected):
    recipe = {"min_field_chars": 50, "max_chars": 4096}
    assert broken(chat(letter * 60, f" {letter * size} "), **recipe) == expected
    assert broken(chat(f"\n{letter * size}\t", letter * 60), **recipe) == expected


@pytest.mark.parametrize("letter", ["a", "é", "😀"])
@pytest.mark.parametrize(("size", "expected"), [(4096, []), (4097, [("max_chars", 4097, 4096)])])
def test_4096_characters_a_sample_is_not_too_much(letter, size, expected):
    recipe = {"min_field_chars": 50, "max_chars": 4096}
    assert broken(chat(letter * 96, letter * (size - 96)), **recipe) == expected
    assert broken(chat(letter * 96, letter * (size - 196), reasoning="r" * 100), **recipe) == expected


def test_turns_are_user_messages():
    talk = chat("a", "b") * 3
    assert broken(talk, min_turns=3, max_turns=3) == []
    assert broken(talk, max_turns=2) == [("max_turns", 3, 2)]
    assert broken(talk, min_turns=4) == [("min_turns", 3, 4)]


def test_rows_of_a_slice_keep_their_places():
    records = [Record("s", "f", row, chat("q", "" if row in (2, 4) else "a")) for row in range(6)]
    found = LengthStage(LengthSettings()).judge(to_table(records).slice(2, 3))
    assert [v.index for v in found.removals] == [0, 2]
