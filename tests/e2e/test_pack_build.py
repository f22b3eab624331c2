"""`pack build` on small curated folders, with a tokenizer of 256 bytes and ChatML markers."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curate.config import resolve
from curate.foundation.console import Console
from curate.foundation.errors import DataError, GristmillError, LockHeld, UsageError
from curate.foundation.events import Timed
from curate.foundation.executor import Inline, Processes
from curate.foundation.store import Store
from curate.record import Message, Record, to_table
from pack import build as building
from pack.build import Build, build, open_records
from pack.config import PackConfig
from pack.gather import removed_table
from pack.shards import ShardManifest
from pack.verify import problems


@pytest.fixture(scope="session")
def bytes_tokenizer(root):
    """A byte-level tokenizer without merges: 256 bytes, two ChatML markers, a pad."""
    return root / "tests/data/bytes_tokenizer"


def chat(source, row, user="2 + 2?", answer="4", file="chats.jsonl"):
    return Record(source, file, row, [Message("user", user), Message("assistant", answer)])


def corpus(count=60):
    """Two sources, lengths that vary, every tenth answer longer than 256 tokens."""
    sums = [chat("sums", i, f"what is {i} + {i * 7}?", str(i * 8) + " exactly" * (i % 5)) for i in range(count)]
    talk = [chat("talk", i, f"say {i}", "word " * (60 if i % 10 == 3 else i % 17 + 1)) for i in range(count)]
    return [*sums, *talk]


def curated(folder, files, **facts):
    """A curated folder of `files`: name -> records."""
    store = Store(folder, "records")
    for name, records in files.items():
        with store.writing(f"records/{name}.parquet") as temp:
            pq.write_table(to_table(records), temp)
    known = {"recipe": {}, "sources": {"sums": {"licence": "CC0-1.0"}}, "alarms": [], "config_digest": "c"}
    store.commit({**known, **facts}, [f"records/{name}.parquet" for name in files])
    return folder


def pack(out, shards, tokenizer, executor=None, overwrite=False, **flags):
    flags = {"ctx": 256, "tokenizer": str(tokenizer), "tokenizer_engine": "hf", **flags}
    epochs = flags.pop("epochs", None)
    sets = [f"epochs={json.dumps(epochs)}"] if epochs else []
    records = open_records(out)
    resolved = resolve("pack", PackConfig, flags=flags, sets=sets, inherited=records["recipe"])
    job = Build(out, shards, records, resolved)
    return build(job, executor or Inline(), Console(quiet=True), overwrite=overwrite)


def contents(shards, folders=("train", "eval", "removed", "tokenizer")):
    return {
        path.relative_to(shards).as_posix(): path.read_bytes()
        for name in folders
        for path in sorted((shards / name).rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="session")
def built(tmp_path_factory, bytes_tokenizer):
    root = tmp_path_factory.mktemp("built")
    files = {"sums": corpus()[:60], "talk": corpus()[60:]}
    out = curated(root / "out", files, recipe={"pack": {"seed": 3}, "train": {"lr": 1e-3}})
    return out, root / "shards", pack(out, root / "shards", bytes_tokenizer, eval_fraction=0.1)


def test_every_record_is_packed_or_accounted_for(built):
    _out, shards, manifest = built
    assert manifest["totals"]["records"] == 120
    assert manifest["totals"]["overlong"] == 6
    for entry in manifest["sources"].values():
        parts = ("packed", "eval", "overlong", "template_failed", "not_drawn")
        assert entry["records"] == sum(entry[part] for part in parts) == 60
    assert problems(shards) == (
        [],
        {"files": len(manifest["files"]), "rows": sum(s["rows"] for s in manifest["splits"].values())},
    )


def test_tokens_survive_packing_and_decode_to_the_conversations(built, bytes_tokenizer):
    from pack.tokenizing import Tokenizer

    _out, shards, _ = built
    tokenizer, manifest = Tokenizer.load(bytes_tokenizer), ShardManifest.read(shards)
    wanted = {r.id: r for r in corpus()}
    seen = set()
    for split in ("train", "eval"):
        reader = manifest.open(split)
        for index in range(len(reader)):
            row = reader.row(index)
            for segment in reader.segments(index):
                record = wanted[segment["id"]]
                span = slice(segment["start"], segment["start"] + segment["length"])
                user, answer = (m.content for m in record.messages)
                text = f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"
                assert tokenizer.decode(row["input_ids"][span].tolist()) == text
                labels = row["labels"][span]
                assert tokenizer.decode(labels[labels >= 0].tolist()) == f"{answer}<|im_end|>"
                assert segment["id"] not in seen
                seen.add(segment["id"])
    assert len(seen) == 114


def test_equal_contents_never_straddle_train_and_eval(tmp_path, bytes_tokenizer):
    twins = [chat("a", i, f"question {i % 20}", "answer") for i in range(200)]
    out = curated(tmp_path / "out", {"a": twins})
    pack(out, tmp_path / "shards", bytes_tokenizer, eval_fraction=0.3)
    content = {r.id: r.content for r in twins}
    manifest = ShardManifest.read(tmp_path / "shards")
    seen = {}
    for split in ("train", "eval"):
        reader = manifest.open(split)
        seen[split] = {content[s["id"]] for i in range(len(reader)) for s in reader.segments(i)}
    assert seen["train"] and seen["eval"]
    assert not seen["train"] & seen["eval"]


def test_what_was_not_packed_lies_whole_in_removed_with_its_reason(built):
    _out, shards, _ = built
    table = removed_table(shards / "removed/overlong/talk.arrow")
    assert table.num_rows == 6
    whole = {r.id: r for r in corpus()}
    for row in table.to_pylist():
        assert row["messages"][1]["content"] == whole[row["id"]].messages[1].content
        assert row["reason"].endswith("ctx 256")


def test_any_number_of_workers_writes_the_same_bytes(built, tmp_path, bytes_tokenizer):
    out, shards, manifest = built
    for workers in (2, 4):
        again = tmp_path / f"shards{workers}"
        second = pack(out, again, bytes_tokenizer, Processes(workers), eval_fraction=0.1)
        assert contents(again) == contents(shards)
        assert second["fingerprint"] == manifest["fingerprint"]
        assert second["digest"] == manifest["digest"]


def test_file_order_and_grouping_do_not_reach_the_rows(built, tmp_path, bytes_tokenizer):
    _, shards, _ = built
    mixed = list(reversed(corpus()))
    out = curated(tmp_path / "out", {"z": mixed[:31], "b": mixed[31:90], "c": mixed[90:]}, recipe={"pack": {"seed": 3}})
    pack(out, tmp_path / "shards", bytes_tokenizer, eval_fraction=0.1)
    assert contents(tmp_path / "shards", ["train", "eval"]) == contents(shards, ["train", "eval"])


def test_a_big_file_in_many_units_gives_the_same_rows_and_keeps_what_it_removed(
    built, tmp_path, bytes_tokenizer, monkeypatch
):
    out, shards, _ = built
    monkeypatch.setattr(building, "CHUNK", 7)
    pack(out, tmp_path / "shards", bytes_tokenizer, eval_fraction=0.1)
    assert contents(tmp_path / "shards", ["train", "eval"]) == contents(shards, ["train", "eval"])
    parts = sorted((tmp_path / "shards/removed/overlong").glob("talk.*.arrow"))
    assert len(parts) > 1
    whole = removed_table(shards / "removed/overlong/talk.arrow")
    assert pa.concat_tables(removed_table(part) for part in parts).to_pylist() == whole.to_pylist()
    assert problems(tmp_path / "shards")[0] == []


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


@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_a_killed_build_goes_on_where_it_stopped_and_ends_the_same(built, tmp_path, bytes_tokenizer, after):
    out, shards, manifest = built
    again = tmp_path / "shards"
    with pytest.raises(KeyboardInterrupt):
        pack(out, again, bytes_tokenizer, Dies(after), eval_fraction=0.1)
    assert not (again / "manifest.json").exists()
    with pytest.raises(UsageError, match="not complete"):
        ShardManifest.read(again)
    kept = {path: path.stat().st_mtime_ns for path in (again / ".work/tokens").glob("*.tokens")}
    assert kept
    seen = {}

    class Watches(Inline):
        def map(self, task, items, *, name=str):
            for result in super().map(task, items, name=name):
                if task == Timed(building.encode):
                    seen.update({path: path.stat().st_mtime_ns for path in kept})
                yield result

    assert pack(out, again, bytes_tokenizer, Watches(), eval_fraction=0.1)["digest"] == manifest["digest"]
    assert seen == kept  # finished units were not redone
    assert contents(again) == contents(shards)
    assert not (again / ".work").exists()
    assert not (again / ".units").exists()


def test_the_same_build_twice_does_nothing_and_another_ctx_rebuilds(built, tmp_path, bytes_tokenizer):
    out, _, _ = built
    shards = tmp_path / "shards"
    first = pack(out, shards, bytes_tokenizer)
    before = {path: path.stat().st_mtime_ns for path in shards.rglob("*.arrow")}
    assert pack(out, shards, bytes_tokenizer)["digest"] == first["digest"]
    assert {path: path.stat().st_mtime_ns for path in shards.rglob("*.arrow")} == before
    second = pack(out, shards, bytes_tokenizer, ctx=512, eval_fraction=0)
    assert second["ctx"] == 512
    assert not (shards / "eval").exists()  # nothing of the first build is left
    assert problems(shards)[0] == []


def test_epochs_repeat_documents_but_never_within_a_row(built, tmp_path, bytes_tokenizer):
    out, _, _ = built
    manifest = pack(out, tmp_path / "shards", bytes_tokenizer, eval_fraction=0, epochs={"sums": 2.5, "talk": 0.5})
    sums, talk = manifest["sources"]["sums"], manifest["sources"]["talk"]
    assert sums["documents"] == 150
    assert sums["not_drawn"] == 0
    assert talk["documents"] == talk["packed"] == 27
    assert talk["not_drawn"] == 27
    reader = ShardManifest.read(tmp_path / "shards").open("train")
    for index in range(len(reader)):
        ids = [segment["id"] for segment in reader.segments(index)]
        assert len(ids) == len(set(ids))
    assert problems(tmp_path / "shards")[0] == []


def test_a_source_that_is_not_there_is_named_with_the_nearest(built, tmp_path, bytes_tokenizer):
    with pytest.raises(UsageError, match="summs") as raised:
        pack(built[0], tmp_path / "shards", bytes_tokenizer, epochs={"summs": 2})
    assert "'sums'" in raised.value.hint


def test_truncation_keeps_the_head_and_counts_nothing_twice(built, tmp_path, bytes_tokenizer):
    manifest = pack(built[0], tmp_path / "shards", bytes_tokenizer, overlong="truncate", eval_fraction=0)
    assert manifest["totals"]["overlong"] == 0
    assert manifest["totals"]["packed"] == 120
    assert problems(tmp_path / "shards")[0] == []


def test_overlong_error_names_the_count_and_the_longest(built, tmp_path, bytes_tokenizer):
    with pytest.raises(DataError, match="6 records are longer than --ctx 256"):
        pack(built[0], tmp_path / "shards", bytes_tokenizer, overlong="error")


def test_a_ctx_smaller_than_every_record_says_how_long_the_shortest_is(built, tmp_path, bytes_tokenizer):
    with pytest.raises(DataError, match="--ctx 8 is smaller than every record: the shortest has") as raised:
        pack(built[0], tmp_path / "shards", bytes_tokenizer, ctx=8)
    assert "--ctx" in raised.value.hint


def test_a_record_whose_template_fails_is_kept_whole_with_the_reason(tmp_path, bytes_tokenizer):
    silent = Record("a", "f", 99, [Message("user", "anyone?")])
    out = curated(tmp_path / "out", {"a": [*(chat("a", i) for i in range(5)), silent]})
    manifest = pack(out, tmp_path / "shards", bytes_tokenizer, eval_fraction=0)
    assert manifest["sources"]["a"]["template_failed"] == 1
    assert sum(manifest["template_failed"].values()) == 1
    kept = removed_table(tmp_path / "shards/removed/template/a.arrow").to_pylist()
    assert [row["id"] for row in kept] == [silent.id]
    assert kept[0]["reason"]


def test_an_open_alarm_stops_the_build_until_it_is_allowed(tmp_path, bytes_tokenizer):
    alarm = [{"stage": "exact", "source": "a", "removed": 9, "in": 10}]
    out = curated(tmp_path / "out", {"a": [chat("a", i) for i in range(5)]}, alarms=alarm)
    with pytest.raises(DataError, match="1 open alarms") as raised:
        pack(out, tmp_path / "shards", bytes_tokenizer)
    assert "--allow-wipeout" in raised.value.hint
    out = curated(tmp_path / "out", {"a": [chat("a", i) for i in range(5)]}, alarms=alarm, allow_wipeout=True)
    assert pack(out, tmp_path / "shards", bytes_tokenizer, eval_fraction=0)["totals"]["packed"] == 5


def test_records_that_changed_after_their_manifest_are_refused(tmp_path, bytes_tokenizer):
    out = curated(tmp_path / "out", {"a": [chat("a", i) for i in range(5)]})
    pq.write_table(to_table([chat("a", 7)]), out / "records/a.parquet")
    with pytest.raises(DataError, match=r"records/a\.parquet"):
        pack(out, tmp_path / "shards", bytes_tokenizer)


@pytest.mark.parametrize("damage", ["missing", "not parquet"])
def test_records_that_are_gone_or_damaged_are_named(tmp_path, bytes_tokenizer, damage):
    out = curated(tmp_path / "out", {"a": [chat("a", i) for i in range(5)]})
    (out / "records/a.parquet").unlink()
    if damage == "not parquet":
        (out / "records/a.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(DataError, match=r"records/a\.parquet: (not readable|its digest)"):
        pack(out, tmp_path / "shards", bytes_tokenizer)


def test_an_empty_curated_folder_is_an_error_not_an_empty_build(tmp_path, bytes_tokenizer):
    with pytest.raises(DataError, match="no record to pack"):
        pack(curated(tmp_path / "out", {"a": []}), tmp_path / "shards", bytes_tokenizer)
    with pytest.raises(DataError, match="no record to pack"):
        pack(curated(tmp_path / "none", {}), tmp_path / "shards", bytes_tokenizer)


def test_a_folder_that_is_not_ours_is_left_alone(built, tmp_path, bytes_tokenizer):
    (tmp_path / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="not made by pack"):
            pack(built[0], tmp_path, bytes_tokenizer, overwrite=overwrite)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(UsageError, match="holds records, not shards"):
        pack(built[0], built[0], bytes_tokenizer)


def test_a_second_build_in_the_same_folder_is_told_who_holds_it(built, tmp_path, bytes_tokenizer):
    pack(built[0], tmp_path, bytes_tokenizer)
    before = contents(tmp_path)
    with Store(tmp_path, "shards").locked("pack build"), pytest.raises(LockHeld):
        pack(built[0], tmp_path, bytes_tokenizer, overwrite=True)
    assert contents(tmp_path) == before
    (tmp_path / "card.yaml").write_text("title: mine\n")
    assert pack(built[0], tmp_path, bytes_tokenizer, overwrite=True)["kind"] == "shards"
    assert contents(tmp_path) == before
    assert (tmp_path / "card.yaml").read_text() == "title: mine\n"


def test_the_recipe_flows_through_and_the_tokenizer_is_saved(built):
    _, shards, manifest = built
    assert manifest["recipe"]["train"] == {"lr": 1e-3}
    assert manifest["config"]["seed"] == 3
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(shards / "tokenizer")
    text = loaded.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert manifest["terminators"] == [loaded.convert_tokens_to_ids("<|im_end|>")]
    assert manifest["pad_id"] == loaded.pad_token_id


DAMAGES = {
    "position_ids": "position_ids do not restart",
    "labels": "first token of a segment carries a label|labels and loss_mask differ",
    "input_ids": "labels and loss_mask differ|pad tail",
    "seq_lengths": "seq_lengths are not",
}


@pytest.mark.parametrize("column", DAMAGES)
def test_verify_names_the_file_and_row_of_a_damaged_value(built, tmp_path, column):
    shards = tmp_path / "shards"
    shutil.copytree(built[1], shards)
    path = shards / "train/part-00000.arrow"
    table = pa.ipc.open_file(path).read_all()
    values = table.column(column).to_pylist()
    values[2] = [value + 1 for value in values[2]]
    place = table.schema.get_field_index(column)
    table = table.set_column(place, table.schema.field(column), pa.array(values, table.schema.field(column).type))
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)
    found, _ = problems(shards)
    assert found[0].startswith("train/part-00000.arrow: ")
    manifest = json.loads((shards / "manifest.json").read_text())  # a forger mends the digests, too
    Store(shards, "shards").commit(
        {key: value for key, value in manifest.items() if key not in ("digest", "files", "format", "kind")},
        manifest["files"],
    )
    found, _ = problems(shards)
    import re

    assert any(line.startswith("train/part-00000.arrow row 2: ") and re.search(DAMAGES[column], line) for line in found)


def test_verify_recounts_the_law_from_the_files(built, tmp_path):
    shards = tmp_path / "shards"
    shutil.copytree(built[1], shards)
    manifest = json.loads((shards / "manifest.json").read_text())
    manifest["sources"]["talk"]["overlong"] -= 1
    manifest["sources"]["talk"]["packed"] += 1
    Store(shards, "shards").commit(
        {key: value for key, value in manifest.items() if key not in ("digest", "files", "format", "kind")},
        manifest["files"],
    )
    found, _ = problems(shards)
    assert any("source talk: the files hold 6 records overlong, the manifest says 5" in line for line in found)


lengths = st.lists(st.tuples(st.integers(0, 120), st.integers(1, 160)), min_size=1, max_size=25)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths, st.sampled_from(["bfd", "first-fit", "none"]), st.sampled_from(["drop", "truncate"]))
def test_every_token_of_every_kept_record_is_packed_once(tmp_path_factory, bytes_tokenizer, sizes, algorithm, overlong):
    root = tmp_path_factory.mktemp("any")
    records = [chat("a", i, "u" * user, "a" * answer) for i, (user, answer) in enumerate(sizes)]
    out = curated(root / "out", {"a": records})
    choice = {"ctx": 128, "algorithm": algorithm, "overlong": overlong, "eval_fraction": 0.2}
    try:
        manifest = pack(out, root / "shards", bytes_tokenizer, **choice)
    except GristmillError as error:
        assert isinstance(error, DataError)
        return
    assert problems(root / "shards")[0] == []
    frame = len("user\n\nassistant\n\n") + 4
    totals = {"train": 0, "eval": 0}
    reader = {split: ShardManifest.read(root / "shards").open(split) for split in totals}
    kept = {s["id"]: s["length"] for r in reader.values() for i in range(len(r)) for s in r.segments(i)}
    for record, (user, answer) in zip(records, sizes, strict=True):
        whole = user + answer + frame
        if record.id in kept:
            assert kept[record.id] == min(whole, 128)
        else:
            assert whole > 128
    rows = sum(entry["rows"] for entry in manifest["splits"].values())
    assert manifest["totals"]["tokens"] + sum(s["eval_tokens"] for s in manifest["sources"].values()) == sum(
        kept.values()
    )
    assert rows * 128 >= sum(kept.values())
    assert np.all([len(r) == manifest["splits"].get(s, {"rows": 0})["rows"] for s, r in reader.items()])
