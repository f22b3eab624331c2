"""A batch array of slices writes the bytes of one process; what is missing is refused by number."""

import hashlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

WORDS = Path(__file__).read_text().split()


def curate(*words, check=0):
    command = [sys.executable, "-P", "-m", "curate", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == check, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def tree(root):
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != ".events.jsonl"  # the one file that holds the clock
    }


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Seven files; exact and near copies lie in different files, so in different slices."""
    folder = tmp_path_factory.mktemp("slices") / "raw"
    folder.mkdir()
    rng = random.Random(3)
    texts = [" ".join(rng.choices(WORDS, k=80)) for _ in range(40)]
    for number in range(7):
        rows = []
        for text in rng.sample(texts, 25):
            words = text.split()
            if number % 2:
                words[rng.randrange(80)] = f"word{number}"
            rows.append({"instruction": " ".join(words), "input": "", "output": text[:60]})
        (folder / f"part{number}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\nbroken\n")
    return folder


STAGES = ("--only", "length", "--only", "exact", "--only", "minhash")


def test_slices_write_the_bytes_of_one_process(raw, tmp_path):
    alone, out = tmp_path / "a" / "out", tmp_path / "b" / "out"
    curate("filter", raw, alone, *STAGES, "--executor", "inline")
    for step in range(2):
        for part in (2, 0, 1):
            curate("filter", raw, out, *STAGES, "--slice", f"{part}/3")
            assert not (out / "manifest.json").exists()
            if part != 1:
                wrong = curate("merge", out, check=1)
                missing = "0, 1" if part == 2 else "1"
                assert f"slice {missing} of 3 has not {('been read', 'written')[step]}" in wrong.stderr
        curate("merge", out)
    removed = json.loads((out / "manifest.json").read_text())["stages"]
    assert all(stage["removed"] > 10 for stage in removed if stage["name"] in ("exact", "minhash")), removed
    files = tree(out)
    assert files == tree(alone)
    assert not any(name.startswith((".slices", ".work")) for name in files)


def test_a_slice_that_lost_a_file_is_refused_by_number_and_mended_by_running_it_again(raw, tmp_path):
    out = tmp_path / "out"
    for part in range(2):
        curate("filter", raw, out, *STAGES, "--slice", f"{part}/2")
    sketch = out / ".work" / "sketches" / "exact"
    victim = sorted(sketch.rglob("*.arrow"))[1]
    victim.unlink()
    assert "slice 1 of 2 has not been read" in curate("merge", out, check=1).stderr
    curate("filter", raw, out, *STAGES, "--slice", "1/2")
    curate("merge", out)
    shutil.rmtree(out / ".work" / "kept")  # a machine's scratch space was cleaned: apply makes it again
    for part in range(2):
        curate("filter", raw, out, *STAGES, "--slice", f"{part}/2")
    curate("merge", out)
    curate("verify", out)


def test_slices_with_other_settings_or_another_count_are_refused(raw, tmp_path):
    out = tmp_path / "out"
    curate("filter", raw, out, *STAGES, "--slice", "0/2")
    assert "other settings" in curate("filter", raw, out, "--only", "exact", "--slice", "1/2", check=2).stderr
    assert "are 2 in all" in curate("filter", raw, out, *STAGES, "--slice", "1/3", check=2).stderr
    assert "not i/n" in curate("filter", raw, out, *STAGES, "--slice", "3/3", check=2).stderr
    assert "holds no slices" in curate("merge", tmp_path / "none", check=2).stderr


def test_status_tells_of_slices_which_run_and_how_far_each_is(raw, tmp_path):
    out = tmp_path / "out"
    curate("filter", raw, out, *STAGES, "--slice", "0/2")
    told = json.loads(curate("status", out, "--json").stdout)
    assert told["state"] == "in slices, none running" and told["units_read"] == 4
    assert told["slices"] == {"count": 2, "units": 7, "step": "reading", "running": {}}
    log = out / ".slices" / "0" / ".events.jsonl"
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert events[0]["event"] == "started" and events[-1]["event"] == "finished"
    assert sum(entry["event"] == "unit" for entry in events) == 4
    fields = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": "curate filter --slice 0/2",
        "boot": fields[19],
    }
    (log.parent / ".lock").write_text(json.dumps(holder))
    told = json.loads(curate("status", out, "--json").stdout)
    assert told["state"] == "in slices" and told["slices"]["running"]["0"]["holder"]["pid"] == os.getpid()
    assert told["slices"]["running"]["0"]["stages"][0]["done"] == 4
    assert f"slice 0: process {os.getpid()}" in curate("status", out).stdout
    (log.parent / ".lock").unlink()
    curate("filter", raw, out, *STAGES, "--slice", "1/2")
    curate("merge", out)
    told = json.loads(curate("status", out, "--json").stdout)
    assert told["slices"]["step"] == "writing" and [stage["stage"] for stage in told["stages"]], told
    for part in range(2):
        curate("filter", raw, out, *STAGES, "--slice", f"{part}/2")
    curate("merge", out)
    told = json.loads(curate("status", out, "--json").stdout)
    assert told["state"] == "complete" and told["slices"] is None and told["last_event"]["event"] == "finished"


def test_slices_meet_in_a_folder_and_not_in_an_object_store(raw, tmp_path):
    said = curate("filter", raw, "s3://bucket/out", *STAGES, "--slice", "0/2", check=2).stderr
    assert "s3://bucket/out is no shared folder" in said and "hint: " in said
