"""Events of a run: written as it goes, read from another process, outside everything that is compared."""

import json
import subprocess
import sys
from datetime import datetime, timedelta

import pytest

from curate.foundation import events
from curate.foundation.console import Console
from curate.foundation.errors import DataError


def lines(folder):
    return [json.loads(line) for line in (folder / events.EVENTS).read_text().splitlines()]


def test_stages_units_and_warnings_are_told_in_order(tmp_path):
    console = Console(quiet=True)
    with console.events.recording(tmp_path, "curate filter"):
        with console.progress("reading", 2) as advance:
            for number in (1, 2):
                advance(1)
                console.events.unit("reading", f"u{number}", number, 2, 0.5, {"rows": 10, "file": "a", "ok": True})
        console.warn("look")
    found = lines(tmp_path)
    assert [entry["event"] for entry in found] == [
        "started",
        "stage",
        "unit",
        "unit",
        "stage finished",
        "warning",
        "finished",
    ]
    assert found[2] | {"counts": {"rows": 10}, "done": 1, "of": 2, "seconds": 0.5, "name": "u1"} == found[2]
    (stage,) = events.stages(events.last_run(tmp_path))
    assert stage["stage"] == "reading" and stage["done"] == stage["of"] == 2 and stage["finished"]


def test_a_mistake_before_the_first_stage_leaves_no_file_and_a_later_one_is_told(tmp_path):
    console = Console(quiet=True)
    with pytest.raises(DataError), console.events.recording(tmp_path, "x"):
        raise DataError("no")
    assert not (tmp_path / events.EVENTS).exists()
    with pytest.raises(DataError), console.events.recording(tmp_path, "x"), console.progress("reading", 2):
        raise DataError("no")
    assert lines(tmp_path)[-1]["event"] == "stopped" and lines(tmp_path)[-1]["exit_code"] == 1


def test_a_torn_line_and_foreign_ones_are_passed_over(tmp_path):
    began = datetime.fromisoformat("2026-01-01T00:00:00+00:00")
    entries = [
        {"event": "started"},
        {"event": "stage", "stage": "s", "of": 10},
        {"event": "unit", "stage": "s", "done": 4},
    ]
    text = [
        json.dumps({"time": (began + timedelta(seconds=n)).isoformat(), **entry}) for n, entry in enumerate(entries)
    ]
    (tmp_path / events.EVENTS).write_text("\n".join(["[]", "\x00", *text, '{"time": "2026', '{"event": "unit"']))
    (stage,) = events.stages(events.last_run(tmp_path), began + timedelta(seconds=5))
    assert (stage["done"], stage["rate"], stage["left"], stage["finished"]) == (4, 1.0, 6, False)


def test_a_log_that_cannot_be_written_stops_no_run(tmp_path):
    (tmp_path / events.EVENTS).mkdir()
    console = Console(quiet=True)
    with console.events.recording(tmp_path, "x"), console.progress("reading", 1) as advance:
        advance(1)
    assert events.last_run(tmp_path) == []


def test_status_tells_the_stages_of_a_run_and_the_manifest_does_not_name_the_log(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.jsonl").write_text('{"prompt": "Why is it so?", "completion": "Because it is."}\n')

    def curate(*words):
        command = [sys.executable, "-P", "-m", "curate", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True).stdout

    curate("filter", "raw", "--executor", "inline")
    told = json.loads(curate("status", "--json"))
    assert told["stages"][0]["stage"] == "reading and judging"
    assert all(stage["finished"] for stage in told["stages"]) and told["last_event"]["event"] == "finished"
    assert "1 of 1" in curate("status")
    assert events.EVENTS not in json.loads((tmp_path / "out" / "manifest.json").read_text())["files"]
    (tmp_path / "out" / events.EVENTS).unlink()
    assert json.loads(curate("status", "--json"))["state"] == "complete"
    curate("verify")
