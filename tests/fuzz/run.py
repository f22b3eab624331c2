"""One fuzz target under atheris: `python run.py TARGET [libFuzzer options]`; prints executions, exits 77 on a finding.

`make fuzz` runs each for minutes; the suite runs each for seconds with a fixed seed (test_fuzz_targets.py). libFuzzer
ends its process without a farewell, so that it runs in one of its own, whose scratch folder goes with it; the input of
a finding is kept, and said.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = "GRISTMILL_FUZZ_FOLDER"


def watch():
    """Fuzz in a process of its own; its exit code."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        command = [sys.executable, "-P", __file__, *sys.argv[1:]]
        code = subprocess.run(command, env={**os.environ, FOLDER: scratch, "TMPDIR": scratch}, check=False).returncode
        found = [path for path in Path(scratch).rglob("*") if path.name.startswith(("crash-", "timeout-", "oom-"))]
        if found:
            kept = Path(tempfile.mkdtemp(prefix="finding-"))
            for path in found:
                print(f"kept: {shutil.move(path, kept)}", file=sys.stderr)
    return code


if FOLDER not in os.environ:
    sys.exit(watch())

import atheris  # noqa: E402 - heavy, and not for the process that only waits

sys.path.insert(0, str(Path(__file__).parent))
import curate.reading  # noqa: E402, F401 - the kernels are compiled from untouched bytecode: numba cannot take instrumented one

COVERED = ("formats", "formats.chats", "formats.pairs", "formats.trees", "formats.strict", "formats.draft")
COVERED += ("reading.decode", "reading.fast", "reading.containers", "reading.streams", "cards.text", "foundation.store")


def main():
    import importlib

    name, *options = sys.argv[1:]
    for module in COVERED:
        loaded = importlib.import_module(f"curate.{module}")
        own = [item for item in vars(loaded).values() if getattr(item, "__module__", "") == loaded.__name__]
        classes = [item for item in own if isinstance(item, type)]
        for function in (*own, *(item for kind in classes for item in vars(kind).values())):
            if hasattr(function, "__code__"):
                atheris.instrument_func(function)
    import targets

    target = targets.TARGETS[name]
    corpus = Path(tempfile.mkdtemp(prefix="corpus-"))
    for number, seed in enumerate(targets.SEEDS[name]):
        (corpus / str(number)).write_bytes(seed)
    os.chdir(targets.FOLDER)  # a crashing input is written here, and named
    atheris.Setup(
        ["fuzz", "-max_len=300", "-len_control=0", "-timeout=30", "-rss_limit_mb=6000", *options, str(corpus)], target
    )
    atheris.Fuzz()


main()
