"""The whole river against the chain a good engineer would script today, on the same real rows, in turn, in one run.

    python -P benchmarks/river.py [--rows 200000] [--rounds 3] [--tokenizer FOLDER] [--peers FOLDER] [--limit 900]

From raw JSONL to packed shards on disk: filter, exact copies, near-duplicates (word 5-grams, Jaccard 0.8), evaluation
questions, template, loss mask, rows of 4,096 tokens. Ours is `curate filter` and `pack build` as a user runs them, with
provenance, ledger, checks of every mask, and cards; `curate verify` and `pack verify` are timed beside it, outside the
ratio. The chain is `datasets` (json, filter), an md5 set, rensa, Python 13-gram sets, `datasets.map` of the chat template
with TRL's tagged one, TRL's `pack_dataset`, `save_to_disk`, with two processes where they take a number of them. Each
contender is timed from the start of its first process to the end of its last, start-up and reading included; the
chain is given the evaluation questions as one list, ours reads the files itself. Ours runs once on a few rows before the
clock starts: its kernels are compiled once a machine.

The rows are made by this script from ../shared, always the same ones: alpaca_data, T0, GPTeacher and GSM8K in five
forms, as `messages`, each once; the rest up to `--rows` are repeats: a quarter exact, a quarter with 2 to 5 % of the
words changed, half with 25 to 50 % changed. Where --rows is less than the sources hold, each source gives its share.

rensa comes from pip into FOLDER (a temporary one); datasets, trl and transformers are this environment's. Each contender
is stopped after `--limit` seconds. On two quiet cores a round of 200,000 rows takes about two minutes.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

SHARED = Path(os.environ.get("GRISTMILL_SHARED", Path(__file__).resolve().parents[2] / "shared"))
RENSA = "rensa==0.5.0"
EVALS = ("gsm8k/test.jsonl", "math/math500_test.json", "svamp", "mawps", "humaneval", "mbpp", "arc", "truthfulqa")
CTX = 4096

CHAIN = r"""
import glob, hashlib, json, re, sys, time, unicodedata
WORD = re.compile(r"\w+")
laps = {}
def lap(name, rows=None):
    now = time.perf_counter()
    laps[name] = {"seconds": now - lap.began, "rows": rows}
    lap.began = now
lap.began = time.perf_counter()
def good(row):
    said = row["messages"]
    user, answer = said[0]["content"].strip(), said[-1]["content"].strip()
    whole = user + answer
    return bool(user and answer) and said[-1]["role"] == "assistant" and "\ufffd" not in whole and "â€" not in whole \
        and not answer.endswith("...") and 10 <= len(whole) <= 100_000
def key(messages):
    text = "\n".join(m["role"] + " " + m["content"] for m in messages)
    return hashlib.md5(unicodedata.normalize("NFC", " ".join(text.split())).encode()).digest()
def grams(messages):
    words = " ".join(m["content"] for m in messages).lower().split()
    return [" ".join(words[i:i + 5]) for i in range(max(1, len(words) - 4))]
def thirteen(text):
    words = WORD.findall(text.lower())
    return {tuple(words[i:i + 13]) for i in range(len(words) - 12)}

def main(raw, tokenizer, questions, out):
    import datasets, rensa
    import pyarrow.compute as pc
    from transformers import AutoTokenizer
    from trl import pack_dataset
    from trl.chat_template_utils import get_training_chat_template
    datasets.disable_progress_bars()
    lap("start")
    files = sorted(glob.glob(raw + "/*.jsonl"))
    data = datasets.load_dataset("json", data_files=files, split="train", cache_dir=out + "/cache")
    lap("read", len(data))
    data = data.filter(good, num_proc=2)
    lap("filter", len(data))
    seen, keep = set(), []
    for number, messages in enumerate(data[:]["messages"]):
        own = key(messages)
        if own not in seen:
            seen.add(own)
            keep.append(number)
    data = data.select(keep)
    lap("exact, md5 set", len(data))
    finder = rensa.RMinHashDeduplicator(threshold=0.8, num_perm=128, use_lsh=True, num_bands=16, seed=42)
    keep = []
    for first in range(0, len(data), 20_000):
        part = data[first:first + 20_000]["messages"]
        new = finder.add_pairs([(str(first + k), grams(messages)) for k, messages in enumerate(part)])
        keep += [first + k for k, fresh in enumerate(new) if fresh]
    data = data.select(keep)
    lap("near-duplicates, rensa", len(data))
    index = set()
    for question in json.load(open(questions)):
        index |= thirteen(question)
    keep = [number for number, messages in enumerate(data[:]["messages"])
            if all(m["role"] != "user" or index.isdisjoint(thirteen(m["content"])) for m in messages)]
    data = data.select(keep)
    lap("decontaminate, 13-grams", len(data))
    hf = AutoTokenizer.from_pretrained(tokenizer)
    tagged = get_training_chat_template(tokenizer=hf)
    def encode(row):
        found = hf.apply_chat_template(row["messages"], chat_template=tagged, tokenize=True, return_dict=True,
                                       return_assistant_tokens_mask=True)
        ids = found["input_ids"]
        return {"input_ids": ids, "labels": [i if on else -100 for i, on in zip(ids, found["assistant_masks"])]}
    data = data.map(encode, num_proc=2, remove_columns=data.column_names)
    lap("template, ids, mask", len(data))
    kept = len(data)
    packed = pack_dataset(data, 4096, "bfd", map_kwargs={"num_proc": 2})
    lap("pack (rows)", len(packed))
    packed.save_to_disk(out + "/shards", num_proc=2)
    lap("save (rows)", len(packed))
    tokens = pc.sum(pc.list_value_length(packed.data.table.column("input_ids"))).as_py()
    print(json.dumps({"laps": laps, "kept": kept, "rows": len(packed), "tokens": tokens}))

if __name__ == "__main__":
    main(*sys.argv[1:5])
"""


def sources(shared: Path) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Name and (user, assistant) pairs of every source, as published; T0's end marker is cut off."""
    import zstandard

    sft = shared / "data/sft"
    yield "alpaca", _alpaca(json.loads(gzip.decompress((sft / "alpaca/alpaca_data.json.gz").read_bytes())))
    with (sft / "t0_train/t0_train.jsonl.zst").open("rb") as file:
        lines = zstandard.ZstdDecompressor().stream_reader(file).read().splitlines()
    rows = [json.loads(line) for line in lines]
    yield "t0", [(row["prompt"], row["completion"].removesuffix("<|endoftext|>")) for row in rows]
    teacher = [row for path in sorted((sft / "gpteacher").glob("*.json")) for row in json.loads(path.read_bytes())]
    yield "gpteacher", _alpaca(teacher)
    train = [json.loads(line) for line in (shared / "data/eval/gsm8k/train.jsonl").read_bytes().splitlines()]
    math = [(row["question"], row["answer"]) for row in train]
    math += _alpaca(json.loads((sft / "math/gsm_8k_train_alpaca.json").read_bytes()))
    for path in sorted((sft / "math").glob("camel_star_gsm8k_part*.json")):
        math += [(row["problem"], row["solution"]) for row in json.loads(path.read_bytes())]
    for name, one, two in (
        ("screl_train_use", "query", "response"),
        ("metamath_GSM8K_Backward", "question", "answer"),
    ):
        lines = (sft / f"math/{name}.jsonl").read_bytes().splitlines()
        math += [(row[one], row[two]) for row in map(json.loads, lines)]
    yield "gsm8k_forms", [pair for pair in math if all(isinstance(text, str) for text in pair)]


def _alpaca(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    pairs = []
    for row in rows:
        more = f"\n\n{row['input']}" if row.get("input") else ""
        pairs.append((row["instruction"] + more, row["output"] if "output" in row else row["response"]))
    return pairs


def make(shared: Path, raw: Path, count: int) -> dict[str, int]:
    """Write `count` rows under `raw`, a JSONL file a source; returns the rows of each kind."""
    rng = np.random.Generator(np.random.PCG64(11))
    held = {name: list(pairs) for name, pairs in sources(shared)}
    whole = sum(map(len, held.values()))
    base = {}
    for name, pairs in held.items():
        size = max(1, min(len(pairs), len(pairs) * count // whole))
        base[name] = [pairs[place * len(pairs) // size] for place in range(size)]
    kinds = {name: len(pairs) for name, pairs in base.items()}
    extra = max(0, count - sum(kinds.values()))
    places = [(name, number) for name, pairs in base.items() for number in range(len(pairs))]
    out: dict[str, list[tuple[str, str]]] = {name: list(pairs) for name, pairs in base.items()}
    for number, at in enumerate(rng.integers(len(places), size=extra).tolist()):
        name, row = places[at]
        share = (0.0, float(rng.uniform(0.02, 0.05)), float(rng.uniform(0.25, 0.5)), float(rng.uniform(0.25, 0.5)))
        kind = number % 4
        out[name].append(tuple(_edited(text, share[kind], rng) for text in base[name][row]))
        label = ("exact repeats", "light edits", "heavy edits", "heavy edits")[kind]
        kinds[label] = kinds.get(label, 0) + 1
    raw.mkdir(parents=True)
    for name, pairs in out.items():
        with (raw / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for index in rng.permutation(len(pairs)).tolist():
                user, answer = pairs[index]
                said = [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
                file.write(json.dumps({"messages": said}, ensure_ascii=False) + "\n")
    return kinds


def _edited(text: str, share: float, rng: np.random.Generator) -> str:
    """`text` with a share of its words (at least one, where it is asked for) replaced by new ones, spacing kept."""
    words = text.split(" ")
    if share == 0 or len(words) < 3:
        return text
    for place in rng.choice(len(words), max(1, round(len(words) * share)), replace=False).tolist():
        if words[place].isalpha():
            words[place] = "".join(map(chr, rng.integers(97, 123, 6)))
    return " ".join(words)


def timed(command: list[str], limit: float, **more: str) -> tuple[float, float, str]:
    """Wall seconds, CPU seconds of it and its processes, and stdout of a command."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true", **more}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit, env=environment)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:5])}: exit {done.returncode}\n{done.stderr[-3000:]}")
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def ours(raw: Path, work: Path, asked: argparse.Namespace, evals: list[str]) -> dict[str, Any]:
    """`curate filter` and `pack build`, start to exit; the checks of both after them."""
    out, shards = work / "out", work / "shards"
    for folder in (out, shards):
        shutil.rmtree(folder, ignore_errors=True)
    python = [sys.executable, "-P", "-m"]
    against = [word for path in evals for word in ("--against", path)]
    against.append("--allow-wipeout")  # most of T0 is one passage under many prompts
    spread = ["--workers", str(asked.workers), "--quiet"]
    filtered, one, _ = timed([*python, "curate", "filter", str(raw), str(out), *against, *spread], asked.limit)
    words = ["--tokenizer", str(asked.tokenizer), "--ctx", str(CTX), "--eval-fraction", "0", *spread]
    packed, two, _ = timed([*python, "pack", "build", str(out), str(shards), *words], asked.limit)
    checked = sum(
        timed([*python, name, "verify", str(folder)], asked.limit)[0]
        for name, folder in (("curate", out), ("pack", shards))
    )
    facts, split = (json.loads((folder / "manifest.json").read_bytes()) for folder in (out, shards))
    train = split["splits"]["train"]
    left = facts["totals"]["records"]
    stages = {}
    for stage in facts["stages"]:
        left -= stage["removed"]
        stages[stage["name"]] = left
    return {
        "seconds": filtered + packed, "cpu": one + two, "filter": filtered, "build": packed, "verify": checked, "stages": stages,
        "kept": train["segments"], "rows": train["rows"], "tokens": train["tokens"],
        "engine": split["engine"]["engine"],
    }  # fmt: skip


def chain(raw: Path, work: Path, asked: argparse.Namespace, questions: Path, peers: Path) -> dict[str, Any]:
    """The scripted chain, start to exit."""
    out = work / "chain"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    script = work / "chain.py"  # a file: its functions go to other processes
    script.write_text(CHAIN, "utf-8")
    command = [sys.executable, "-P", str(script), str(raw), str(asked.tokenizer), str(questions), str(out)]
    seconds, cpu, said = timed(command, asked.limit, PYTHONPATH=str(peers), HF_HOME=str(work / "hf"))
    return {"seconds": seconds, "cpu": cpu, **json.loads(said.strip().splitlines()[-1])}


def rensa(folder: Path) -> Path:
    """A folder that has rensa and nothing else."""
    if not (folder / "rensa").is_dir():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), RENSA]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"rensa could not be installed: {done.stderr.strip().splitlines()[-1][:300]}")
    return folder


def main() -> None:
    """Make the rows, run the contenders in turn, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tokenizer", type=Path, default=SHARED / "tokenizers/qwen2.5")
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--limit", type=float, default=900, help="seconds a command may take")
    asked = parser.parse_args()
    if not (SHARED / "data").is_dir():
        raise SystemExit("the real data (../shared, or GRISTMILL_SHARED) is not here")
    with tempfile.TemporaryDirectory(prefix="gristmill-river-") as folder:
        work = Path(folder)
        peers = rensa(asked.peers or work / "peers")
        kinds = make(SHARED, work / "raw", asked.rows)
        make(SHARED, work / "few", 2_000)
        evals = [str(SHARED / "data/eval" / name) for name in EVALS]
        from curate.evals import load

        items = load(evals).table.column("question").to_pylist()
        (work / "questions.json").write_text(json.dumps(items), "utf-8")
        ours(work / "few", work, asked, evals)  # compiles
        rounds = []
        for number in range(asked.rounds):
            found = {"ours": ours(work / "raw", work, asked, evals)}
            found["chain"] = chain(work / "raw", work, asked, work / "questions.json", peers)
            rounds.append(found)
            print(f"round {number + 1}: ours {found['ours']['seconds']:.1f} s, "
                  f"the chain {found['chain']['seconds']:.1f} s", file=sys.stderr, flush=True)  # fmt: skip
        size = sum(path.stat().st_size for path in (work / "raw").glob("*.jsonl"))
        report(rounds, kinds, size, len(items))


def report(rounds: list[dict[str, dict[str, Any]]], kinds: dict[str, int], size: int, items: int) -> None:
    """The tables: wall time and what is kept, and where the time goes."""
    rows = sum(kinds.values())
    print(f"{rows:,} rows, {size / 1e6:,.0f} MB ({', '.join(f'{name} {n:,}' for name, n in kinds.items())}); "
          f"{items:,} evaluation questions; {len(rounds)} rounds, medians\n")  # fmt: skip
    print("| what | wall s | CPU s | rows/s | records packed | packed rows | tokens | fill |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name, label in (("ours", "`curate filter` + `pack build`"), ("chain", "the scripted chain")):
        seconds, cpu = _median(rounds, name, "seconds"), _median(rounds, name, "cpu")
        last = rounds[-1][name]
        fill = last["tokens"] / (last["rows"] * CTX)
        print(f"| {label} | {seconds:.1f} | {cpu:.1f} | {rows / seconds:,.0f} | {last['kept']:,} "
              f"| {last['rows']:,} | {last['tokens']:,} | {fill:.2%} |")  # fmt: skip
    ratios = [one["chain"]["seconds"] / one["ours"]["seconds"] for one in rounds]
    print(
        f"\nratio, paired: {statistics.median(ratios):.1f}x (rounds: {', '.join(f'{r:.1f}' for r in ratios)}; aim: 8x)"
    )
    checked = _median(rounds, "ours", "verify")
    both = statistics.median(
        one["chain"]["seconds"] / (one["ours"]["seconds"] + one["ours"]["verify"]) for one in rounds
    )
    print(
        f"with `curate verify` and `pack verify` after it ({checked:.1f} s more), which the chain has not: {both:.1f}x\n"
    )
    mine, theirs = rounds[-1]["ours"], rounds[-1]["chain"]
    print("| ours | s | records left |\n|---|---:|---:|")
    print(f"| `curate filter` | {_median(rounds, 'ours', 'filter'):.1f} | |")
    for name, left in mine["stages"].items():
        print(f"| - after {name} | | {left:,} |")
    print(f"| `pack build` (engine {mine['engine']}) | {_median(rounds, 'ours', 'build'):.1f} | {mine['kept']:,} |\n")
    print("| the chain | s | left |\n|---|---:|---:|")
    for name, lap in theirs["laps"].items():
        seconds = statistics.median(one["chain"]["laps"][name]["seconds"] for one in rounds)
        print(f"| {name} | {seconds:.1f} | {'' if lap['rows'] is None else format(lap['rows'], ',')} |")
    names = ("gristmill", "datasets", "trl", "transformers", "tokenizers", "gigatoken", "polars", "pyarrow", "numba")
    print(f"\n{', '.join(f'{name} {version(name)}' for name in names)}, {RENSA.replace('==', ' ')}, "
          f"Python {sys.version.split()[0]}, {len(os.sched_getaffinity(0))} cores")  # fmt: skip


def _median(rounds: list[dict[str, dict[str, Any]]], name: str, what: str) -> float:
    return statistics.median(one[name][what] for one in rounds)


if __name__ == "__main__":
    main()
