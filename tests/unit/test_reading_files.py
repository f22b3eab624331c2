"""Every container is read, every cap holds, nothing is lost, nothing that is no data is silently passed by."""

import gzip
import json
import os
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from curate.foundation.errors import Offline, UsageError
from curate.reading import plan, read, survey, unescape
from curate.sources import ReadSettings, SourceSettings

READ = ReadSettings()
ROWS = [{"prompt": f"q {n}", "completion": f"a {n} é"} for n in range(30)]
TEXT = "\n".join(json.dumps(row) for row in ROWS).encode()


def load(raw, settings=READ, sources=None):
    found = plan(raw, settings, sources or {})
    batches = [batch for unit in found.units for batch in read(unit, settings)]
    rows = [row for batch in batches for row in batch.table.to_pylist()]
    bad = [item for batch in batches for item in batch.quarantined]
    assert sum(batch.rows for batch in batches) == len({(r["origin"]["file"], r["origin"]["row"]) for r in rows}) + len(
        bad
    )
    return rows, bad


def answers(rows):
    return [row["messages"][-1]["content"] for row in rows]


def stream(table):
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def test_every_container_gives_the_same_rows(tmp_path):
    table = pa.Table.from_pylist(ROWS)
    pq.write_table(table, tmp_path / "p.parquet", row_group_size=7)
    with pa.ipc.new_file(tmp_path / "file.arrow", table.schema) as writer:
        writer.write_table(table)
    (tmp_path / "stream.arrow").write_bytes(stream(table))
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + TEXT.replace(b"\n", b"\r\n"))
    (tmp_path / "b.ndjson.gz").write_bytes(gzip.compress(TEXT[:600]) + gzip.compress(TEXT[600:]))
    (tmp_path / "c.jsonl.zst").write_bytes(zstandard.compress(TEXT[:600]) + zstandard.compress(TEXT[600:]))
    (tmp_path / "array.json").write_text(json.dumps(ROWS, indent=2))
    (tmp_path / "inside.json").write_text(json.dumps({"version": 1, "data": ROWS}))
    (tmp_path / "lines.json").write_bytes(TEXT)
    lines = ["prompt,completion", *(f'"{row["prompt"]}",{row["completion"]}' for row in ROWS)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    (tmp_path / "t.tsv.gz").write_bytes(gzip.compress("\n".join(lines).replace(",", "\t").encode()))
    rows, bad = load(tmp_path, ReadSettings(unit_bytes=1024, batch_bytes=1024))
    assert not bad
    by_file = {}
    for row in rows:
        by_file.setdefault(row["origin"]["file"], []).append(row)
    assert len(by_file) == 11
    for file, own in by_file.items():
        assert answers(own) == [row["completion"] for row in ROWS], file
        assert [row["origin"]["row"] for row in own] == list(range(30)) or file.endswith(("csv", "tsv.gz")), file


def test_one_object_is_one_row(tmp_path):
    (tmp_path / "one.json").write_text(json.dumps({"messages": [{"role": "user", "content": "q"}]}, indent=1))
    rows, bad = load(tmp_path)
    assert len(rows) == 1 and not bad


def test_elements_before_a_broken_one_are_read_and_the_rest_is_one_row(tmp_path):
    text = json.dumps(ROWS[:5])[:-1] + ', {"prompt": """", "completion": "x"}, ' + json.dumps(ROWS[6:])[1:]
    (tmp_path / "a.json").write_text(text)
    rows, bad = load(tmp_path)
    assert len(rows) == 5 and len(bad) == 1
    assert bad[0].row == 5 and text[bad[0].offset :].encode() == unescape(bad[0].raw) and bad[0].raw.endswith("}]")
    (tmp_path / "a.json").write_text(json.dumps(ROWS)[:-40])
    rows, bad = load(tmp_path)
    assert len(rows) == 29 and len(bad) >= 1


def test_damaged_bombed_and_long_files_keep_what_was_whole(tmp_path):
    packed = gzip.compress(TEXT)
    (tmp_path / "cut.jsonl.gz").write_bytes(packed[:-30])
    (tmp_path / "tail.jsonl.gz").write_bytes(packed + b"garbage")
    (tmp_path / "cut.jsonl.zst").write_bytes(zstandard.compress(TEXT)[:-9])
    (tmp_path / "long.jsonl").write_bytes(TEXT + b'\n{"prompt": "' + b"x" * 9_000_000 + b'"}\n' + TEXT)
    rows, bad = load(tmp_path, ReadSettings(max_line_bytes=100_000))
    reasons = {item.file: item.reason for item in bad}
    assert "early" in reasons["cut.jsonl.gz"] and "early" in reasons["cut.jsonl.zst"]
    assert "after the end" in reasons["tail.jsonl.gz"] and "line over" in reasons["long.jsonl"]
    files = [row["origin"]["file"] for row in rows]
    assert files.count("tail.jsonl.gz") == 30 and files.count("long.jsonl") == 60
    (tmp_path / "bomb.jsonl.gz").write_bytes(gzip.compress(TEXT + b"\n" + b" " * (130 << 20)))
    rows, bad = load(tmp_path / "bomb.jsonl.gz", ReadSettings(max_ratio=50))
    assert any("ratio" in item.reason for item in bad)
    assert len(rows) <= 30


def test_csv_rows_with_other_fields_than_the_header_are_quarantined(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'question,answer\n"a, b","c\nd"\nonly\n\xff,y\n1,2\n')
    rows, bad = load(tmp_path)
    assert answers(rows) == ["c\nd", "2"]
    assert [item.row for item in bad] == [1, 2] and bad[0].raw == "only\n"


def test_what_is_not_data_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(TEXT)
    (tmp_path / "empty.jsonl").write_bytes(b"")
    for name in ("README.md", ".hidden.json", "x.zip", "sheet.xlsx", "notes.txt"):
        (tmp_path / name).write_text("x")
    (tmp_path / "dir.jsonl").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "out.jsonl").symlink_to("/etc/hostname")
    (tmp_path / "self.jsonl").symlink_to(tmp_path / "self.jsonl")
    os.mkfifo(tmp_path / "pipe.jsonl")
    entries = {entry["file"]: entry for entry in survey(tmp_path, READ, {})}
    assert entries["a.jsonl"]["rows"] == 30 and entries["empty.jsonl"]["rows"] == 0
    skipped = {name for name, entry in entries.items() if "skipped" in entry}
    assert skipped == set(entries) - {"a.jsonl", "empty.jsonl"}
    assert {"pipe.jsonl", "loop/", "out.jsonl", "self.jsonl", ".git/", "__MACOSX/", "x.zip", "notes.txt"} <= skipped


def test_saved_datasets_are_read_and_their_notes_are_not(tmp_path):
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "data-00000-of-00001.arrow").write_bytes(stream(pa.Table.from_pylist(ROWS)))
    (folder / "state.json").write_text("{}")
    (folder / "dataset_info.json").write_text("{}")
    rows, bad = load(tmp_path)
    assert len(rows) == 30 and not bad and rows[0]["source"] == "saved"


def test_mistakes_are_explained(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        plan(tmp_path / "nope", READ, {})
    with pytest.raises(UsageError, match="nothing to read"):
        plan(tmp_path, READ, {})
    (tmp_path / "chats.jsonl").write_bytes(TEXT)
    with pytest.raises(UsageError, match=r"sources\.chat"):
        plan(tmp_path, READ, {"chat": SourceSettings()})


def test_an_unreachable_hub_says_so_within_a_second(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    began = time.monotonic()
    with pytest.raises(Offline, match="cannot be reached") as caught:
        plan("hf://someone/something@main", READ, {})
    assert time.monotonic() - began < 1.0
    assert "path=" in caught.value.hint


def test_licences_come_from_the_recipe_a_card_or_a_licence_file(tmp_path):
    for name in ("a", "b", "c", "d"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.jsonl").write_bytes(TEXT)
    (tmp_path / "a" / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# Card\n")
    (tmp_path / "b" / "LICENSE").write_text("MIT License\n\nCopyright")
    found = plan(tmp_path, READ, {"c": SourceSettings(licence="odc-by")})
    assert found.licences == {"a": "cc-by-4.0", "b": "mit", "c": "odc-by", "d": "unknown"}


def test_unit_names_are_file_stems_and_unique(tmp_path):
    for name in ("a-b.jsonl", "a_b.jsonl", "é.jsonl"):
        (tmp_path / name).write_bytes(TEXT)
    names = [unit.name for unit in plan(tmp_path, READ, {}).units]
    assert len(set(names)) == 3 and all(name.replace("-", "").isalnum() and name.isascii() for name in names)
