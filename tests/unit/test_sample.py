"""The embedded sample: same seed, same bytes; the truth is true; nothing held out is in the data unless planted."""

import csv
import gzip
import hashlib
import io
import json
import re

import pytest

from curate.sample import EVALS, LEAKED, truth_folder, write_sample
from curate.sample.draw import Draw
from curate.sample.problems import LEVELS, problem, set_of, worked
from curate.sample.scenes import HELD_OUT

ROWS = 3_000


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample") / "raw"
    write_sample(folder, seed=3, rows=ROWS)
    return folder


@pytest.fixture(scope="module")
def truth(raw):
    return json.loads((truth_folder(raw) / "truth.json").read_bytes())


@pytest.fixture(scope="module")
def rows(raw, truth):
    """Every row as written, by file and position; broken lines as text."""
    return {(file, at): row for file in truth["files"] for at, row in enumerate(read(raw / file))}


def read(path):
    import pyarrow.parquet as pq
    import zstandard

    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    if path.suffix == ".zst":
        data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    text = data.decode()
    if path.suffix == ".csv":
        return list(csv.DictReader(io.StringIO(text)))
    if path.suffix == ".json":
        return json.loads(text)
    return [loaded(line) for line in text.splitlines()]


def loaded(line):
    try:
        return json.loads(line)
    except ValueError:
        return line


def said(row):
    """The texts of a row, whatever its schema."""
    for key in ("messages", "conversations"):
        if key in row:
            return tuple(turn.get("content", turn.get("value")) for turn in row[key])
    for asks, answers in (
        ("instruction", "output"),
        ("prompt", "completion"),
        ("question", "answer"),
        ("problem", "solution"),
    ):
        if asks in row:
            return row[asks], row[answers]
    raise AssertionError(row)


def planted(truth, kind):
    return [entry for entry in truth["planted"] if entry["kind"] == kind]


def digests(folder):
    return {
        p.relative_to(folder): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file() and p.suffix != ".md"
    }


def test_same_seed_same_bytes_and_another_seed_others(raw, tmp_path):
    write_sample(tmp_path / "again" / "raw", seed=3, rows=ROWS)
    write_sample(tmp_path / "other" / "raw", seed=4, rows=ROWS)
    assert digests(tmp_path / "again" / "raw") == digests(raw)
    assert digests(truth_folder(tmp_path / "again" / "raw")) == digests(truth_folder(raw))
    other = digests(tmp_path / "other" / "raw")
    assert all(other[name] != digest for name, digest in digests(raw).items())


def test_the_default_corpus_has_thirty_thousand_rows_of_six_schemas_and_four_containers(tmp_path):
    facts = write_sample(tmp_path / "raw")
    assert facts["rows"] >= 30_000
    assert all(facts["by_level"][str(level)] > 5_000 for level in LEVELS)
    names = " ".join(facts["files"])
    assert all(kind in names for kind in (".jsonl", ".json", ".parquet", ".csv", ".gz", ".zst"))
    schemas = set()
    for file in facts["files"]:
        schemas.add(tuple(next(row for row in read(tmp_path / "raw" / file) if isinstance(row, dict))))
    assert len(schemas) == 6


def test_every_row_is_where_the_truth_says_and_nothing_else_is_dirty(rows, truth):
    assert len(rows) == truth["rows"]
    flawed = {(entry["file"], entry["row"]): entry["kind"] for entry in truth["planted"]}
    broken = {place for place, row in rows.items() if isinstance(row, str)}
    assert broken == {place for place, kind in flawed.items() if kind == "broken_json"}
    texts = {place: " ".join(said(row)) for place, row in rows.items() if place not in broken}
    assert {p for p, t in texts.items() if "â€™" in t} == {p for p, kind in flawed.items() if kind == "mojibake"}
    assert {p for p, t in texts.items() if t.endswith("...")} == {p for p, k in flawed.items() if k == "unfinished"}
    assert {p for p, t in texts.items() if len(t) > 5_000} == {p for p, k in flawed.items() if k == "over_long"}


def test_rows_repeat_only_where_planted_and_some_across_schemas(rows, truth):
    doubles = planted(truth, "exact_duplicate")
    copies = {(entry["file"], entry["row"]) for entry in doubles}
    whole = [said(row) for place, row in rows.items() if isinstance(row, dict) and place not in copies]
    assert len(set(whole)) == len(whole)
    for entry in doubles:
        assert said(rows[entry["file"], entry["row"]]) == said(rows[entry["twin"]["file"], entry["twin"]["row"]])
    assert any(entry["file"].split("/")[0] != entry["twin"]["file"].split("/")[0] for entry in doubles)


def test_near_duplicates_share_four_fifths_of_their_word_five_grams(rows, truth):
    def grams(texts):
        words = " ".join(texts).split()
        return {tuple(words[at : at + 5]) for at in range(len(words) - 4)}

    for entry in planted(truth, "near_duplicate"):
        one, other = (said(rows[p["file"], p["row"]]) for p in (entry, entry["twin"]))
        assert one != other
        assert len(grams(one) & grams(other)) / len(grams(one) | grams(other)) >= 0.8


def test_scored_items_are_not_in_the_data_and_leaked_ones_are(raw, rows, truth):
    asked = {said(row)[0] for row in rows.values() if isinstance(row, dict)}
    beside = truth_folder(raw)
    scored = [json.loads(line) for file in EVALS.values() for line in (beside / file).read_text().splitlines()]
    assert len(scored) >= 400
    assert not asked & {item["prompt"] for item in scored}
    leaked = {json.loads(line)["prompt"] for line in (beside / LEAKED).read_text().splitlines()}
    entries = planted(truth, "leaked_pair") + planted(truth, "leaked_template")
    assert entries
    for entry in entries:
        assert said(rows[entry["file"], entry["row"]])[0] in leaked


def test_no_step_in_the_data_uses_a_scored_pair_in_either_order(rows, truth):
    steps = [
        (int(one), int(other))
        for row in rows.values()
        if isinstance(row, dict)
        for text in said(row)
        for one, other in re.findall(r"(\d+)[+-](\d+):", text)
    ]
    assert len(steps) > ROWS / 2
    assert not [step for step in steps if set_of(*step) == "scored"]
    assert all(set_of(one, other) == set_of(other, one) for one, other in steps)


def test_held_out_templates_share_no_sentence_with_the_data(rows):
    asked = " ".join(said(row)[0] for row in rows.values() if isinstance(row, dict))
    shape = re.sub(r"\d+", "N", asked)
    draw = Draw(0, "test")
    for _ in range(50):
        item = problem(draw, 1, HELD_OUT)
        assert re.sub(r"\d+", "N", item.question) not in shape


def test_worked_steps_are_right_column_by_column():
    for first in range(100):
        for second in range(100):
            for sign in "+-" if first >= second else "+":
                text, result = worked(first, second, sign)
                assert result == (first + second if sign == "+" else first - second)
                sums = re.findall(r"(\d+(?:[+-]\d+)+)=(\d+)", text)
                assert len(sums) == 2
                assert all(eval(left) == int(right) for left, right in sums)
                assert text.endswith(f"so {result}.")


def test_levels_keep_their_bounds():
    draw = Draw(1, "test")
    for level, (steps, top) in LEVELS.items():
        for _ in range(200):
            item = problem(draw, level)
            assert len(item.pairs) == steps
            assert all(pair[1] <= top for pair in item.pairs)
            assert item.pairs[0][0] <= top
            assert item.answer >= 0
            assert item.work.endswith(f"#### {item.answer}")
