"""The decontaminate stage against datatrove, a plain Python-set script and a Python inverted index, in one run.

    python -P benchmarks/decontaminate.py ../shared/data [--rounds 3] [--peers FOLDER] [--datatrove-docs N] [--skip-filter]

52,002 Alpaca records, prompt and answer as one text, against every set in `eval/`. Each contender
runs in a process of its own with one thread, in turn;
timed is what it does from texts in memory to the records that match: indexing the items, compiling and reading are left
out. The script asks whether any of a text's word 8-grams is in a set of the items' 8-grams; the inverted index counts
shared distinct bigrams by item, then looks at windows. Beside each stands our stage with that rule alone, and its flags
must be the same ones. datatrove (its n-gram filter, 8-grams of queries, own words, own hash) runs in a virtual
environment at FOLDER (default: a temporary one), made here with pip, or is skipped with the reason. At the end `curate filter`
runs in one process with its parts timed, to say what share of the CPU time the stage takes.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

PEERS = ("datatrove==0.10.1", "spacy==3.8.18", "xxhash<4", "pyarrow", "regex")

LOAD = """
import json, sys, time
import pyarrow.parquet as pq
texts = pq.read_table(sys.argv[1]).column("text").to_pylist()
items = pq.read_table(sys.argv[2])
names, questions = items.column("eval").to_pylist(), items.column("question").to_pylist()
"""
SCRIPT = """
import re, unicodedata
WORD = re.compile(r"\\w+")
def words(text):
    return WORD.findall(unicodedata.normalize("NFKC", text).lower())
def grams(text, n=8):
    found = words(text)
    return {tuple(found[i:i + n]) for i in range(len(found) - n + 1)}
index = set()
for question in questions:
    index |= grams(question)
began = time.perf_counter()
hits = [i for i, text in enumerate(texts) if not index.isdisjoint(grams(text))]
seconds = time.perf_counter() - began
print(json.dumps({"seconds": seconds, "hits": hits}))
"""
INVERTED = """
import math
from collections import Counter, defaultdict
sys.path.insert(0, sys.argv[3])
import contamination_reference as reference
from curate.words import words
live = reference.live_bigrams(list(zip(names, questions, [None] * len(names))))
index, lengths = defaultdict(list), [len(words(question)) for question in questions]
for item, own in enumerate(live):
    if len(own) >= 4:
        for gram in own:
            index[gram].append(item)
whole, texts = len(texts), texts[:int(sys.argv[4])]
began = time.perf_counter()
hits = []
for number, text in enumerate(texts):
    said = words(text)
    here = list(zip(said, said[1:]))
    counts = Counter()
    for gram in set(here):
        counts.update(index.get(gram, ()))
    for item, count in counts.items():
        if count / len(live[item]) <= 0.7:
            continue
        own, reach = live[item], max(1, math.ceil(1.5 * lengths[item]) - 1)
        starts = range(max(1, len(here) - reach + 1))
        if max(len(own.intersection(here[at:at + reach])) for at in starts) / len(own) > 0.7:
            hits.append((number, item))
seconds = (time.perf_counter() - began) * whole / len(texts)
print(json.dumps({"seconds": seconds, "hits": sorted(hits)}))
"""
OURS = """
import tempfile
from pathlib import Path
import pyarrow as pa
from curate.contamination.building import build_index
from curate.contamination.decide import decide
from curate.contamination.index import write
from curate.contamination.rules import rules_for
from curate.foundation.store import Store
from curate.record import Message, Record, to_table
from curate.stages.decontaminate import DecontaminateStage, gather
from curate.stages.decontaminate_settings import RULES, DecontaminateSettings
from curate.stages.text import unfold
more = json.loads(sys.argv[3])
settings = DecontaminateSettings.model_validate(more)
rules = rules_for(settings, sorted(set(names)))
folder = Path(tempfile.mkdtemp())
indexing = time.perf_counter()
write(build_index(items, rules, settings.boilerplate.items), Store(folder, "records"), "index")
indexing = time.perf_counter() - indexing
stage = DecontaminateStage(settings, folder / "index")
table = to_table(Record("s", "f", row, [Message("user", text)]) for row, text in enumerate(texts))
batches = [pa.Table.from_batches([batch]) for batch in table.combine_chunks().to_batches(max_chunksize=8192)]
decide(stage.index, stage.rules, *gather([stage.sketch(batches[0])], None)[1:], settings.boilerplate)
batches = [pa.Table.from_batches(batch.to_batches()) for batch in batches]
began = time.perf_counter()
sketches = [stage.sketch(batch, 8192 * k) for k, batch in enumerate(batches)]
records, found, total = gather(sketches, None)
matches = decide(stage.index, stage.rules, found, total, settings.boilerplate).matches
seconds = time.perf_counter() - began
rows = records.column("position").to_pylist()
hits = [(rows[r], i) for r, i, k in zip(matches["record"].tolist(), matches["item"].tolist(), matches["rule"].tolist())
        if not (RULES[k] == "bigram" and stage.index.short[i])]
print(json.dumps({"seconds": seconds, "indexing": indexing, "hits": sorted(set(hits))}))
"""
DATATROVE = """
import tempfile
from pathlib import Path
import numpy as np
from datatrove.data import Document
from datatrove.pipeline.decont.n_grams import NGramsDecontConfig, NGramsDecontFilter
from datatrove.utils.text import ngrams, simplify_text
config = NGramsDecontConfig(n_grams=8, find_query_ngrams=True)
folder = tempfile.mkdtemp()
step = NGramsDecontFilter(folder, config)
hashes = set()
for question in questions:
    tokens = step.tokenizer.word_tokenize(simplify_text(question, config.norm_config))
    hashes.update(map(step.hash_func, map(" ".join, ngrams(tokens, 8))))
np.array(list(hashes), dtype=config.hash_config.np_descr).tofile(Path(folder) / "items.index.hashes")
step.load_index_hashes()
whole, texts = len(texts), texts[:int(sys.argv[3])]
documents = [Document(text=text, id=str(i)) for i, text in enumerate(texts)]
began = time.perf_counter()
hits = [i for i, document in enumerate(documents) if step.filter(document) is not True]
seconds = time.perf_counter() - began
print(json.dumps({"seconds": seconds * whole / len(texts), "hits": hits}))
"""
SHARE = """
import json, runpy, sys, time
from collections import Counter
from curate.contamination import evidence
from curate.stages import decontaminate
spent = Counter()
def timed(owner, attribute, name):
    work = getattr(owner, attribute)
    def run(*arguments, **more):
        began = time.thread_time()
        try:
            return work(*arguments, **more)
        finally:
            spent[name] += time.thread_time() - began
    setattr(owner, attribute, run)
timed(decontaminate, "prepare", "index")
timed(evidence, "spans_of", "spans")
for name in ("sketch", "resolve", "verdicts"):
    timed(decontaminate.DecontaminateStage, name, name)
try:
    runpy.run_module("curate", run_name="__main__")
except SystemExit as stop:
    if stop.code:
        raise
print(json.dumps({"total": time.process_time(), **spent}))
"""
OFF = dict.fromkeys(("ngram", "bigram", "any13", "answer", "semantic"), "off")
ANY8 = {**OFF, "any13": {"state": "on", "size": 8}, "boilerplate": {"items": 1 << 30, "share": 1.0}}
BIGRAM = {**OFF, "bigram": {"state": "on", "sure": 1}, "boilerplate": {"items": 3, "share": 1.0}}


def peers(folder: Path) -> tuple[str | None, str]:
    """A Python that has datatrove, or None and why not."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    done = subprocess.run([python, "-m", "pip", "install", "-q", *PEERS], capture_output=True, text=True, check=False)
    return (str(python), "") if done.returncode == 0 else (None, done.stderr.strip().splitlines()[-1][:200])


def run(python: str, script: str, *arguments: str) -> dict:
    """One contender, once."""
    done = subprocess.run([python, "-P", "-c", LOAD + script, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


def write(data: Path, work: Path, docs: int) -> tuple[str, str]:
    """The prompts and the items as Parquet files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from curate.evals import load

    rows = json.loads(gzip.decompress((data / "sft/alpaca/alpaca_data.json.gz").read_bytes()))
    texts = [
        row["instruction"] + (f"\n\n{row['input']}" if row["input"] else "") + f"\n{row['output']}"
        for row in rows[:docs]
    ]
    pq.write_table(pa.table({"text": pa.array(texts, pa.large_string())}), work / "texts.parquet")
    items = load([str(data / "eval")]).table.select(["eval", "item", "question", "choices", "answer"])
    pq.write_table(items, work / "items.parquet")
    return str(work / "texts.parquet"), str(work / "items.parquet")


def filter_share(data: Path, work: Path, rounds: int, docs: int) -> list[dict]:
    """CPU seconds of `curate filter` on Alpaca records in one process, and those of the stage inside it, each round."""
    raw = work / "raw"
    raw.mkdir()
    rows = json.loads(gzip.decompress((data / "sft/alpaca/alpaca_data.json.gz").read_bytes()))
    (raw / "alpaca.json").write_text(json.dumps(rows[:docs]))
    found = []
    for number in range(rounds + 1):
        options = ["--against", str(data / "eval"), "--executor", "inline", "--quiet", "--allow-wipeout"]
        command = [sys.executable, "-P", "-c", SHARE, "filter", str(raw), str(work / f"out{number}"), *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        found.append(json.loads(done.stdout.strip().splitlines()[-1]))
    return found[1:]  # the first one compiles


def main() -> None:
    """Run the contenders in turn, print the table, refuse different flags."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--datatrove-docs", type=int, default=52_002)
    parser.add_argument("--index-docs", type=int, default=10_000, help="texts for the inverted index, then scaled")
    parser.add_argument("--docs", type=int, default=52_002, help="fewer prompts, for a quick look")
    parser.add_argument("--skip-filter", action="store_true")
    options = parser.parse_args()
    reference = str(Path(__file__).resolve().parents[1] / "tests")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        files = write(options.data, work, options.docs)
        python, why = peers(options.peers or work / "peers")
        contenders = {
            "ours, any 8-gram": (sys.executable, OURS, *files, json.dumps(ANY8)),
            "Python sets, any 8-gram": (sys.executable, SCRIPT, *files),
            "ours, bigram windows": (sys.executable, OURS, *files, json.dumps(BIGRAM)),
            "Python inverted index, bigrams": (sys.executable, INVERTED, *files, reference, str(options.index_docs)),
            "ours, every rule by default": (sys.executable, OURS, *files, json.dumps({})),
        }
        runs: dict[str, list[dict]] = {name: [] for name in contenders}
        for _ in range(options.rounds):
            for name, (interpreter, script, *arguments) in contenders.items():
                runs[name].append(run(interpreter, script, *arguments))
        if python is None:
            print(f"datatrove: skipped ({why})")
        else:
            runs["datatrove, 8-grams"] = [run(python, DATATROVE, *files, str(options.datatrove_docs))]
        report(runs, options.index_docs)
        if not options.skip_filter:
            share(filter_share(options.data, work, options.rounds, options.docs))


def share(found: list[dict]) -> None:
    """The stage's share of the CPU time of `curate filter`, medians of the rounds; spans are a part of resolve."""
    parts = ("index", "sketch", "resolve", "verdicts")
    told = {name: statistics.median(one.get(name, 0.0) for one in found) for name in ("total", *parts, "spans")}
    shares = statistics.median(sum(one.get(name, 0.0) for name in parts) / one["total"] for one in found)
    print("curate filter, CPU seconds: " + ", ".join(f"{name} {value:.2f}" for name, value in told.items()))
    print(f"the stage's share of it: {100 * shares:.0f} %")


def report(runs: dict[str, list[dict]], index_docs: int) -> None:
    """The table: median seconds, and how often ours goes into each in the same round."""
    pairs = {
        "Python sets, any 8-gram": "ours, any 8-gram",
        "Python inverted index, bigrams": "ours, bigram windows",
        "datatrove, 8-grams": "ours, any 8-gram",
    }
    print(f"{'':34} {'seconds':>9} {'ours is':>9} {'records':>9}")
    for name, found in runs.items():
        seconds = statistics.median(one["seconds"] for one in found)
        ratio = ""
        if name in pairs:
            ours = [one["seconds"] for one in runs[pairs[name]]]
            ratio = f"{statistics.median(one['seconds'] / us for one, us in zip(found, ours, strict=False)):.1f}x"
        records = {hit if isinstance(hit, int) else hit[0] for hit in found[0]["hits"]}
        print(f"{name:34} {seconds:9.3f} {ratio:>9} {len(records):9,}")
    same = {hit[0] for hit in runs["ours, any 8-gram"][0]["hits"]} == set(runs["Python sets, any 8-gram"][0]["hits"])
    windows = [hit for hit in runs["ours, bigram windows"][0]["hits"] if hit[0] < index_docs]
    equal = windows == runs["Python inverted index, bigrams"][0]["hits"]
    print(f"flags the same as plain Python's: any 8-gram {same}, bigram windows {equal}")
    print(f"indexing the items: {runs['ours, every rule by default'][-1]['indexing']:.1f} s")
    if not (same and equal):
        raise SystemExit("flags differ")


if __name__ == "__main__":
    main()
