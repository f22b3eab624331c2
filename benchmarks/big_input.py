"""Cost of a big input: N generated rows in one JSONL through `curate filter`, with seconds and peak memory.

    python benchmarks/big_input.py --rows 1000000 --workers 2 --work /tmp/big

Row i is a function of i alone: 400 to 1,200 characters of chat, one row in 50 an exact copy and one in 50 a near copy of
an earlier row. Reported: seconds, seconds per million rows, peak resident memory summed over the process tree (pages
that processes share are counted once for each), sampled ten times a second, and the largest single process.
"""

import argparse
import json
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

HEADS, TAILS = (
    ("ba", "ce", "di", "fo", "gu", "ha", "je", "ki", "lo"),
    ("ran", "les", "tim", "dor", "vun", "sel", "mak", "pit"),
)
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


def generate(path, rows):
    """Write the file once; a file of the right number of rows is used again."""
    done = path.with_suffix(".rows")
    if done.exists() and done.read_text() == str(rows):
        return
    with path.open("w") as file:
        file.writelines(f"{row(number)}\n" for number in range(rows))
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
    process = subprocess.Popen(command)
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--executor", default="processes")
    parser.add_argument("--work", type=Path, default=Path("big"))
    asked = parser.parse_args()
    raw, out = asked.work / f"raw-{asked.rows}", asked.work / f"out-{asked.rows}"
    raw.mkdir(parents=True, exist_ok=True)
    generate(raw / "big.jsonl", asked.rows)
    command = [sys.executable, "-P", "-m", "curate", "filter", str(raw), str(out), "--overwrite", "--quiet"]
    command += ["--workers", str(asked.workers), "--executor", asked.executor]
    seconds, tree, largest = measured(command)
    manifest = json.loads((out / "manifest.json").read_text())
    found = {
        "rows": asked.rows,
        "bytes": (raw / "big.jsonl").stat().st_size,
        "units": len(manifest["units"]),
        "kept": manifest["totals"]["kept"],
        "seconds": round(seconds, 1),
        "seconds_per_million": round(seconds / asked.rows * 1e6, 1),
        "peak_tree_mib": round(tree / 2**20),
        "peak_process_mib": round(largest / 2**20),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
