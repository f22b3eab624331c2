"""The front matter does on the Hub and in `datasets` what it says: kept rows by default, removed ones apart."""

import json
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard

from curate.cards.frontmatter import licence, size_category
from curate.cards.render import write_card
from curate.cards.sidecar import Sidecar
from curate.record import Message, Record, to_table
from pack.shards import SCHEMA

LOAD = """
import json, sys
from datasets import get_dataset_config_names, load_dataset
root = sys.argv[1]
print(json.dumps({c: {s: d.num_rows for s, d in load_dataset(root, c).items()} for c in get_dataset_config_names(root)}
    | {"plain": {s: d.num_rows for s, d in load_dataset(root).items()}}))
"""


def load(root, tmp_path):
    home = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    # A process of its own: the offline switch and the cache folder are read at import time.
    ran = subprocess.run(
        [sys.executable, "-c", LOAD, str(root)], env={**os.environ, **home}, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def parquet(path, rows, **columns):
    table = to_table([Record("s", "a", i, [Message("user", "q"), Message("assistant", "a")]) for i in range(rows)])
    for name, value in columns.items():
        table = table.append_column(name, pa.array([value] * rows))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def arrow(path, rows):
    row = {"input_ids": [1], "labels": [1], "loss_mask": [True], "position_ids": [0], "seq_lengths": [1]}
    table = pa.Table.from_pylist([{**row, "segments": [], "trained": 1, "pad": 0}] * rows, schema=SCHEMA)
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.ipc.new_file(path, SCHEMA) as writer:
        writer.write_table(table)


def names(root):
    return {path.relative_to(root).as_posix(): {} for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("removed", [0, 2])
def test_plain_load_dataset_of_records_gives_the_kept_rows_only(tmp_path, removed):
    out = tmp_path / "out"
    parquet(out / "records/a.parquet", 2)
    parquet(out / "records/web/deep/er/b.parquet", 3)
    if removed:
        parquet(out / "removed/exact/web/a.parquet", removed, rule="exact.copy")
    manifest = {"kind": "records", "totals": {"kept": 5, "records": 5}, "files": names(out)}
    (out / "manifest.json").write_text(json.dumps(manifest))
    write_card(out, manifest)
    expected = {"default": {"train": 5}, "plain": {"train": 5}}
    assert load(out, tmp_path) == expected | ({"removed": {"train": 2}} if removed else {})


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_plain_load_dataset_of_shards_gives_train_and_eval(tmp_path, suffix):
    out = tmp_path / "shards"
    arrow(out / "train/part-00000.arrow", 3)
    arrow(out / "train/part-00001.arrow", 1)
    arrow(out / "eval/part-00000.arrow", 2)
    if suffix == "parquet":
        parquet(out / "removed/overlong/a.parquet", 1, reason="long")
    else:
        arrow(out / "removed/overlong/a.arrow", 1)
    splits = {"train": {"rows": 4}, "eval": {"rows": 2}}
    manifest = {"kind": "shards", "ctx": 1, "splits": splits, "files": names(out)}
    (out / "manifest.json").write_text(json.dumps(manifest))
    write_card(out, manifest)
    rows = {"train": 4, "eval": 2}
    assert load(out, tmp_path) == {"default": rows, "plain": rows} | (
        {"removed": {"train": 1}} if suffix == "arrow" else {}
    )


@pytest.mark.parametrize("title", ["a: b\n---\nlicense: mit", "# x", "'\"", "{[", "null", "é\u2028x"])
def test_the_hub_reads_back_the_front_matter_whatever_the_title(tmp_path, title):
    (tmp_path / "card.yaml").write_text(yaml.safe_dump({"title": title, "language": ["en"], "tags": ["a: b"]}))
    write_card(tmp_path, {"kind": "records", "totals": {"kept": 5}, "sources": {"s": {"licence": "CC-BY-4.0"}}})
    card = DatasetCard.load(tmp_path / "README.md").data.to_dict()
    assert card["license"] == "cc-by-4.0"
    assert card["language"] == ["en"]
    assert isinstance(card["pretty_name"], str) and "\n" not in card["pretty_name"]
    assert "a: b" in card["tags"]


def test_a_run_is_a_model_card(tmp_path):
    write_card(tmp_path, {"kind": "run", "model": "tiny"})
    card = ModelCard.load(tmp_path / "README.md").data.to_dict()
    assert card["library_name"] == "transformers" and card["license"] == "unknown"


@pytest.mark.parametrize(
    ("said", "sources", "front"),
    [
        (None, ["MIT", "mit"], {"license": "mit"}),
        (None, ["mit", "Apache-2.0"], {"license": ["apache-2.0", "mit"]}),
        (None, ["mit", None], {"license": "unknown"}),
        (None, [], {"license": "unknown"}),
        ("My Own: Terms", ["mit"], {"license": "other", "license_name": "my-own-terms"}),
    ],
)
def test_the_licence_is_one_the_hub_knows_or_other_with_a_name(said, sources, front):
    assert licence(Sidecar({"licence": said} if said else {}), sources) == front


def test_size_categories_have_their_bounds():
    assert [size_category(n) for n in (0, 999, 1000, 10**6, 10**11, 10**12)] == [
        "n<1K",
        "n<1K",
        "1K<n<10K",
        "1M<n<10M",
        "100B<n<1T",
        "n>1T",
    ]
