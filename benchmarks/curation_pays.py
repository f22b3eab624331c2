"""Does curation pay? The same model on the same number of trained tokens, from raw and from curated data.

    python -P benchmarks/curation_pays.py [--seeds 3] [--steps 850] [--dirt shipped|heavy] [--real] [--keep FOLDER]

Two arms: raw is every record that can be read (`curate filter` with no stage); curated is `curate filter` as it comes,
compared with the evaluation sets below. Both are packed by `pack build --recipe demo`; the raw arm takes as many steps
as give it the trained tokens of the curated one. Each run is scored on what neither arm holds. Differences are paired by
seed and item.

By default the data is the embedded sample with its planted dirt (`--dirt shipped`: 3.5 % of the rows; `heavy`: the same
planted rows among 4,000 clean ones, about a fifth). Scored: loss on 1,000 fresh clean rows that no arm holds, exact
match on held-out operand pairs and templates, and, separately, on the items that were leaked into the raw data on purpose
(there the raw arm has seen the answers). With --real the data is Alpaca, GPTeacher, the forms of GSM8K train, and 10,000
rows of T0 from ../shared, with a byte-level BPE of 4,096 tokens made from the raw rows; scored: loss on GSM8K test, LIMA
and the user-oriented instructions, none of which is in the mix.

Intervals are 95 %: exact match by a bootstrap over seeds and items (10,000 draws, fixed seed), loss by Student's t
over seeds; three seeds give wide ones. About twelve minutes on two quiet cores by default (six runs, two at a time, a
core each), and as long for --real; a run is stopped after `--limit` seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
ARMS = ("raw", "curated")
T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
T0_ROWS = 10_000

ONE = """
import json, sys
asked = json.loads(sys.argv[1])
import torch
torch.set_num_threads(1)
from pathlib import Path
from transformers.utils import logging
from curate.foundation.console import Console
from train import commands
from train.attention import SEGMENTS, register
from train.data import Shards, collate
from train.evaluate import exact_match, load_model
from train.tasks.items import read_items
from train.loop import by_source
from train.objective import PackedLoss
logging.disable_progress_bar()
shards, run = Path(asked["shards"]), Path(asked["run"])
flags = {"seed": asked["seed"], "max_steps": asked["steps"], "eval_steps": asked["steps"], "save_steps": asked["steps"]}
resolved = commands.settings(shards, None, [], flags)
manifest, _ = commands.run(shards, run, resolved, Console(quiet=True), overwrite=False)
model, asker = load_model(run, "cpu")
found = {"progress": manifest["progress"], "items": {}}
for name, path in asked["items"].items():
    _, responses = exact_match(model, asker, read_items(Path(path), asked["count"]), max_new_tokens=96)
    found["items"][name] = [int(one.correct) for one in responses]
held = Shards(Path(asked["held"]))
register()
model.set_attn_implementation(SEGMENTS)
inner = PackedLoss(model).eval()
sums = torch.zeros(2 * max(1, len(held.sources)), dtype=torch.float64)
with torch.no_grad():
    for number in range(len(held.train)):
        batch = collate([held.train[number]], held.sources, flat=inner.flat)
        sums += by_source(inner(batch)[1], batch.sources, batch.targets, len(held.sources))
losses, counts = sums.view(2, -1)
found["loss"] = {"all": float(losses.sum() / counts.sum())}
if len(held.sources) > 1:
    found["loss"] |= {name: float(a / b) for name, a, b in zip(held.sources, losses, counts) if b}
print(json.dumps(found))
"""


def call(command: list[str], limit: float) -> str:
    """Stdout of a command; a failure ends the benchmark with what it said."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:5])[:300]}: exit {done.returncode}\n{done.stderr[-3000:]}")
    return done.stdout


def write(path: Path, conversations: list[list[dict[str, str]]], broken: frozenset[int] = frozenset()) -> None:
    """A JSONL file of `messages`; the lines in `broken` are cut off in the middle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for number, said in enumerate(conversations):
            line = json.dumps({"messages": said}, ensure_ascii=False)
            file.write((line[: len(line) * 2 // 3] if number in broken else line) + "\n")


def pair(user: str, answer: str) -> list[dict[str, str]]:
    """One question, one answer."""
    return [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]


def sample(work: Path, dirt: str, rows: int) -> tuple[dict[str, str], list[str]]:
    """The sample under raw/, fresh clean rows under fresh/; (items to score, evaluation sets to compare with)."""
    from curate.sample import EVALS, LEAKED, ROWS, truth_folder, write_sample
    from curate.sample.corpus import Row, clean, evaluation, planted
    from curate.sample.draw import Draw

    def said(row: Row) -> list[dict[str, str]]:
        return [{"role": message.role, "content": message.content or ""} for message in row.messages]

    raw = work / "raw"
    write_sample(raw, rows=None if dirt == "heavy" else rows)
    base = clean(Draw(0, "clean"), rows)
    if dirt == "heavy":
        for path in sorted(raw.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        found = [*base, *planted(Draw(0, "planted"), base, evaluation(0)[1], 1.0)]
        Draw(0, "heavy").shuffle(found)
        cut = frozenset(number for number, row in enumerate(found) if row.kind == "broken_json")
        write(raw / "rows.jsonl", [said(row) for row in found], cut)
    known = {row.messages[-2].content for row in base if len(row.messages) > 1}
    fresh = [row for row in clean(Draw(1, "clean"), min(3_000, ROWS)) if row.messages[-2].content not in known]
    write(work / "fresh" / "fresh.jsonl", [said(row) for row in fresh[:1_000]])
    beside = truth_folder(raw)
    items = {f"held-out {name}": str(beside / file) for name, file in EVALS.items()}
    items["leaked on purpose"] = str(beside / LEAKED)
    return items, list(items.values())


def real(work: Path, rows: int | None) -> tuple[dict[str, str], list[str]]:
    """The real mix under raw/, the held-out sets under fresh/, a tokenizer; as `sample`, with no items."""
    from river import SHARED, sources

    if not (SHARED / "data").is_dir():
        raise SystemExit("--real: the real data (../shared, or GRISTMILL_SHARED) is not here")
    mix = {name: list(pairs) for name, pairs in sources(SHARED)}
    mix["t0"] = mix["t0"][:: max(1, len(mix["t0"]) // T0_ROWS)][:T0_ROWS]
    for name, pairs in mix.items():
        chosen = pairs if rows is None else pairs[:: max(1, 4 * len(pairs) // rows)]
        write(work / "raw" / f"{name}.jsonl", [pair(*one) for one in chosen])
    data = SHARED / "data"
    test = [json.loads(line) for line in (data / "eval/gsm8k/test.jsonl").read_bytes().splitlines()]
    write(work / "fresh" / "gsm8k_test.jsonl", [pair(row["question"], row["answer"]) for row in test[:500]])
    lima = [row for row in json.loads((data / "sft/lima/lima.json").read_bytes()) if not row.get("history")]
    write(work / "fresh" / "lima.jsonl", [pair(row["instruction"], row["output"]) for row in lima[:300]])
    lines = (data / "sft/self_instruct/user_oriented_instructions.jsonl").read_bytes().splitlines()
    asked = [json.loads(line) for line in lines]
    said = [
        pair(f"{row['instruction']}\n\n{row['instances'][0]['input']}".strip(), row["instances"][0]["output"])
        for row in asked
    ]
    write(work / "fresh" / "user_oriented.jsonl", said)
    _tokenizer(work / "raw", work / "tokenizer")
    return {}, [str(data / "eval/gsm8k/test.jsonl")]


def _tokenizer(raw: Path, folder: Path) -> None:
    """A byte-level BPE of 4,096 tokens with ChatML's two, made from every fourth raw row."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=4_096, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    lines = [line for path in sorted(raw.glob("*.jsonl")) for line in path.read_bytes().splitlines()[::4]]
    made.train_from_iterator((m["content"] for line in lines for m in json.loads(line)["messages"]), trainer)
    saved = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    saved.save_pretrained(folder)


def build(work: Path, asked: argparse.Namespace, against: list[str]) -> dict[str, dict[str, Any]]:
    """Both arms and the fresh rows, filtered and packed; what is in each."""
    nothing = ["--set", "curate.stages=[]"]
    compared = [word for path in against for word in ("--against", path)]
    tokenizer = ["--tokenizer", str(work / "tokenizer"), "--template", "chatml"] if asked.real else []
    facts = {}
    for name, folder, words in (
        ("raw", "raw", nothing),
        ("curated", "raw", [*compared, "--allow-wipeout"]),
        ("fresh", "fresh", nothing),
    ):
        out, shards = work / f"{name}-out", work / f"{name}-shards"
        python = [sys.executable, "-P", "-m"]
        call([*python, "curate", "filter", str(work / folder), str(out), "--quiet", *words], asked.limit)
        more = ["--recipe", "demo", "--eval-fraction", "0", "--quiet", *tokenizer]
        call([*python, "pack", "build", str(out), str(shards), *more], asked.limit)
        kept, packed = (json.loads((path / "manifest.json").read_bytes()) for path in (out, shards))
        train = packed["splits"]["train"]
        facts[name] = {
            "rows": kept["totals"]["rows"], "records": kept["totals"]["kept"], "packed": train["segments"],
            "removed": {stage["name"]: stage["removed"] for stage in kept["stages"] if stage["removed"]},
            "bins": train["rows"], "tokens": train["tokens"], "trained": train["trained"],
        }  # fmt: skip
    return facts


def train(work: Path, asked: argparse.Namespace, facts: dict[str, Any], items: dict[str, str]) -> dict[str, list[Any]]:
    """Every arm and seed, two at a time; the scores by arm, in the order of the seeds."""
    each = {arm: facts[arm]["trained"] / facts[arm]["bins"] for arm in ARMS}
    steps = {"curated": asked.steps, "raw": max(1, round(asked.steps * each["curated"] / each["raw"]))}

    def one(job: tuple[int, str]) -> dict[str, Any]:
        seed, arm = job
        words = {
            "shards": str(work / f"{arm}-shards"), "run": str(work / "runs" / f"{arm}-{seed}"), "seed": seed,
            "steps": steps[arm], "items": items, "count": asked.items, "held": str(work / "fresh-shards"),
        }  # fmt: skip
        said = call([sys.executable, "-P", "-c", ONE, json.dumps(words)], asked.limit)
        print(f"{arm}, seed {seed}: done", file=sys.stderr, flush=True)
        return dict(json.loads(said.strip().splitlines()[-1]))

    jobs = [(seed, arm) for seed in range(asked.seeds) for arm in ARMS]
    with ThreadPoolExecutor(asked.parallel) as pool:
        found = dict(zip(jobs, pool.map(one, jobs), strict=True))
    return {arm: [found[seed, arm] for seed in range(asked.seeds)] for arm in ARMS}


def bootstrap(differences: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean of (seeds, items), both drawn with replacement."""
    rng = np.random.Generator(np.random.PCG64(5))
    seeds, items = differences.shape
    means = [
        differences[rng.integers(seeds, size=seeds)][:, rng.integers(items, size=items)].mean() for _ in range(10_000)
    ]
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def half_width(values: list[float]) -> float | None:
    """Half of Student's 95 % interval of a mean; None for a single value."""
    if len(values) < 2:
        return None
    return T95.get(len(values) - 1, 1.96) * statistics.stdev(values) / len(values) ** 0.5


def report(facts: dict[str, Any], found: dict[str, list[Any]], asked: argparse.Namespace) -> None:
    """What is in the arms, and how the models do."""
    what = "the real mix" if asked.real else f"the sample, dirt {asked.dirt}"
    print(f"Does curation pay? {what}; {asked.seeds} seeds, tiny model (4 layers of 128), 2,048 tokens a step\n")
    print("| arm | rows | records packed | trained tokens there | steps | trained tokens seen | epochs | removed |")
    print("|---|---:|---:|---:|---:|---:|---:|---|")
    for arm in ARMS:
        own, last = facts[arm], found[arm][0]["progress"]
        removed = ", ".join(f"{name} {count:,}" for name, count in own["removed"].items()) or "nothing"
        print(f"| {arm} | {own['rows']:,} | {own['packed']:,} | {own['trained']:,} | {last['step']:,} | "
              f"{last['trained_tokens']:,} | {last['samples'] / own['bins']:.2f} | {removed} |")  # fmt: skip
    print("\n| held-out loss (nats a token) | raw | curated | difference | 95 % interval | seeds better |")
    print("|---|---:|---:|---:|---|---:|")
    for name in found["raw"][0]["loss"]:
        raw, curated = ([one["loss"][name] for one in found[arm]] for arm in ARMS)
        apart = [b - a for a, b in zip(raw, curated, strict=True)]
        middle, half = statistics.fmean(apart), half_width(apart)
        span = "one seed" if half is None else f"{middle - half:+.4f} to {middle + half:+.4f}"
        print(f"| {name} | {statistics.fmean(raw):.4f} | {statistics.fmean(curated):.4f} | {middle:+.4f} | "
              f"{span} | {sum(d < 0 for d in apart)} of {len(apart)} |")  # fmt: skip
    if not found["raw"][0]["items"]:
        return
    print("\n| exact match | items | raw (by seed) | curated (by seed) | difference | 95 % interval |")
    print("|---|---:|---|---|---:|---|")
    for name in found["raw"][0]["items"]:
        raw, curated = (np.array([one["items"][name] for one in found[arm]], float) for arm in ARMS)
        low, high = bootstrap(curated - raw)
        print(f"| {name} | {raw.shape[1]:,} | {_by_seed(raw)} | {_by_seed(curated)} | "
              f"{100 * (curated - raw).mean():+.1f} | {100 * low:+.1f} to {100 * high:+.1f} |")  # fmt: skip


def _by_seed(right: np.ndarray) -> str:
    return f"{right.mean():.1%} ({', '.join(f'{share:.1%}' for share in right.mean(axis=1))})"


def main() -> None:
    """Make the data, filter and pack both arms, train, score, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=850, help="of the curated arm")
    parser.add_argument("--dirt", choices=["shipped", "heavy"], default="shipped")
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--rows", type=int, help="clean rows of the sample (30,000; heavy: 4,000), or of the real mix")
    parser.add_argument("--items", type=int, help="only so many of each set")
    parser.add_argument("--parallel", type=int, default=min(2, len(os.sched_getaffinity(0))))
    parser.add_argument("--limit", type=float, default=1200, help="seconds a command may take")
    parser.add_argument("--keep", type=Path, help="work in this new folder and leave it there")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gristmill-pays-") as folder:
        work = asked.keep or Path(folder)
        work.mkdir(exist_ok=True)
        rows = asked.rows or (4_000 if asked.dirt == "heavy" else 30_000)
        items, against = real(work, asked.rows) if asked.real else sample(work, asked.dirt, rows)
        facts = build(work, asked, against)
        report(facts, train(work, asked, facts, items), asked)
    names = ("gristmill", "torch", "transformers", "accelerate", "tokenizers", "numpy")
    print(f"\n{', '.join(f'{name} {version(name)}' for name in names)}, Python {sys.version.split()[0]}, "
          f"{len(os.sched_getaffinity(0))} cores")  # fmt: skip


if __name__ == "__main__":
    main()
