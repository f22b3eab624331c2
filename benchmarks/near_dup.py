"""The minhash stage against rensa and datasketch on one generated Parquet file, in one run.

    python -P benchmarks/near_dup.py [--docs 100000] [--rounds 3] [--peers FOLDER] [--slow] [--mapped]

The file is made from a fixed seed: texts of 150 to 400 words, 68 % originals, 7 % exact copies, 25 % copies with 0.5 to
13 % of the words changed, each of an original of its own, so the exact Jaccard of every pair is known. Words are plain
letters: every tool sees the same word 5-grams. Each contender runs in a process of its own, in turn; timed is what it
does from texts in memory to the list of records to remove, compiling and reading excluded (ours: evidence included;
datatrove reads and writes files, text-dedup is its `minhash.main` on a saved dataset, hashes cached nowhere). With
`--mapped` ours works as `curate filter` does: texts in mapped files, sketches written and mapped, both timed. Peaks:
"peak" is resident memory, mapped pages included; "private" what no file backs (RssAnon, sampled; ours alone).

Peers run in virtual environments under FOLDER (default: a temporary one), made here with pip; a peer that cannot be
installed is skipped with the reason. Recall: true pairs with exact Jaccard >= 0.8 of which a side was removed.
Precision: removed records that are in such a pair.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import numpy as np

THRESHOLD = 0.8
PEERS = ("rensa==0.5.0", "datasketch==2.0.0", "xxhash", "pyarrow")
SLOW = ("datatrove[processing]==0.10.1", "spacy", "pyarrow")
OLD = ("text-dedup==0.4.0",)  # wants packages of its own age

FRAME = """
import json, resource, sys, time
import pyarrow.parquet as pq
texts = pq.read_table(sys.argv[1]).column("text").to_pylist()
def grams(text):
    words = text.lower().split()
    return [" ".join(words[i:i + 5]) for i in range(len(words) - 4)]
{body}
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({{"seconds": seconds, "peak_mib": peak, "removed": removed, **extra}}))
"""
RENSA = """
import rensa
finder = rensa.RMinHashDeduplicator(threshold=0.8, num_perm=128, use_lsh=True, num_bands=16, seed=42)
began = time.perf_counter()
added = finder.add_pairs([(str(i), grams(text)) for i, text in enumerate(texts)])
seconds = time.perf_counter() - began
removed = [i for i, new in enumerate(added) if not new]
extra = {}
"""
DATASKETCH = """
import datasketch, xxhash
began = time.perf_counter()
index = datasketch.MinHashLSH(params=(16, 8), num_perm=128)
options = dict(num_perm=128, scheme="affine32", hashfunc=xxhash.xxh32_intdigest)
made = datasketch.MinHash.generator(([gram.encode() for gram in grams(text)] for text in texts), **options)
removed = []
for i, sketch in enumerate(made):
    if index.query(sketch):
        removed.append(i)
    else:
        index.insert(i, sketch)
seconds = time.perf_counter() - began
extra = {}
"""
DATATROVE = """
import json, struct, sys, tempfile, time
import pyarrow.parquet as pq
from pathlib import Path
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import ParquetReader
from datatrove.utils.hashing import HashConfig

def run(tasks, *steps):
    executor = LocalPipelineExecutor(list(steps), tasks=tasks, workers=2, logging_dir=logs, skip_completed=False)
    executor.run()  # the stages share a log folder: what one completed is not done for the next

if __name__ == "__main__":
    texts = pq.read_table(sys.argv[1])
    half = -(-len(texts) // 2)
    with tempfile.TemporaryDirectory() as work:
        Path(work, "in").mkdir()
        logs = work + "/logs"
        for part in range(2):
            pq.write_table(texts.slice(part * half, half), f"{work}/in/{part}.parquet")
        config = MinhashConfig(hash_config=HashConfig(precision=64), num_buckets=16, hashes_per_bucket=8, n_grams=5)
        began = time.perf_counter()
        run(2, ParquetReader(f"{work}/in"), MinhashDedupSignature(f"{work}/signatures", config=config))
        run(16, MinhashDedupBuckets(f"{work}/signatures", f"{work}/buckets", config=config))
        run(1, MinhashDedupCluster(f"{work}/buckets", f"{work}/remove", config=config))
        seconds = time.perf_counter() - began
        found = Path(f"{work}/remove").glob("*.remove")
        read = {int(path.stem): struct.iter_unpack("<I", path.read_bytes()) for path in found}
        removed = [part * half + at for part, numbers in read.items() for (at,) in numbers]
    print(json.dumps({"seconds": seconds, "peak_mib": float("nan"), "removed": removed}))  # its workers are not waited for
"""
TEXT_DEDUP = """
import json, resource, sys, tempfile, time
import datasets
from text_dedup import minhash

texts = datasets.Dataset.from_parquet(sys.argv[1])
with tempfile.TemporaryDirectory() as work:
    texts = texts.add_column("at", list(range(len(texts))))
    texts.save_to_disk(work + "/in")
    given = ["--path", work + "/in", "--local", "--output", work + "/out", "--column", "text", "--cache_dir", work]
    given += ["--num_proc", "2", "--ngram", "5", "--min_length", "0", "--threshold", "0.8", "--hash_func", "xxh3"]
    given += ["--num_perm", "128", "--b", "16", "--r", "8", "--hash_bits", "64"]
    began = time.perf_counter()
    minhash.main(given, standalone_mode=False)
    seconds = time.perf_counter() - began
    left = set(datasets.load_from_disk(work + "/out")["at"])
peak = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
print(json.dumps({"seconds": seconds, "peak_mib": peak, "removed": [i for i in range(len(texts)) if i not in left]}))
"""
OURS = """
import json, os, resource, sys, threading, time
from pathlib import Path
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import pyarrow as pa, pyarrow.parquet as pq
from curate.record import MESSAGE, ORIGIN, SCHEMA
from curate.stages.minhash import MinhashStage
from curate.stages.minhash_settings import MinhashSettings

def records(texts, start):
    n = len(texts)
    users = pa.array(["user"] * n)
    empty = {name: pa.nulls(n, MESSAGE.field(name).type) for name in ("name", "tool_calls", "reasoning")}
    parts = [users, texts, *empty.values(), pa.array(np.ones(n, bool))]
    names = ["role", "content", *empty, "train"]
    messages = pa.StructArray.from_arrays(parts, fields=[MESSAGE.field(name) for name in names])
    rows = pa.array(np.arange(start, start + n))
    ids = pa.array([f"{i:032x}" for i in range(start, start + n)])
    origin = pa.StructArray.from_arrays(
        [pa.array(["f"] * n), rows, pa.array(np.zeros(n, np.int32))], fields=list(ORIGIN)
    )
    lists = pa.LargeListArray.from_arrays(pa.array(np.arange(n + 1)), messages)
    columns = [ids, ids, pa.array(["s"] * n), origin, lists.cast(SCHEMA.field("messages").type)]
    columns += [pa.nulls(n, SCHEMA.field(name).type) for name in ("tools", "score", "extra")]
    return pa.Table.from_arrays(columns, schema=SCHEMA)

def private():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) / 1024

def watch():
    while not stop.wait(0.02):
        seen.append(private())

out = Path(sys.argv[3]) if len(sys.argv) > 3 else None
stage = MinhashStage(MinhashSettings(memory=int(sys.argv[2])), out)
warm = records(pa.array(["some words to compile with, twice over"] * 64, pa.large_string()), 0)
stage.verdicts(stage.resolve([stage.sketch(warm)], {}, texts=[warm]))
step = 8192
batches = pq.ParquetFile(sys.argv[1]).iter_batches(step, columns=["text"])  # full ones, over row groups
tables = (records(batch.column(0).cast(pa.large_string()), step * number) for number, batch in enumerate(batches))
threads = len(os.sched_getaffinity(0))
stop, seen = threading.Event(), [private()]
watcher = threading.Thread(target=watch)
watcher.start()
if out is None:
    tables = list(tables)
    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        sketches = list(pool.map(stage.sketch, tables))
    half = time.perf_counter()
    resolved = stage.resolve(sketches, {}, threads=threads, texts=tables)
else:
    kept, stored = out / ".work" / "kept", out / ".work" / "sketches"
    kept.mkdir(parents=True)
    stored.mkdir()
    names = []
    for number, table in enumerate(tables):
        names.append(f"{number:06d}.arrow")
        with pa.ipc.new_file(str(kept / names[-1]), table.schema) as writer:
            writer.write_table(table)
    def work(name):
        with pa.memory_map(str(kept / name)) as source:
            sketch = stage.sketch(pa.ipc.open_file(source).read_all())
        with pa.ipc.new_file(str(stored / name), sketch.schema) as writer:
            writer.write_table(sketch)
        return stored / name
    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        sketches = list(pool.map(work, names))
    half = time.perf_counter()
    resolved = stage.resolve(sketches, {}, threads=threads)
verdicts = stage.verdicts(resolved)
seconds = time.perf_counter() - began
stop.set()
watcher.join()
removed = (verdicts.column("sketch").to_numpy().astype(np.int64) * step + verdicts.column("position").to_numpy()).tolist()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
found = {"seconds": seconds, "sketch": half - began, "peak_mib": peak, "private_mib": max(seen), "removed": removed}
print(json.dumps(found))
"""
OWN = "gristmill minhash"
FAST = [
    ("rensa add_pairs", "fast", PEERS, FRAME.format(body=RENSA)),
    ("datasketch", "fast", PEERS, FRAME.format(body=DATASKETCH)),
]
SLOWER = [("text-dedup", "old", OLD, TEXT_DEDUP), ("datatrove", "slow", SLOW, DATATROVE)]


def make(path: Path, docs: int) -> dict[tuple[int, int], float]:
    """Write the texts; returns the exact Jaccard of every planted pair."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.Generator(np.random.PCG64(7))
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    vocabulary = ["".join(rng.choice(letters, rng.integers(2, 10))) for _ in range(30_000)]
    weight = 1 / np.arange(5, 30_005)
    weight /= weight.sum()
    edges = np.cumsum(weight)[:-1]
    originals = int(docs * 0.68)
    lengths = rng.integers(150, 401, originals)
    bodies = []
    for first in range(0, originals, 10_000):
        part = lengths[first : first + 10_000]
        drawn = rng.choice(30_000, part.sum(), p=weight).astype(np.uint16)
        bodies += np.split(drawn, np.cumsum(part)[:-1])
    sources = rng.choice(originals, docs - originals, replace=False)
    for number, source in enumerate(sources):
        body = bodies[source].copy()
        if number % 32 >= 7:
            changed = max(1, int(len(body) * rng.uniform(0.005, 0.13)))
            body[rng.permutation(len(body))[:changed]] = np.searchsorted(edges, rng.random(changed))
        bodies.append(body)
    place = rng.permutation(docs)
    schema = pa.schema([pa.field("text", pa.large_string())])
    ordered = np.argsort(place)
    with pq.ParquetWriter(path, schema) as file:
        for first in range(0, docs, 100_000):
            texts = [
                " ".join([vocabulary[word] for word in bodies[index]]) for index in ordered[first : first + 100_000]
            ]
            file.write_table(pa.table([pa.array(texts, pa.large_string())], schema=schema))
    return {
        (int(place[source]), int(place[originals + number])): jaccard(bodies[source], bodies[originals + number])
        for number, source in enumerate(sources)
    }


def jaccard(one: np.ndarray, two: np.ndarray) -> float:
    """Exact Jaccard of word 5-grams."""
    windows = (np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(body, 5)) for body in (one, two))
    left, right = (set(window.view("V10").ravel().tolist()) for window in windows)
    return len(left & right) / len(left | right)


def quality(removed: list[int], truth: dict[tuple[int, int], float]) -> tuple[float, float]:
    """Recall and precision."""
    gone = set(removed)
    pairs = [pair for pair, value in truth.items() if value >= THRESHOLD]
    good = {side for pair in pairs for side in pair}
    recall = sum(1 for one, two in pairs if one in gone or two in gone) / max(1, len(pairs))
    return recall, len(gone & good) / max(1, len(gone))


def peers(folder: Path, packages: tuple[str, ...]) -> tuple[str | None, str]:
    """A Python that has these packages, or None and why not."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    command = [python, "-m", "pip", "install", "-q", *packages]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (str(python), "") if done.returncode == 0 else (None, done.stderr.strip().splitlines()[-1][:200])


def run(python: str, script: str, *arguments: str) -> dict[str, object]:
    """One contender, once."""
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:  # a file: some start processes of their own
        file.write(script)
        file.flush()
        done = subprocess.run([python, "-P", file.name, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Make the file, run the contenders in turn, print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--docs", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=int, default=1 << 30)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--only-ours", action="store_true")
    parser.add_argument("--slow", action="store_true", help="text-dedup and datatrove too: minutes a round")
    parser.add_argument("--mapped", action="store_true", help="ours from files and through files")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "texts.parquet"
        truth = make(path, options.docs)
        contenders = {OWN: (sys.executable, OURS, str(path), str(options.memory))}
        wanted = [] if options.only_ours else [*FAST, *(SLOWER if options.slow else ())]
        for name, folder, packages, script in wanted:
            python, why = peers((options.peers or Path(work)) / folder, packages)
            if python is None:
                print(f"{name}: skipped ({why})")
            else:
                contenders[name] = (python, script, str(path))
        runs: dict[str, list[dict]] = {name: [] for name in contenders}
        for _ in range(options.rounds):
            for name, (interpreter, script, *arguments) in contenders.items():
                with tempfile.TemporaryDirectory(dir=work) as place:
                    more = [place] if options.mapped and name == OWN else []
                    runs[name].append(run(interpreter, script, *arguments, *more))
        ours = runs[OWN]
        print(
            f"{options.docs:,} texts, {sum(value >= THRESHOLD for value in truth.values()):,} pairs at >= {THRESHOLD}"
        )
        print(f"{'tool':20} {'seconds':>8} {'ratio':>7} {'recall':>8} {'precision':>9} {'peak MiB':>9}")
        for name, found in runs.items():
            seconds = statistics.median(one["seconds"] for one in found)
            ratio = statistics.median(one["seconds"] / us["seconds"] for one, us in zip(found, ours, strict=True))
            recall, precision = quality(found[0]["removed"], truth)
            peak = max(one["peak_mib"] for one in found)
            print(f"{name:20} {seconds:8.2f} {ratio:7.1f} {recall:8.4f} {precision:9.4f} {peak:9.0f}")
        sketch, private = (statistics.median(one[name] for one in ours) for name in ("sketch", "private_mib"))
        print(f"(of ours, sketch: {sketch:.2f} s; private at most {private:,.0f} MiB)")


if __name__ == "__main__":
    main()
