"""Cost of a big input: generated rows in one JSONL through `curate filter`, with seconds and peak memory.

    python -P benchmarks/big_input.py [--rows 1000000 2000000 4000000 10000000] [--memory 1G] [--work FOLDER]
    python -P benchmarks/big_input.py --rows 1000000 --executors inline processes ray

Row i is a function of i alone: 400 to 1,200 characters of chat, one row in 50 an exact copy and one in 50 a near copy of
an earlier row; a smaller file is the beginning of a larger one. The stages are the default ones, with nothing to
decontaminate against unless --against names it. Reported: seconds, seconds per million rows, peak resident memory summed
over the process tree (pages that processes share are counted once for each), sampled ten times a second, and the largest
single process; over several sizes the line through the seconds, over several executors whether the records are the same.
A Ray cluster of this machine is started and ended within its seconds, and only what runs below the command counts as
its memory.
"""

import argparse
import json
import multiprocessing
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

HEADS, TAILS = (
    ("ba", "ce", "di", "fo", "gu", "ha", "je", "ki", "lo"),
    ("ran", "les", "tim", "dor", "vun", "sel", "mak", "pit"),
)
CHUNK = 50_000
WORDS = [head + tail for head in HEADS for tail in TAILS]


def row(number):
    """One chat; every 50th copies an earlier row, every 50th after it changes one word of an earlier row."""
    copied = number > 50 and number % 50 in (0, 1)
    draw = random.Random(number // 2 if copied else number)
    question = " ".join(draw.choices(WORDS, k=draw.randint(10, 30)))
    answer = draw.choices(WORDS, k=draw.randint(60, 150))
    if copied and number % 50 == 1:
        answer[len(answer) // 2] = "changed"
    turns = [{"role": "user", "content": f"{question}?"}, {"role": "assistant", "content": " ".join(answer) + "."}]
    return json.dumps({"messages": turns, "n": number})


def rows_of(span):
    """Rows from one number to another, as bytes."""
    return "".join(f"{row(number)}\n" for number in range(*span)).encode()


def generate(path, rows):
    """Write the file once; a file of the right number of rows is used again."""
    done = path.with_suffix(".rows")
    if done.exists() and done.read_text() == str(rows):
        return
    spans = [(first, min(first + CHUNK, rows)) for first in range(0, rows, CHUNK)]
    with path.open("wb") as file, multiprocessing.Pool() as pool:
        file.writelines(pool.imap(rows_of, spans))
    done.write_text(str(rows))


def resident(pid):
    """Resident bytes of a process and of everything below it."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        tasks = Path(f"/proc/{pid}/task").iterdir()
        below = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except (OSError, IndexError):
        return []
    return [pages * 4096, *(size for child in below for size in resident(child))]


def measured(command):
    """Run a command: seconds, peak of the tree and of one process, in bytes."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak, over = [0, 0], threading.Event()

    def watch():
        while not over.wait(0.1):
            sizes = resident(process.pid)
            peak[0], peak[1] = max(peak[0], sum(sizes)), max(peak[1], max(sizes, default=0))

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    over.set()
    watcher.join()
    if code:
        sys.exit(f"{command} exited {code}")
    return time.perf_counter() - began, *peak


def once(asked, rows, executor):
    """One `curate filter`, by which the folder is made anew; what it cost."""
    raw, out = asked.work / f"raw-{rows}", asked.work / "out"
    raw.mkdir(parents=True, exist_ok=True)
    generate(raw / "big.jsonl", rows)
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-P", "-m", "curate", "filter", str(raw), str(out), "--quiet", "--executor", executor]
    command += [word for each in asked.against for word in ("--against", each)]
    command += ["--memory", asked.memory] if asked.memory else []
    command += [] if executor == "inline" else ["--workers", str(asked.workers)]
    seconds, tree, largest = measured(command)
    manifest = json.loads((out / "manifest.json").read_text())
    found = {
        "rows": rows,
        "executor": executor,
        "bytes": (raw / "big.jsonl").stat().st_size,
        "units": len(manifest["units"]),
        "kept": manifest["totals"]["kept"],
        "digest": manifest["digest"],
        "seconds": seconds,
        "tree": tree,
        "largest": largest,
    }
    shutil.rmtree(out, ignore_errors=True)
    if rows != max(asked.rows):
        shutil.rmtree(raw)
    print(json.dumps(found), file=sys.stderr, flush=True)
    return found


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 2_000_000, 4_000_000, 10_000_000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--executors", nargs="+", default=["processes"])
    parser.add_argument("--against", action="append", default=[])
    parser.add_argument(
        "--memory", help="of `curate filter`: what deciding near duplicates may hold (a quarter of RAM)"
    )
    parser.add_argument("--work", type=Path, default=Path("big"))
    asked = parser.parse_args()
    found = [once(asked, rows, executor) for rows in asked.rows for executor in asked.executors]
    print("| rows | executor | GB | units | kept | s | s a million rows | peak MiB, all processes | peak MiB, one |")
    print("|---:|---|---:|---:|---:|---:|---:|---:|---:|")
    for one in found:
        print(f"| {one['rows']:,} | {one['executor']} | {one['bytes'] / 1e9:.2f} | {one['units']} | {one['kept']:,} | "
              f"{one['seconds']:.1f} | {one['seconds'] / one['rows'] * 1e6:.1f} | {one['tree'] >> 20:,} | "
              f"{one['largest'] >> 20:,} |")  # fmt: skip
    for executor in asked.executors:
        mine = [one for one in found if one["executor"] == executor]
        if len(mine) > 2:
            slope, start = np.polyfit([one["rows"] / 1e6 for one in mine], [one["seconds"] for one in mine], 1)
            apart = max(abs(start + slope * one["rows"] / 1e6 - one["seconds"]) / one["seconds"] for one in mine)
            print(
                f"\n{executor}: {start:.1f} s and {slope:.2f} s a million rows; no size is off by more than {apart:.0%}"
            )
    for rows in asked.rows:
        digests = {one["digest"] for one in found if one["rows"] == rows}
        if len(asked.executors) > 1:
            print(f"\n{rows:,} rows: {'the same bytes' if len(digests) == 1 else 'OTHER BYTES'} by every executor")


if __name__ == "__main__":
    main()
