"""Mixtures and ordered stages through `pack build`, on small curated folders, with a tokenizer of 256 bytes."""

import json
import random

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from curate.config import resolve
from curate.foundation.console import Console
from curate.foundation.errors import DataError, UsageError
from curate.foundation.executor import Inline, Processes
from curate.foundation.store import Store
from curate.record import Message, Record, to_table
from pack.build import Build, build, open_records
from pack.config import PackConfig
from pack.gather import removed_table
from pack.shards import ShardManifest
from pack.verify import problems

STAGES = [
    {
        "name": "short",
        "ctx": 256,
        "mixture": {"camel": {"weight": 60}, "hermes": {"weight": 40}, "*": 0},
        "total": "20k",
        "lengths": {"high": 256},
    },
    {
        "name": "long",
        "ctx": 512,
        "mixture": {"camel": {"weight": 60}, "hermes": {"weight": 40}, "mu": 2},
        "total": "40k",
        "lengths": {"long": {"over": 256, "share": 0.4}},
    },
]
MIX = {
    "mixture": {"mu": 3, "camel": {"fill_to": {"times": 4, "of": "mu"}}, "hermes": {"budget": {"trained": 5_000}}},
    "ctx": 256,
}


@pytest.fixture(scope="module")
def tokenizer(root):
    return root / "tests/data/bytes_tokenizer"


def records():
    """Three sources whose lengths, scores and topics vary; camel and hermes hold documents over 256 tokens."""
    rng, out = random.Random(0), []
    for source, count, most in (("mu", 40, 30), ("camel", 120, 90), ("hermes", 160, 90)):
        for row in range(count):
            text = " ".join(rng.choice(["one", "two", "three"]) for _ in range(rng.randint(1, most)))
            messages = [Message("user", f"{source} {row}?"), Message("assistant", text)]
            extra = json.dumps({"topic": f"t{row % 7}"}) if source != "mu" else None
            out.append(Record(source, f"{source}.jsonl", row, messages, score=rng.random(), extra=extra))
    return out


def curated(folder, files):
    store = Store(folder, "records")
    for name, rows in files.items():
        with store.writing(f"records/{name}.parquet") as temp:
            pq.write_table(to_table(rows), temp)
    facts = {"recipe": {}, "sources": {}, "alarms": [], "config_digest": "c"}
    store.commit(facts, [f"records/{name}.parquet" for name in files])
    return folder


def pack(out, shards, tokenizer, settings, executor=None):
    flags = {"tokenizer": str(tokenizer), "tokenizer_engine": "hf", "eval_fraction": 0.05, **settings}
    manifest = open_records(out)
    resolved = resolve("pack", PackConfig, sets=[f"{key}={yaml.safe_dump(flags[key])}" for key in flags])
    return build(Build(out, shards, manifest, resolved), executor or Inline(), Console(quiet=True))


def contents(shards, *folders):
    return {
        path.relative_to(shards).as_posix(): path.read_bytes()
        for name in folders or ("short", "long", "train", "eval", "removed", "tokenizer")
        for path in sorted((shards / name).rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    files = {}
    for record in records():
        files.setdefault(record.source, []).append(record)
    return curated(tmp_path_factory.mktemp("curriculum") / "out", files)


@pytest.fixture(scope="module")
def staged(out, tokenizer):
    shards = out.parent / "staged"
    return shards, pack(out, shards, tokenizer, {"stages": STAGES})


@pytest.fixture(scope="module")
def mixed(out, tokenizer):
    shards = out.parent / "mixed"
    return shards, pack(out, shards, tokenizer, MIX)


def test_a_curriculum_has_one_folder_a_stage_and_the_manifest_says_their_order_and_facts(staged):
    shards, manifest = staged
    assert problems(shards)[0] == []
    opened = ShardManifest.read(shards)
    assert opened.splits == ["short", "long", "eval"]
    assert not (shards / "train").exists()
    assert [(stage["name"], stage["ctx"]) for stage in opened.stages] == [("short", 256), ("long", 512)]
    assert opened.ctx == opened.split_ctx("eval") == 512
    for stage in opened.stages:
        reader = opened.open(stage["split"])
        assert len(reader) == stage["rows"] > 0
        lengths = [s["length"] for row in range(len(reader)) for s in reader.segments(row)]
        assert all(len(reader.row(row)["input_ids"]) == stage["ctx"] for row in range(len(reader)))
        assert sum(lengths) == stage["tokens"] == sum(entry["tokens"] for entry in stage["sources"].values())
        assert len(lengths) == stage["documents"]
        assert sum(stage["trained"] for stage in manifest["stages"]) == manifest["totals"]["trained"]


def test_each_stage_is_its_own_mixture_and_length_bucket(staged):
    short, long = staged[1]["stages"]
    camel, hermes = (short["sources"][name]["tokens"] for name in ("camel", "hermes"))
    assert camel / (camel + hermes) == pytest.approx(0.6, abs=0.01)
    assert short["tokens"] == pytest.approx(20_000, rel=0.01)
    assert short["sources"]["mu"]["documents"] == 0
    assert long["sources"]["mu"]["epochs"] == 2
    assert long["tokens"] == pytest.approx(40_000, rel=0.015)
    opened = ShardManifest.read(staged[0])
    found = {name: _lengths(opened.open(name)) for name in ("short", "long")}
    assert max(found["short"]) <= 256
    assert sum(n for n in found["long"] if n > 256) / sum(found["long"]) == pytest.approx(0.4, abs=0.015)


def _lengths(reader):
    return [segment["length"] for row in range(len(reader)) for segment in reader.segments(row)]


def test_a_later_stage_draws_first_what_no_stage_has_drawn(out, tokenizer, tmp_path):
    shards, half = tmp_path / "shards", {"ctx": 1024, "mixture": {"hermes": 0.5, "*": 0}}
    pack(out, shards, tokenizer, {"stages": [{"name": name, **half} for name in "abc"], "eval_fraction": 0})
    opened = ShardManifest.read(shards)
    a, b, c = ({s["id"] for row in range(opened.rows(n)) for s in opened.open(n).segments(row)} for n in "abc")
    assert not a & b
    assert a | b == {record.id for record in records() if record.source == "hermes"}
    assert len(c) == 80


def test_no_document_meets_its_repeat_in_a_row_and_repeats_are_spread_over_the_file(out, tokenizer, tmp_path):
    shards = tmp_path / "shards"
    pack(out, shards, tokenizer, {"epochs": {"mu": 6, "camel": 2.5, "hermes": 0.5}, "ctx": 512, "eval_fraction": 0})
    reader = ShardManifest.read(shards).open("train")
    places = {}
    for row in range(len(reader)):
        segments = reader.segments(row)
        assert len({s["id"] for s in segments}) == len(segments)
        for segment in segments:
            places.setdefault((segment["source"], segment["id"]), []).append((segment["epoch"], row))
    for (source, _), found in places.items():
        assert [epoch for epoch, _ in sorted(found)] == list(range(len(found)))
        assert [row for _, row in sorted(found)] == sorted(row for _, row in found)  # epochs come in order
        if source == "mu":
            sixths = [6 * row // len(reader) for _, row in sorted(found)]
            assert all(abs(sixth - epoch) <= 1 for epoch, sixth in enumerate(sixths))


def test_length_and_source_do_not_follow_position(out, tokenizer, tmp_path):
    shards = tmp_path / "shards"
    pack(out, shards, tokenizer, {"epochs": {"mu": 8, "camel": 4, "hermes": 4}, "ctx": 512, "eval_fraction": 0})
    reader = ShardManifest.read(shards).open("train")
    rows = [reader.segments(row) for row in range(len(reader))]
    mean = [np.mean([s["length"] for s in row]) for row in rows]
    share = [np.mean([s["source"] == "camel" for s in row]) for row in rows]
    for values in (mean, share):
        assert abs(np.corrcoef(values, np.arange(len(rows)))[0, 1]) < 3 / np.sqrt(len(rows))


def test_what_is_not_drawn_is_counted_and_kept_with_its_reason(staged):
    shards, manifest = staged
    gone = {}
    for path in (shards / "removed/notdrawn").glob("*.arrow"):
        for row in removed_table(path).to_pylist():
            gone.setdefault(row["source"], []).append(row["reason"])
    for name, entry in manifest["sources"].items():
        assert len(gone.get(name, [])) == entry["not_drawn"]
    assert set(gone["camel"]) == {"not drawn: the amount of its source"}


def test_derived_epochs_are_in_the_manifest_and_in_the_report(mixed):
    from pack.show import report

    shards, manifest = mixed
    assert problems(shards)[0] == []
    mu, camel, hermes = (manifest["sources"][name] for name in ("mu", "camel", "hermes"))
    assert mu["epochs"] == 3
    assert (mu["tokens"] + camel["tokens"] + hermes["tokens"]) / mu["tokens"] == pytest.approx(4, rel=0.02)
    assert hermes["trained"] == pytest.approx(5_000, rel=0.03)
    assert f"{camel['epochs']:g}" in report(manifest)


@pytest.mark.parametrize(("kind", "workers"), [("staged", 4), ("mixed", 2)])
def test_any_number_of_workers_writes_the_same_bytes(request, out, tokenizer, tmp_path, kind, workers):
    shards, manifest = request.getfixturevalue(kind)
    settings = {"stages": STAGES} if kind == "staged" else MIX
    again = pack(out, tmp_path / "again", tokenizer, settings, Processes(workers))
    assert contents(tmp_path / "again") == contents(shards)
    assert again["digest"] == manifest["digest"]


@pytest.mark.parametrize("kind", ["staged", "mixed"])
def test_the_order_and_grouping_of_the_files_do_not_reach_the_rows(request, tokenizer, tmp_path, kind):
    shards, _ = request.getfixturevalue(kind)
    rows = records()
    random.Random(7).shuffle(rows)
    out = curated(tmp_path / "out", {"z": rows[:100], "b": rows[100:130], "c": rows[130:]})
    pack(out, tmp_path / "again", tokenizer, {"stages": STAGES} if kind == "staged" else MIX)
    splits = ("short", "long", "train", "eval")
    assert contents(tmp_path / "again", *splits) == contents(shards, *splits)


class Dies:
    """An executor whose run ends after so many tasks, as a killed process would."""

    workers = 1

    def __init__(self, after):
        self.left = after

    def map(self, task, items, *, name=str):
        for item in items:
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            yield task(item)


@pytest.mark.parametrize("kind", ["staged", "mixed"])
@pytest.mark.parametrize("after", [2, 3, 4, 5])
def test_a_killed_build_ends_the_same(request, out, tokenizer, tmp_path, kind, after):
    shards, manifest = request.getfixturevalue(kind)
    settings, again = {"stages": STAGES} if kind == "staged" else MIX, tmp_path / "again"
    with pytest.raises(KeyboardInterrupt):
        pack(out, again, tokenizer, settings, Dies(after))
    assert not (again / "manifest.json").exists()
    assert pack(out, again, tokenizer, settings)["digest"] == manifest["digest"]
    assert contents(again) == contents(shards)


def test_a_build_with_other_stages_leaves_nothing_of_the_first(out, tokenizer, tmp_path):
    shards = tmp_path / "shards"
    pack(out, shards, tokenizer, {"stages": STAGES})
    with pytest.raises(KeyboardInterrupt):  # no manifest says what the killed build wrote
        pack(out, shards, tokenizer, {"stages": [{"name": "other"}], "ctx": 512}, Dies(4))
    assert (shards / "other").exists()
    pack(out, shards, tokenizer, {"ctx": 512})
    assert sorted(path.parent.name for path in shards.glob("*/*.arrow")) == ["eval", "train"]
    assert problems(shards)[0] == []


def test_quality_clusters_and_sources_choose_the_records_and_nest(out, tokenizer, tmp_path):
    by_id = {record.id: record for record in records()}

    def ids(name, **settings):
        shards = tmp_path / name
        pack(out, shards, tokenizer, {"ctx": 1024, "eval_fraction": 0, **settings})
        reader = ShardManifest.read(shards).open("train")
        return {s["id"] for row in range(len(reader)) for s in reader.segments(row)}

    best = ids("best", mixture={"camel": {"quality": {"low": 0.75}}, "*": 0})
    camel = sorted((r for r in by_id.values() if r.source == "camel"), key=lambda r: r.score)
    assert best == {r.id for r in camel[90:]}
    few, more = (
        ids(f"clusters{count}", mixture={"camel": {"clusters": {"by": "topic", "count": count}}, "*": 0})
        for count in (2, 4)
    )
    assert few < more
    assert len({by_id[ident].extra for ident in more}) == 4
    one, two = (ids(f"sources{count}", source_count=count) for count in (1, 2))
    assert one < two
    assert [len({by_id[ident].source for ident in found}) for found in (one, two)] == [1, 2]


def test_size_quality_and_diversity_are_separate_dials_at_equal_trained_tokens(out, tokenizer, tmp_path):
    dials = {
        "low": {"mixture": {"*": {"quality": {"high": 0.5}}}},
        "high": {"mixture": {"*": {"quality": {"low": 0.5}}}},
        "narrow": {"source_count": 1},
        "wide": {"source_count": 3},
    }
    for name, dial in dials.items():
        manifest = pack(out, tmp_path / name, tokenizer, {"ctx": 1024, "total": {"trained": 6_000}, **dial})
        assert manifest["totals"]["trained"] == pytest.approx(6_000, rel=0.06)
        assert sum(entry["documents"] > 0 for entry in manifest["sources"].values()) == (1 if name == "narrow" else 3)


REFUSED = {
    "no topic": ({"mixture": {"mu": {"clusters": {"by": "topic", "count": 1}}}}, "it has 0"),
    "too many sources": ({"source_count": 9}, "there are 3"),
    "two of a name": ({"stages": [{"name": "a"}, {"name": "a"}]}, "one name"),
    "reserved": ({"stages": [{"name": "eval"}]}, "may not be called"),
    "a path": ({"stages": [{"name": "../a"}]}, "pattern"),
    "both": ({"stages": [{"name": "a"}], "epochs": {"mu": 2}}, "each stage says its own"),
    "unknown key": ({"stages": [{"name": "a", "context": 3}]}, "unknown key"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_drawn_is_refused(out, tokenizer, tmp_path, name):
    settings, message = REFUSED[name]
    with pytest.raises(UsageError, match=message):
        pack(out, tmp_path / "shards", tokenizer, {"ctx": 512, **settings})


def test_a_share_of_long_documents_that_is_not_there_says_what_is(out, tokenizer, tmp_path):
    settings = {"ctx": 512, "mixture": {"mu": 1, "*": 0}, "lengths": {"long": {"over": 256, "share": 0.4}}}
    with pytest.raises(DataError, match=r"this mixture gives 0\.0 to 0\.0 %"):
        pack(out, tmp_path / "shards", tokenizer, settings)


def test_quality_without_scores_names_the_setting(tokenizer, tmp_path):
    out = curated(tmp_path / "out", {"a": [Record("a", "f", 0, [Message("user", "?"), Message("assistant", "!")])]})
    with pytest.raises(DataError, match="none of its records has a score") as raised:
        pack(out, tmp_path / "shards", tokenizer, {"mixture": {"a": {"quality": {"low": 0.5}}}, "eval_fraction": 0})
    assert "score_field" in raised.value.hint


@pytest.mark.parametrize("limit", [50_000, 100])
def test_a_dry_run_tells_what_the_build_then_does(mixed, out, tokenizer, tmp_path, monkeypatch, limit):
    from pack import preview

    monkeypatch.setattr(preview, "MEASURED", limit)
    flags = {"tokenizer": str(tokenizer), "tokenizer_engine": "hf", "eval_fraction": 0.05, **MIX}
    resolved = resolve("pack", PackConfig, sets=[f"{key}={yaml.safe_dump(flags[key])}" for key in flags])
    job = Build(out, tmp_path / "shards", open_records(out), resolved)
    facts = preview.preview(job, Inline(), Console(quiet=True))
    assert not (tmp_path / "shards").exists()
    told, manifest = facts["stages"][0], mixed[1]
    assert facts["exact"] == (limit == 50_000)
    assert ("all were encoded" in preview.said(facts, job.shards)) == facts["exact"]
    if facts["exact"]:
        assert told["sources"] == manifest["stages"][0]["sources"]
        assert (told["rows"], told["tokens"]) == (manifest["stages"][0]["rows"], manifest["stages"][0]["tokens"])
    else:
        assert told["tokens"] == pytest.approx(manifest["stages"][0]["tokens"], rel=0.25)
        assert told["sources"]["mu"]["epochs"] == 3
