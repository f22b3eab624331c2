"""Training speed beside TRL and transformers' Trainer: same model, same packed rows in the same order, in one run.

    python -P benchmarks/train_speed.py [--steps 8] [--rounds 3] [--hidden 256] [--layers 4] [--attention A]
    python -P benchmarks/train_speed.py --gpu [--micro 8] [--attention flash|flex|sdpa]

Alpaca records, packed by `pack build` into rows of 4,096 tokens, answers trained; a random Llama saved once and loaded by
all. Each contender runs in a process of its own, in turn, `rounds` times: ours, TRL's SFTTrainer (padding-free, given
the packed rows with skip_prepare_dataset) and transformers' Trainer (position_ids). The pad tail of a row is cut off for
them. Timed are optimizer steps, from the end of the second to the end of the last; start-up, saving and
self-checks are outside the clock. The losses are printed beside the speed: they must be the same work. AdamW fused,
one row a forward pass, two rows a step, float32, constant rate, no gradient checkpointing, the loss logged at each step.
On CPU ours attends by segment and the peers with sdpa, the default of each; `--attention sdpa` gives ours theirs.

A second table reads rows alone, in random order, collated, eight at a time: ours, and `datasets` as a trainer reads it.

With --gpu: about half a billion parameters (Qwen2.5-0.5B's shape as a Llama), bf16 over float32 masters, `--micro` rows a
step, the same attention for all, and MFU (operations counted as `train` counts them: six a weight, the head at trained
positions, causal attention inside segments). It ends with a plain line where torch sees no GPU.

Time: on two quiet cores about six minutes; each contender is stopped after `--limit` seconds.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

SHARED = Path(os.environ.get("GRISTMILL_SHARED", Path(__file__).resolve().parents[2] / "shared"))
CTX = 4096
WARM = 2  # steps before the clock starts

COMMON = """
import json, os, resource, sys, time
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # with several, Trainer would split each batch over them
asked = json.loads(sys.argv[1])
import torch
torch.set_num_threads(asked["threads"])
from pathlib import Path
from train.data import Order, Shards, collate
shards = Shards(Path(asked["shards"]))
split = shards.train
numbers = Order(0, len(split)).slice(0, asked["steps"] * asked["batch"])
ends, losses = [], []
def mark():
    if asked["gpu"]:
        torch.cuda.synchronize()
    ends.append(time.perf_counter())
def cut(number):
    row = split[number]
    length = len(row.input_ids) - row.pad
    lengths = row.seq_lengths[:-1] if row.pad else row.seq_lengths
    return {"input_ids": row.input_ids[:length].tolist(), "labels": row.labels[:length].tolist(),
            "position_ids": row.position_ids[:length].tolist(), "seq_lengths": lengths.tolist()}
def done():
    if asked["gpu"]:
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": ends[-1] - ends[asked["warm"] - 1], "losses": losses, "peak": peak}))
"""

OURS = (
    COMMON
    + """
from curate.foundation.console import Console
from train import loop
from train.config import TrainConfig
from train.running import train
record = loop.Trainer._record
def recorded(self, line, *rest):
    record(self, line, *rest)
    losses.append(line["loss"])
    mark()
loop.Trainer._record = recorded
config = TrainConfig(
    model=asked["model"], lr=1e-4, schedule="constant", warmup=0.0, batch=asked["batch"], micro_batch=asked["micro"],
    max_steps=asked["steps"], save_steps=asked["steps"], smoke_tokens=1, attention=asked["attention"],
    precision="bf16" if asked["gpu"] else "fp32", compile=asked["compile"])
train(config, Path(asked["shards"]), Path(asked["out"]), Console(quiet=True), batch_chosen=True)
done()
"""
)

PEER = (
    COMMON
    + """
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments
class Marks(TrainerCallback):
    def on_step_end(self, *args, **kwargs):
        mark()
names = {"auto": "sdpa", "segments": "sdpa", "flash": "flash_attention_2", "flex": "flex_attention"}
model = AutoModelForCausalLM.from_pretrained(
    asked["model"], dtype=torch.bfloat16 if asked["low"] else torch.float32,
    attn_implementation=names.get(asked["attention"], asked["attention"]))
model.config.use_cache = False
settings = dict(
    output_dir=asked["out"], max_steps=asked["steps"], learning_rate=1e-4, lr_scheduler_type="constant",
    per_device_train_batch_size=asked["micro"], gradient_accumulation_steps=asked["batch"] // asked["micro"],
    weight_decay=0.0, max_grad_norm=1.0, train_sampling_strategy="sequential", logging_steps=1, save_strategy="no",
    report_to=[], use_cpu=not asked["gpu"], bf16=asked["gpu"], disable_tqdm=True, optim="adamw_torch_fused",
    gradient_checkpointing=False, torch_compile=asked["compile"])
rows = [cut(number) for number in numbers]
if asked["kind"] == "trl":
    from trl import SFTConfig, SFTTrainer
    trainer = SFTTrainer(
        model=model, train_dataset=Dataset.from_list(rows), callbacks=[Marks()],
        processing_class=AutoTokenizer.from_pretrained(asked["model"]),
        args=SFTConfig(padding_free=True, max_length=None, dataset_kwargs={"skip_prepare_dataset": True}, **settings))
else:
    for row in rows:
        del row["seq_lengths"]
    trainer = Trainer(model=model, train_dataset=Dataset.from_list(rows), callbacks=[Marks()],
                      args=TrainingArguments(**settings))
trainer.train()
losses += [line["loss"] for line in trainer.state.log_history if "loss" in line]
done()
"""
)

READ = (
    COMMON
    + """
import itertools
import datasets, numpy as np
from torch.utils.data import DataLoader
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling
datasets.disable_progress_bars()
SIZE, SECONDS = 8, 3.0
def speed(batches):
    next(batches)
    rows, began = 0, time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        next(batches)
        rows += SIZE
    return rows / (time.perf_counter() - began)
order = Order(0, len(split))
def ours(make):
    for first in itertools.count(0, SIZE):
        yield make([split[number] for number in order.slice(first, first + SIZE)])
plain = datasets.Dataset.from_list([cut(number) for number in range(len(split))])
plain.save_to_disk(asked["out"])
plain = datasets.load_from_disk(asked["out"])
padding_free = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
def stack(rows):
    wide = max(len(row["input_ids"]) for row in rows)
    return {name: torch.nn.utils.rnn.pad_sequence([row[name] for row in rows], batch_first=True)
            for name in ("input_ids", "labels", "position_ids")}
def loader(data, make, workers):
    while True:
        yield from DataLoader(data, batch_size=SIZE, shuffle=True, collate_fn=make, num_workers=workers, drop_last=True)
def views(rows):
    return [np.stack([getattr(row, name) for row in rows]).astype(np.int64)
            for name in ("input_ids", "labels", "position_ids")]
found = {
    "ours: views, stacked to int64": speed(ours(views)),
    "ours: as train reads (shifted, only trained positions, sources)":
        speed(ours(lambda rows: collate(rows, shards.sources, flat=True))),
    "datasets, Python lists, TRL's padding-free collator (the usual path)": speed(loader(plain, padding_free, 0)),
    "datasets, with_format('torch'), padded": speed(loader(plain.with_format("torch"), stack, 0)),
}
print(json.dumps(found))
"""
)


def prepare(asked: argparse.Namespace, work: Path) -> tuple[Path, Path]:
    """Shards of Alpaca records, and a random model with its tokenizer; (shards, model)."""
    shards = asked.shards or work / "shards"
    if asked.shards is None:
        if not (SHARED / "data").is_dir():
            raise SystemExit("the real data (../shared, or GRISTMILL_SHARED) is not here; or give --shards FOLDER")
        raw = work / "raw"
        raw.mkdir()
        rows = json.loads(gzip.decompress((SHARED / "data/sft/alpaca/alpaca_data.json.gz").read_bytes()))
        (raw / "alpaca.json").write_text(json.dumps(rows[: asked.records]), "utf-8")
        python = [sys.executable, "-P", "-m"]
        tokenizer = asked.tokenizer or SHARED / "tokenizers" / ("qwen2.5" if asked.gpu else "smollm2")
        call([*python, "curate", "filter", str(raw), str(work / "out"), "--quiet"], asked.limit)
        words = ["--tokenizer", str(tokenizer), "--ctx", str(CTX), "--eval-fraction", "0", "--quiet"]
        call([*python, "pack", "build", str(work / "out"), str(shards), *words], asked.limit)
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    facts = json.loads((shards / "manifest.json").read_bytes())
    if facts["splits"]["train"]["rows"] < asked.steps * asked.batch:
        raise SystemExit(f"{facts['splits']['train']['rows']} rows are too few: more --records, or fewer --steps")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=int(facts["tokenizer"]["vocab_size"]), hidden_size=asked.hidden, num_hidden_layers=asked.layers,
        intermediate_size=asked.intermediate or round(asked.hidden * 8 / 3 / 64) * 64,
        num_attention_heads=asked.heads, num_key_value_heads=asked.kv_heads or asked.heads,
        max_position_embeddings=CTX, tie_word_embeddings=True, eos_token_id=facts["terminators"], bos_token_id=None,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(work / "model")
    for path in (shards / "tokenizer").iterdir():
        shutil.copy(path, work / "model" / path.name)
    return shards, work / "model"


def call(command: list[str], limit: float) -> str:
    """Stdout of a command; a failure ends the benchmark with what it said."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:5])[:300]}: exit {done.returncode}\n{done.stderr[-3000:]}")
    return done.stdout


def run(script: str, asked: argparse.Namespace, work: Path, shards: Path, model: Path, **more: Any) -> dict[str, Any]:
    """One contender, once; its last line."""
    out = work / "run"
    shutil.rmtree(out, ignore_errors=True)
    words = {
        "shards": str(shards), "model": str(model), "out": str(out), "steps": asked.steps, "batch": asked.batch,
        "micro": asked.micro, "attention": asked.attention, "gpu": asked.gpu, "compile": asked.compile,
        "threads": asked.threads, "warm": WARM, "low": False, "kind": "", **more,
    }  # fmt: skip
    said = call([sys.executable, "-P", "-c", script, json.dumps(words)], asked.limit)
    return dict(json.loads(said.strip().splitlines()[-1]))


def measured(asked: argparse.Namespace, shards: Path, model: Path) -> dict[str, float]:
    """Tokens, trained tokens and operations of the steps on the clock, parameters, and the card's peak (0: unknown)."""
    import torch
    from transformers import AutoModelForCausalLM

    from train.data import Order, Shards
    from train.watching import Work, peak

    split = Shards(shards).train
    rows = [split[number] for number in Order(0, len(split)).slice(WARM * asked.batch, asked.steps * asked.batch)]
    lengths = [int(n) for row in rows for n in (row.seq_lengths[:-1] if row.pad else row.seq_lengths)]
    trained = sum(row.trained for row in rows)
    loaded = AutoModelForCausalLM.from_pretrained(model)
    return {
        "tokens": sum(lengths), "trained": trained, "segments": len(lengths), "parameters": loaded.num_parameters(),
        "flops": Work.of(loaded, adapter=False).flops(lengths, trained),
        "peak": (peak(torch.device("cuda")) or 0.0) if asked.gpu else 0.0,
    }  # fmt: skip


def options() -> argparse.Namespace:
    """The command line, with what --gpu changes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, help="rows an optimizer step")
    parser.add_argument("--micro", type=int, help="rows a forward pass")
    parser.add_argument("--hidden", type=int)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--heads", type=int)
    parser.add_argument("--kv-heads", type=int)
    parser.add_argument("--intermediate", type=int)
    parser.add_argument("--records", type=int, help="Alpaca records to pack")
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--shards", type=Path, help="shards that are there already, of ctx 4096")
    parser.add_argument("--attention", default="auto", choices=["auto", "segments", "sdpa", "eager", "flex", "flash"])
    parser.add_argument("--compile", action="store_true", help="torch.compile, for all (a GPU only)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--limit", type=float, default=600, help="seconds a contender may take")
    parser.add_argument("--only", choices=["train", "read"])
    asked = parser.parse_args()
    cpu = {"steps": 8, "batch": 2, "micro": 1, "hidden": 256, "layers": 4, "heads": 4, "records": 2_000}
    gpu = {"steps": 30, "micro": 8, "hidden": 896, "layers": 24, "heads": 14, "kv_heads": 2, "intermediate": 4864}
    gpu |= {"records": 12_000}
    for name, value in (gpu if asked.gpu else cpu).items():
        if getattr(asked, name) is None:
            setattr(asked, name, value)
    asked.batch = asked.batch or asked.micro
    if asked.steps <= WARM or asked.batch % asked.micro:
        parser.error(f"--steps must be more than {WARM}, and --batch a multiple of --micro")
    return asked


def main() -> None:
    """Prepare once, run the contenders in turn, print the tables."""
    asked = options()
    name = "CPU"
    if asked.gpu:
        import torch

        if not torch.cuda.is_available():
            raise SystemExit(f"--gpu: torch {torch.__version__} sees no GPU here; nothing was measured")
        from transformers.utils import is_flash_attn_2_available

        name = torch.cuda.get_device_name(0)
        if asked.attention in ("auto", "segments"):
            asked.attention = "flash" if is_flash_attn_2_available() else "sdpa"
    with tempfile.TemporaryDirectory(prefix="gristmill-speed-") as folder:
        work = Path(folder)
        shards, model = prepare(asked, work)
        if asked.only != "read":
            contenders: dict[str, tuple[str, dict[str, Any]]] = {
                "ours": (OURS, {}),
                "TRL SFTTrainer": (PEER, {"kind": "trl"}),
                "transformers Trainer": (PEER, {"kind": "hf"}),
            }
            if asked.gpu:
                del contenders["transformers Trainer"]  # its collator stacks rows of one length only
                contenders["TRL SFTTrainer, weights in bf16"] = (PEER, {"kind": "trl", "low": True})
            runs: dict[str, list[dict[str, Any]]] = {key: [] for key in contenders}
            for number in range(asked.rounds):
                for key, (script, more) in contenders.items():
                    runs[key].append(run(script, asked, work, shards, model, **more))
                print(f"round {number + 1} of {asked.rounds} done", file=sys.stderr, flush=True)
            report(runs, measured(asked, shards, model), asked, name)
        if asked.only != "train":
            read = run(READ, asked, work, shards, model)
            print("\n| reading rows of 4,096 in random order, eight at a time | rows/s | tokens/s |\n|---|---:|---:|")
            for key, rows in read.items():
                print(f"| {key} | {rows:,.0f} | {rows * CTX / 1e6:,.1f} M |")
    names = ("gristmill", "torch", "transformers", "trl", "accelerate", "datasets")
    print(f"\n{', '.join(f'{name} {version(name)}' for name in names)}, Python {sys.version.split()[0]}")


def report(
    runs: dict[str, list[dict[str, Any]]], facts: dict[str, float], asked: argparse.Namespace, name: str
) -> None:
    """Tokens a second, paired ratios, and the losses that show it was the same work."""
    theirs = "the same" if asked.gpu or asked.attention == "sdpa" else "sdpa"
    print(f"{name}, {asked.threads} threads, {facts['parameters'] / 1e6:,.1f} M parameters, "
          f"{'bf16' if asked.gpu else 'float32'}, ctx {CTX:,}, {asked.batch} rows a step, {asked.micro} at a time; "
          f"attention of ours {asked.attention}, of the peers {theirs}; {facts['tokens']:,} tokens "
          f"({facts['trained'] / facts['tokens']:.0%} trained) in {facts['segments']:,} segments on the clock; "
          f"{asked.rounds} rounds, medians\n")  # fmt: skip
    mfu = "| MFU " if facts["peak"] else ""
    print(f"| trainer | tokens/s {mfu}| ours is (paired) | peak MiB | loss, first and last step |")
    print(f"|---|---:|{'---:|' if mfu else ''}---:|---:|---|")
    for key, found in runs.items():
        seconds = statistics.median(one["seconds"] for one in found)
        ratio = statistics.median(one["seconds"] / us["seconds"] for one, us in zip(found, runs["ours"], strict=True))
        share = f"| {facts['flops'] / seconds / facts['peak']:.1%} " if facts["peak"] else ""
        peak = max(one["peak"] for one in found) / 2**20
        losses = found[-1]["losses"]
        print(f"| {key} | {facts['tokens'] / seconds:,.0f} {share}| {'' if key == 'ours' else f'{ratio:.2f}x'} "
              f"| {peak:,.0f} | {losses[0]:.5f}, {losses[-1]:.5f} |")  # fmt: skip


if __name__ == "__main__":
    main()
