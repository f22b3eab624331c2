"""`pack` as a user types it: build, show, explain, verify, stats, and every mistake we can think of."""

import json
import os
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from curate.foundation.store import Store
from curate.record import Message, Record, to_table


def write_out(folder, records, **facts):
    store = Store(folder, "records")
    with store.writing("records/sums.parquet") as temp:
        pq.write_table(to_table(records), temp)
    store.commit({"recipe": {}, "sources": {}, "alarms": [], "config_digest": "c", **facts}, ["records/sums.parquet"])


def sums(count):
    return [
        Record("sums", "f.jsonl", i, [Message("user", f"{i} + 1?"), Message("assistant", f"{i + 1}")])
        for i in range(count)
    ]


@pytest.fixture
def pack(monkeypatch, capsys):
    """Run `pack ARGS` in this process; returns (exit code, stdout, stderr)."""
    from pack.cli import main

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["pack", *map(str, args)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture(scope="module")
def river(tmp_path_factory, root):
    """A folder with out/ and built shards/, as `pack build --ctx 128` leaves it."""
    folder = tmp_path_factory.mktemp("river")
    tokenizer = root / "tests/data/bytes_tokenizer"
    write_out(folder / "out", sums(40), recipe={"pack": {"tokenizer": str(tokenizer)}, "train": {"lr": 0.5}})
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pack", "build", "--ctx", "128", "--workers", "1", "--tokenizer-engine", "hf"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return folder


@pytest.fixture
def inside(river, monkeypatch):
    monkeypatch.chdir(river)
    return river


def test_build_with_nothing_but_ctx_reads_out_writes_shards_and_inherits_the_recipe(inside):
    manifest = json.loads((inside / "shards/manifest.json").read_text())
    assert manifest["ctx"] == 128
    assert manifest["recipe"]["train"] == {"lr": 0.5}
    assert manifest["tokenizer"]["name"] == "bytes_tokenizer"
    assert manifest["embedded_tokenizer"] is False
    assert (inside / "shards/README.md").is_file()
    assert (inside / "shards/card.json").is_file()


def test_verify_says_what_it_checked(inside, pack):
    code, out, _ = pack("verify", "--json")
    assert code == 0
    assert json.loads(out)["ok"] is True


def test_verify_fails_with_exit_1_and_names_the_file(inside, pack, tmp_path):
    import shutil

    shutil.copytree(inside / "shards", tmp_path / "shards")
    part = tmp_path / "shards/train/part-00000.arrow"
    part.write_bytes(part.read_bytes()[:-3])
    code, _, err = pack("verify", tmp_path / "shards")
    assert code == 1
    assert "train/part-00000.arrow" in err
    assert "hint:" in err


def test_verify_notices_a_card_that_was_edited(inside, pack, tmp_path):
    import shutil

    shutil.copytree(inside / "shards", tmp_path / "shards")
    card = tmp_path / "shards/README.md"
    card.write_text(card.read_text() + "\nbetter than it is\n")
    code, _, err = pack("verify", tmp_path / "shards")
    assert code == 1
    assert "README.md: not what the manifest renders to" in err


def test_show_marks_segments_and_trained_text_without_a_terminal(inside, pack):
    code, out, _ = pack("show", "shards", "--row", "0")
    assert code == 0
    assert "── segment 0  " in out
    assert "«" in out
    assert "<|im_end|>»" in out
    assert "\x1b" not in out
    assert out.count("── segment ") == json.loads(pack("show", "--row", "0", "--json")[1])["segments"].__len__()


def test_show_finds_the_row_of_a_record_and_explain_follows_it(inside, pack):
    shown = json.loads(pack("show", "--row", "1", "--json")[1])
    segment = shown["segments"][-1]
    again = json.loads(pack("show", "--id", segment["id"], "--json")[1])
    assert (again["split"], again["row"]) == ("train", 1)
    code, out, _ = pack("explain", segment["id"], "--json")
    assert code == 0
    placed = json.loads(out)["placed"]
    assert [(p["row"], p["start"], p["length"]) for p in placed] == [(1, segment["start"], segment["length"])]


def test_explain_gives_the_reason_a_record_is_not_packed(root, pack, tmp_path):
    long = Record("sums", "f.jsonl", 99, [Message("user", "x" * 500), Message("assistant", "y")])
    write_out(tmp_path / "out", [*sums(10), long])
    tokenizer = root / "tests/data/bytes_tokenizer"
    args = (
        "--ctx",
        128,
        "--tokenizer",
        tokenizer,
        "--eval-fraction",
        0,
        "--workers",
        1,
        "--quiet",
        "--tokenizer-engine",
        "hf",
    )
    assert pack("build", tmp_path / "out", tmp_path / "shards", *args)[0] == 0
    code, out, _ = pack("explain", long.id, tmp_path / "shards")
    assert code == 0
    assert "not packed (overlong)" in out
    assert "ctx 128" in out
    code, _, err = pack("show", tmp_path / "shards", "--id", long.id)
    assert code == 2
    assert "overlong" in err


def test_a_prompt_format_means_a_line_break_when_it_says_backslash_n(inside, pack, tmp_path):
    args = (
        "--prompt-format",
        r"Q: {prompt}\nA: ",
        "--ctx",
        128,
        "--workers",
        1,
        "--eval-fraction",
        0,
        "--tokenizer-engine",
        "hf",
    )
    assert pack("build", "out", tmp_path / "shards", *args)[0] == 0
    shown = json.loads(pack("show", tmp_path / "shards", "--row", "0", "--json")[1])
    for segment in shown["segments"]:
        asked, answered = segment["text"]
        assert asked["text"].startswith("Q: ")
        assert asked["text"].endswith("?\nA: ")
        assert (asked["trained"], answered["trained"]) == (False, True)
        assert answered["text"].endswith("<|im_end|>")


def test_with_no_tokenizer_named_the_embedded_one_is_used_and_every_place_says_so(pack, tmp_path):
    write_out(tmp_path / "out", sums(20))
    shards = tmp_path / "shards"
    code, out, err = pack("build", tmp_path / "out", shards, "--ctx", "256", "--workers", "1")
    assert code == 0
    assert err.splitlines()[0].startswith("EMBEDDED TOKENIZER")
    assert out.splitlines()[0].startswith("EMBEDDED TOKENIZER")
    assert json.loads((shards / "manifest.json").read_text())["embedded_tokenizer"] is True
    assert "embedded" in (shards / "README.md").read_text().split("At a glance")[0]


def test_stats_come_from_the_manifest(inside, pack):
    data = json.loads(pack("stats", "--json")[1])
    assert data["totals"]["records"] == 40
    assert "sums" in pack("stats")[1]


def test_stdout_is_one_json_value_and_talk_goes_to_stderr(inside, pack):
    code, out, _err = pack("build", "--ctx", "128", "--tokenizer-engine", "hf", "--json")
    assert code == 0
    assert json.loads(out)["totals"]["records"] == 40


def test_a_dry_run_writes_nothing(inside, pack, tmp_path):
    code, out, _ = pack("build", "out", tmp_path / "shards", "--ctx", "128", "--dry-run", "--json")
    assert code == 0
    assert json.loads(out)["records"] == 40
    assert not (tmp_path / "shards").exists()


def test_print_config_shows_the_origin_of_each_value(inside, pack):
    lines = pack("build", "--ctx", "128", "--set", "seed=5", "--print-config")[1].splitlines()
    assert "pack.ctx: 128  (flag)" in lines
    assert "pack.seed: 5  (--set)" in lines
    assert any(line.startswith("pack.tokenizer: ") and line.endswith("(inherited)") for line in lines)
    assert "pack.algorithm: bfd  (default)" in lines


MISTAKES = {
    "missing out": (("build", "nowhere"), 2, "nowhere: no such folder"),
    "out is a file": (("build", "file.txt"), 2, "no such folder"),
    "empty out": (("build", "empty"), 2, "holds no manifest"),
    "out of another kind": (("build", "shards"), 2, "holds shards, not records"),
    "ctx 0": (("build", "--ctx", "0"), 2, "pack.ctx"),
    "ctx 1": (("build", "--ctx", "1"), 2, "pack.ctx"),
    "ctx smaller than every record": (("build", "out", "s8", "--ctx", "8"), 1, "smaller than every record"),
    "unknown key": (("build", "--set", "contex=5"), 2, "unknown key"),
    "unknown algorithm": (("build", "--algorithm", "magic"), 2, "pack.algorithm"),
    "unknown overlong": (("build", "--overlong", "hide"), 2, "pack.overlong"),
    "eval fraction 1": (("build", "--eval-fraction", "1"), 2, "pack.eval_fraction"),
    "missing tokenizer": (("build", "out", "s9", "--tokenizer", "./nothing"), 2, "tokenizer"),
    "tokenizer without a template": (("build", "out", "s9", "--tokenizer", "bare"), 2, "template"),
    "shards not empty": (("build", "out", "notes"), 2, "not made by pack"),
    "shards is a file": (("build", "out", "file.txt"), 2, "is a file"),
    "shards of another kind": (("build", "out", "out"), 2, "holds records, not shards"),
    "unknown executor": (("build", "out", "s9", "--executor", "magic"), 2, "not a backend"),
    "missing shards": (("verify", "nowhere"), 2, "no such folder"),
    "show without a row": (("show", "shards"), 2, "name one row"),
    "show a row that is not there": (("show", "shards", "--row", "9999"), 2, "no such row"),
    "show a split that is not there": (("show", "--row", "0", "--split", "test"), 2, "no such split"),
    "explain an unknown id": (("explain", "nobody"), 2, "not in shards"),
    "recipe that is not there": (("build", "--recipe", "nope.yaml"), 2, "no such recipe"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_in_one_line_a_hint_and_its_exit_code(inside, root, pack, mistake):
    (inside / "file.txt").write_text("x")
    (inside / "empty").mkdir(exist_ok=True)
    (inside / "notes").mkdir(exist_ok=True)
    (inside / "notes/mine.txt").write_text("keep")
    (inside / "bare").mkdir(exist_ok=True)
    source = root / "tests/data/bytes_tokenizer/tokenizer.json"
    (inside / "bare/tokenizer.json").write_bytes(source.read_bytes())
    args, wanted, said = MISTAKES[mistake]
    code, out, err = pack(*args)
    assert code == wanted, err
    assert said in err
    assert "Traceback" not in err + out


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_exit_3(inside, pack, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    code, _, err = pack("build", "out", tmp_path / "locked/shards")
    assert code == 3
    assert "permission" in err.lower()


def test_a_full_disk_is_exit_3_and_the_next_run_ends_as_if_nothing_had_happened(inside, root, tmp_path):
    import resource

    def limited(size):
        args = [sys.executable, "-P", "-m", "pack", "build", "out", str(tmp_path / "shards"), "--ctx", "4096"]
        return subprocess.run(
            [*args, "--workers", "1", "--set", "eval_fraction=0", "--tokenizer-engine", "hf"],
            env={**os.environ, "PYTHONPATH": str(root)},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY)),
            capture_output=True,
            text=True,
            check=False,
        )

    failed = limited(8_000)  # the tokens of 40 records fit, a packed row does not
    assert failed.returncode == 3, failed.stderr
    assert "Traceback" not in failed.stderr
    assert "hint:" in failed.stderr
    assert not (tmp_path / "shards/manifest.json").exists()
    assert list((tmp_path / "shards/.work/tokens").glob("*.tokens"))
    done = limited(resource.RLIM_INFINITY)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "shards/manifest.json").read_text())["totals"]["packed"] == 40


def test_help_is_light():
    heavy = ("torch", "transformers", "polars", "numba", "pyarrow", "tokenizers", "datasets")
    probe = f"import sys, pack.cli; print([name for name in {heavy!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout == "[]\n"
