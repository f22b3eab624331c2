"""Peak memory and time of the minhash stage over millions of short rows, and the line through them.

    python -P benchmarks/near_dup_memory.py [--millions 1 2 4] [--memory 4G]

Rows are drawn from a fixed seed: 20 to 60 words, one row in ten a copy of an earlier one with one word changed. For each
size the rows are written as the pipeline keeps them (Arrow files); a process of its own maps them, sketches them to files
and resolves, as `curate filter` does; timed are sketching and resolving. "private" is memory that no file backs (RssAnon,
sampled every 20 ms); "resident" (VmHWM) counts mapped pages too. The line is fitted to `private` and to the seconds by
least squares, and says what 10 million rows take; memory that follows the setting `--memory` shows as its intercept.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

GIB = 1 << 30
ROWS = 50_000  # a file
RUN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from near_dup_memory import one
one(Path(sys.argv[2]), int(sys.argv[3]))
"""


def texts(rng: np.random.Generator, vocabulary: np.ndarray, rows: int) -> list[str]:
    """Short texts; one in ten resembles another of the same call."""
    drawn = [vocabulary[rng.integers(0, len(vocabulary), size)] for size in rng.integers(20, 61, rows)]
    for to in range(0, rows, 10):
        body = drawn[rng.integers(0, rows)].copy()
        body[rng.integers(0, len(body))] = vocabulary[rng.integers(0, len(vocabulary))]
        drawn[to] = body
    return [" ".join(body) for body in drawn]


def write(place: Path, rows: int) -> int:
    """Write rows as files in `place`; returns the characters of all texts."""
    import pyarrow as pa

    from curate.record import Message, Record, to_table

    kept = place / ".work" / "kept"
    kept.mkdir(parents=True)
    rng = np.random.Generator(np.random.PCG64(11))
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    vocabulary = np.array(["".join(rng.choice(letters, rng.integers(2, 10))) for _ in range(30_000)])
    size = 0
    for first in range(0, rows, ROWS):
        made = texts(rng, vocabulary, min(ROWS, rows - first))
        size += sum(map(len, made))
        table = to_table([Record("s", "f", first + at, [Message("user", text)]) for at, text in enumerate(made)])
        with pa.ipc.new_file(str(kept / f"{first // ROWS:06d}.arrow"), table.schema) as writer:
            writer.write_table(table, max_chunksize=8192)
    return size


def one(place: Path, memory: int) -> None:
    """Sketch and resolve the rows in `place`; prints JSON."""
    import os
    import threading
    import time
    from concurrent.futures import ThreadPoolExecutor

    import pyarrow as pa

    from curate.record import Message, Record, to_table
    from curate.stages.minhash import MinhashStage
    from curate.stages.minhash_settings import MinhashSettings

    kept, stored = place / ".work" / "kept", place / ".work" / "sketches"
    stored.mkdir()
    names = sorted(path.name for path in kept.iterdir())
    seen, stop = [], threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            seen.append(_status("RssAnon"))

    def sketch(stage: MinhashStage, name: str) -> Path:
        with pa.memory_map(str(kept / name)) as source:
            table = stage.sketch(pa.ipc.open_file(source).read_all())
        with pa.ipc.new_file(str(stored / name), table.schema) as writer:
            writer.write_table(table, max_chunksize=8192)
        return stored / name

    stage = MinhashStage(MinhashSettings(memory=memory), place)
    threads = len(os.sched_getaffinity(0))
    warm = to_table([Record("s", "f", at, [Message("user", "some words to compile with, twice")]) for at in range(32)])
    stage.verdicts(stage.resolve([stage.sketch(warm)], {}, texts=[warm]))
    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        paths = list(pool.map(lambda name: sketch(stage, name), names))
    half = time.perf_counter()
    removed = stage.verdicts(stage.resolve(paths, {}, threads=threads)).num_rows
    seconds = time.perf_counter() - half
    stop.set()
    watcher.join()
    found = {"removed": removed, "sketch": half - began, "resolve": seconds}
    print(json.dumps({**found, "private": max(seen), "resident": _status("VmHWM")}))


def _status(name: str) -> int:
    """A size in bytes from /proc/self/status."""
    with Path("/proc/self/status").open() as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(name))


def main() -> None:
    """Run each size in a process of its own, print the table and the line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--millions", type=float, nargs="+", default=[1, 2, 4])
    parser.add_argument("--memory", default="4G", help="the setting minhash.memory")
    options = parser.parse_args()
    from curate.stages.minhash_settings import MinhashSettings

    memory = MinhashSettings(memory=options.memory).memory
    found = []
    print(
        f"{'rows':>10} {'text MB':>8} {'removed':>9} {'sketch s':>9} {'resolve s':>9} {'private GiB':>11} {'resident':>9}"
    )
    for millions in options.millions:
        with tempfile.TemporaryDirectory() as place:
            rows = int(millions * 1e6)
            size = write(Path(place), rows)
            command = [sys.executable, "-P", "-c", RUN, str(Path(__file__).parent), place, str(memory)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        this = {"rows": rows, "bytes": size, **json.loads(done.stdout)}
        found.append(this)
        times = f"{this['sketch']:9.1f} {this['resolve']:9.1f}"
        memories = f"{this['private'] / GIB:11.2f} {this['resident'] / GIB:9.2f}"
        print(f"{this['rows']:10,} {this['bytes'] / 1e6:8.0f} {this['removed']:9,} {times} {memories}", flush=True)
    sizes = [this["rows"] / 1e6 for this in found]
    for name, unit, values in (
        ("private memory", "GiB", [this["private"] / GIB for this in found]),
        ("resident memory", "GiB", [this["resident"] / GIB for this in found]),
        ("time", "s", [this["sketch"] + this["resolve"] for this in found]),
    ):
        slope, start = np.polyfit(sizes, values, 1)
        print(f"{name}: {start:.2f} + {slope:.3f} {unit} a million rows; 10 million: {start + 10 * slope:.1f} {unit}")


if __name__ == "__main__":
    main()
