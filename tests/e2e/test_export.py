"""`pack export`: every format holds what it says it holds, and whoever reads it gets that."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from curate.config import resolve
from curate.foundation.console import Console
from curate.foundation.errors import DataError, UsageError
from curate.foundation.executor import Inline
from curate.foundation.store import Store, canonical
from curate.record import Message, Record, to_table
from pack import exporting
from pack.build import Build, build, open_records
from pack.config import PackConfig
from pack.exporting import FORMATS, export
from pack.exporting_texts import TEXTS
from pack.shards import ShardManifest

CTX = 256


def chat(row, *turns, source="chats", **facts):
    messages = [Message(role, text) for role, text in turns]
    return Record(source, f"{source}.jsonl", row, messages, **facts)


def corpus():
    """Plain chats, one of each thing some format cannot say, and preference rows."""
    rows = [chat(i, ("user", f"{i} + {i}?"), ("assistant", f"it is {2 * i} " + "so " * (i % 9))) for i in range(30)]
    rows.append(chat(30, ("system", "be brief"), ("user", "hi"), ("assistant", "ho"), ("user", "bye")))
    rows.append(chat(31, ("user", "a"), ("assistant", "b"), ("assistant", "c")))
    silent = chat(32, ("user", "a"), ("assistant", "not this"), ("user", "b"), ("assistant", "this"))
    silent.messages[1].train = False
    thinker = chat(33, ("user", "why?"), ("assistant", "because"))
    thinker.messages[1].reasoning = "let me see"
    call = canonical([{"id": None, "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}])
    tools = canonical([{"type": "function", "function": {"name": "add", "parameters": {"x": None}}}])
    caller = Record(
        "tools",
        "tools.jsonl",
        0,
        [
            Message("user", "1+1?"),
            Message("assistant", None, tool_calls=call),
            Message("tool", "2", name="add"),
            Message("assistant", "2"),
        ],
        tools=tools,
    )
    likes = [
        chat(i, ("user", f"say {i}"), ("assistant", "good"), source="likes", extra=json.dumps({"rejected": bad}))
        for i, bad in enumerate(
            (
                "bad",
                [{"role": "user", "content": "say 1"}, {"role": "assistant", "content": "worse"}],
                {"from": "gpt", "value": "worst"},
                7,
            )
        )
    ]
    return [*rows, silent, thinker, caller, *likes]


@pytest.fixture(scope="module")
def made(tmp_path_factory, root):
    folder = tmp_path_factory.mktemp("export")
    store = Store(folder / "out", "records")
    with store.writing("records/all.parquet") as temp:
        pq.write_table(to_table(corpus()), temp)
    store.commit({"recipe": {}, "sources": {}, "alarms": [], "config_digest": "c"}, ["records/all.parquet"])
    flags = {"ctx": CTX, "tokenizer": str(root / "tests/data/bytes_tokenizer"), "tokenizer_engine": "hf"}
    resolved = resolve("pack", PackConfig, flags={**flags, "eval_fraction": 0.2}, sets=['epochs={"chats": 2}'])
    build(
        Build(folder / "out", folder / "shards", open_records(folder / "out"), resolved), Inline(), Console(quiet=True)
    )
    return folder


@pytest.fixture(scope="module")
def exported(made):
    shards = ShardManifest.read(made / "shards")
    return {to: (made / to, export(shards, made / to, to, made / "out")) for to in FORMATS}


def lines(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def texts(folder, manifest, where=""):
    return {split: lines(folder / f"{where}{split}.jsonl") for split in manifest["splits"]}


def packed_ids(made):
    shards = ShardManifest.read(made / "shards")
    return {
        split: {segment["id"] for row in range(shards.rows(split)) for segment in shards.open(split).segments(row)}
        for split in shards.splits
    }


def test_hf_rows_are_the_packed_rows_and_load_with_their_splits(made, exported, tmp_path):
    from datasets import load_dataset

    shards = ShardManifest.read(made / "shards")
    loaded = load_dataset(str(exported["hf"][0]), cache_dir=str(tmp_path))
    assert set(loaded) == {"train", "eval"}
    for split, part in loaded.items():
        assert part.num_rows == shards.rows(split)
        for index in (0, part.num_rows - 1):
            row, wanted = part[index], shards.open(split).row(index)
            assert all(row[name] == wanted[name].tolist() for name in wanted)
            assert row["segments"] == shards.open(split).segments(index)


def test_axolotl_gets_every_document_once_with_its_labels_and_no_padding(made, exported):
    folder, manifest = exported["axolotl"]
    shards = ShardManifest.read(made / "shards")
    for split in ("train", "eval"):
        rows = pq.read_table(folder / f"data/{split}.parquet").to_pylist()
        places = pq.read_table(folder / f"provenance/{split}.parquet").to_pylist()
        wanted = []
        for index in range(shards.rows(split)):
            row = shards.open(split).row(index)
            for segment in shards.open(split).segments(index):
                cut = slice(segment["start"], segment["start"] + segment["length"])
                wanted.append((row["input_ids"][cut].tolist(), row["labels"][cut].tolist(), segment))
        assert [(row["input_ids"], row["labels"]) for row in rows] == [(ids, labels) for ids, labels, _ in wanted]
        assert all(row["attention_mask"] == [1] * len(row["input_ids"]) for row in rows)
        assert [(place["row"], place["id"], place["source"], place["epoch"]) for place in places] == [
            (number, s["id"], s["source"], s["epoch"]) for number, (_, _, s) in enumerate(wanted)
        ]
        assert manifest["splits"][split]["tokens"] == sum(len(ids) for ids, _, _ in wanted)


@pytest.mark.parametrize("to", TEXTS)
def test_every_record_of_a_split_is_written_once_or_left_out_by_name(made, exported, to):
    folder, manifest = exported[to]
    unfit, there = lines(folder / "unfit.jsonl"), packed_ids(made)
    for split, facts in manifest["splits"].items():
        name = TEXTS[to].name(split)
        wrote = pq.read_table(folder / name).to_pylist() if name.endswith("parquet") else lines(folder / name)
        out = [entry["id"] for entry in unfit if entry["split"] == split]
        assert sorted([row["id"] for row in wrote] + out) == sorted(there[split])
        assert facts["records"] == facts["written"] + sum(facts["unfit"].values())
        assert len(out) == sum(facts["unfit"].values())
        if split == "train":
            assert all(row["drawn"] == (2 if row["source"] == "chats" else 1) for row in wrote)
    assert manifest["lossless"] == (not unfit and not any(f["notes"] for f in manifest["splits"].values()))


def test_what_a_format_cannot_say_is_left_out_with_the_reason(exported):
    reasons = {to: {e["reason"] for e in lines(exported[to][0] / "unfit.jsonl")} for to in TEXTS}
    silent = "an assistant turn that must carry no loss"
    assert reasons["messages"] == set()
    assert reasons["trl"] == {silent}
    assert reasons["llamafactory"] == {silent, "it does not end with the assistant"}
    assert reasons["verl"] == {silent, "tools or tool calls"}
    assert reasons["preferences"] == {"no rejected side", "the rejected side is neither text nor messages"}


def test_exported_messages_curate_back_to_the_same_contents(exported, tmp_path, root):
    folder, manifest = exported["messages"]
    raw = tmp_path / "raw"
    raw.mkdir()
    for split in manifest["splits"]:
        (raw / f"{split}.jsonl").write_bytes((folder / f"{split}.jsonl").read_bytes())
    words = [sys.executable, "-P", "-m", "curate", "filter", str(raw), str(tmp_path / "out"), "--workers", "1"]
    skips = [part for stage in ("quality", "length", "exact", "minhash", "decontaminate") for part in ("--skip", stage)]
    done = subprocess.run([*words, *skips], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    again = pq.read_table(tmp_path / "out/records").column("content").to_pylist()
    assert sorted(again) == sorted(record.content for record in corpus())


def test_llamafactory_finds_its_files_and_turns_alternate(exported):
    folder, _ = exported["llamafactory"]
    info = json.loads((folder / "dataset_info.json").read_text())
    assert set(info) == {"gristmill_train", "gristmill_eval"}
    every = [row for entry in info.values() for row in lines(folder / entry["file_name"])]
    for row in every:
        roles = [turn["from"] for turn in row["conversations"] if turn["from"] != "system"]
        assert all(role in (("human", "observation"), ("gpt", "function_call"))[i % 2] for i, role in enumerate(roles))
        assert len(roles) % 2 == 0 and isinstance(row["tools"], str)
    called = next(row for row in every if row["source"] == "tools")
    assert json.loads(called["conversations"][1]["value"]) == [{"name": "add", "arguments": {"a": 1}}]
    thought = [t["value"] for row in every for t in row["conversations"] if "<think>" in t["value"]]
    assert thought == ["<think>\nlet me see\n</think>\n\nbecause"]


def test_preferences_pair_two_answers_to_one_prompt(exported):
    folder, manifest = exported["preferences"]
    rows = {row["prompt"][-1]["content"]: row for part in texts(folder, manifest).values() for row in part}
    assert {prompt: row["rejected"][-1]["content"] for prompt, row in rows.items()} == {
        "say 0": "bad",
        "say 1": "worse",
        "say 2": "worst",
    }
    for row in rows.values():
        assert row["chosen"] == [{"role": "assistant", "content": "good"}]
        assert [turn["role"] for turn in row["prompt"]] == ["user"]
        assert [turn["role"] for turn in row["rejected"]] == ["assistant"]


def test_datasets_invents_no_null_keys_in_exported_tool_calls(exported, tmp_path):
    from datasets import load_dataset

    folder, manifest = exported["trl"]
    loaded = load_dataset(str(folder), "messages", cache_dir=str(tmp_path))
    assert {split: part.num_rows for split, part in loaded.items()} == {
        split: facts["written"] for split, facts in manifest["splits"].items()
    }
    called = next(row for part in loaded.values() for row in part if row["source"] == "tools")
    assert called["messages"][1]["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 1}}
    assert called["tools"][0]["function"] == {"name": "add", "parameters": {"x": None}}
    assert next(row for row in loaded["train"] if row["source"] == "chats")["tools"] is None


def test_the_trl_rows_reach_the_shards_own_loss_in_trl(made, exported, tmp_path):
    import torch
    from datasets import load_dataset
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=259, num_key_value_heads=2, **sizes)).eval()
    model.config.use_cache = False
    data = load_dataset(str(exported["trl"][0]), split="train", cache_dir=str(tmp_path / "cache"))
    row = ShardManifest.read(made / "shards").open("train").row(0)
    ids, labels, places = (
        torch.from_numpy(row[name].astype(np.int64))[None] for name in ("input_ids", "labels", "position_ids")
    )
    with torch.no_grad():
        logits = model(input_ids=ids, position_ids=places, use_cache=False).logits
    wanted = float(torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=-100))
    arguments = SFTConfig(
        output_dir=str(tmp_path / "run"),
        per_device_eval_batch_size=1,
        padding_free=True,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        report_to=[],
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
    )
    tokenizer = AutoTokenizer.from_pretrained(made / "shards/tokenizer")
    one = data.select([0])
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=one, eval_dataset=one, processing_class=tokenizer)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(wanted, abs=2e-5)


def test_a_second_export_changes_nothing_and_other_contents_are_left_alone(made, exported):
    shards, (folder, manifest) = ShardManifest.read(made / "shards"), exported["messages"]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert export(shards, folder, "messages", made / "out") == manifest
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    with pytest.raises(UsageError, match="another export"):
        export(shards, folder, "verl", made / "out")
    (made / "mine").mkdir(exist_ok=True)
    (made / "mine/notes.txt").write_text("keep")
    with pytest.raises(UsageError, match="not made by pack export"):
        export(shards, made / "mine", "hf", made / "out")
    assert (made / "mine/notes.txt").read_text() == "keep"


def test_other_records_than_those_of_the_shards_are_refused(made, tmp_path):
    shards = ShardManifest.read(made / "shards")
    store = Store(tmp_path / "other", "records")
    with store.writing("records/all.parquet") as temp:
        pq.write_table(to_table(corpus()[:3]), temp)
    store.commit({"recipe": {}, "sources": {}, "alarms": []}, ["records/all.parquet"])
    with pytest.raises(UsageError, match="is not the curated folder") as error:
        export(shards, tmp_path / "x", "messages", tmp_path / "other")
    assert "--records" in error.value.hint
    with pytest.raises(UsageError, match="is no folder"):
        export(shards, tmp_path / "x", "messages", tmp_path / "nowhere")
    assert not (tmp_path / "x").exists()


def test_an_export_that_fails_leaves_nothing_that_looks_complete(made, tmp_path, monkeypatch):
    shards = ShardManifest.read(made / "shards")

    def full(self, row):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting._Lines, "write", full)
    with pytest.raises(OSError, match="No space"):
        export(shards, tmp_path / "x", "messages", made / "out")
    assert not (tmp_path / "x/manifest.json").exists() and not list((tmp_path / "x").glob("*.jsonl"))
    monkeypatch.undo()
    export(shards, tmp_path / "x", "messages", made / "out")
    assert Store(tmp_path / "x", "export").verify() == []
    assert (tmp_path / "x/train.jsonl").read_bytes() == (made / "messages/train.jsonl").read_bytes()


def test_preferences_without_any_say_how_to_keep_them(root, tmp_path):
    store = Store(tmp_path / "out", "records")
    with store.writing("records/a.parquet") as temp:
        pq.write_table(to_table(corpus()[:20]), temp)
    store.commit({"recipe": {}, "sources": {}, "alarms": [], "config_digest": "c"}, ["records/a.parquet"])
    flags = {"ctx": CTX, "tokenizer": str(root / "tests/data/bytes_tokenizer"), "tokenizer_engine": "hf"}
    job = Build(
        tmp_path / "out", tmp_path / "shards", open_records(tmp_path / "out"), resolve("pack", PackConfig, flags=flags)
    )
    build(job, Inline(), Console(quiet=True))
    with pytest.raises(DataError, match="no rejected side") as error:
        export(ShardManifest.read(tmp_path / "shards"), tmp_path / "x", "preferences", tmp_path / "out")
    assert "--preference chosen" in error.value.hint
    assert [path for path in Path(tmp_path / "x").glob("*") if path.is_file()] == []
