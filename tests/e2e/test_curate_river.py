"""raw/ -> out/ as a user runs it: the law, any worker count, kill and rerun, restore, explain, verify, mistakes."""

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest


def curate(*words, cwd=None, check=None):
    """Run a command as the user does; returns (exit code, stdout, stderr)."""
    command = [sys.executable, "-P", "-m", "curate", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    if check is not None:
        assert done.returncode == check, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.returncode, done.stdout, done.stderr


def tree(root):
    """Every visible file of a folder and a digest of its bytes."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts)
    }


def chat(user, assistant, **more):
    return {"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}], **more}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A messy folder: four kinds of file, duplicates across schemas, broken lines, an empty answer, mojibake."""
    raw = tmp_path_factory.mktemp("messy") / "raw"
    (raw / "chats" / "deep").mkdir(parents=True)
    (raw / "alpaca").mkdir()
    lines = [json.dumps(chat(f"What is {n} and {n}?", f"It is {2 * n}, as anyone can count.")) for n in range(60)]
    lines[7] = lines[6]
    lines[20] = '{"messages": [{"role": "user", "content": "cut off'
    lines[30] = json.dumps(chat("And this one?", "   "))
    lines[40] = json.dumps(chat("CafÃ© au lait, trÃ¨s bon?", "Oui, le cafÃ© est trÃ¨s bon, dÃ©jÃ\xa0 vu."))
    (raw / "chats" / "deep" / "a.jsonl").write_text("\n".join(lines) + "\n")
    rows = [{"instruction": f"Name river {n}.", "input": "", "output": f"River number {n} is long."} for n in range(40)]
    rows[5] = {"instruction": "What is 3 and 3?", "input": "", "output": "It is 6, as anyone can count."}
    (raw / "alpaca" / "b.json.gz").write_bytes(gzip.compress(json.dumps(rows).encode(), mtime=0))
    (raw / "pairs.csv").write_text('question,answer\n"Why, then?","Because, of course."\nHow?,"Like\nthis, so."\n')
    (raw / "README.md").write_text("not data")
    return raw


@pytest.fixture(scope="module")
def out(raw, tmp_path_factory):
    target = tmp_path_factory.mktemp("out") / "out"
    curate("filter", raw, target, "--workers", 1, check=0)
    return target


def manifest(out):
    return json.loads((out / "manifest.json").read_text())


def test_every_row_is_kept_removed_or_quarantined(raw, out):
    total = manifest(out)["totals"]
    assert total["rows"] == 60 + 40 + 2
    assert total["quarantined"] == 1
    assert total["records"] == total["kept"] + total["removed"] == 101
    rules = {
        rule: n["removed"] for stage in manifest(out)["stages"] for rule, n in stage["rules"].items() if n["removed"]
    }
    assert sum(rules.values()) == total["removed"] == 4, rules
    curate("verify", out, check=0)


def test_the_broken_line_is_in_quarantine_with_its_place(out):
    (entry,) = [json.loads(line) for path in (out / "quarantine").iterdir() for line in path.open()]
    assert (entry["file"], entry["row"]) == ("chats/deep/a.jsonl", 20)
    assert entry["raw"].startswith('{"messages": [{"role": "user", "content": "cut off')
    assert entry["offset"] > 0 and entry["reason"]


def test_a_duplicate_in_another_schema_is_found_and_names_its_twin(out):
    removed = pq.read_table(out / "removed" / "exact").to_pylist()
    assert len(removed) == 2
    kept = {row["id"]: row for row in pq.read_table(out / "records").to_pylist()}
    assert all(row["twin_id"] in kept for row in removed)
    assert all(kept[row["twin_id"]]["messages"] == row["messages"] for row in removed)
    assert len({row["source"] for row in removed} | {kept[row["twin_id"]]["source"] for row in removed}) == 2


@pytest.mark.parametrize("workers", [2, 4])
def test_bytes_do_not_depend_on_the_number_of_workers(raw, out, tmp_path, workers):
    curate("filter", raw, tmp_path / "out", "--workers", workers, check=0)
    assert tree(tmp_path / "out") == tree(out)


def test_a_big_file_is_split_and_gives_the_same_records(raw, out, tmp_path):
    curate("filter", raw, tmp_path / "out", "--set", "read.unit_bytes=1024", "--workers", 2, check=0)
    one = pq.read_table(out / "records").sort_by("id").to_pylist()
    many = pq.read_table(tmp_path / "out" / "records").sort_by("id").to_pylist()
    assert one == many
    assert len(list((tmp_path / "out" / "records").glob("*"))) > len(list((out / "records").glob("*")))
    curate("verify", tmp_path / "out", check=0)


def test_a_second_run_does_nothing_and_changes_nothing(raw, out):
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    bytes_before = tree(out)
    curate("filter", raw, out, "--workers", 1, check=0)
    assert tree(out) == bytes_before
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")} == before


def test_a_changed_file_redoes_only_its_own_unit(raw, tmp_path):
    import shutil

    source, target = tmp_path / "raw", tmp_path / "out"
    shutil.copytree(raw, source)
    curate("filter", source, target, "--workers", 1, check=0)
    before = {path: path.stat().st_mtime_ns for path in (target / "records").iterdir()}
    with (source / "pairs.csv").open("a") as file:
        file.write("When?,Now and then.\n")
    curate("filter", source, target, "--workers", 1, check=0)
    changed = [path.name for path in (target / "records").iterdir() if path.stat().st_mtime_ns != before[path]]
    assert len(changed) == 1 and "pairs" in changed[0]
    curate("filter", source, tmp_path / "fresh" / "out", "--workers", 1, check=0)
    assert tree(target) == tree(tmp_path / "fresh" / "out")


@pytest.mark.parametrize("delay", [0.25, 0.5, 0.8, 1.2])
def test_killed_anywhere_a_rerun_gives_the_same_bytes(raw, out, tmp_path, delay):
    target = tmp_path / "out"
    command = [sys.executable, "-P", "-m", "curate", "filter", str(raw), str(target), "--workers", "2", "--quiet"]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    curate("filter", raw, target, "--workers", 1, check=0)
    assert tree(target) == tree(out)


def test_restore_brings_back_and_later_stages_judge_again(raw, tmp_path):
    target = tmp_path / "out"
    curate("filter", raw, target, "--workers", 1, check=0)
    before = manifest(target)
    rule = next(r for s in before["stages"] if s["name"] == "quality" for r, n in s["rules"].items() if n["removed"])
    name = rule if rule.startswith("quality.") else f"quality.{rule}"
    _, stdout, _ = curate("restore", target, "--rule", name, "--workers", 1, check=0)
    assert stdout.startswith("1 records came back")
    after = manifest(target)
    assert after["totals"]["kept"] == before["totals"]["kept"] + 1
    assert after["totals"]["rows"] == before["totals"]["rows"]
    assert after["restored"] and not list(tmp_path.glob(".out*"))
    curate("verify", target, check=0)
    code, _, stderr = curate("filter", raw, target)
    assert code == 2 and "restore" in stderr


def test_restore_by_id_of_a_duplicate(raw, tmp_path):
    target = tmp_path / "out"
    curate("filter", raw, target, "--workers", 1, check=0)
    victim = pq.read_table(target / "removed" / "exact").to_pylist()[0]
    curate("restore", target, "--id", victim["id"], "--workers", 1, check=0)
    assert victim["id"] in pq.read_table(target / "records").column("id").to_pylist()
    curate("verify", target, check=0)


def test_explain_says_why_and_shows_the_twin(out):
    victim = pq.read_table(out / "removed" / "exact").to_pylist()[0]
    _, stdout, _ = curate("explain", victim["id"][:12], out, check=0)
    assert "REMOVED" in stdout and victim["twin_id"] in stdout and "exact" in stdout
    _, stdout, _ = curate("explain", victim["twin_id"], out, "--json", check=0)
    assert json.loads(stdout)["matches"][0]["state"] == "kept"


def test_verify_names_a_damaged_file(raw, tmp_path):
    target = tmp_path / "out"
    curate("filter", raw, target, "--workers", 1, check=0)
    path = next((target / "removed" / "exact").iterdir())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    code, _, stderr = curate("verify", target)
    assert code == 1 and path.name in stderr


def test_one_stage_on_a_curated_folder(out, tmp_path):
    curate("exact", out, tmp_path / "out2", "--key", "prompt", "--workers", 1, check=0)
    assert manifest(tmp_path / "out2")["totals"]["records"] == manifest(out)["totals"]["kept"]
    curate("length", out, tmp_path / "out3", "--set", "length.min_assistant_chars=20", "--allow-wipeout", check=0)
    assert manifest(tmp_path / "out3")["totals"]["removed"] > 0
    curate("verify", tmp_path / "out3", check=0)


def test_a_wiped_out_source_raises_the_alarm_and_allow_wipeout_clears_it(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "a.jsonl").write_text((json.dumps(chat("Same?", "Yes, the same.")) + "\n") * 10)
    code, stdout, stderr = curate("filter", raw, tmp_path / "out", "--json")
    assert code == 1 and "wipe-out alarm: exact removed 9 of 10" in stderr
    assert json.loads(stdout)["totals"]["removed"] == 9
    assert manifest(tmp_path / "out")["alarms"]
    curate("filter", raw, tmp_path / "out", "--allow-wipeout", check=0)


def test_datasets_loads_the_folder_without_the_removed_rows(out, tmp_path):
    import datasets

    loaded = datasets.load_dataset(str(out), cache_dir=str(tmp_path))
    assert loaded["train"].num_rows == manifest(out)["totals"]["kept"]
    assert loaded["train"].column_names[:2] == ["id", "content"]


MISTAKES = {
    "missing folder": (["filter", "nope", "out"], 2, "nope"),
    "empty folder": (["filter", "empty", "out"], 2, "empty"),
    "unknown key": (["filter", "raw", "out", "--set", "length.min_char=1"], 2, "did you mean"),
    "unknown stage": (["filter", "raw", "out", "--only", "exactly"], 2, "not a stage"),
    "unknown recipe": (["filter", "raw", "out", "--recipe", "nope"], 2, "no such recipe"),
    "out holds something else": (["filter", "raw", "full"], 2, "not empty"),
    "out is a file": (["filter", "raw", "file"], 2, "is a file"),
    "out inside raw": (["filter", "raw", "raw/out"], 2, "inside"),
    "negative workers": (["filter", "raw", "out", "--workers", "-1"], 2, "greater than or equal to 0"),
    "unknown executor": (["filter", "raw", "out", "--executor", "dask"], 2, "not a backend"),
    "verify nothing": (["verify", "nope"], 2, "no such folder"),
    "verify something else": (["verify", "full"], 2, "manifest"),
    "explain nonsense": (["explain", "zzz", "full"], 2, ""),
    "card of nothing": (["card", "full"], 2, "manifest"),
    "status of nothing": (["status", "nope"], 2, "no such folder"),
    "hub offline": (["filter", "hf://nobody/nothing@main", "out"], 3, "hint"),
    "bad decisions file": (["filter", "raw", "out", "--decisions", "nope.csv"], 2, "nope.csv"),
    "wrong type": (["filter", "raw", "out", "--set", "length.min_user_chars=many"], 2, "min_user_chars"),
    "no permission": (["filter", "raw", "/proc/out"], 3, "/proc"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_get_a_message_and_an_exit_code(name, raw, tmp_path):
    words, code, text = MISTAKES[name]
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    (tmp_path / "file").write_text("precious")
    (tmp_path / "raw").symlink_to(raw)
    began = time.monotonic()
    found, _, stderr = curate(*words, cwd=tmp_path)
    assert found == code, stderr
    assert text in stderr
    assert "error:" in stderr.lower() or "usage:" in stderr.lower()
    assert (tmp_path / "full" / "thesis.txt").read_text() == "precious"
    if name == "hub offline":
        assert time.monotonic() - began < 6


def test_dry_run_formats_and_print_config_write_nothing(raw, tmp_path):
    for words in (["filter", raw, "out", "--dry-run"], ["formats", raw], ["filter", raw, "out", "--print-config"]):
        _, stdout, _ = curate(*words, cwd=tmp_path, check=0)
        assert stdout.strip()
    assert list(tmp_path.iterdir()) == []
    _, stdout, _ = curate("formats", raw, "--json", check=0)
    entries = {Path(entry["file"]).name: entry for entry in json.loads(stdout)}
    assert entries["a.jsonl"]["rows"] == 60 and entries["a.jsonl"]["quarantined"] == 1
    assert "skipped" in entries["README.md"]
