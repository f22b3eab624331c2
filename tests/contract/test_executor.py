"""Contract 4: ordered, bounded, errors name the item, a killed worker is found out."""

import multiprocessing
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # spawned workers inherit it and find the tasks

import executor_tasks as tasks

from curate.foundation import server
from curate.foundation.errors import DataError, GristmillError, MachineError, UsageError
from curate.foundation.executor import Inline, Processes, executor, slice_of


@pytest.fixture(params=["spawned", "forked from a server"])
def begun(request):
    """Each way in which workers begin."""
    if request.param != "spawned":
        server.start_server(["executor_tasks", "there.is.no.such.module"])
        assert server.running() == (sys.platform == "linux")
    yield request.param
    server.stop_server()
    assert not server.running()


def test_workers_from_a_server_give_the_same(begun):
    backend = Processes(2)
    assert list(backend.map(tasks.slow_first, range(5))) == list(range(5))
    assert list(backend.map(tasks.square, range(9))) == [n * n for n in range(9)]
    backend._drop()


def test_what_workers_from_a_server_used_is_counted_as_used_by_children():
    script = """
import resource
from curate.foundation import server
from curate.foundation.executor import Processes
from executor_tasks import busy
server.start_server([])
backend = Processes(2)
spent = sum(backend.map(busy, [0.3, 0.3]))
backend._drop()
server.stop_server()
used = resource.getrusage(resource.RUSAGE_CHILDREN)
assert used.ru_utime + used.ru_stime >= spent >= 0.6, (used, spent)
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parent)


@pytest.mark.parametrize("backend", [Inline(), Processes(2), Processes(4)], ids=["inline", "2", "4"])
def test_results_come_in_the_order_of_the_items(backend):
    assert list(backend.map(tasks.square, range(9))) == [n * n for n in range(9)]
    assert list(backend.map(tasks.slow_first, range(5))) == list(range(5))
    assert list(backend.map(tasks.square, [])) == []


@pytest.mark.parametrize("backend", [Inline(), Processes(2)], ids=["inline", "processes"])
def test_an_error_names_its_item_and_keeps_its_type(backend):
    with pytest.raises(GristmillError, match="file-3: ValueError: three"):
        list(backend.map(tasks.fails_on_three, range(6), name=lambda n: f"file-{n}"))
    with pytest.raises(DataError) as caught:
        list(backend.map(tasks.data_error_on_three, range(6)))
    assert caught.value.hint == "mend it"


def test_a_worker_that_is_killed_twice_blames_its_item_and_no_other(begun):
    done = []
    with pytest.raises(MachineError, match="file-3: the worker that read it was killed"):
        for result in Processes(2).map(tasks.killed_on_three, range(8), name=lambda n: f"file-{n}"):
            done.append(result)
    assert done == [0, 1, 2]


def test_a_worker_that_is_killed_once_costs_nothing_but_time(tmp_path, begun):
    jobs = [(number, str(tmp_path)) for number in range(8)]
    assert list(Processes(2).map(tasks.killed_once, jobs)) == list(range(8))


@pytest.mark.parametrize("before", ["", "server.start_server(['executor_tasks'])"], ids=["spawned", "from a server"])
def test_workers_die_with_their_parent(tmp_path, before):
    script = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import executor_tasks
from curate.foundation import server
from curate.foundation.executor import Processes
if __name__ == "__main__":
    {before}
    list(Processes(2).map(executor_tasks.write_pid_and_wait, [(i, {str(tmp_path)!r}) for i in range(2)]))
"""
    path = tmp_path / "parent.py"
    path.write_text(script)
    parent = subprocess.Popen([sys.executable, str(path)])
    deadline = time.monotonic() + 20
    while len(list(tmp_path.glob("*.pid"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    pids = [int(path.stem) for path in tmp_path.glob("*.pid")]
    assert len(pids) == 2
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_pool_that_is_still_open_lets_a_process_of_multiprocessing_end():
    """Its queue to the workers closes on the way out: whoever has not told them to end by then waits for ever."""
    context = multiprocessing.get_context("spawn")
    for _ in range(3):
        child = context.Process(target=tasks.leaves_a_pool_open)
        child.start()
        child.join(60)
        ended = child.exitcode
        child.kill()
        assert ended == 0


def test_slices_cover_every_item_once():
    items = list(range(17))
    assert sorted(item for i in range(4) for item in slice_of(items, i, 4)) == items
    with pytest.raises(UsageError):
        slice_of(items, 4, 4)


def test_unknown_backends_and_negative_workers_are_refused():
    assert isinstance(executor("auto", 1), Inline)
    with pytest.raises(UsageError, match="not a backend"):
        executor("dask", 2)
    with pytest.raises(UsageError, match="--workers"):
        executor("auto", -1)
