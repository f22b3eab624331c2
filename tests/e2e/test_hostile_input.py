"""Mistakes and hostile folders: no traceback, the right exit code, a hint, no lost row, nothing left behind."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from curate.cli import main as curate_main
from pack.cli import main as pack_main


def chat(number):
    user, assistant = f"Question {number}, please?", f"It is answer number {number}."
    return json.dumps({"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]})


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run a command in this process, in an empty folder; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def go(program, *words):
        monkeypatch.setattr(sys, "argv", [program, *map(str, words)])
        code = 0
        try:
            {"curate": curate_main, "pack": pack_main}[program]()
        except SystemExit as stop:
            code = stop.code or 0
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    yield go
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def raw(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.jsonl").write_text("\n".join(chat(n) for n in range(12)) + "\n")
    return tmp_path / "raw"


def totals(out):
    return json.loads((out / "manifest.json").read_text())["totals"]


@pytest.mark.parametrize("name", ["e.csv", "e.jsonl", "e.json", "e.jsonl.gz", "e.jsonl.zst"])
def test_an_empty_file_among_others_costs_nothing(run, raw, tmp_path, name):
    (raw / name).write_bytes(b"")
    assert run("curate", "filter", "raw")[0] == 0
    assert totals(tmp_path / "out") | {"rows": 12, "kept": 12} == totals(tmp_path / "out")
    assert run("curate", "verify")[0] == 0
    assert run("curate", "exact", "out", "out2")[0] == 0


def test_a_folder_where_every_row_is_broken_is_quarantined_whole(run, tmp_path):
    (tmp_path / "raw").mkdir()
    lines = ["[" * 3000 + "]" * 3000, "NaN", '{"prompt": 1, "completion": 2}', "\x00", '{"a":1,"a":2}', '"\\ud800"']
    (tmp_path / "raw" / "bad.jsonl").write_text("\n".join(lines) + "\n")
    assert run("curate", "filter", "raw")[0] == 0
    assert totals(tmp_path / "out")["rows"] == totals(tmp_path / "out")["quarantined"] == len(lines)
    code, _, stderr = run("pack", "build")
    assert code in (1, 2) and "hint:" in stderr


MISTAKES = [
    ("curate", "filter", "out", "new"),
    ("curate", "filter", "", "new"),
    ("curate", "filter", "raw", "new", "--only", "exact", "--skip", "exact"),
    ("curate", "filter", "raw", "new", "--set", "sources=3"),
    ("curate", "filter", "raw", "new", "--set", "pack=3"),
    ("curate", "filter", "raw", "new", "--set", "lenth.min_turns=3"),
    ("curate", "filter", "raw", "new", "--set", "select.score.below=3"),
    ("curate", "filter", "raw", "new", "--set", "priority.nobody=3"),
    ("curate", "filter", "raw", "new", "--decisions", "absent.csv"),
    ("curate", "formats", "out"),
    ("curate", "restore", "out"),
    ("curate", "restore", "out", "--source", "nobody"),
    ("curate", "sample", "raw/a.jsonl"),
    ("pack", "build", "out", "out/shards"),
    ("pack", "build", "out", "raw", "--dry-run"),
    ("pack", "build", "out", "new", "--set", "curate.stages=[]"),
    ("pack", "build", "out", "new", "--tokenizer", ""),
    ("pack", "build", "out", "new", "--ctx", "0"),
]


def test_each_mistake_exits_2_with_a_hint_and_leaves_nothing(run, raw, tmp_path):
    assert run("curate", "filter", "raw", "out")[0] == 0
    before = (tmp_path / "out" / "manifest.json").read_bytes()
    for words in MISTAKES:
        code, stdout, stderr = run(*words)
        assert code == 2 and not stdout, (words, stderr)
        assert stderr.splitlines()[-1].startswith("hint: "), (words, stderr)
        assert not stderr.rstrip().endswith(("hint:", "known here:")), (words, stderr)
        assert not (tmp_path / "new").exists(), words
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before


def test_a_run_that_failed_before_its_first_unit_can_be_rerun(run, raw, tmp_path):
    (tmp_path / "out" / ".work" / "kept").mkdir(parents=True)
    (tmp_path / "out" / ".work" / "kept" / "a-jsonl-0000.arrow").write_bytes(b"half")
    assert run("curate", "filter", "raw")[0] == 0
    assert run("curate", "verify")[0] == 0


@pytest.mark.parametrize("text", ["[]", "3", "{", '{"digest": NaN}', '{"digest": "x", "a": NaN}', "\udcff"])
def test_a_damaged_manifest_or_lock_is_named(run, raw, tmp_path, text):
    assert run("curate", "filter", "raw")[0] == 0
    (tmp_path / "out" / "manifest.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    (tmp_path / "out" / ".lock").write_bytes(text.encode("utf-8", "surrogateescape"))
    for words in (("curate", "verify"), ("curate", "card"), ("pack", "build"), ("curate", "explain", "abcdef")):
        code, _, stderr = run(*words)
        assert code == 1 and "manifest" in stderr and "hint:" in stderr, (words, stderr)
    assert run("curate", "status")[0] == 0


def heed_ctrl_c():
    """A test suite started in the background hands an ignored SIGINT down to its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def user(tmp_path, *words, **more):
    """Start a command as the user does."""
    command = [sys.executable, "-P", "-m", *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=tmp_path, preexec_fn=heed_ctrl_c, **pipes, **more)


def test_ctrl_c_says_so_exits_130_and_a_rerun_goes_on(run, raw, tmp_path):
    for number in range(60):
        (raw / f"f{number}.jsonl").write_text("\n".join(chat(100 * number + n) for n in range(40)) + "\n")
    process = user(tmp_path, "curate", "filter", "raw", "--executor", "inline")
    end = time.monotonic() + 60
    while not list((tmp_path / "out").glob(".units/ingest/*")) and time.monotonic() < end:
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and b"Traceback" not in stderr
    assert b"error: interrupted" in stderr and b"hint:" in stderr
    assert run("curate", "filter", "raw")[0] == 0
    assert run("curate", "verify")[0] == 0


def test_a_narrow_terminal_encoding_still_gets_every_name(raw, tmp_path):
    (raw / "ünï 漢字.jsonl").write_text(chat(1) + "\n")
    narrow = dict(os.environ, PYTHONIOENCODING="ascii")
    plain, stderr = user(tmp_path, "curate", "formats", "raw", env=narrow).communicate(timeout=60)
    assert b"\\u6f22" in plain, stderr
    found, stderr = user(tmp_path, "curate", "formats", "raw", "--json", env=narrow).communicate(timeout=60)
    assert "ünï 漢字.jsonl" in [entry["file"] for entry in json.loads(found)], stderr


def test_a_reader_that_closes_early_is_no_error(raw, tmp_path):
    process = user(tmp_path, "curate", "formats", "raw", "--json")
    process.stdout.close()
    assert process.wait(timeout=60) == 0 and b"Traceback" not in process.stderr.read()
    process.stderr.close()


def test_a_name_that_is_not_utf8_is_skipped_and_said(run, raw, tmp_path):
    (raw / os.fsdecode(b"bad\xff.jsonl")).write_text(chat(99))
    code, shown, _ = run("curate", "formats", "raw", "--json")
    assert code == 0
    (entry,) = [entry for entry in json.loads(shown) if "skipped" in entry]
    assert entry["file"] == "bad\\xff.jsonl" and "not UTF-8" in entry["skipped"]
    assert run("curate", "filter", "raw")[0] == 0
    assert totals(tmp_path / "out")["rows"] == 12


def test_two_columns_of_one_name_are_quarantined_and_no_text_is_lost(run, raw, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [pa.array([text]) for text in ("first", "answer", "second")]
    pq.write_table(pa.Table.from_arrays(columns, names=["prompt", "completion", "prompt"]), raw / "d.parquet")
    assert run("curate", "filter", "raw")[0] == 0
    assert totals(tmp_path / "out")["quarantined"] == 1
    (line,) = [line for path in (tmp_path / "out" / "quarantine").iterdir() for line in path.open()]
    assert all(text in json.loads(line)["raw"] for text in ("first", "answer", "second"))


def test_a_decision_about_no_record_is_said(run, raw, tmp_path):
    (tmp_path / "d.csv").write_text("id,decision,reviewer,why\n" + "0" * 32 + ",drop,me,typo\n")
    code, _, err = run("curate", "filter", "raw", "--decisions", "d.csv")
    assert code == 0 and "1 of 1 decisions match no record" in err


def test_a_named_source_may_lie_inside_raw(run, raw, tmp_path):
    (raw / "p").mkdir()
    (raw / "p" / "p.csv").write_text("prompt,completion\nWhy?,Because it is.\n")
    (tmp_path / "r.yaml").write_text("sources: {puzzles: {path: raw/p, licence: mit}}\n")
    assert run("curate", "filter", "raw", "--recipe", "r.yaml")[0] == 0
    sources = json.loads((tmp_path / "out" / "manifest.json").read_text())["sources"]
    assert sources["puzzles"]["kept"] == 1 and sources["puzzles"]["licence"] == "mit"
    assert totals(tmp_path / "out")["rows"] == 13
