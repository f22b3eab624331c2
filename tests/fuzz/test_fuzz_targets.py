"""A short seeded run of every fuzz target; `make fuzz` is the long one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

RUNS = {"line_reader": 400, "formats": 4000, "manifest": 500, "card": 150, "tables": 150}


@pytest.mark.parametrize("target", RUNS)
def test_a_seeded_run_finds_nothing(target, tmp_path):
    pytest.importorskip("atheris", reason="atheris is in the extra `fuzz`")
    script = Path(__file__).with_name("run.py")
    command = [sys.executable, "-P", str(script), target, f"-runs={RUNS[target]}", "-seed=7"]
    place = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=place)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(rf"Done {RUNS[target]} runs", done.stderr)
    assert not list(tmp_path.iterdir()), "scratch was left behind"
