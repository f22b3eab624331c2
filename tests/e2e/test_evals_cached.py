"""A site without a network: keep a copy once, and every later run compares with it by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

ITEM = "A farmer packs seventeen crates of apples and gives away five of them before noon; how many crates are left?"
ANSWER = "She started the morning with seventeen crates and gave five away, so twelve are left. #### 12"
HOSTILE = "Why does <img src=x onerror=alert(1)> | [this](javascript:1) break the `table` of every third old mill by the river?"


@pytest.fixture
def site(tmp_path):
    def row(prompt):
        return json.dumps({"prompt": prompt, "completion": ANSWER}) + "\n"

    (tmp_path / "raw").mkdir()
    fine = [f"Tell me about the number {i}, its neighbours, and what a miller would do with it." for i in range(9)]
    (tmp_path / "raw" / "web.jsonl").write_text("".join(map(row, [ITEM, HOSTILE, *fine])))
    (tmp_path / "copy").mkdir()
    rows = [
        {"question": ITEM, "answer": ANSWER},
        {"question": HOSTILE, "answer": "no"},
        {"question": "Why?", "answer": "So."},
    ]
    (tmp_path / "copy" / "test.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    return tmp_path


def curate(site, *words):
    env = {**os.environ, "HF_ASSETS_CACHE": str(site / "assets"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-P", "-m", "curate", *map(str, words)]
    return subprocess.run(command, cwd=site, env=env, capture_output=True, text=True, timeout=300)


def test_a_cached_set_is_compared_with_by_default_and_no_answer_reaches_the_card(site):
    first = curate(site, "filter", "raw", "none", "--workers", 1)
    assert first.returncode == 0, first.stderr
    assert "decontamination: OFF" in first.stdout
    assert "> Decontamination: OFF" in (site / "none" / "README.md").read_text()
    assert curate(site, "evals", "fetch", "gsm8k", "--from", "copy/test.jsonl").returncode == 0
    second = curate(site, "filter", "raw", "out", "--workers", 1, "--allow-wipeout")
    assert second.returncode == 0, second.stderr
    assert "decontamination: against 1 eval, 3 items; 2 records removed" in second.stdout
    assert "source web hits 2 of 3 items of gsm8k" in second.stderr
    card = (site / "out" / "README.md").read_text()
    assert "Decontamination: against 1 eval, 3 items; 2 records removed" in card
    assert "⟦" in card
    assert "<img" not in card.replace("\\<", "")
    for name in ("README.md", "card.json", "figures/contamination.svg"):
        text = (site / "out" / name).read_text()
        assert "seventeen crates and gave five away" not in text, name
    told = json.loads((site / "out" / "card.json").read_text())["facts"]["undetectable"]["gsm8k"]
    assert (told["items"], told["origin"]) == (3, {"path": "copy/test.jsonl"})
    status = curate(site, "status", "out")
    assert "decontamination: against 1 eval, 3 items" in status.stdout


def test_an_eval_that_cannot_be_had_stops_the_run_before_it_reads_anything(site):
    run = curate(site, "filter", "raw", "out", "--against", "mmlu")
    assert run.returncode == 3
    assert "curate evals fetch mmlu --from PATH" in run.stderr
    assert not (site / "out" / "manifest.json").exists()
    assert curate(site, "filter", "raw", "out", "--against", "gsm9k").returncode == 2
