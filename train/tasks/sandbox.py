"""Programs of models, run out of the way: what each came to, and which layers held them.

`confine.py` is the inside. From here: a process group of its own that is killed at the end, an environment that is empty
but for a fixed hash seed, a temporary folder, and a deadline over everything. A supervisor that dies takes only the job it
was at with it; the rest start again in a new one. Cost: 50 ms a supervisor, 3 to 5 ms a program; supervisors run side by side.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from curate.foundation.errors import MachineError

INSIDE: Final = Path(__file__).with_name("confine.py")
SHARE: Final = 32  # jobs a supervisor


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one program on one input: `cpu` and `wall` in seconds, `memory` and `file` (each file it writes) in bytes."""

    cpu: int = 10
    wall: int = 30
    memory: int = 1 << 30
    file: int = 16 << 20


@dataclass(frozen=True, slots=True)
class Job:
    """A program that checks itself (`pairs` empty), or one that must answer each input with the output beside it."""

    program: str
    pairs: tuple[tuple[str, str], ...] = ()


def execute(jobs: Sequence[Job], limits: Limits | None = None, workers: int | None = None) -> tuple[list[str], str]:
    """The outcome of every job, in order, and a line that names the layers; raises `MachineError` when nothing can run."""
    limits = limits or Limits()
    shares = [jobs[start : start + SHARE] for start in range(0, len(jobs), SHARE)]
    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        done = list(pool.map(lambda share: _share(share, limits), shares))
    layers = done[0][1] if done else {}
    return [said for outcomes, _ in done for said in outcomes], describe(layers)


def describe(layers: dict[str, bool]) -> str:
    """Which layers held, in words."""
    net = [name for name, key in (("seccomp", "seccomp"), ("a network namespace", "namespaces")) if layers.get(key)]
    network = " and ".join(net) or "an audit hook alone: the kernel offers no better here"
    writes = "Landlock" if layers.get("landlock") else "an audit hook alone"
    group = "a process namespace" if layers.get("namespaces") else "a process group"
    return f"no network by {network}; writes kept inside by {writes}; ended with {group}"


def _share(jobs: Sequence[Job], limits: Limits) -> tuple[list[str], dict[str, bool]]:
    """Outcomes of some jobs, with as many supervisors as it takes."""
    outcomes: list[str] = []
    layers: dict[str, bool] = {}
    while len(outcomes) < len(jobs):
        lines = _supervise(jobs[len(outcomes) :], limits)
        if not lines:
            raise MachineError(
                "programs cannot be executed here: the sandbox does not start", hint="leave --execute out"
            )
        layers = layers or lines[0]["layers"]
        outcomes += [str(line["said"]) for line in lines[1:]]
        if len(outcomes) < len(jobs):
            outcomes.append("killed")  # the job that took its supervisor along
    if "error sandbox" in outcomes:
        raise MachineError(
            "programs cannot be executed here: a layer of the sandbox failed", hint="leave --execute out"
        )
    return outcomes, layers


def _supervise(jobs: Sequence[Job], limits: Limits) -> list[dict[str, Any]]:
    """The lines of one supervisor: its layers, then one for every job it finished."""
    work = {"jobs": [asdict(job) for job in jobs], "limits": asdict(limits)}
    seconds = 30 + sum(max(1, len(job.pairs)) for job in jobs) * (limits.wall + 1)
    with tempfile.TemporaryDirectory(prefix="gristmill-") as folder:
        process = subprocess.Popen(
            [sys.executable, "-P", "-s", str(INSIDE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PYTHONHASHSEED": "0"},
            cwd=folder,
            start_new_session=True,
        )
        try:
            out, _ = process.communicate(json.dumps(work).encode(), timeout=seconds)
        except subprocess.TimeoutExpired as late:
            out = late.stdout or b""
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()
    return [json.loads(line) for line in out.decode().split("\n")[:-1]]
