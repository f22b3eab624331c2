"""Hostile files: each a quarantined row or a typed error; no crash, no hang, no wrong count, nothing injected."""

import json
import os
import struct
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from markdown_it import MarkdownIt

from curate.reading import plan, read
from curate.sources import ReadSettings


def chat(number, text=""):
    turns = [("user", f"Question {number}, please?"), ("assistant", text or f"It is answer number {number}.")]
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]})


def curate(folder, *words, check=0, **more):
    command = [sys.executable, "-P", "-m", "curate", *map(str, words)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False, **more)
    assert done.returncode == check and "Traceback" not in done.stderr, done.stderr
    return done


def loaded(path, **limits):
    """Rows, records and reasons of one file."""
    settings = ReadSettings(**limits)
    batches = [batch for unit in plan(path, settings, {}).units for batch in read(unit, settings)]
    bad = [item.reason for batch in batches for item in batch.quarantined]
    records = sum(batch.table.num_rows for batch in batches)
    assert sum(batch.rows for batch in batches) == records + len(bad)
    return records, bad


LINES = {
    "deep list": ('{"messages": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested"),
    "deep and open": ("[" * 100_000, "nested"),
    "deep object": ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested"),
    "NaN": ('{"prompt":"a","completion":"b","n":NaN}', "NaN"),
    "Infinity": ('{"prompt":"a","completion":"b","n":-Infinity}', "Infinity"),
    "beyond a double": ('{"prompt":"a","completion":"b","n":1e999}', "double"),
    "huge integer": ('{"prompt":"a","completion":"b","n":' + "9" * 100_000 + "}", "digits"),
    "duplicate key": ('{"prompt":"a","completion":"b","prompt":"c"}', "duplicate"),
    "lone surrogate": ('{"prompt":"\\udc00","completion":"b"}', "surrogate"),
    "NUL bytes": ("\x00" * 5000, "malformed"),
    "BOM inside": ("\ufeff" + chat(7), "malformed"),
}


@pytest.mark.parametrize("name", LINES)
def test_a_hostile_line_is_quarantined_and_its_neighbours_are_read(tmp_path, name):
    line, why = LINES[name]
    (tmp_path / "a.jsonl").write_text(f"{chat(1)}\n{line}\n{chat(2)}\r\n")
    records, (reason,) = loaded(tmp_path / "a.jsonl")
    assert records == 2 and why in reason


def test_bom_crlf_invalid_utf8_and_a_line_of_50_mb(tmp_path):
    (tmp_path / "bom.jsonl").write_bytes(b"\xef\xbb\xbf" + chat(1).encode() + b"\r\n\r\n" + chat(2).encode())
    assert loaded(tmp_path / "bom.jsonl") == (2, [])
    (tmp_path / "utf8.jsonl").write_bytes(chat(1).encode().replace(b"It", b"\xff\xfe") + b"\n" + chat(2).encode())
    assert loaded(tmp_path / "utf8.jsonl") == (1, ["invalid UTF-8 at byte 100"])
    (tmp_path / "utf16.jsonl").write_bytes((chat(1) + "\n").encode("utf-16"))
    assert loaded(tmp_path / "utf16.jsonl")[0] == 0
    (tmp_path / "long.jsonl").write_text(chat(1, "x" * 50_000_000) + "\n" + chat(2) + "\n")
    assert loaded(tmp_path / "long.jsonl") == (2, [])
    records, (reason,) = loaded(tmp_path / "long.jsonl", max_line_bytes=1 << 20)
    assert records == 1 and reason.startswith("line over 1,048,576 bytes")


def test_csv_rows_without_end_are_cut_and_memory_stays_bounded(tmp_path):
    (tmp_path / "line.csv").write_bytes(b"prompt,completion\na,b\n" + b"x" * 9_000_000)
    (tmp_path / "quoted.csv").write_bytes(b"prompt,completion\na,b\n" + b'"\n",' * 500_000)
    (tmp_path / "nul.csv").write_bytes(b"prompt,completion\na\x00b,c\nd,e\n")
    for name in ("line.csv", "quoted.csv"):
        records, reasons = loaded(tmp_path / name, max_line_bytes=1 << 20)
        assert records == 1 and "over 1,048,576 bytes" in reasons[-1], name
    assert loaded(tmp_path / "nul.csv") == (2, [])


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A Parquet file of 1,000 rows; its footer says 1,000 six times, as the two bytes of a variable-length integer."""
    path = tmp_path_factory.mktemp("good") / "good.parquet"
    rows = [{"prompt": f"q{n}", "completion": f"answer number {n}"} for n in range(1000)]
    pq.write_table(pa.Table.from_pylist(rows), path, use_dictionary=False, write_statistics=False, store_schema=False)
    return path.read_bytes()


THOUSAND = b"\xd0\x0f"
LIES = [(0,), (1,), (3,), (5,), (0, 5), (1, 3), (0, 1, 2, 3, 4, 5)]


@pytest.mark.parametrize("which", LIES, ids=str)
@pytest.mark.parametrize(("value", "claimed"), [(b"\xc8\x01", 100), (b"\xa0\x1f", 2000)])
def test_a_parquet_file_that_lies_about_its_rows_is_found_out(tmp_path, good, which, value, claimed):
    size = struct.unpack("<I", good[-8:-4])[0]
    footer = bytearray(good[-8 - size : -8])
    places = [at for at in range(len(footer)) if footer[at : at + 2] == THOUSAND]
    assert len(places) == 6
    for index in which:
        footer[places[index] : places[index] + 2] = value
    (tmp_path / "a.parquet").write_bytes(good[: -8 - size] + footer + good[-8:])
    records, (reason,) = loaded(tmp_path / "a.parquet")
    assert "promises" in reason and records == (100 if claimed == 100 and 5 in which else 1000)


def test_honest_parquet_files_are_believed(tmp_path, good):
    (tmp_path / "a.parquet").write_bytes(good)
    assert loaded(tmp_path / "a.parquet") == (1000, [])
    kinds = pa.schema([("prompt", pa.string()), ("completion", pa.string()), ("t", pa.list_(pa.list_(pa.int64())))])
    rows = [{"prompt": "q", "completion": "a", "t": [None, [], [[1], [], None]][n % 3]} for n in range(500)]
    for name, settings in {"v1": {}, "v2": {"data_page_version": "2.0", "data_page_size": 64}}.items():
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema=kinds), path, row_group_size=70, **settings)
        assert loaded(path, unit_bytes=1024, batch_bytes=1024) == (500, [])


OFFSETS = {"past the end": (0, 10, 2**31 - 1, 30), "below zero": (0, -5, 20, 30), "backwards": (0, 10, 5, 30)}


@pytest.mark.parametrize("name", OFFSETS)
def test_arrow_offsets_are_checked_before_a_byte_behind_them_is_read(tmp_path, name):
    table = pa.table({"prompt": [f"question {n}" for n in range(50)], "completion": ["because it is"] * 50})
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    data = (tmp_path / "a.arrow").read_bytes()
    place = data.find(struct.pack("<4i", 0, 10, 20, 30))
    broken = data[:place] + struct.pack("<4i", *OFFSETS[name]) + data[place + 16 :]
    (tmp_path / "a.arrow").write_bytes(broken)
    done = curate(tmp_path, "formats", "a.arrow", "--json")  # in a process of its own: unchecked, it is killed
    (entry,) = json.loads(done.stdout)
    assert entry["records"] == 0 and entry["quarantined"] == 1
    spoiled = data.replace(b"question 7", b"\xff\xfeestion 7")
    (tmp_path / "b.arrow").write_bytes(spoiled)
    assert loaded(tmp_path / "b.arrow") == (49, ["invalid UTF-8"])


def test_values_that_python_cannot_hold_cost_their_rows_only(tmp_path):
    when = pa.array([0, 2**50, 5], pa.timestamp("ms"))
    pq.write_table(
        pa.table({"prompt": ["a", "b", "c"], "completion": ["d", "e", "f"], "w": when}), tmp_path / "a.parquet"
    )
    assert loaded(tmp_path / "a.parquet") == (2, ["a value out of range"])


NAMES = ["new\nline", "a..b", "---\nlicense: mit\n---\n# Pwned", "<img src=x onerror=alert(1)>", "\x1b[31mred\x1b[0m"]
NAMES += ["x\nhint: rm -r", "|a|`b`", "-rf", "\u202egnp", "[l](http:∕∕e.vil)"]
TEXTS = [
    "\n---\nlicense: mit\n---\n# Pwned",
    "<script>alert(1)</script>",
    "\x1b]0;pwned\x07\x1b[2J",
    "![x](http://e.vil/p.png)",
]
SECRET = "mail me at jane.doe@example.com, key AKIAABCDEFGHIJKLMNOP"


def test_names_and_texts_inject_nothing_into_cards_and_terminal(tmp_path):
    raw = tmp_path / "raw"
    (raw / "..dots").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        (raw / f"{name}.jsonl").write_text(
            f"{chat(number)}\n{chat(50 + number, TEXTS[number % 4] + SECRET + '...')}\n{{bad\n"
        )
    (raw / "folder.jsonl").mkdir()
    (raw / "loop.jsonl").symlink_to(raw / "loop.jsonl")
    (raw / "out.jsonl").symlink_to("/etc/passwd")
    (raw / "loop").symlink_to(raw)
    os.mkfifo(raw / "pipe.jsonl")
    done = curate(tmp_path, "filter", "raw", "--executor", "inline", check=0)
    said = [done.stderr, curate(tmp_path, "card").stdout, curate(tmp_path, "formats", "raw").stdout]
    totals = json.loads((tmp_path / "out" / "manifest.json").read_text())["totals"]
    assert totals["rows"] == 3 * len(NAMES) and totals["quarantined"] == len(NAMES)
    for text in said:
        assert not any(char in text for char in "\x1b\x07\u202e"), text
    assert not [line for line in "\n".join(said).splitlines() if line.startswith(("hint:", "error:"))]
    readme = (tmp_path / "out" / "README.md").read_text()
    for text in (readme, (tmp_path / "out" / "card.json").read_text(), *said):
        assert "jane.doe" not in text and "AKIAABCDEF" not in text
    front, body = readme.removeprefix("---\n").split("\n---\n", 1)
    assert yaml.safe_load(front)["license"] == "unknown"
    found = MarkdownIt("commonmark").enable("table").parse(body)
    heads = [found[at + 1].content for at, token in enumerate(found) if token.type == "heading_open"]
    assert not [head for head in heads if "Pwned" in head]
    inner = [token for block in found for token in (block, *(block.children or []))]
    html = [token.content for token in inner if token.type in ("html_block", "html_inline")]
    assert not [text for text in html if "script" in text or "img" in text or "onerror" in text]
    images = [token.attrs["src"] for token in inner if token.type == "image"]
    assert all(not source.startswith("http") for source in images)
    links = [token.attrs["href"] for token in inner if token.type == "link_open"]
    assert not [link for link in links if "e.vil" in link]


HOSTILE = [
    "a",
    "a.",
    "a@",
    "sk-",
    "!?",
    "\U0001f600",
    "\u05d0\u202e",
    "e\u0301",
    "```\n",
    "[",
    " ",
    "1-",
    "漢",
    '{"a":',
    "\x00",
    "word ",
]


def test_texts_without_shape_finish_every_stage(tmp_path):
    """Half a megabyte of one thing on either side, 10 MB of one word, nothing at all: a bad regular expression hangs here."""
    (tmp_path / "raw").mkdir()
    texts = [piece * (500_000 // len(piece)) for piece in HOSTILE] + ["a" * 10_000_000, "\u200b", ""]
    lines = []
    for text in texts:
        lines += [
            {"prompt": f"What is {len(lines)}?", "completion": text},
            {"prompt": text, "completion": "It is this."},
        ]
    (tmp_path / "raw" / "a.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    items = [{"question": piece * (20_000 // len(piece)), "answer": "1"} for piece in (*HOSTILE, "a ", "= ", "a b ")]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, items)) + "\n")
    curate(
        tmp_path, "filter", "raw", "--executor", "inline", "--allow-wipeout", "--against", str(tmp_path / "items.jsonl")
    )
    totals = json.loads((tmp_path / "out" / "manifest.json").read_text())["totals"]
    assert totals["rows"] == totals["records"] == len(lines) == totals["kept"] + totals["removed"]


def test_every_boundary_of_a_split_file_gives_the_same_records(tmp_path):
    """One JSONL cut at every size from 1,024 to 1,400 bytes: each line end comes to lie on, before and after a cut."""
    lines = [chat(number, "x" * (number * 37 % 211)) for number in range(40)]
    lines[7], lines[11], lines[12], lines[39] = "", "{bad", "\ufeff{}", chat(39, "é漢" * 30)
    path = tmp_path / "a.jsonl"
    path.write_text("\r\n".join(lines[:20]) + "\r\n" + "\n".join(lines[20:]))

    def rows(size):
        settings = ReadSettings(unit_bytes=size, batch_bytes=1024)
        units = plan(path, settings, {}).units
        assert [unit.start for unit in units[1:]] == [unit.stop for unit in units[:-1]]
        batches = [batch for unit in units for batch in read(unit, settings)]
        found = [row for batch in batches for row in batch.table.to_pylist()]
        return len(units), found, [(item.row, item.offset, item.raw) for batch in batches for item in batch.quarantined]

    one, whole, bad = rows(1 << 20)
    assert one == 1 and len(whole) == 37 and len(bad) == 2
    for size in range(1024, 1400):
        number, found, refused = rows(size)
        assert number > 3 and found == whole and refused == bad, size
