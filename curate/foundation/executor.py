"""Contract 4: an ordered, bounded map over units of work.

A task is a top-level pure function of one item. It writes through the store and returns a small summary. Results come
back in the order of the items whatever the number of workers, so everything derived from them is byte-identical for
1, 2 or 1,000 workers. At most `2 x workers` items are in flight. An error names its item. A worker that the kernel
kills is found out: what was in flight is retried alone, and only the item that kills again is blamed.

Backends: `inline` (this process), `processes` (forked from a server or spawned, see server.py; they die with their
parent), `ray` (cluster.py). A Slurm or Kubernetes slice takes `slice_of(items, i, n)` of the same list.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from curate.foundation.errors import GristmillError, MachineError, UsageError
from curate.foundation.server import context, die_with_parent, start_server
from curate.foundation.signals import check

Item = TypeVar("Item")
Result = TypeVar("Result")
Name = Callable[[Any], str]
SMALL: Final = 24 << 20  # bytes of input that one process reads in the time that workers take to start


class Executor(Protocol):
    """What a backend offers: one ordered map."""

    workers: int

    def map(self, task: Callable[[Item], Result], items: Sequence[Item], *, name: Name = str) -> Iterator[Result]:
        """Yield `task(item)` for each item, in order; `name(item)` goes into errors."""
        ...


class Inline:
    """Runs every task in this process."""

    workers = 1

    def map(self, task: Callable[[Item], Result], items: Sequence[Item], *, name: Name = str) -> Iterator[Result]:
        """Yield `task(item)` for each item, in order."""
        for item in items:
            check()
            try:
                yield task(item)
            except GristmillError:
                raise
            except OSError:
                raise
            except Exception as error:
                raise blame(name(item), error) from error


class Processes:
    """Runs tasks in worker processes that die with their parent; the pool is kept from map to map."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.pool: ProcessPoolExecutor | None = None

    def map(self, task: Callable[[Item], Result], items: Sequence[Item], *, name: Name = str) -> Iterator[Result]:
        """Yield `task(item)` for each item, in order, with at most `2 x workers` in flight."""
        if len(items) <= 1:
            yield from Inline().map(task, items, name=name)
            return
        todo = iter(items)
        flight: deque[tuple[Item, Future[Result]]] = deque()
        try:
            for item in take(todo, 2 * self.workers):
                flight.append((item, self._submit(task, item)))
            while flight:
                check()
                item, future = flight.popleft()
                try:
                    result = future.result()
                except BrokenProcessPool:
                    self._drop()
                    result = self._alone(task, item, name)
                    flight = deque((other, self._submit(task, other)) for other, _ in flight)
                except (GristmillError, OSError):
                    raise
                except Exception as error:
                    raise blame(name(item), error) from error
                for following in take(todo, 1):
                    flight.append((following, self._submit(task, following)))
                yield result
        except BaseException:
            self._drop()
            raise

    def _submit(self, task: Callable[[Item], Result], item: Item) -> Future[Result]:
        if self.pool is None:
            self.pool = self._pool(self.workers)
            # when this object or the process ends, whichever is first: the pool tells its workers to end through a
            # queue that multiprocessing closes (priority 10) while the process exits, and both would wait for ever
            self._close = Finalize(self, self.pool.shutdown, kwargs={"cancel_futures": True}, exitpriority=100)
        try:
            return self.pool.submit(task, item)
        except BrokenProcessPool:  # broken between two submissions: the futures in flight tell which item it was
            failed: Future[Result] = Future()
            failed.set_exception(BrokenProcessPool())
            return failed

    def _drop(self) -> None:
        if self.pool is not None:
            self._close()
            self.pool = None

    def _alone(self, task: Callable[[Item], Result], item: Item, name: Name) -> Result:
        """Run one suspect item in a worker of its own."""
        pool = self._pool(1)
        try:
            return pool.submit(task, item).result()
        except BrokenProcessPool as error:
            raise MachineError(
                f"{name(item)}: the worker that read it was killed, twice",
                hint="it probably ran out of memory: use fewer --workers, or split the file",
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)

    @staticmethod
    def _pool(workers: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(workers, mp_context=context(), initializer=_start_worker)


def executor(kind: str = "auto", workers: int = 0, address: str | None = None) -> Executor:
    """Choose a backend: `inline`, `processes`, `ray`, or `auto` (processes when there is more than one worker).

    `workers` 0 means one for each usable core; `address` is that of a Ray cluster.
    """
    if address is not None and kind != "ray":
        raise UsageError(f"--address {address}: only Ray has one", hint=f"add --executor ray --address {address}")
    if workers < 0:
        raise UsageError(f"--workers {workers}: must be 1 or more", hint="leave it out to use every core")
    count = workers or usable_cores()
    if kind == "inline" or (kind == "auto" and count == 1):
        return Inline()
    if kind in ("processes", "auto"):
        return Processes(count)
    if kind == "ray":
        from curate.foundation.cluster import Ray

        return Ray(workers, address)
    raise UsageError(f"--executor {kind}: not a backend", hint="use inline, processes or ray")


@dataclass(frozen=True, slots=True)
class Spread:
    """How a command runs: workers, backend, whether to start afresh, the gallery to publish to, a Ray cluster."""

    workers: int
    executor: str
    overwrite: bool
    cards: Path | None
    address: str | None = None

    def expect(self, place: str, modules: Sequence[str]) -> None:
        """Where the size of `place` asks for processes, begin to import `modules` in a server that they come from."""
        if isinstance(self.over(_size(Path(place)), SMALL), Processes):
            start_server(modules)

    def over(self, size: int, small: int) -> Executor:
        """The executor for `size` bytes; under `small`, workers are not worth their start, unless they were asked for."""
        if self.executor == "auto" and not self.workers and size < small:
            return Inline()
        return executor(self.executor, self.workers, self.address)


def _size(place: Path) -> int:
    """Bytes of a local file or folder, 0 for anything else."""
    if place.is_file():
        return place.stat().st_size
    paths = (Path(folder, name) for folder, _, names in os.walk(place) for name in names)
    return sum(path.stat().st_size for path in paths if path.is_file())


def usable_cores() -> int:
    """The number of cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def slice_of(items: Sequence[Item], index: int, count: int) -> list[Item]:
    """Slice `index` of `count` of a list of units, by position: every unit is in exactly one slice."""
    if not 0 <= index < count:
        raise UsageError(f"--slice {index}/{count}: the index must be from 0 to {count - 1}")
    return list(items[index::count])


def take(source: Iterator[Item], count: int) -> Iterable[Item]:
    """Up to `count` further items."""
    for _ in range(count):
        try:
            yield next(source)
        except StopIteration:
            return


def blame(name: str, error: BaseException) -> GristmillError:
    """What a task raised that no user can cause, as an error that names its item."""
    if isinstance(error, MemoryError):
        return MachineError(f"{name}: out of memory", hint="use fewer --workers")
    blamed = GristmillError(
        f"{name}: {type(error).__name__}: {error}", hint="this is a defect of ours: please report it"
    )
    blamed.__cause__ = error
    return blamed


def _start_worker() -> None:
    """Die with the parent, leave Ctrl-C to it, and keep each library to one thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    single_threaded()
    die_with_parent()


def single_threaded() -> None:
    """Keep each library that this process has not loaded yet to one thread: workers share the cores."""
    for name in ("POLARS_MAX_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
