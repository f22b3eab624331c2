"""The three commands on inputs so small that starting costs most, and what must be equal after any fault."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import trials

from curate.foundation.errors import GristmillError
from curate.foundation.store import MANIFEST, TEMP, Store

KIND = {"out": "records", "shards": "shards", "run": "run"}
FILTER = ("curate", "filter", "raw", "out", "--executor", "inline", "--set", "minhash.memory=64M")
BUILD = ("pack", "build", "out", "shards", "--ctx", "512", "--executor", "inline")
TRAIN = (
    "train", "run", "shards", "run", "--max-steps", "2", "--batch", "2", "--micro-batch", "2", "--save-steps", "1",
    "--eval-steps", "1", "--device", "cpu", "--set", "tiny.layers=1", "--set", "tiny.hidden=16", "--set", "tiny.heads=2",
    "--set", "smoke_tokens=2", "--set", "keep=1",
)  # fmt: skip
STEPS = {"filter": (FILTER, "out", ("raw",)), "build": (BUILD, "shards", ("out",)), "run": (TRAIN, "run", ("shards",))}
WORDS = re.findall(r"[a-z]{3,}", Path(__file__).read_text())


def write_raw(folder, files=4, rows=24, seed=7):
    """Chats with exact and near duplicates, bad rows, and files of several kinds."""
    rng = random.Random(seed)
    folder.mkdir()
    texts = [" ".join(rng.choices(WORDS, k=50)) for _ in range(30)]
    texts += [f"{text} indeed" for text in texts[:6]]
    for number in range(files):
        found = [{"instruction": rng.choice(texts), "input": "", "output": rng.choice(texts)} for _ in range(rows)]
        lines = [json.dumps(row) for row in found] + ["{broken"]
        (folder / f"part{number}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def place(base, name, needs):
    """A fresh working folder that holds what a command needs."""
    folder = base / name
    folder.mkdir()
    for item in needs:
        shutil.copytree(base / item, folder / item)
    return folder


def tree(folder):
    """Every file, hidden ones too, by digest; of a run, what the clock says left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != ".events.jsonl":  # the clock's own file
            name = path.relative_to(folder).as_posix()
            found[name] = hashlib.sha256(_timeless(path)).hexdigest()
    return found


def _timeless(path):
    """The bytes of a file; of a run's metrics without their rates, and without the digests that follow from them."""
    data = path.read_bytes()
    if path.name == "metrics.jsonl":
        lines = [
            {key: value for key, value in json.loads(line).items() if key != "rates"} for line in data.splitlines()
        ]
        return json.dumps(lines).encode()
    if path.name == "card.json":
        facts = json.loads(data)
        return json.dumps(
            {**facts, "facts": {**facts["facts"], "digest": ""}} if facts["kind"] == "run" else facts
        ).encode()
    if path.name == "state.json":
        return json.dumps({**json.loads(data), "digest": "", "metrics": ""}).encode()
    if path.name == MANIFEST and json.loads(data)["kind"] == "run":
        facts = {**json.loads(data), "digest": ""}
        return json.dumps(facts | {"files": {**facts["files"], "metrics.jsonl": ""}}).encode()
    return data


def leftovers(folder):
    """Temporary files, locks and scratch folders below a working folder."""
    found = [path for path in folder.rglob("*") if TEMP.match(path.name) or path.name.startswith(".lock")]
    scratch = folder / "tmp"
    return [str(path) for path in (*found, *(scratch.iterdir() if scratch.is_dir() else ()))]


def half(target):
    """What is wrong with a folder that says it is complete; nothing for one that does not."""
    store = Store(target, KIND[target.name])
    try:
        return store.verify() if store.complete() else []
    except GristmillError as error:
        return [error.message]


def again(folder, step, whole):
    """Run a command without faults where one failed; it must come to the bytes of an undisturbed run."""
    words, target, _ = STEPS[step]
    ended = trials.run(*words, cwd=folder, check=0)
    assert "Traceback" not in ended.err, ended.err
    assert not leftovers(folder), leftovers(folder)
    assert tree(folder / target) == whole
    return ended


def empty(folder, target):
    """Take away what a command made."""
    shutil.rmtree(folder / target, ignore_errors=True)


def lose_work(out):
    """What another machine does not have."""
    shutil.rmtree(out / ".work", ignore_errors=True)


def damage_work(out):
    """What a power cut may do to files that were never synced."""
    for path in (out / ".work").rglob("*.arrow"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def unscratched(folder):
    """Empty the machine's scratch folder, as a restart does: what a killed process left there is not ours to find."""
    shutil.rmtree(folder / "tmp", ignore_errors=True)
