"""Contract 1: the record's identity, content digest and Arrow schema."""

import json

import pyarrow as pa
import xxhash

from curate.record import SCHEMA, Message, Record, canonical_messages, from_row, record_id, to_table

NASTY = 'tab\t nul\x00 \u2028 \u00e9 e\u0301 \U0001f600 \\ " </x> \ufffd'


def record(**changes):
    base = {
        "source": "s",
        "file": "a/b.jsonl",
        "row": 3,
        "messages": [Message("user", NASTY), Message("assistant", "ok")],
    }
    return Record(**{**base, **changes})


def test_the_id_is_a_digest_of_where_the_record_came_from_only():
    assert record().id == xxhash.xxh3_128_hexdigest(b"s\0a/b.jsonl\x003\x000") == record_id("s", "a/b.jsonl", 3, 0)
    assert record(messages=[]).id == record().id
    different = {record(source="t").id, record(file="c").id, record(row=4).id, record(part=1).id, record().id}
    assert len(different) == 5


def test_the_content_digest_is_of_what_it_says_only():
    assert record(row=9, source="t", score=1.0, extra="{}").content == record().content
    changed = [
        [Message("user", NASTY), Message("assistant", "OK")],
        [Message("user", NASTY), Message("assistant", "ok", train=False)],
        [Message("user", NASTY), Message("assistant", "ok", reasoning="why")],
        [Message("user", NASTY), Message("tool", "ok")],
        [Message("user", NASTY), Message("assistant", None)],
    ]
    assert len({record(messages=messages).content for messages in changed} | {record().content}) == 6
    assert record(tools="[]").content != record().content


def test_canonical_json_is_json_with_every_key():
    text = canonical_messages([Message("user", NASTY)], None)
    keys = ["role", "content", "name", "tool_calls", "reasoning", "train"]
    assert list(json.loads(text)["messages"][0]) == keys
    assert json.loads(text)["messages"][0]["content"] == NASTY
    assert ", " not in text.replace(NASTY, "")


def test_a_record_survives_arrow():
    full = record(
        messages=[Message("assistant", None, "n", "[{}]", "r", False)], tools="[]", score=0.5, extra='{"k":1}'
    )
    table = to_table([record(), full])
    assert table.schema.equals(SCHEMA)
    assert [from_row(row) for row in table.to_pylist()] == [record(), full]
    assert table.column("id").to_pylist() == [record().id, full.id]


def test_the_schema_is_what_the_design_says():
    assert SCHEMA.names == ["id", "content", "source", "origin", "messages", "tools", "score", "extra"]
    message = SCHEMA.field("messages").type.value_type
    assert [field.name for field in message] == ["role", "content", "name", "tool_calls", "reasoning", "train"]
    assert SCHEMA.field("score").type == pa.float64()
