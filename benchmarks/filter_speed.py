"""`curate filter` against a bare json.loads loop and datasets' reader, on one generated JSONL, in one run.

    python -P benchmarks/filter_speed.py [--gigabytes 1.0] [--rounds 3] [--workers 2]

Each contender runs in a process of its own, in turn, `rounds` times; the table gives the median wall time, the ratio
to the bare loop in the same round (median of ratios), and the peak memory of the largest process. The file is made
from a fixed seed: conversations of about 1.5 KB in `messages` form, 5 % exact copies, no broken row.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

LOOP = "import json,sys\nn=0\nfor line in open(sys.argv[1],'rb'):\n    json.loads(line); n+=1\nprint(n)"
DATASETS = (
    "import sys,datasets\ndatasets.disable_progress_bars()\n"
    "d=datasets.load_dataset('json',data_files=sys.argv[1],split='train',cache_dir=sys.argv[2])\nprint(len(d))"
)
MD5 = """
import hashlib, sys, time, unicodedata
import pyarrow.parquet as pq
texts = pq.read_table(sys.argv[1]).column("text").to_pylist()
began = time.perf_counter()
seen, kept = set(), 0
for text in texts:
    key = hashlib.md5(unicodedata.normalize("NFC", " ".join(text.split())).encode()).digest()
    if key not in seen:
        seen.add(key); kept += 1
print(kept, time.perf_counter() - began)
"""
EXACT = """
import sys, time
import pyarrow as pa, pyarrow.parquet as pq
from curate.record import SCHEMA
from curate.stages.exact import ExactStage, resolve
from curate.stages.settings import ExactSettings
table = pq.read_table(sys.argv[2]).combine_chunks()
stage = ExactStage(ExactSettings())
resolve([stage.sketch(table.slice(0, 100))], {})
began = time.perf_counter()
batches = [pa.Table.from_batches([batch]) for batch in table.to_batches(max_chunksize=8_192)]  # as the pipeline does
verdicts = resolve([stage.sketch(batch) for batch in batches], {})
print(table.num_rows - verdicts.num_rows, time.perf_counter() - began)
"""


def make(path: Path, size: int) -> int:
    """Write the file; returns its rows."""
    rng = np.random.Generator(np.random.PCG64(7))
    letters = np.frombuffer(b"etaoinshrdlucmfwypvbgkjqxz", np.uint8)
    weights = 1.0 / np.arange(1, 27)
    words = [
        bytes(rng.choice(letters, int(n), p=weights / weights.sum())).decode() for n in rng.integers(2, 11, 20_000)
    ]
    ranks = 1.0 / np.arange(10, 20_010)
    ranks /= ranks.sum()
    rows = 0
    pool: list[str] = []
    with path.open("w", encoding="utf-8") as file:
        while file.tell() < size:
            drawn = rng.choice(20_000, 60_000, p=ranks)
            position = 0
            while position + 400 < len(drawn):
                question = int(rng.integers(15, 60))
                answer = int(rng.integers(60, 330))
                texts = [words[i] for i in drawn[position : position + question + answer]]
                position += question + answer
                user = " ".join(texts[:question]).capitalize() + "?"
                reply = ". ".join(" ".join(texts[k : k + 14]) for k in range(question, len(texts), 14)) + "."
                reply = reply.replace(". ", ".\n\n", 3)
                line = json.dumps(
                    {"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": reply}]}
                )
                if pool and rng.random() < 0.05:
                    line = pool[int(rng.integers(len(pool)))]
                elif len(pool) < 50_000:
                    pool.append(line)
                file.write(line + "\n")
                rows += 1
    return rows


def timed(command: list[str]) -> tuple[float, str]:
    """Wall seconds and stdout of a command."""
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command[:4])}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return time.perf_counter() - began, done.stdout


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="gristmill-bench-"))
    raw = work / "raw" / "chats.jsonl"
    raw.parent.mkdir()
    rows = make(raw, int(options.gigabytes * 1e9))
    size = raw.stat().st_size
    python = [sys.executable, "-P"]
    spread = ["--workers", str(options.workers), "--quiet", "--json"]
    contenders = {
        "bare json.loads loop": lambda: timed([*python, "-c", LOOP, str(raw)]),
        "datasets.load_dataset": lambda: timed([*python, "-c", DATASETS, str(raw), str(work / "cache")]),
        "curate filter": lambda: timed(
            [*python, "-m", "curate", "filter", str(raw.parent), str(work / "out"), *spread]
        ),
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    peaks: dict[str, int] = {}
    for _ in range(options.rounds):
        for name, run in contenders.items():
            shutil.rmtree(work / "cache", ignore_errors=True)
            shutil.rmtree(work / "out", ignore_errors=True)
            before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
            times[name].append(run()[0])
            after = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
            if after > before or name not in peaks:
                peaks[name] = after
    print(f"\n{size / 1e9:.3f} GB, {rows:,} rows, {options.workers} workers, {options.rounds} rounds")
    print("| reader | wall s (median) | MB/s | rows/s | speed / bare loop | largest process MiB (at most) |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, found in times.items():
        wall = statistics.median(found)
        ratio = statistics.median(base / own for base, own in zip(times["bare json.loads loop"], found, strict=True))
        print(
            f"| {name} | {wall:.2f} | {size / 1e6 / wall:,.0f} | {rows / wall:,.0f} | {ratio:.2f} | {peaks[name] // 1024:,} |"
        )
    exact(work, python, options.rounds)
    shutil.rmtree(work)


def exact(work: Path, python: list[str], rounds: int) -> None:
    """The exact stage alone (key and resolve, one process) against a Python md5 set under the same normalisation."""
    import pyarrow.parquet as pq

    timed([*python, "-m", "curate", "filter", str(work / "raw"), str(work / "all"), "--skip", "exact", "--quiet"])
    import pyarrow as pa

    parts = [pq.read_table(path) for path in sorted((work / "all" / "records").glob("*.parquet"))]
    table = pa.concat_tables(parts).slice(0, 400_000)
    texts = ["\n".join(f"{m['role']} {m['content']}" for m in row) for row in table.column("messages").to_pylist()]
    pq.write_table(pa.table({"text": texts}), work / "texts.parquet")
    pq.write_table(table, work / "records.parquet")
    found: dict[str, list[float]] = {"md5": [], "exact": []}
    for _ in range(rounds):
        for name, code in (("md5", MD5), ("exact", EXACT)):
            out = timed([*python, "-c", code, str(work / "texts.parquet"), str(work / "records.parquet")])[1]
            kept, seconds = out.split()[-2:]
            found[name].append(float(seconds))
            print(f"  {name}: kept {kept} of {table.num_rows:,} in {float(seconds):.2f} s")
    ratio = statistics.median(a / b for a, b in zip(found["md5"], found["exact"], strict=True))
    print(f"exact dedup: {ratio:.1f}x a Python md5 set under the same normalisation (one process each)")


if __name__ == "__main__":
    main()
