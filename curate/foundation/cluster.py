"""The Ray backend: Ray schedules, retries and spreads; the tasks and the store are the same as everywhere.

Every node must see the input and output folders under the same paths and have this package installed. A task that ran
twice, because its node was lost, wrote the same bytes twice: files appear by rename.
"""

from __future__ import annotations

import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from curate.foundation.errors import GristmillError, MachineError, MissingExtra, UsageError
from curate.foundation.executor import Inline, Name, blame, single_threaded, take

Item = TypeVar("Item")
Result = TypeVar("Result")
RETRIES = 5  # times Ray starts a task again whose worker or node was lost


class Ray:
    """Runs tasks on the Ray cluster at `address` (a local one is started without it), at most two a CPU in flight.

    `workers` bounds the tasks that run at once; 0 means one a CPU of the cluster. Raises MissingExtra without Ray,
    UsageError when the cluster cannot be reached.
    """

    def __init__(self, workers: int = 0, address: str | None = None) -> None:
        try:
            import ray
        except ImportError as error:
            raise MissingExtra("--executor ray needs Ray", hint='pip install "gristmill[ray]"') from error
        self.ray: Any = ray
        if not ray.is_initialized():
            if address and address != "auto":
                _reach(address)
            quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
            # A local cluster gets as many CPUs as were asked for; an existing one has what it has.
            where = {"address": address} if address else {"num_cpus": workers or None, "include_dashboard": False}
            try:
                ray.init(**where, **quiet)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise UsageError(
                    f"--address {address}: no Ray cluster answers there", hint="start one: ray start --head"
                ) from error
        self.workers = workers or max(1, int(self.ray.cluster_resources().get("CPU", 1)))

    def map(self, task: Callable[[Item], Result], items: Sequence[Item], *, name: Name = str) -> Iterator[Result]:
        """Yield `task(item)` for each item, in order."""
        if len(items) <= 1:
            yield from Inline().map(task, items, name=name)
            return
        remote = self.ray.remote(num_cpus=1, max_retries=RETRIES)(_attempt)
        todo = iter(items)
        flight = deque((item, remote.remote(task, item)) for item in take(todo, 2 * self.workers))
        try:
            while flight:
                item, reference = flight.popleft()
                result = self._get(reference, name(item))
                for following in take(todo, 1):
                    flight.append((following, remote.remote(task, following)))
                yield result
        finally:
            for _, reference in flight:
                self.ray.cancel(reference)

    def _get(self, reference: Any, name: str) -> Any:
        lost = self.ray.exceptions
        try:
            good, value = self.ray.get(reference)
        except (lost.WorkerCrashedError, lost.NodeDiedError, lost.OutOfMemoryError, lost.RaySystemError) as error:
            raise MachineError(
                f"{name}: the workers that read it were lost, {RETRIES + 1} times",
                hint="they probably ran out of memory: use fewer --workers, or larger nodes",
            ) from error
        except lost.RayError as error:
            raise MachineError(f"{name}: Ray gave up: {str(error).splitlines()[0]}", hint="see: ray status") from error
        if good:
            return value
        if isinstance(value, (GristmillError, OSError)):
            raise value
        raise blame(name, value) from value


def _reach(address: str) -> None:
    """Ray waits for minutes where nobody answers; five seconds tell."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=5):
            return
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--address {address}: no Ray cluster answers there ({error})", hint="start one: ray start --head"
        ) from error


def _attempt(task: Callable[[Any], Any], item: Any) -> tuple[bool, Any]:
    """A task's result, or the error that it raised; Ray retries only what was lost."""
    if os.environ.get("GRISTMILL_WORKER") != "1":
        os.environ["GRISTMILL_WORKER"] = "1"
        single_threaded()
    try:
        return True, task(item)
    except Exception as error:
        return False, error
