"""Each schema becomes the conversation it says, ambiguity is refused by name, nothing that was there is lost."""

import json

import pytest
from pydantic import ValidationError

from curate.formats import Refused, convert, records
from curate.sources import SourceSettings

PLAIN = SourceSettings()


def made(row, preference=None, **settings):
    known = SourceSettings(**settings)
    found = convert(row, known, preference)
    return found, records(found, row, "s", "f", 0, known)


def turns(record):
    return [(m.role, m.content) for m in record.messages]


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"prompt": "q", "completion": "a"}, "prompt/completion"),
        ({"prompt": "q", "response": "a"}, "prompt/response"),
        ({"question": "q", "answer": "a"}, "question/answer"),
        ({"query": "q", "response": "a"}, "query/response"),
        ({"problem": "q", "solution": "a", "answer": "4"}, "problem/solution"),
        ({"instruction": "q", "input": "", "output": "a"}, "alpaca"),
        ({"instruction": "q", "response": "a"}, "alpaca"),
        ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, "messages"),
        ({"traj": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, "messages"),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, "sharegpt"),
        (
            {"turns": [{"speaker": "USER", "utterance": "q"}, {"speaker": "SYSTEM", "utterance": "a"}]},
            "dialogue states",
        ),
        ({"instruction": "q", "instances": [{"input": "", "output": "a"}]}, "instances"),
    ],
)
def test_every_schema_gives_the_same_conversation(row, name):
    found, (record,) = made(row)
    assert found.format == name
    assert turns(record) == [("user", "q"), ("assistant", "a")]


def test_ambiguous_rows_name_the_candidates():
    with pytest.raises(Refused, match=r"ambiguous.*prompt/completion or prompt/response"):
        convert({"prompt": "q", "completion": "a", "response": "b"}, PLAIN)
    with pytest.raises(Refused, match="ambiguous: output and response differ"):
        convert({"instruction": "q", "output": "a", "response": "b"}, PLAIN)
    with pytest.raises(Refused, match=r"ambiguous.*alpaca or messages"):
        convert({"instruction": "q", "output": "a", "messages": [{"role": "user", "content": "x"}]}, PLAIN)
    _, (record,) = made({"prompt": "q", "completion": "a", "response": "b"}, format="prompt/response")
    assert turns(record)[1] == ("assistant", "b") and record.extra == '{"completion":"a"}'


def test_alpaca_history_system_and_input():
    row = {"instruction": "i", "input": "x", "output": "o", "history": [["a", "b"]], "system": "s", "id": 7}
    _, (record,) = made(row)
    assert turns(record) == [
        *(("system", "s"), ("user", "a"), ("assistant", "b")),
        *(("user", "i\n\nx"), ("assistant", "o")),
    ]
    assert record.extra == '{"id":7}'


def test_messages_keep_parts_calls_weights_and_unknown_keys():
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    row = {
        "messages": [
            {"role": "developer", "content": "d"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "weight": 0},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "r", "tool_call_id": "c1", "name": "f"},
            {"role": "assistant", "content": [{"type": "reasoning", "value": "t"}, {"type": "text", "value": "z"}]},
        ],
        "tools": [{"name": "f"}],
    }
    found, (record,) = made(row)
    assert turns(record) == [("system", "d"), ("user", "ab"), ("assistant", None), ("tool", "r"), ("assistant", "z")]
    assert found.notes == {"role developer -> system": 1, "text parts joined": 1}
    assert json.loads(record.messages[2].tool_calls)[0]["function"]["arguments"] == {"x": 1}
    assert record.messages[4].reasoning == "t" and not record.messages[1].train
    assert json.loads(record.extra) == {"message_fields": [{"index": 3, "tool_call_id": "c1"}]}
    assert record.tools == '[{"name":"f"}]'


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": "x", "weight": 0.5},
        {"role": "user", "content": "x", "loss_weight": 2},
        {"role": "user", "content": None},
        {"role": "user", "content": 5},
        {"role": "user", "content": [{"type": "image_url", "url": "u"}]},
        {"role": "narrator", "content": "x"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        "text",
    ],
)
def test_messages_that_would_lose_something_are_refused(message):
    with pytest.raises(Refused) as caught:
        convert({"messages": [{"role": "user", "content": "SECRET"}, message]}, PLAIN)
    assert "SECRET" not in str(caught.value)


def test_sharegpt_calls_become_tool_calls():
    value = json.dumps({"name": "f", "arguments": {"x": 1}})
    turns_in = [{"from": "human", "value": "q"}, {"from": "function_call", "value": value}]
    _, (record,) = made({"conversations": [*turns_in, {"from": "observation", "value": "r"}], "tools": "[]"})
    assert [m.role for m in record.messages] == ["user", "assistant", "tool"]
    assert record.messages[1].content is None and '"name":"f"' in record.messages[1].tool_calls
    assert record.tools is None


def test_reply_trees_use_each_last_assistant_turn_once():
    def node(role, text, *replies):
        return {"role": role, "text": text, "replies": list(replies)}

    tree = node("prompter", "p", node("assistant", "a", node("prompter", "x"), node("prompter", "y")))
    tree["replies"].append(node("assistant", "b", node("prompter", "z", node("assistant", "c"))))
    _, found = made({"prompt": tree, "message_tree_id": "t"})
    assert [turns(record)[-1][1] for record in found] == ["a", "c"]
    assert [record.part for record in found] == [0, 1]
    assert '"unanswered"' in found[0].extra and '"message_tree_id":"t"' in found[1].extra


def test_a_prompt_that_nobody_answered_is_kept_once_wherever_it_stands():
    def node(role, text, *replies):
        return {"role": role, "text": text, "replies": list(replies)}

    middle = node("assistant", "a", node("prompter", "lost1"), node("prompter", "x", node("assistant", "b")))
    tree = node("prompter", "p", node("prompter", "lost2", node("prompter", "lost3")), middle, node("assistant", "c"))
    _, found = made({"prompt": tree, "message_tree_id": "t"})
    assert [turns(record)[-1][1] for record in found] == ["b", "c"]
    kept = "".join(record.extra for record in found)
    assert [kept.count(f'"lost{number}"') for number in (1, 2, 3)] == [1, 1, 1]


@pytest.mark.parametrize(
    "bad",
    [{"role": {"a": 1}}, {"role": ["user"]}, {"replies": 5}, {"replies": "text"}, {"text": None}],
    ids=["role an object", "role a list", "replies a number", "replies a text", "no text"],
)
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_node_of_the_wrong_kind_refuses_the_tree(bad, depth):
    node = {"role": "assistant", "text": "a", "replies": []} | bad
    for role in ("assistant", "prompter")[2 - depth :]:
        node = {"role": role, "text": "b", "replies": [node]}
    with pytest.raises(Refused, match=r"broken reply tree|no assistant reply"):
        made({"prompt": node, "message_tree_id": "t"})


def test_a_turn_with_a_number_that_python_does_not_read_is_no_turn():
    with pytest.raises(Refused):
        made({"chat": {"turn_" + "9" * 5_000: {"Human": "q", "MOSS": "a"}}})


def test_keyed_turns_strip_markers_only_when_told_and_count_them():
    turn = {
        "Human": "<|Human|>: q<eoh>\n",
        "Inner Thoughts": "<|Inner Thoughts|>: think<eot>\n",
        "Commands": '<|Commands|>: Search("x")<eoc>\n',
        "Tool Responses": "<|Results|>:\nfound\n<eor>\n",
        "MOSS": "<|MOSS|>: a<eom>\n",
    }
    found, (record,) = made({"chat": {"turn_1": turn}, "meta_instruction": "m"})
    assert turns(record) == [("system", "m"), ("user", "q"), ("assistant", None), ("tool", "found"), ("assistant", "a")]
    assert record.messages[2].reasoning == "think" and json.loads(record.messages[2].tool_calls)[0]["function"] == {
        "name": "Search",
        "arguments": '"x"',
    }
    assert found.notes.total() == 5
    _, (record,) = made({"chat": {"turn_1": turn}}, markers="keep")
    assert turns(record)[0] == ("user", turn["Human"])


def test_bad_instances_are_kept_in_extra():
    row = {"instruction": "i", "instances": [{"input": "x", "output": 3}, {"input": "y", "output": "o"}]}
    found, (record,) = made(row)
    assert record.part == 1 and found.notes.total() == 1 and '"output":3' in record.extra


def test_preference_rows_need_a_word():
    row = {"prompt": "q", "chosen": "a", "rejected": "b"}
    with pytest.raises(Refused, match="--preference chosen"):
        convert(row, PLAIN)
    _, (record,) = made(row, preference="chosen")
    assert turns(record) == [("user", "q"), ("assistant", "a")] and record.extra == '{"rejected":"b"}'


def test_fields_and_format_strings_read_anything_else():
    row = {"task": "t", "hint": "h", "out": 5, "reward": "0.5"}
    _, (record,) = made(row, user="{task}\n{hint}", assistant="{out}", system="Be {{brief}}.", score_field="reward")
    assert turns(record) == [("system", "Be {brief}."), ("user", "t\nh"), ("assistant", "5")] and record.score == 0.5
    _, (record,) = made({"task": "t", "out": "o"}, fields={"instruction": "task", "output": "out"})
    assert turns(record) == [("user", "t"), ("assistant", "o")] and record.extra is None
    with pytest.raises(Refused, match="missing column: hint"):
        made({"task": "t"}, user="{task}{hint}", assistant="{task}")
    with pytest.raises(Refused, match="score is not a number"):
        made({"prompt": "q", "completion": "a", "r": "high"}, score_field="r")
    for bad in ({"format": "alpacca"}, {"fields": {"instrution": "x"}}, {"user": "{a!r}"}, {"weight": 2}):
        with pytest.raises(ValidationError):
            SourceSettings(**bad)


def test_text_is_never_guessed():
    with pytest.raises(Refused, match="no known format: keys text"):
        convert({"text": "t"}, PLAIN)
    _, (record,) = made({"text": "t"}, format="text")
    assert turns(record) == [("assistant", "t")]
