"""Evaluation sets load from what sites have, account for every row, and say plainly what they could not read."""

from __future__ import annotations

import csv
import gzip
import hashlib
import http.server
import io
import json
import os
import threading
import time
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate import evals
from curate.evals import Fields, cache, registry
from curate.foundation.errors import DataError, Offline, UsageError

# Records by data/README.md; MT-Bench and BFCL have several turns a record, each an item of its own.
SHARED = {
    "alpaca_eval/text_davinci_003_outputs": 805,
    "arc/arc_challenge": 1172,
    "arc/arc_easy": 2376,
    "bfcl/BFCL_v4_multi_turn_base": 200,
    "bfcl/BFCL_v4_parallel": 200,
    "bfcl/BFCL_v4_simple_python": 400,
    "gsm8k/test": 1319,
    "gsm8k/test_socratic": 1319,
    "gsm8k/train": 7473,
    "hellaswag/test": 3000,
    "humaneval/HumanEval": 164,
    "ifeval/en_input_data": 541,
    "math/hungarian_exam": 33,
    "math/math500_test": 500,
    "math/test": 5000,
    "mawps/test": 2065,
    "mbpp/mbpp": 974,
    "mbpp/sanitized-mbpp": 427,
    "mmlu/mmlu_test_csv": 14080,
    "mt_bench/question": 80,
    "svamp/SVAMP": 1000,
    "truthfulqa/combined": 817,
    "wizardlm/WizardLM_testset": 218,
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def items(found):
    return found.table.to_pylist()


def one(tmp_path, row, **fields):
    path = lines(tmp_path / "set" / "one.jsonl", [row])
    overrides = {"set/one": Fields(**fields)} if fields else None
    return items(evals.load([str(path)], overrides=overrides))


@pytest.mark.shared
def test_every_eval_file_loads_with_the_count_of_its_readme(shared):
    found = evals.load([str(shared / "data" / "eval")])
    assert {name: facts.rows for name, facts in found.sets.items()} == SHARED
    assert found.bad == ()
    assert len(found.skipped) == 4  # BFCL's answers, and model outputs about GSM8K: each with its reason
    assert all(row["question"].strip() for row in items(found))
    turns = {"bfcl/BFCL_v4_multi_turn_base": 734, "mt_bench/question": 160}
    assert {name: facts.items for name, facts in found.sets.items()} == {**SHARED, **turns}


@pytest.mark.shared
def test_eval_items_are_read_as_a_person_would_read_them(shared):
    root = shared / "data" / "eval"
    names = ("mmlu", "arc", "svamp", "mawps", "humaneval", "bfcl", "mt_bench", "hellaswag")
    found = items(evals.load([str(root / name) for name in names]))
    by = {(row["eval"], row["item"]): row for row in found}
    assert len(by) == len(found)  # an item's name is its own
    mmlu = by["mmlu/mmlu_test_csv", "abstract_algebra_test:0"]
    assert mmlu["question"].startswith("Find the degree for the given field extension")
    assert (mmlu["choices"], mmlu["answer"]) == (["0", "4", "2", "6"], "4")
    assert by["arc/arc_challenge", "arc_challenge:0"]["answer"] == "Planetary days will become shorter."
    assert not by["arc/arc_challenge", "arc_challenge:0"]["question"].startswith("Question:")
    assert by["svamp/SVAMP", "chal-1"]["question"].endswith(
        "on each pack How much do you have to pay to buy each pack?"
    )
    assert by["mawps/test", "0"]["answer"] == "43"
    assert by["humaneval/HumanEval", "HumanEval/0"]["file"] == "humaneval/HumanEval.jsonl.gz"
    assert '"math.factorial"' in by["bfcl/BFCL_v4_simple_python", "simple_python_1"]["answer"]
    assert by["mt_bench/question", "81#2"]["question"].startswith("Rewrite your previous response.")
    assert len(by["hellaswag/test", "test:0"]["choices"]) == 4


@pytest.mark.parametrize(
    ("row", "question", "choices", "answer"),
    [
        (
            {"question": "q", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "B"},
            "q",
            ["x", "y"],
            "y",
        ),
        ({"question": "q", "choices": ["x", "y"], "answer": 1}, "q", ["x", "y"], "y"),
        ({"question": "q", "options": ["x", "y"], "answer": "B"}, "q", ["x", "y"], "y"),
        ({"ctx": "q", "endings": ["x", "y"], "label": "1"}, "q", ["x", "y"], "y"),
        ({"goal": "q", "sol1": "x", "sol2": "y", "label": 1}, "q", ["x", "y"], "y"),
        ({"sentence": "q", "option1": "x", "option2": "y", "answer": "2"}, "q", ["x", "y"], "y"),
        ({"passage": "p", "question": "q", "answer": 7.0}, "p\nq", [], "7"),
        ({"instruction": "i", "input": "", "output": "o"}, "i", [], "o"),
        ({"question": "q", "answer": "no"}, "q", [], "no"),
        ({"question": "q", "choices": ["x"], "answer": 9}, "q", ["x"], None),
    ],
)
def test_published_shapes_are_known(tmp_path, row, question, choices, answer):
    found = one(tmp_path, row)[0]
    assert (found["question"], found["choices"], found["answer"]) == (question, choices, answer)


def test_a_mapping_reads_what_no_guess_could(tmp_path):
    row = {"meta": {"stem": "What is it?"}, "opts": ["x", "y"], "right": "B", "no": 12}
    with pytest.raises(UsageError, match="no question among its columns: meta, opts, right, no"):
        one(tmp_path, row)
    found = one(tmp_path, row, question="meta.stem", choices="opts", answer="right", id="no")[0]
    assert [found[key] for key in ("question", "choices", "answer", "item")] == ["What is it?", ["x", "y"], "y", "12"]


def test_a_csv_without_a_header_takes_its_columns_from_the_mapping(tmp_path):
    path = tmp_path / "quiz" / "a.csv"
    path.parent.mkdir()
    path.write_text('"first, or second?",yes\n"and\nthis?",no\n')
    fields = Fields(question="q", answer="a", columns=("q", "a"))
    found = items(evals.load([str(path)], overrides={"quiz": fields}))
    assert [(row["question"], row["answer"]) for row in found] == [("first, or second?", "yes"), ("and\nthis?", "no")]


def test_members_of_a_zip_are_one_set_and_gz_is_read(tmp_path):
    folder = tmp_path / "mmlu"
    folder.mkdir()
    with zipfile.ZipFile(folder / "all.zip", "w") as archive:
        for subject in ("algebra", "botany"):
            text = io.StringIO()
            csv.writer(text).writerows([[f"{subject} one?", *"wxyz", "C"], [f"{subject} two?", *"wxyz", "A"]])
            archive.writestr(f"test/{subject}_test.csv", text.getvalue())
        archive.writestr("README.md", "not data")
    with gzip.open(folder / "more.jsonl.gz", "wt") as file:
        file.write('{"question": "packed?", "answer": "yes"}\n')
    found = evals.load([str(folder)])
    assert {name: facts.items for name, facts in found.sets.items()} == {"mmlu/all": 4, "mmlu/more": 1}
    named = {row["item"]: row["answer"] for row in items(found)}
    assert named == {
        "algebra_test:0": "y",
        "algebra_test:1": "w",
        "botany_test:0": "y",
        "botany_test:1": "w",
        "more:0": "yes",
    }


def test_pieces_of_a_split_are_one_set(tmp_path):
    folder = tmp_path / "big"
    folder.mkdir()
    for part in range(2):
        pq.write_table(pa.table({"question": [f"part {part}?"]}), folder / f"test-0000{part}-of-00002.parquet")
    found = evals.load([str(folder)])
    assert {name: facts.items for name, facts in found.sets.items()} == {"big/test": 2}
    assert len({row["item"] for row in items(found)}) == 2


def test_bad_rows_are_counted_and_named_never_lost(tmp_path):
    path = tmp_path / "set" / "one.jsonl"
    path.parent.mkdir()
    path.write_text(
        '{"question": "good?"}\n{"question": \n\n{"question": ""}\n[1]\n{"other": 1}\n{"question": "fine?"}\n'
    )
    found = evals.load([str(path)])
    facts = found.sets["set/one"]
    assert (facts.rows, facts.items, facts.bad) == (6, 2, 4)
    assert [bad.row for bad in found.bad] == [1, 3, 4, 5]
    assert "malformed JSON" in found.bad[0].reason
    assert found.bad[1].reason == "an empty question"
    assert [row["row"] for row in items(found)] == [0, 6]


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ("", "mend"),
        ("\n\n", "mend"),
        ("{broken", "mend"),
        ('{"a": 1}\n', "fields.question="),
        ('["q"]', "fields.question="),
    ],
)
def test_a_file_without_any_question_is_an_error_that_says_what_to_do(tmp_path, content, hint):
    path = tmp_path / "set" / "one.jsonl"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(UsageError, match="no question could be read") as caught:
        evals.load([str(path)])
    assert hint in caught.value.hint


def test_a_name_that_is_not_utf8_is_passed_over_and_named(tmp_path):
    path = lines(tmp_path / "set" / "one.jsonl", [{"question": "q?"}])
    try:
        (path.parent / os.fsdecode(b"two\xff.jsonl")).write_text('{"question": "lost?"}')
    except OSError:
        pytest.skip("this file system takes no such name")
    found = evals.load([str(path.parent)])
    assert list(found.sets) == ["set/one"]
    assert found.skipped == (("set/two\\xff.jsonl", "its name is not UTF-8: rename it"),)


def test_what_an_archive_hides_stays_inside_the_caps(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    with zipfile.ZipFile(folder / "one.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../outside.jsonl", '{"question": "q?"}\n')
        archive.writestr("bomb.jsonl", b"0" * (80 << 20))
    found = evals.load([str(folder)])
    assert [bad.reason for bad in found.bad] == ["a member of the zip is larger than the caps allow"]
    assert found.sets["set/one"].items == 1
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["one.zip", "set"]


def test_a_damaged_zip_is_an_error(tmp_path):
    path = tmp_path / "set" / "one.zip"
    path.parent.mkdir()
    path.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(UsageError, match="not a readable zip"):
        evals.load([str(path)])


def test_a_set_is_called_the_same_from_wherever_it_is_given(tmp_path):
    path = lines(tmp_path / "evals" / "gsm8k" / "test.jsonl", [{"question": "q?"}])
    for given in (path, path.parent, path.parent.parent):
        assert list(evals.load([str(given)]).sets) == ["gsm8k/test"]
    assert evals.load([str(path), str(path.parent)]).table.num_rows == 1


def test_sets_of_one_name_are_told_apart_by_their_folders(tmp_path):
    for version in ("v1", "v2"):
        lines(tmp_path / version / "gsm8k" / "test.jsonl", [{"question": f"{version}?"}])
    assert list(evals.load([str(tmp_path)]).sets) == ["v1/gsm8k/test", "v2/gsm8k/test"]


def test_the_digest_does_not_depend_on_the_order_of_rows_files_or_arguments(tmp_path):
    rows = [{"question": f"question {i}?", "answer": str(i)} for i in range(9)]
    for name, order in (("a", rows), ("b", rows[::-1])):
        lines(tmp_path / name / "set" / "one.jsonl", order)
        lines(tmp_path / name / "set" / "two.jsonl", [{"question": "z"}])
    found = [evals.load([str(tmp_path / name / "set" / f"{part}.jsonl") for part in parts]) for name, parts in
             (("a", ("one", "two")), ("b", ("two", "one")))]  # fmt: skip
    assert found[0].digest == found[1].digest
    changed = lines(tmp_path / "c" / "set" / "one.jsonl", [*rows[:-1], {"question": "another?", "answer": "8"}])
    assert evals.load([str(changed)]).sets["set/one"].digest != found[0].sets["set/one"].digest


def test_no_eval_gives_no_set():
    found = evals.load([])
    assert (found.table.num_rows, found.sets) == (0, {})


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(UsageError) as caught:
        evals.load(["humanval"])
    assert caught.value.hint == "did you mean humaneval?"


def test_a_path_that_is_not_there_suggests_the_nearest(tmp_path):
    lines(tmp_path / "gsm8k.jsonl", [{"question": "q?"}])
    with pytest.raises(UsageError) as caught:
        evals.load([str(tmp_path / "gsm8.jsonl")])
    assert caught.value.hint.endswith("gsm8k.jsonl?")


@pytest.mark.parametrize(
    "variables", [{"HF_HUB_OFFLINE": "1"}, {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}]
)
def test_offline_is_said_within_a_second_and_names_the_local_way(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    monkeypatch.delenv("https_proxy", raising=False)
    began = time.monotonic()
    with pytest.raises(Offline) as caught:
        evals.load(["mmlu"])
    assert time.monotonic() - began < 1
    assert "--against path/" in caught.value.hint
    assert "evals fetch mmlu --from" in caught.value.hint


def test_a_local_copy_in_the_cache_is_read_by_its_registry_name(tmp_path):
    from curate.evals.listing import fetched, listed, shown

    assert evals.cached() == []
    path = lines(tmp_path / "copy" / "t.jsonl", [{"question": "q?", "answer": "a #### 1"}, {"answer": "lost"}])
    fetched(["gsm8k"], str(path))
    assert evals.cached() == ["gsm8k"]
    found = evals.load(evals.cached())
    assert [(row["eval"], row["item"], row["question"]) for row in items(found)] == [("gsm8k", "t:0", "q?")]
    facts = found.sets["gsm8k"]
    assert (facts.items, facts.rows, facts.bad, facts.licence) == (1, 2, 1, "mit")
    assert facts.origin == {"path": "copy/t.jsonl"}
    row = next(row for row in listed()[0]["sets"] if row["name"] == "gsm8k")
    assert (row["cached"], row["items"]) == (True, 1)
    assert "1 items of 2 rows (1 bad)" in shown("gsm8k")[1]


def test_a_damaged_copy_in_the_cache_is_an_error_that_names_the_remedy(tmp_path):
    from curate.evals.listing import fetched

    fetched(["gsm8k"], str(lines(tmp_path / "copy" / "t.jsonl", [{"question": "q?"}])))
    path = cache.path_of("gsm8k")
    path.write_bytes(path.read_bytes().replace(b"q?", b"Q!"))
    with pytest.raises(DataError, match="damaged"):
        evals.load(["gsm8k"])
    path.write_bytes(b"nothing")
    with pytest.raises(DataError) as caught:
        evals.load(["gsm8k"])
    assert caught.value.hint == "fetch it again: curate evals fetch gsm8k"


def test_names_and_paths_may_be_joined_by_commas(tmp_path):
    from curate.evals.listing import fetched

    path = lines(tmp_path / "copy" / "t.jsonl", [{"question": "q?"}])
    fetched(["gsm8k"], str(path))
    fetched(["arc-e"], str(path))
    assert list(evals.load([f"gsm8k,arc-e,{path}"]).sets) == ["arc-e", "copy/t", "gsm8k"]


def parquet(rows):
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of a hub as its client asks for when it downloads a dataset's files."""

    commit = "740312add88f781978c0658806c59bc2815b9866"
    files = {"main/test-00000-of-00001.parquet": parquet([{"question": "hub?", "answer": "yes"}]), "README.md": b"#"}  # noqa: RUF012

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body):
        path = self.path.partition("?")[0]
        name = path.rpartition(f"/resolve/{self.commit}/")[2]
        headers = {"X-Repo-Commit": self.commit}
        if path.startswith("/api/datasets/openai/gsm8k"):
            siblings = [{"rfilename": name} for name in self.files]
            told = {"_id": "1", "id": "openai/gsm8k", "sha": self.commit, "siblings": siblings, "private": False}
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": "0" * 40} for name, data in self.files.items()
            ]
            data = json.dumps(tree if "/tree/" in path else told | {"tags": [], "downloads": 0, "likes": 0}).encode()
            headers["Content-Type"] = "application/json"
        elif name in self.files:
            data = self.files[name]
            headers["ETag"] = f'"{hashlib.sha256(data).hexdigest()}"'
        else:
            self.send_error(404)
            return
        self.send_response(200)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *args):
        pass


def test_a_set_comes_from_the_hub_at_its_commit_and_then_from_the_cache(tmp_path):
    """In a process of its own: the hub's client reads its settings when it is imported."""
    import subprocess
    import sys

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    env = {
        **{key: value for key, value in os.environ.items() if "proxy" not in key.lower()},
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "home"),
    }
    command = [sys.executable, "-P", "-m", "curate", "evals", "fetch", "gsm8k", "--json"]
    try:
        run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    finally:
        server.shutdown()
        server.server_close()
    assert run.returncode == 0, run.stderr
    facts = json.loads(run.stdout)["sets"][0]
    assert (facts["items"], facts["origin"]["revision"]) == (1, Hub.commit)
    assert evals.load(["gsm8k"]).table.column("question").to_pylist() == ["hub?"]
    cache.path_of("gsm8k").unlink()  # the client's own cache is enough to make ours again, without a network
    again = subprocess.run(command, env={**env, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["sets"][0]["digest"] == facts["digest"]


def test_half_a_download_is_not_taken_for_a_set():
    from curate.evals.hub import chosen

    subjects = [f"subject{i}/test-00000-of-00001.parquet" for i in range(7)]
    assert len(chosen(registry.SETS["math"], [*subjects, "README.md"])) == 7
    assert chosen(registry.SETS["math"], subjects[:6]) == []
    both = [
        "data/validation-00000-of-00001.parquet",
        "data/test-00000-of-00002.parquet",
        "data/test-00001-of-00002.parquet",
    ]
    assert chosen(registry.SETS["hellaswag"], both) == sorted(both)
    assert chosen(registry.SETS["hellaswag"], both[:2]) == []
    assert chosen(registry.SETS["hellaswag"], both[1:]) == []


def test_every_registry_entry_is_pinned_or_says_that_it_pins_on_the_first_fetch():
    unpinned = {name for name, entry in registry.SETS.items() if entry.revision is None}
    assert unpinned == {"hungarian-exam", "mt-bench"}
    for name, entry in registry.SETS.items():
        assert entry.revision is None or (len(entry.revision) == 40 and int(entry.revision, 16) >= 0), name
        assert "/" in entry.hub
        assert entry.licence


def test_importing_evals_is_light():
    import subprocess
    import sys

    code = "import sys, curate.evals; print([m for m in ('pyarrow', 'numba', 'datasets', 'huggingface_hub') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
