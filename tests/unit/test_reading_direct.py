"""Rows of simple shapes are read without decoding, say what their JSON says, and what is only nearly JSON is refused."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.foundation.store import canonical
from curate.reading import plan, read
from curate.reading.arrays import Elements
from curate.reading.direct import Found, Scratch
from curate.record import content_digest, from_row
from curate.sources import ReadSettings


def directly(lines):
    """The rows read without decoding, by position."""
    block = b"\n".join(lines)
    stops = np.cumsum([len(line) + 1 for line in lines]) - 1
    starts = np.append(0, stops[:-1] + 1)
    scratch = Scratch()
    found = Found(block, scratch.marks(block), starts, stops, {})
    if not len(found.at):
        return {}
    table = found.table("s", "f", np.arange(len(lines)), scratch)
    table.validate(full=True)
    return {row["origin"]["row"]: row for row in table.to_pylist()}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "completion": "a"},
        {"instruction": "i", "input": "x", "output": "o", "id": "row-0001", "n": -12, "f": 0.25, "t": True, "z": None},
        {"instruction": "i", "input": None, "response": "o", "system": ""},
        {"messages": [{"role": "system", "content": ""}, {"content": '\n\t"\\/', "role": "tool"}], "tools": []},
        {"conversations": [{"from": "human", "value": "\u00e9\u2028\U0001f600"}, {"value": "b", "from": "gpt"}]},
    ],
)
def test_simple_rows_need_no_decoding(row):
    for spaced in (
        json.dumps(row),
        json.dumps(row, ensure_ascii=False, separators=(",", ":")),
        json.dumps(row, indent=2),
    ):
        (found,) = directly([spaced.encode()]).values()
        record = from_row(found)
        assert found["content"] == content_digest(record.messages, record.tools)
        assert found["id"] == record.id


def spelled(text, forms):
    """The text as JSON, each character in one of the forms JSON allows."""
    out = []
    for place, char in enumerate(text):
        units = char.encode("utf-16-be")
        wide = "".join(f"\\u{units[at]:02x}{units[at + 1]:02X}" for at in range(0, len(units), 2))
        short = json.dumps(char, ensure_ascii=False)[1:-1]
        out.append((short, wide, "\\/" if char == "/" else short)[forms[place % len(forms)]])
    return "".join(out).encode()


said = st.text(st.sampled_from('/"\\\b\f\n\r\t\0\x1f\x7f\x80é€\ufffd\U0001f600 ab') | st.characters(codec="utf-8"))
forms = st.lists(st.integers(0, 2), min_size=1, max_size=7)


@settings(max_examples=150, deadline=None)
@given(said, said, forms)
def test_every_text_in_every_spelling_is_what_json_says(left, right, how):
    user, answer = spelled(left, how), spelled(right, how)
    lines = [
        b'{"messages":[{"role":"user","content":"%b"},{"role":"assistant","content":"%b"}]}' % (user, answer),
        b'{"instruction":"%b","input":"%b","output":"%b","k":"%b"}' % (user, answer, user, answer),
    ]
    rows = directly(lines)
    assert len(rows) == 2
    assert [m["content"] for m in rows[0]["messages"]] == [left, right]
    asked = f"{left}\n\n{right}" if right else left
    assert [m["content"] for m in rows[1]["messages"]] == [asked, left]
    assert rows[1]["extra"] == canonical({"k": right}) and rows[0]["extra"] is None
    for row in rows.values():
        record = from_row(row)
        assert row["content"] == content_digest(record.messages, record.tools)


def test_half_a_pair_is_never_read_directly():
    for text in (b"\\ue000\\udc00", b"\\ud83d", b"\\udc00", b"\\ud83d\\ue000", b"\\ud83dx", b"\\ud83d\\ud83d\\ude00"):
        assert not directly([b'{"prompt":"%b","completion":"b"}' % text]), text


digits = st.from_regex(
    r"-?(0|[1-9][0-9]{0,19})(\.[0-9]{1,18})?([eE][+-]?[0-9]{1,3})?",
    fullmatch=True,
    alphabet=st.characters(codec="ascii"),
)


@settings(max_examples=300, deadline=None)
@given(
    digits
    | st.floats(allow_nan=False, allow_infinity=False).map(repr)
    | st.from_regex(r"[-0-9.eE]{1,6}", fullmatch=True)
)
def test_a_number_is_kept_as_written_only_when_it_would_be_written_so(text):
    for row in directly([b'{"prompt":"a","completion":"b","n":%b}' % text.encode()]).values():
        assert row["extra"] == canonical({"n": json.loads(text)})


def test_usual_numbers_need_no_decoding():
    for text in ("0", "-7", "123456789012345678", "0.5", "-0.25", "3.0", "0.0001", "12345.678", "0.0", "-0.0"):
        assert directly([b'{"prompt":"a","completion":"b","n":%b}' % text.encode()]), text


BASE = json.dumps({"messages": [{"role": "user", "content": "q\né"}, {"role": "assistant", "content": "a"}], "id": "x"})
SEEDS = [
    BASE.encode(),
    b'{"instruction": "i", "input": "x", "output": "o\\ud83d\\ude00", "n": 12, "f": 0.5, "t": true, "z": null}',
    b' {"conversations": [{"from": "human", "value": "a"}, {"value": "b", "from": "gpt"}], "tools": ""} \r',
]
PARTS = [
    b'"',
    b"\\",
    b"\\u",
    b"\\ud83d",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b" ",
    b"\0",
    b"\xff",
    b"\xed\xa0\x80",
    b"0",
]
PARTS += [b"-", b"1e5", b"null", b"fals", b'"role":"user"', b'"id":"y",', b"\x0b", b"\n", b"9" * 20, b"0.00001", b"\\n"]
edits = st.lists(st.tuples(st.integers(0, 160), st.integers(0, 3), st.sampled_from(PARTS)), max_size=3)


def edited(seed, changes):
    for place, cut, part in changes:
        seed = seed[:place] + part + seed[place + cut :]
    return seed


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.builds(edited, st.sampled_from(SEEDS), edits), min_size=1, max_size=12), st.sampled_from([",", "\n"])
)
def test_damaged_rows_are_decided_as_the_exact_reader_decides(tmp_path_factory, rows, between):
    path = tmp_path_factory.mktemp("edited") / ("a.json" if between == "," else "a.jsonl")
    path.write_bytes(b"[" + b",".join(rows) + b"]" if between == "," else b"\n".join(rows))
    both = []
    for exact in (False, True):
        batches = [
            batch for unit in plan(path, ReadSettings(), {}).units for batch in read(unit, ReadSettings(), exact=exact)
        ]
        bad = [(q.row, q.offset, q.reason, q.raw) for batch in batches for q in batch.quarantined]
        counts = [(batch.rows, batch.formats, batch.notes) for batch in batches]
        both.append(([row for batch in batches for row in batch.table.to_pylist()], bad, counts))
    assert both[0] == both[1]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.dictionaries(said, said | st.lists(said), max_size=3)), st.sampled_from([None, 1]), st.integers(1, 80)
)
def test_elements_of_an_array_are_cut_where_they_end(rows, indent, step):
    text = json.dumps(rows, indent=indent, ensure_ascii=False).encode()
    elements = Elements(iter([text[at : at + step] for at in range(0, len(text), step)]), 1 << 20, 64)
    found = [json.loads(b.block[start:stop]) for b in elements for start, stop in zip(b.starts, b.stops, strict=True)]
    assert found == rows and not elements.problem
