"""Bad input to `pack build`, as a user meets it: a clear line, an exit code, no traceback, and nothing lost."""

import json
import os
import shutil
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from curate.foundation.store import Store, digest_bytes
from curate.record import Message, Record, to_table
from pack import rendering
from pack.gather import removed_table
from pack.shards import ShardManifest
from pack.verify import problems

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
RAISES = "{% if messages[0]['content'] == 'q 3' %}{{ raise_exception('not three') }}{% endif %}" + CHATML
LOOPS = (
    "{% if messages[0]['content'] == 'q 3' %}{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}"
    "{% endfor %}{% endif %}" + CHATML
)
OPEN = "{% for m in messages %}{{ '\n' + m['role'] + ': ' + m['content'] }}{% endfor %}"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a curated out/ of 40 chats, as the current folder."""
    store = Store(tmp_path / "out", "records")
    records = [
        Record("a", "a.jsonl", i, [Message("user", f"q {i}"), Message("assistant", "so " * (i % 7 + 1) + str(i))])
        for i in range(40)
    ]
    with store.writing("records/a.parquet") as temp:
        pq.write_table(to_table(records), temp)
    store.commit({"recipe": {}, "sources": {}, "alarms": [], "config_digest": "c"}, ["records/a.parquet"])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def build(place, root, monkeypatch, capsys):
    """Run `pack build out shards --ctx 128 ...` in this process; returns (exit code, what was said)."""
    from pack.cli import main

    def run(*args, tokenizer=root / "tests/data/bytes_tokenizer", template=None):
        words = ["build", "out", "shards", "--ctx", "128", "--tokenizer", str(tokenizer), "--workers", "1"]
        if template is not None:
            file = place / f"{digest_bytes(template.encode())}.jinja"  # a renderer is loaded once a process and path
            file.write_text(template)
            words += ["--template", str(file)]
        monkeypatch.setattr(sys, "argv", ["pack", *words, "--tokenizer-engine", "hf", *map(str, args)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        return code, said.out + said.err

    return run


def failed(place):
    table = removed_table(place / "shards/removed/template/a.arrow").to_pylist()
    return {row["origin"]["row"]: row["reason"] for row in table}


@pytest.mark.parametrize(
    ("template", "reason"),
    [(RAISES, "template-raised: not three"), (LOOPS, "template-timeout: more than 0.2 s for one conversation")],
)
def test_a_record_whose_template_raises_or_loops_goes_to_removed_with_the_reason(
    place, build, monkeypatch, template, reason
):
    monkeypatch.setattr(rendering, "SECONDS", 0.2)
    code, said = build(template=template)
    assert code == 0, said
    assert failed(place) == {3: reason}
    assert problems(place / "shards")[0] == []


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('never') }}", "template-raised: never"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "template-timeout"),
        ("{% for m in messages %}{{ m.content", "template-syntax"),
        ("{{ messages[0].missing.deeper }}", "template-raised: UndefinedError"),
    ],
)
def test_a_template_that_refuses_every_conversation_is_refused_at_once(place, build, monkeypatch, template, words):
    monkeypatch.setattr(rendering, "SECONDS", 0.2)
    code, said = build(template=template)
    assert (code, words in said, "hint:" in said) == (2, True, True), said
    assert not (place / "shards").exists()


def test_a_template_without_a_terminator_gets_the_tokenizers_eos_trained(place, build):
    code, said = build(template=OPEN)
    assert code == 0, said
    shards = ShardManifest.read(place / "shards")
    reader = shards.open("train")
    row, segment = reader.row(0), reader.segments(0)[0]
    last = segment["start"] + segment["length"] - 1
    assert row["labels"][last] == row["input_ids"][last] == shards.terminators[-1]
    assert shards.facts["sources"]["a"]["stop_added"] == 40


def test_without_terminator_and_eos_no_record_is_left_and_the_error_says_why(place, build, root):
    bare = shutil.copytree(root / "tests/data/bytes_tokenizer", place / "bare")
    config = json.loads((bare / "tokenizer_config.json").read_text())
    config.pop("eos_token")
    (bare / "tokenizer_config.json").write_text(json.dumps(config))
    code, said = build(tokenizer=bare, template=OPEN)
    assert code == 1 and "no-terminator" in said and "hint:" in said, said


def test_a_pad_that_is_the_eos_carries_no_loss_as_pad_and_loss_as_terminator(place, build, root):
    same = shutil.copytree(root / "tests/data/bytes_tokenizer", place / "same")
    config = json.loads((same / "tokenizer_config.json").read_text())
    config["pad_token"] = config["eos_token"]
    (same / "tokenizer_config.json").write_text(json.dumps(config))
    code, said = build(tokenizer=same)
    assert code == 0, said
    shards = ShardManifest.read(place / "shards")
    assert [shards.pad_id] == shards.terminators
    assert problems(place / "shards")[0] == []
    reader = shards.open("train")
    for index in range(len(reader)):
        labels, segments = reader.row(index)["labels"], reader.segments(index)
        ends = [segment["start"] + segment["length"] for segment in segments]
        assert (labels[ends[-1] :] == -100).all()
        assert all(shards.pad_id in labels[end - 2 : end] for end in ends)


def test_a_slow_tokenizer_is_refused_with_the_line_that_converts_it(place, build):
    (place / "slow").mkdir()
    (place / "slow/tokenizer.model").write_bytes(b"sentencepiece")
    (place / "slow/tokenizer_config.json").write_text("{}")
    code, said = build(tokenizer=place / "slow")
    assert code == 2 and "slow" in said and "save_pretrained" in said, said
    assert not (place / "shards").exists()


def test_a_folder_with_nothing_in_it_is_refused_and_nothing_is_written(place, build):
    shutil.rmtree(place / "out")
    (place / "out").mkdir()
    code, said = build()
    assert code in (1, 2) and "out" in said and "hint:" in said, said
    assert not (place / "shards/manifest.json").exists()


def contents(folder):
    """Every file of the shards; not what a run says of itself, and not the card, whose title is the folder's name."""
    names = sorted(path for folders in ("train", "tokenizer") for path in (folder / folders).rglob("*"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in (*names, folder / "manifest.json")}


def test_a_disk_that_fills_half_way_ends_in_exit_3_and_the_next_run_gives_the_same_bytes(place, root):
    import resource

    def run(target, limit=resource.RLIM_INFINITY):
        words = ["build", "out", target, "--ctx", "512", "--workers", "1", "--tokenizer-engine", "hf", "--set"]
        tokenizer = ["eval_fraction=0", "--tokenizer", str(root / "tests/data/bytes_tokenizer")]
        return subprocess.run(
            [sys.executable, "-P", "-m", "pack", *words, *tokenizer],
            env={**os.environ, "PYTHONPATH": str(root)},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY)),
            capture_output=True,
            text=True,
            check=False,
        )

    whole = run("shards")
    assert whole.returncode == 0, whole.stderr
    rows = (place / "shards/train/part-00000.arrow").stat().st_size
    broken = run("again", rows - 1)
    assert broken.returncode == 3, broken.stderr
    assert "Traceback" not in broken.stderr and "hint:" in broken.stderr
    assert not (place / "again/manifest.json").exists()
    assert list((place / "again/.work/tokens").glob("*.tokens"))
    done = run("again")
    assert done.returncode == 0, done.stderr
    assert contents(place / "again") == contents(place / "shards")
