"""The fast path and the exact path give the same records, digests and quarantine, on nasty rows too."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.reading import escape, plan, read, unescape
from curate.record import content_digest, from_row, record_id
from curate.sources import ReadSettings

READ = ReadSettings()
NASTY = [
    '{"prompt": "a", "completion": "b", "n": 1e16}',
    '{"prompt": "a", "completion": "b", "n": 0.00001}',
    '{"prompt": "a", "completion": "b", "n": 123456789012345678901234567890}',
    '{"prompt": "a", "completion": "b", "n": -0, "m": -0.0, "k": 1.5}',
    '{"prompt": "a", "completion": "b", "n": NaN}',
    '{"prompt": "a", "completion": "b", "n": 1e400}',
    '{"prompt": "a", "prompt": "c", "completion": "b"}',
    '{"prompt": "a", "completion" :"b", "completion": "c"}',
    '{"prompt": "a", "completion": "b", "x": {"k": 1, "k": 2}}',
    '{"prompt": ":a", "completion": "say \\"x\\": y", "x\\\\": 1}',
    '{"prompt": "\\ud800", "completion": "b"}',
    '{"prompt": "\\ud83d\\ude00 \\u2028 \\u0000 \\u001f \\u007f", "completion": "b\\tc\\n"}',
    '{"prompt": "a", "completion": "b", "deep": ' + "[" * 70 + "]" * 70 + "}",
    '{"prompt": "a", "completion": "b", "deep": ' + "[" * 300 + "]" * 300 + "}",
    '{"prompt": "a", "completion": "b", "deep": ' + "[" * 5000 + "]" * 5000 + "}",
    '{"prompt": null, "completion": "b"}',
    '{"prompt": "a", "completion": 4}',
    '{"prompt": "a", "completion": "b", "response": "c"}',
    '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "z": 1, "a": [1.5]}',
    '{"messages": [{"role": "user", "content": "q", "content": "r"}]}',
    '{"messages": [{"role": "developer", "content": "q"}]}',
    '{"messages": []}',
    '{"messages": [{"role": "user", "content": null}]}',
    '{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "tools": "[]"}',
    '{"conversations": [{"role": "user", "content": "q"}], "system": "s"}',
    '{"instruction": "i", "input": "", "output": "o", "system": ""}',
    '{"instruction": "i", "input": "x", "output": "o", "system": "s"}',
    '{"instruction": "i", "input": null, "response": "o"}',
    '{"chosen": "a", "rejected": "b", "prompt": "c"}',
    "[1, 2]",
    "7",
    "{}",
    "{",
    '{"prompt": "a", "completion": "b"} x',
    "",
    "  \t",
]


def everything(path, read_settings=READ, **kinds):
    units = plan(path, read_settings, {}).units
    batches = [batch for unit in units for batch in read(unit, read_settings, **kinds)]
    rows = [row for batch in batches for row in batch.table.to_pylist()]
    bad = [(q.row, q.offset, q.reason, q.raw) for batch in batches for q in batch.quarantined]
    formats = sum((batch.formats for batch in batches), start=type(batches[0].formats)()) if batches else {}
    return rows, sorted(bad), formats, sum(batch.rows for batch in batches)


def same(path):
    fast, exact = everything(path), everything(path, exact=True)
    assert fast == exact
    rows, bad, _, number = fast
    assert number == len({row["origin"]["row"] for row in rows}) + len(bad), "the law"
    for row in rows:
        record = from_row(row)
        assert row["content"] == content_digest(record.messages, record.tools)
        origin = row["origin"]
        assert row["id"] == record_id(row["source"], origin["file"], origin["row"], origin["part"])
    return rows, bad


def test_nasty_rows_are_decided_alike(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes("\n".join(NASTY).encode() + b'\n{"prompt": "\xff", "completion": "b"}\r\n')
    rows, bad = same(path)
    reasons = " ".join(reason for _, _, reason, _ in bad)
    for word in ("NaN", "duplicate key", "surrogate", "UTF-8", "nested", "double", "ambiguous", "malformed", "null"):
        assert word in reasons, word
    kept = next(row for row in rows if row["origin"]["row"] == 2)
    assert kept["extra"] == '{"n":123456789012345678901234567890}'
    data = path.read_bytes().split(b"\n")
    for row, offset, _, raw in bad:
        assert unescape(raw) == data[row]
        assert path.read_bytes()[offset:].startswith(data[row])


words = st.text(max_size=12) | st.sampled_from([":", '":', ' " : ', "\\", '\\":', "\u2028", "\U0001f600", "1e5"])
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | words
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3))
turns = st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]), "content": words}))
columns = st.sampled_from(["prompt", "completion", "response", "instruction", "input", "output", "question", "answer"])
rows_of = (
    st.dictionaries(columns | words, words | values, max_size=5)
    | st.fixed_dictionaries({"messages": turns}, optional={"x": values, "tools": values, "prompt": values})
    | st.fixed_dictionaries({"prompt": words, "completion": words}, optional={"x": values, "y": values})
    | st.fixed_dictionaries({"instruction": words, "output": words, "input": words}, optional={"x": values})
)


@settings(max_examples=60, deadline=None)
@given(st.lists(rows_of, max_size=12), st.booleans(), st.sampled_from([(",", ":"), (", ", ": "), (" , ", " : ")]))
def test_any_rows_are_decided_alike(tmp_path_factory, rows, ascii_only, separators):
    path = tmp_path_factory.mktemp("any") / "a.jsonl"
    lines = [json.dumps(row, ensure_ascii=ascii_only, separators=separators) for row in rows]
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    if lines:
        same(path)


@given(st.binary(max_size=60))
def test_quarantined_bytes_come_back(data):
    assert unescape(escape(data)) == data


def test_units_and_batches_of_any_size_give_the_same_rows(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"prompt": f"q{n}", "completion": "x" * (n % 700)}) for n in range(400)]
    lines[50], lines[51], lines[399] = "", "{", "broken"
    path.write_text("\r\n".join(lines))
    whole = everything(path)
    assert whole[3] == 399
    for unit_bytes, batch_bytes in ((1024, 1024), (5000, 1 << 20), (20_000, 2048)):
        small = ReadSettings(unit_bytes=unit_bytes, batch_bytes=batch_bytes)
        assert len(plan(path, small, {}).units) > 4
        assert everything(path, small) == whole


@pytest.mark.shared
def test_real_files_are_decided_alike(shared):
    for name in ("lima/lima.json", "alpaca/alpaca_libre_tasks_v2.jsonl", "math/metamath_GSM8K_Backward.jsonl"):
        same(shared / "data" / "sft" / name)
