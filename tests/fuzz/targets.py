"""What is fuzzed, each target a function of bytes with an oracle; `run.py` drives them with atheris (libFuzzer).

line_reader   fast path == exact path: the same records, quarantine, formats and counts on every input
formats       a row gives records or `Refused`; every word of it is in them; the row is left as it was
manifest      a manifest is believed or refused with a typed error, and no name in it leaves the folder
card          text shown on a card parses as text: no Markdown, HTML, YAML or SVG structure comes of it
tables        Arrow and Parquet with altered bytes: rows or quarantine, never a crash (no coverage: C++ reads them)
"""

import copy
import io
import json
import tempfile
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from markdown_it import MarkdownIt

from curate import formats
from curate.cards import figures, frontmatter, text
from curate.cards.model import Example, Fence, Table
from curate.cards.render import _block
from curate.formats.draft import Refused
from curate.formats.strict import Broken
from curate.foundation.console import oneline, printable
from curate.foundation.errors import GristmillError
from curate.foundation.store import MANIFEST, Store, digest_of
from curate.reading import Unit, escape, read, unescape, warm
from curate.record import from_row
from curate.sources import ReadSettings, SourceSettings

FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-"))
# Bytes become pieces of JSON, so that mutations meet structure; a first byte over 127 takes the rest as it is.
KEYS = ["messages", "conversations", "role", "content", "from", "value", "prompt", "completion", "instruction", "input"]
KEYS += ["output", "response", "question", "answer", "system", "tools", "chosen", "rejected", "text", "name", "k"]
WORDS = [
    "user",
    "assistant",
    "human",
    "gpt",
    "tool",
    "w1",
    "w2",
    "w3",
    "",
    "é",
    "漢",
    "\U0001f600",
    '\\u00e9"',
    "\\ud800",
]
WORDS += ["\\ud83d\\ude00", "\\\\", "\\n", ":", '\\":', "\x00", "\u2028", "[", "{", "a" * 70]
PIECES = [f'"{key}":' for key in KEYS] + [f'"{word}"' for word in WORDS] + list("{}[],:") * 4
PIECES += ['"role":"user","content":', '{"role":"assistant","content":"w4"}', '"prompt":"w5","completion":"w6"']
PIECES += [
    "0",
    "-0",
    "1.5",
    "1e400",
    "1e16",
    "NaN",
    "Infinity",
    "9" * 30,
    "true",
    "null",
    " ",
    "\t",
    "\n",
    "\r\n",
    "\n\n",
]
PIECES += ['{"prompt":"w7","completion":"w8"}\n', '{"messages":[{"role":"user","content":"w9"}', "[" * 200, "]" * 200]
PIECES += ['{"instruction":"w10","input":"","output":"w11",', '"', "\\", "\ufeff", '"k":{"k":1,"k":2}', '" : "']


def spelled(data):
    """The input as bytes of a file."""
    if not data or data[0] > 127:
        return data[1:]
    return "".join(PIECES[byte % len(PIECES)] for byte in data[1:]).encode("utf-8", "surrogatepass")


SCALARS = [None, True, 0, -1, 1.5, 10**30, "", "user", "assistant", "human", "gpt", "tool", "system", "../outside"]
SCALARS += [
    "w1",
    "w2",
    "w3",
    "w4",
    "w5",
    "é",
    "\U0001f600",
    "[]",
    '[{"name":"f"}]',
    "a" * 70,
    "/etc/passwd",
    "Human: w6",
]
NAMES = [
    *KEYS,
    "files",
    "bytes",
    "digest",
    "kind",
    "instances",
    "replies",
    "speaker",
    "utterance",
    "tool_calls",
    "../outside",
]


def built(data):
    """The input as a JSON value: each byte is a scalar, or opens a list or an object of the bytes after it."""
    left = iter(data)

    def value(depth):
        byte = next(left, 0)
        if byte < 60 or depth > 6:
            return SCALARS[byte % len(SCALARS)]
        if byte < 130:
            return [value(depth + 1) for _ in range(byte % 4)]
        return {NAMES[next(left, 0) % len(NAMES)]: value(depth + 1) for _ in range(byte % 6)}

    return {NAMES[next(left, 0) % len(NAMES)]: value(1) for _ in range(next(left, 0) % 6)}


def decided(path, container, limits, exact):
    unit = Unit("u", path.name, str(path), "s", container, 0, -1, 0, 0, "", SourceSettings())
    batches = list(read(unit, limits, exact=exact))
    rows = [row for batch in batches for row in batch.table.to_pylist()]
    bad = sorted((item.row, item.offset or 0, item.reason, item.raw) for batch in batches for item in batch.quarantined)
    seen = {}
    for batch in batches:
        for name, count in batch.formats.items():
            seen[name] = seen.get(name, 0) + count
    return rows, bad, seen, sum(batch.rows for batch in batches)


def line_reader(data):
    body = spelled(data)
    container = "json" if data and data[-1] % 5 == 0 else "jsonl"
    path = FOLDER / f"a.{container}"
    path.write_bytes(body)
    limits = ReadSettings(batch_bytes=1024, max_line_bytes=1024) if len(data) % 3 == 0 else ReadSettings()
    fast = decided(path, container, limits, exact=False)
    assert fast == decided(path, container, limits, exact=True), "the fast path decides otherwise"
    rows, bad, _, number = fast
    assert number == len({row["origin"]["row"] for row in rows}) + len(bad), "the law"
    for row in rows:
        from_row(row)
    if container == "jsonl" and limits.max_line_bytes > len(body):
        lines = body.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        assert number == sum(bool(line.strip()) for line in lines), "rows of the file"
        for place, _, _, raw in bad:
            assert unescape(raw) == lines[place], "the bytes of a quarantined row"


def row_formats(data):
    row = built(data)
    before = copy.deepcopy(row)
    settings = SourceSettings(preference="chosen" if len(data) % 2 else None)
    try:
        found = formats.convert(row, settings, settings.preference)
        made = formats.records(found, row, "s", "f", 0, settings)
    except (Refused, Broken):
        assert row == before
        return
    assert row == before, "the row was changed"
    assert made and all(item.messages and item.messages[0].role for item in made)
    told = "".join(orjson.dumps(item, default=str).decode() for item in made)
    for word in words_of(row):
        assert json.dumps(word, ensure_ascii=False)[1:-1] in told, f"{word} is lost"


def words_of(value):
    """Every w-word among the values of a row: what must be found again."""
    if isinstance(value, str):
        return [value] if value[:1] == "w" and value[1:].isdigit() else []
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [word for item in inner for word in words_of(item)]


def manifest(data):
    body = data[1:]
    if data[:1] < b"\xc0":  # a manifest whose own digest holds, whatever else it says
        value = (
            built(data[1:]) | ({"kind": "records"} if len(data) % 2 else {}) | ({"files": {}} if len(data) % 3 else {})
        )
        value |= {"files": built(data[2:])} if len(data) % 5 == 0 else {}
        value.pop("digest", None)
        body = json.dumps({**value, "digest": digest_of(value)}).encode()
    folder = FOLDER / "out"
    folder.mkdir(exist_ok=True)
    (FOLDER / "outside").write_bytes(b"outside")
    (folder / MANIFEST).write_bytes(body)
    try:
        found = Store(folder, "records").manifest()
    except GristmillError as error:
        assert error.hint
        return
    claimed = found.pop("digest")
    assert claimed == digest_of(found) and found["kind"] == "records"
    try:
        Store(folder, "records").verify()
    except GristmillError as error:
        assert error.hint
    for name in (*words_of(found), "../outside", "/etc/passwd", "a/../../outside"):
        try:
            place = Store(folder, "records").path(name)
        except GristmillError:
            continue
        assert folder.resolve() in place.resolve().parents, "a name leaves the folder"


PARSER = MarkdownIt("commonmark").enable("table")
INERT = {"inline", "text", "paragraph_open", "paragraph_close", "text_special", "softbreak"}


def tokens(source):
    return [token for block in PARSER.parse(source) for token in (block, *(block.children or []))]


class Tags(HTMLParser):
    """Collects the tags of a page."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def handle_starttag(self, tag, attrs):
        self.found.add(tag)
        assert tag != "a" and not any(name.startswith("on") for name, _ in attrs)


def card(data):
    given = data.decode("utf-8", "surrogateescape" if len(data) % 2 else "replace")
    assert {token.type for token in tokens(f"x {text.prose(given)}")} <= INERT
    assert {token.type for token in tokens(f"x {text.code(given)} y")} <= INERT | {"code_inline"}
    kinds = [token.type for token in tokens(_block(Fence(given)))]
    assert kinds == ["fence"], kinds
    shown = [_block(Example([text.code(given)], given)), _block(Table(("a", given), [[text.code(given), given]]))]
    page = PARSER.render("\n\n".join([f"# {text.prose(given)}", *shown]))
    tags = Tags()
    tags.feed(page)
    inert = {"h1", "p", "blockquote", "details", "summary", "code", "pre", "table", "thead", "tbody", "tr", "th", "td"}
    assert tags.found <= inert, tags.found - inert
    line = text.line(given)
    front = frontmatter.dump({"pretty_name": line, "tags": [line]})
    parts = front.split("\n---\n")
    assert len(parts) == 2 and parts[1] == ""
    assert yaml.safe_load(parts[0].removeprefix("---\n")) == {"pretty_name": line, "tags": [line]}
    ET.fromstring(figures.funnel([(given, 5, 0, 3)]).svg)
    for said in (printable(given), oneline(given), text.plain(given)):
        assert not any(ord(char) < 32 and char not in "\n\t" for char in said) and "\x9b" not in said
    assert "\n" not in oneline(given)


def originals():
    """An Arrow file, an Arrow stream and Parquet files, of plain and nested columns."""
    table = pa.table(
        {
            "prompt": [f"question {n}" for n in range(40)],
            "completion": [f"answer number {n}" for n in range(40)],
            "turns": [[{"role": "user"}] * (n % 3) for n in range(40)],
        }
    )
    out = []
    for make in (pa.ipc.new_file, pa.ipc.new_stream):
        sink = io.BytesIO()
        with make(sink, table.schema) as writer:
            writer.write_table(table)
        out.append(("arrow", sink.getvalue()))
    for packed in ("none", "zstd"):
        sink = io.BytesIO()
        pq.write_table(table, sink, compression=packed, row_group_size=15)
        out.append(("parquet", sink.getvalue()))
    return out


ORIGINALS = originals()


def tables(data):
    container, whole = ORIGINALS[data[0] % len(ORIGINALS) if data else 0]
    body = bytearray(whole)
    for place in range(1, len(data) - 2, 3):
        body[int.from_bytes(data[place : place + 2], "big") % len(body)] = data[place + 2]
    path = FOLDER / f"t.{container}"
    path.write_bytes(body)
    rows, bad, _, number = decided(path, container, ReadSettings(), exact=False)
    assert number == len({row["origin"]["row"] for row in rows}) + len(bad), "the law"
    assert number <= 41 or bad, "rows from nowhere"
    for _, _, _, raw in bad:
        assert escape(unescape(raw)) == raw


TARGETS = {"line_reader": line_reader, "formats": row_formats, "manifest": manifest, "card": card, "tables": tables}
SEEDS = {
    "line_reader": [
        b"\x00" + bytes(range(0, 250, 7)),
        b'\xff{"prompt":"a","completion":"b"}\n{bad\n\xef\xbb\xbf{}\r\n',
    ],
    "formats": [
        bytes([1, 0, 62, 132, 2, 7, 3, 14, 132, 2, 8, 3, 15]),
        bytes([2, 6, 14, 7, 15]),
        bytes(range(200)),
        bytes.fromhex("3a06faf306310f7e" + "fd" * 15),
    ],  # a role that is an object
    "manifest": [
        b'\xff{"files":{"a":{"bytes":1,"digest":"x"}},"digest":"x"}',
        bytes([1, 3, 21, 131, 30, 2]),
        bytes(40),
    ],
    "card": [b"<script>[x](http://e.vil)\n---\n# h\n```\n| a |\x1b[2J", "\u202e\u2028`~~~</details>&lt;".encode()],
    "tables": [
        *(bytes([kind, 1, 2, 3, 4, 5, 6]) for kind in range(4)),
        bytes.fromhex("cf05010400010443ffff"),  # ended the process: a statistic of another type
    ],
}
warm()
