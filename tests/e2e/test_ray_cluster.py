"""The same bytes on a Ray cluster of several nodes, also when one of them is lost half-way."""

import hashlib
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("ray", reason='needs Ray: pip install "gristmill[ray]"')

WORDS = Path(__file__).read_text().split()


@pytest.fixture(scope="module")
def cluster():
    """A head without CPUs and three nodes with one each, so that a node can go while the head stays."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    made.workers = [made.add_node(num_cpus=1) for _ in range(3)]
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Thirty files with exact and near copies across them."""
    folder = tmp_path_factory.mktemp("ray") / "raw"
    folder.mkdir()
    rng = random.Random(5)
    texts = [" ".join(rng.choices(WORDS, k=90)) for _ in range(300)]
    for number in range(30):
        rows = []
        for _ in range(60):
            words = rng.choice(texts).split()
            words[rng.randrange(len(words))] = rng.choice(WORDS)
            rows.append({"instruction": f"Read this: {' '.join(words)}", "input": "", "output": rng.choice(texts)})
        (folder / f"part{number:02}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


def run(module, *words):
    command = [sys.executable, "-P", "-m", module, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ends_well(process):
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "Traceback" not in err, err
    return out


def tree(root):
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts)
    }


def test_a_cluster_that_loses_a_node_writes_the_bytes_of_one_process(cluster, raw, tmp_path):
    ends_well(run("curate", "filter", raw, tmp_path / "a" / "out", "--executor", "inline"))
    lossy = run("curate", "filter", raw, tmp_path / "b" / "out", "--executor", "ray", "--address", cluster.address)
    units = tmp_path / "b" / "out" / ".units" / "ingest"
    deadline = time.monotonic() + 120
    while not (units.is_dir() and any(units.iterdir())):
        assert lossy.poll() is None and time.monotonic() < deadline, "no unit was ever finished"
        time.sleep(0.01)
    cluster.remove_node(cluster.workers.pop(), allow_graceful=False)
    assert not (tmp_path / "b" / "out" / "manifest.json").exists(), "the node went too late to matter"
    ends_well(lossy)
    assert tree(tmp_path / "b" / "out") == tree(tmp_path / "a" / "out")

    ends_well(
        run("pack", "build", tmp_path / "a" / "out", tmp_path / "a" / "shards", "--ctx", 2048, "--executor", "inline")
    )
    ray = ("--executor", "ray", "--address", cluster.address)
    ends_well(run("pack", "build", tmp_path / "b" / "out", tmp_path / "b" / "shards", "--ctx", 2048, *ray))
    assert tree(tmp_path / "a" / "shards") == tree(tmp_path / "b" / "shards")


def test_errors_of_a_cluster_name_their_item_and_keep_their_type(cluster):
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1] / "contract")!r})
from curate.foundation.errors import DataError, GristmillError
from curate.foundation.executor import executor
import executor_tasks as tasks
import os
os.environ["PYTHONPATH"] = sys.path[0]
found = executor("ray", 0, {cluster.address!r})
import ray
ray.cloudpickle.register_pickle_by_value(tasks)
assert list(found.map(tasks.square, range(20))) == [n * n for n in range(20)]
for task, kind, said in ((tasks.fails_on_three, GristmillError, "item 3: ValueError: three"),
                         (tasks.data_error_on_three, DataError, "bad row")):
    try:
        list(found.map(task, range(6), name=lambda n: f"item {{n}}"))
    except kind as error:
        assert said in str(error), error
    else:
        raise SystemExit("no error came back")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_worker_that_is_killed_is_started_again_and_one_that_always_is_names_its_item(cluster, tmp_path):
    script = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parents[1] / "contract")!r})
from curate.foundation.errors import MachineError
from curate.foundation.executor import executor
import executor_tasks as tasks
found = executor("ray", 0, {cluster.address!r})
import ray
ray.cloudpickle.register_pickle_by_value(tasks)
jobs = [(number, {str(tmp_path)!r}) for number in range(8)]
assert list(found.map(tasks.killed_once, jobs)) == list(range(8))
assert os.path.exists({str(tmp_path / "killed")!r}), "nobody was killed"
try:
    list(found.map(tasks.killed_on_three, range(6), name=lambda n: f"item {{n}}"))
except MachineError as error:
    assert "item 3: the workers that read it were lost" in str(error) and error.hint, error
else:
    raise SystemExit("no error came back")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr


def test_a_cluster_that_is_not_there_is_a_clear_error(raw, tmp_path):
    process = run("curate", "filter", raw, tmp_path / "out", "--executor", "ray", "--address", "127.0.0.1:1")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "no Ray cluster answers" in err and "hint:" in err and "Traceback" not in err
