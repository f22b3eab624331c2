"""Several processes on one machine, through torch's own elastic agent run in this process.

The agent starts `python -P -m train.launch` (`-P`: a user's own `train.py` beside the data must not be run instead of
ours) once for each rank. A worker dies with its parent, whatever kills the parent, so the lock of a run folder never
outlives it.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Final

from curate.foundation.errors import GristmillError, Interrupted, MachineError

JOB: Final = "GRISTMILL_JOB"
PARENT: Final = "GRISTMILL_PARENT"


def is_worker() -> bool:
    """Whether this process was started as one of several (by us, torchrun or accelerate)."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_second() -> bool:
    """Whether another process of the same launch (rank 0) locks the folder, prints and writes."""
    return is_worker() and int(os.environ["RANK"]) > 0


def start(job: dict[str, Any], processes: int) -> None:
    """Run a job in `processes` workers and wait; raises what the first failing worker's exit code says."""
    from torch.distributed import run as agent
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    os.environ[JOB], os.environ[PARENT] = json.dumps(job), str(os.getpid())
    flags = ["--standalone", "--nnodes=1", f"--nproc-per-node={processes}", "--max-restarts=0", "--no-python"]
    try:
        elastic: Any = agent  # carries no types
        elastic.run(elastic.parse_args([*flags, sys.executable, "-P", "-m", "train.launch"]))
    except ChildFailedError as error:
        failed = error.get_first_failure()[1]
        code = failed.exitcode
        stopped = GristmillError(f"process {failed.local_rank} of {processes} ended with exit code {code}")
        stopped.exit_code = code if 0 < code < 256 else MachineError.exit_code
        raise stopped from error
    except SignalException as error:
        ended = Interrupted("stopped; the last checkpoint is kept", hint="run the same command again to go on")
        ended.exit_code = 128 + int(error.sigval)
        raise ended from error
    finally:
        del os.environ[JOB], os.environ[PARENT]


def work() -> None:
    """Do one rank's share of the job in the environment."""
    from pathlib import Path

    from curate.foundation.console import Console
    from curate.foundation.store import Store
    from train.config import TrainConfig
    from train.data import Shards
    from train.plan import make_plan
    from train.running import fit

    _die_with_parent(int(os.environ[PARENT]))
    job = json.loads(os.environ[JOB])
    config = TrainConfig.model_validate(job["config"])
    shards = Shards(Path(job["shards"]), verify=False)
    plan = make_plan(config, shards, chosen=job["batch_chosen"])
    store, console = Store(Path(job["run"]), "run"), Console(quiet=job["quiet"])
    fit(config, shards, plan, store, console, recipe=job["recipe"], cards=Path(job["cards"]) if job["cards"] else None)


def _die_with_parent(parent: int) -> None:
    if sys.platform == "linux":
        import ctypes
        import signal

        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(MachineError.exit_code)


if __name__ == "__main__":
    from curate.foundation.console import run as run_app

    run_app(work)
