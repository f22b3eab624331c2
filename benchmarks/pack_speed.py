"""Template, mask and pack against TRL and datasets, on the same records, in turn, in one run.

    python -P benchmarks/pack_speed.py [--rows 52002] [--rounds 3] [--data FILE] [--tokenizer FOLDER]

Four tables: template + ids + mask alone; the same with packing, to files; the engine `hf` against a bare
`encode_batch`; and the masks compared record by record. Every contender runs in a process of its own with both cores,
`rounds` times in turn; imports and the loading of tokenizers are outside the clock unless a line says "whole
command". Ours compiles its kernels before the clock starts, once a machine. Ratios are medians of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

SHARED = Path(os.environ.get("GRISTMILL_SHARED", Path(__file__).resolve().parents[2] / "shared"))

COMMON = """
import os, sys, time, json, glob
os.environ["HF_HUB_OFFLINE"] = "1"
records, tokenizer, work = sys.argv[1:4]
import pyarrow.parquet as pq
table = pq.read_table(sorted(glob.glob(records + "/records/*.parquet"))).combine_chunks()
"""

OURS = (
    COMMON
    + """
import numpy as np
from pack.batches import BatchEncoder
from pack.template import Renderer
from pack.tokenizing import Tokenizer
encoder = BatchEncoder(Renderer(Tokenizer.load(tokenizer), engine=sys.argv[4]))
batches = table.to_batches(max_chunksize=2_000)
encoder.encode(batches[0].slice(0, 100))
began = time.perf_counter()
found = [encoder.encode(batch) for batch in batches]
took = time.perf_counter() - began
np.savez(work + "/ours.npz", tokens=np.concatenate([one.tokens for one in found]),
         lengths=np.concatenate([one.lengths for one in found]))
print(json.dumps({"seconds": took, "tokens": int(sum(len(one.tokens) for one in found)),
                  "by_form": sum(one.by_form for one in found), "engine": encoder.renderer.verdict.engine}))
"""
)

PEER = (
    COMMON
    + """
import datasets, numpy as np
from transformers import AutoTokenizer
from trl.chat_template_utils import get_training_chat_template
from pack.builtin import QWEN
datasets.disable_progress_bars(); datasets.disable_caching()
hf = AutoTokenizer.from_pretrained(tokenizer)
# Ours with Qwen2.5's default system text: the same text as Qwen2.5's own template, with generation tags.
tagged = QWEN.replace("'You are a helpful", "'You are Qwen, created by Alibaba Cloud. You are a helpful")
if sys.argv[5] == "trl":
    tagged = get_training_chat_template(tokenizer=hf)
rows = [[{"role": m["role"], "content": m["content"]} for m in row] for row in table.column("messages").to_pylist()]
data = datasets.Dataset.from_dict({"messages": rows})
def encode(row):
    return dict(hf.apply_chat_template(row["messages"], chat_template=tagged, tokenize=True, return_dict=True,
                                       return_assistant_tokens_mask=True))
encode(data[0])
began = time.perf_counter()
out = data.map(encode, num_proc=int(sys.argv[4]) if int(sys.argv[4]) > 1 else None)
took = time.perf_counter() - began
flat = out.data.table.combine_chunks()
ids, masks = flat.column("input_ids").combine_chunks(), flat.column("assistant_masks").combine_chunks()
np.savez(work + "/peer.npz", ids=np.asarray(ids.flatten()), masks=np.asarray(masks.flatten()),
         lengths=np.diff(np.asarray(ids.offsets)))
print(json.dumps({"seconds": took, "tokens": len(ids.flatten())}))
"""
)

TRL = (
    COMMON
    + """
import datasets, torch
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM
from trl import SFTConfig, SFTTrainer
datasets.disable_progress_bars(); datasets.disable_caching()
hf = AutoTokenizer.from_pretrained(tokenizer)
rows = [[{"role": m["role"], "content": m["content"]} for m in row] for row in table.column("messages").to_pylist()]
if sys.argv[5] == "completion":
    data = datasets.Dataset.from_dict({"prompt": [r[:-1] for r in rows], "completion": [r[-1:] for r in rows]})
else:
    data = datasets.Dataset.from_dict({"messages": rows})
model = Qwen2ForCausalLM(Qwen2Config(vocab_size=len(hf), hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                                     num_attention_heads=1, num_key_value_heads=1))
class Timed(SFTTrainer):
    def _prepare_dataset(self, *args, **kwargs):
        began = time.perf_counter()
        found = super()._prepare_dataset(*args, **kwargs)
        print(json.dumps({"seconds": time.perf_counter() - began, "rows": len(found),
                          "tokens": sum(map(len, found["input_ids"]))}))
        return found
assistant = sys.argv[5] == "assistant"
Timed(model=model, processing_class=hf, train_dataset=data, args=SFTConfig(
    output_dir=work + "/trl", packing=True, packing_strategy="bfd", max_length=4096, assistant_only_loss=assistant,
    dataset_num_proc=int(sys.argv[4]) if int(sys.argv[4]) > 1 else None, report_to="none", use_cpu=True, bf16=False))
"""
)

BUILD = (
    COMMON
    + """
from pack.cli import main
workers = sys.argv[4]
def build(target):
    sys.argv[1:] = ["build", records, target, "--ctx", "4096", "--tokenizer", tokenizer, "--eval-fraction", "0",
                    "--workers", workers, "--quiet", "--overwrite"]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, "pack build failed"
build(work + "/warm")
began = time.perf_counter()
build(work + "/warm")
print(json.dumps({"seconds": time.perf_counter() - began}))
"""
)

BARE = (
    COMMON
    + """
from pack.template import Renderer
from pack.tokenizing import Tokenizer
from pack.batches import BatchEncoder
from curate.record import from_row
loaded = Tokenizer.load(tokenizer)
renderer = Renderer(loaded, engine="hf")
texts = [renderer.plan(from_row(row).messages)[0].layout.text for row in table.to_pylist()]
loaded.backend.encode_batch(texts[:100], add_special_tokens=False)
began = time.perf_counter()
for first in range(0, len(texts), 2_000):
    found = loaded.backend.encode_batch(texts[first:first + 2_000], add_special_tokens=False)
print(json.dumps({"seconds": time.perf_counter() - began}))
"""
)


def run(code: str, *words: str) -> dict[str, float]:
    """The last JSON line that a script prints."""
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "true", "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *words], capture_output=True, text=True, env=environment, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-4000:])
    return dict(json.loads(lines[-1]))


def records(data: Path, rows: int, work: Path) -> Path:
    """The records of the first `rows` rows, nothing removed."""
    import gzip

    raw = gzip.decompress(data.read_bytes()) if data.suffix == ".gz" else data.read_bytes()
    (work / "raw").mkdir()
    (work / "raw" / "alpaca.json").write_text(json.dumps(json.loads(raw)[:rows]), "utf-8")
    skips = [word for stage in ("length", "quality", "exact") for word in ("--skip", stage)]
    command = [sys.executable, "-P", "-m", "curate", "filter", str(work / "raw"), str(work / "out"), *skips, "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not (work / "out" / "manifest.json").is_file():
        raise SystemExit(done.stderr[-2000:])
    return work / "out"


def whole(out: Path, tokenizer: Path, work: Path, workers: int) -> dict[str, float]:
    """`pack build` as a user runs it, start to exit."""
    words = ["build", out, work / "whole", "--ctx", 4096, "--tokenizer", tokenizer, "--eval-fraction", 0]
    words += ["--workers", workers, "--quiet", "--overwrite"]
    began = time.perf_counter()
    subprocess.run([sys.executable, "-P", "-m", "pack", *map(str, words)], check=True, capture_output=True)
    return {"seconds": time.perf_counter() - began}


def compare(work: Path, tokenizer: Path) -> None:
    """Ids and masks of the two, record by record; where they differ, what the assistant wrote decides."""
    import numpy as np

    from pack.tokenizing import Tokenizer

    ours, peer = (dict(np.load(work / f"{name}.npz")) for name in ("ours", "peer"))  # each access reads it all again
    loaded = Tokenizer.load(tokenizer)
    edges = [np.concatenate([[0], np.cumsum(one["lengths"])]) for one in (ours, peer)]
    same_ids = same_masks = 0
    apart: dict[str, int] = {}
    for row in range(len(ours["lengths"])):
        mine = ours["tokens"][edges[0][row] : edges[0][row + 1]]
        ids, mask = (mine & 0x7FFFFFFF).astype(np.int64), (mine >> 31).astype(np.int64)
        theirs = slice(edges[1][row], edges[1][row + 1])
        if not np.array_equal(ids, peer["ids"][theirs]):
            apart["other ids"] = apart.get("other ids", 0) + 1
            continue
        same_ids += 1
        other = peer["masks"][theirs]
        if np.array_equal(mask, other):
            same_masks += 1
            continue
        name = _difference(loaded, ids, mask, other)
        apart[name] = apart.get(name, 0) + 1
    print(f"ids equal {same_ids:,}, masks equal {same_masks:,} of {len(ours['lengths']):,} records")
    for name, count in sorted(apart.items(), key=lambda pair: -pair[1]):
        print(f"- {count:,}: {name}")


def _difference(loaded, ids, ours, theirs) -> str:
    """The runs of tokens that one of two masks trains and the other does not, decoded."""
    runs: dict[str, list[str]] = {"only theirs": [], "only ours": []}
    last = -2
    for place in (ours != theirs).nonzero()[0].tolist():
        kind = runs["only theirs" if theirs[place] else "only ours"]
        text = loaded.decode(ids[place : place + 1].tolist())
        if place == last + 1 and kind:
            kind[-1] += text
        else:
            kind.append(text)
        last = place
    return "; ".join(f"{kind} trains {' and '.join(map(repr, found))}" for kind, found in runs.items() if found)[:120]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=52_002)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=SHARED / "data/sft/alpaca/alpaca_data.json.gz")
    parser.add_argument("--tokenizer", type=Path, default=SHARED / "tokenizers/qwen2.5")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        out = records(asked.data, asked.rows, work)
        words = (str(out), str(asked.tokenizer), str(work))
        contenders = {
            "ours: template, ids, mask": lambda: run(OURS, *words, "auto"),
            "datasets.map, 1 process": lambda: run(PEER, *words, "1", "tags"),
            "datasets.map, 2 processes": lambda: run(PEER, *words, "2", "tags"),
            "ours: pack build, loaded, 1 worker": lambda: run(BUILD, *words, "1"),
            "ours: pack build, loaded, 2 workers": lambda: run(BUILD, *words, "2"),
            "ours: pack build, whole command, 1 worker": lambda: whole(out, asked.tokenizer, work, 1),
            "ours: pack build, whole command, 2 workers": lambda: whole(out, asked.tokenizer, work, 2),
            "TRL, completion only, 1 process": lambda: run(TRL, *words, "1", "completion"),
            "TRL, completion only, 2 processes": lambda: run(TRL, *words, "2", "completion"),
            "TRL, assistant only, 2 processes": lambda: run(TRL, *words, "2", "assistant"),
            "ours, engine hf": lambda: run(OURS, *words, "hf"),
            "bare encode_batch": lambda: run(BARE, *words),
        }
        run(OURS, *words, "auto")  # compiles the kernels
        whole(out, asked.tokenizer, work, 1)
        rounds = [{name: contend() for name, contend in contenders.items()} for _ in range(asked.rounds)]
        run(OURS, *words, "auto")
        report(rounds, asked.rows, work)
        print("\nmasks against transformers', the same template with tags:")
        compare(work, asked.tokenizer)
        run(PEER, *words, "2", "trl")
        print("\nmasks against TRL's own training template:")
        compare(work, asked.tokenizer)
    names = ("trl", "datasets", "transformers", "tokenizers", "gigatoken", "numba", "pyarrow")
    print("\n" + ", ".join(f"{name} {version(name)}" for name in names) + f", Python {sys.version.split()[0]}")


def report(rounds: list[dict[str, dict[str, float]]], rows: int, work: Path) -> None:
    """Median seconds, rows a second, and the ratios that are aims."""
    print(f"{rows:,} records, {len(rounds)} rounds\n\n| what | s (median) | rows/s |\n|---|---:|---:|")
    for name in rounds[0]:
        seconds = statistics.median(one[name]["seconds"] for one in rounds)
        print(f"| {name} | {seconds:.2f} | {rows / seconds:,.0f} |")
    pairs = [
        ("datasets.map, 1 process", "ours: template, ids, mask", "40"),
        ("datasets.map, 2 processes", "ours: template, ids, mask", "40"),
        ("TRL, completion only, 1 process", "ours: pack build, loaded, 1 worker", "20"),
        ("TRL, completion only, 2 processes", "ours: pack build, loaded, 2 workers", "20"),
        ("TRL, assistant only, 2 processes", "ours: pack build, loaded, 2 workers", "20"),
        ("TRL, assistant only, 2 processes", "ours: pack build, whole command, 1 worker", "-"),
        ("TRL, assistant only, 2 processes", "ours: pack build, whole command, 2 workers", "-"),
        ("bare encode_batch", "ours, engine hf", "0.9"),
    ]
    print("\n| peer | ours | ratio (median of rounds) | aim |\n|---|---|---:|---:|")
    for peer, ours, aim in pairs:
        ratio = statistics.median(one[peer]["seconds"] / one[ours]["seconds"] for one in rounds)
        print(f"| {peer} | {ours} | {ratio:.1f} | {aim} |")
    facts = json.loads((work / "whole" / "manifest.json").read_text("utf-8"))
    split = facts["splits"]["train"]
    fill = split["tokens"] / (split["rows"] * facts["ctx"])
    theirs = rounds[-1]["TRL, assistant only, 2 processes"]
    print(f"\nfill: ours {fill:.4%} in {split['rows']:,} rows of {facts['ctx']:,}, "
          f"TRL {theirs['tokens'] / (theirs['rows'] * 4096):.4%} in {int(theirs['rows']):,} rows")  # fmt: skip


if __name__ == "__main__":
    main()
