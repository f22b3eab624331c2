"""`s3://` in, `s3://` out: the bytes of a local run, nothing half-visible, resumed elsewhere, through a failing network."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("s3fs", reason='needs s3fs: pip install "gristmill[s3]"')
pytest.importorskip("moto", reason="needs the local S3 server of moto[server]")

WORDS = Path(__file__).read_text().split()
SLOW = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>'

DENIED = b'<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>No more of that.</Message></Error>'


class Faulty:
    """The S3 server behind a network that fails: every `every`-th request, in turn, a 500, a slow-down, a cut body."""

    def __init__(self, application):
        self.application = application
        self.every = 0
        self.refused = 0  # the put that is answered 403, from 1 on
        self.puts = 0
        self.due = []
        self.count = 0
        self.failed = {"500": 0, "503": 0, "cut": 0}
        self.log = []
        self.gate = threading.Lock()

    def __call__(self, environ, start):
        with self.gate:
            self.count += 1
            turn = self.count
            self.log.append((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
            self.puts += environ["REQUEST_METHOD"] == "PUT" and "/.lock" not in environ["PATH_INFO"]
            refused = self.puts == self.refused > 0 and environ["REQUEST_METHOD"] == "PUT"
        if refused:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            self.refused = 0
            start("403 Forbidden", [("Content-Type", "application/xml"), ("Content-Length", str(len(DENIED)))])
            return [DENIED]
        if self.every and turn % self.every == 0:
            self.due.append(("500", "503", "cut")[turn // self.every % 3])
        get = environ["REQUEST_METHOD"] == "GET"
        if self.due and (self.due[0] != "cut" or get):
            kind = self.due.pop(0)
            self.failed[kind] += 1
            if kind == "cut":
                return self._cut(environ, start)
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start(f"{kind} Failed", [("Content-Type", "application/xml"), ("Content-Length", str(len(SLOW)))])
            return [SLOW]
        return self.application(environ, start)

    def _cut(self, environ, start):
        """The answer's head, half of its body, and then the connection is gone."""
        body = b"".join(self.application(environ, start))

        def half():
            yield body[: len(body) // 2]
            raise ConnectionAbortedError("cut")

        return half()


@pytest.fixture(scope="module")
def server():
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Silent(WSGIRequestHandler):
        def log(self, *_):
            pass

    faulty = Faulty(DomainDispatcherApplication(create_backend_app))
    made = make_server("127.0.0.1", 0, faulty, threaded=True, request_handler=Silent)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    faulty.url = f"http://127.0.0.1:{made.server_port}"
    yield faulty
    made.shutdown()


@pytest.fixture
def bucket(server, tmp_path):
    """An empty bucket, the environment to reach it, and a cache of this machine's own."""
    import s3fs

    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    environment = {**os.environ, **keys, "AWS_ENDPOINT_URL": server.url, "GRISTMILL_CACHE": str(tmp_path / "cache")}
    server.every = 0
    server.log.clear()
    files = s3fs.S3FileSystem(
        key="test", secret="test", endpoint_url=server.url, use_listings_cache=False, skip_instance_cache=True
    )
    name = f"b{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:12]}"
    files.mkdir(name)
    files.put(str(write_raw(tmp_path / "raw")), f"{name}/", recursive=True)
    yield name, files, environment
    server.every = 0


def write_raw(folder):
    folder.mkdir()
    rng = random.Random(11)
    texts = [" ".join(rng.choices(WORDS, k=60)) for _ in range(60)]
    for number in range(8):
        rows = [{"instruction": rng.choice(texts), "input": "", "output": rng.choice(texts)} for _ in range(40)]
        (folder / f"part{number}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


def start(module, *words, env=None):
    command = [sys.executable, "-P", "-m", module, *map(str, words)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, start_new_session=True
    )


def run(module, *words, env=None, check=0):
    process = start(module, *words, env=env)
    out, err = process.communicate(timeout=240)
    assert "Traceback" not in err, err
    assert process.returncode == check, f"exit {process.returncode}\n{out}\n{err}"
    return out, err


def objects(files, url):
    root = url.removeprefix("s3://") + "/"
    names = [key.removeprefix(root) for key in files.find(url)]
    return {name: hashlib.sha256(files.cat_file(f"{url}/{name}")).hexdigest() for name in names if visible(name)}


def tree(root):
    names = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    return {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in names if visible(name)}


def visible(name):
    return not any(part.startswith(".") for part in name.split("/"))


def test_through_errors_slow_downs_and_cuts_the_objects_equal_a_local_run(server, bucket, tmp_path):
    name, files, env = bucket
    run("curate", "filter", tmp_path / "raw", tmp_path / "out")
    run("pack", "build", tmp_path / "out", tmp_path / "shards", "--ctx", 1024)
    server.every = 19
    out, _ = run("curate", "filter", f"s3://{name}/raw", f"s3://{name}/out", "--workers", 2, env=env)
    assert f"s3://{name}/out/README.md" in out
    run("pack", "build", f"s3://{name}/out", f"s3://{name}/shards", "--ctx", 1024, env=env)
    run("pack", "verify", f"s3://{name}/shards", env=env)
    server.every = 0
    assert min(server.failed.values()) > 0, server.failed
    assert objects(files, f"s3://{name}/out") == tree(tmp_path / "out")
    assert objects(files, f"s3://{name}/shards") == tree(tmp_path / "shards")
    assert not files.exists(f"s3://{name}/out/.lock")
    for folder in ("out", "shards"):  # the last thing written to each folder, but for the lock, is its manifest
        puts = [
            path for method, path in server.log if method == "PUT" and f"/{folder}/" in path and "/.lock" not in path
        ]
        assert puts[-1].endswith(f"{folder}/manifest.json")


def test_a_killed_run_goes_on_from_its_uploaded_units_on_another_machine(server, bucket, tmp_path):
    name, files, env = bucket
    run("curate", "filter", tmp_path / "raw", tmp_path / "out")
    out = f"s3://{name}/out"
    process = start("curate", "filter", f"s3://{name}/raw", out, "--executor", "inline", env=env)
    deadline = time.monotonic() + 100
    while sum("/out/.units/ingest" in path for method, path in list(server.log) if method == "PUT") < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not files.exists(f"{out}/manifest.json")
    done = set(files.find(f"{out}/.units/ingest"))
    assert 0 < len(done) < 8
    server.log.clear()
    run("curate", "filter", f"s3://{name}/raw", out, env={**env, "GRISTMILL_CACHE": str(tmp_path / "elsewhere")})
    again = {path.strip("/") for method, path in server.log if method == "PUT"}
    assert not done & again, "a finished unit was uploaded again"
    assert objects(files, out) == tree(tmp_path / "out")


def test_whichever_upload_fails_nothing_half_written_is_complete_and_a_rerun_mends_it(server, bucket, tmp_path):
    """One in the middle and the last, which is the manifest's."""
    name, files, env = bucket
    out = f"s3://{name}/out"
    words = ("curate", "filter", f"s3://{name}/raw", out, "--executor", "inline", "--only", "length")
    run("curate", "filter", tmp_path / "raw", tmp_path / "out", *words[4:])
    whole = tree(tmp_path / "out")
    server.puts = 0
    run(*words, env=env)
    uploads = server.puts
    assert uploads > len(whole)
    for number in (uploads // 2, uploads):
        files.rm(out, recursive=True)
        cache = tmp_path / f"cache{number}"
        server.puts, server.refused = 0, number
        _, err = run(*words, env={**env, "GRISTMILL_CACHE": str(cache)}, check=3)
        assert "access denied" in err and "hint: " in err, err
        assert not files.exists(f"{out}/manifest.json") and not files.exists(f"{out}/.lock")
        again = cache if number % 2 else tmp_path / f"elsewhere{number}"  # on this machine, or on another
        run(*words, env={**env, "GRISTMILL_CACHE": str(again)})
        assert objects(files, out) == whole, number


def test_slices_read_from_an_object_store_each_with_a_copy_of_its_own(bucket, tmp_path):
    name, _, env = bucket
    stages = ("--only", "length", "--only", "exact")
    run("curate", "filter", tmp_path / "raw", tmp_path / "alone" / "out", *stages, "--executor", "inline")
    for _ in range(2):
        for part in range(2):
            own = {**env, "GRISTMILL_CACHE": str(tmp_path / f"machine{part}")}
            run("curate", "filter", f"s3://{name}/raw", tmp_path / "out", *stages, "--slice", f"{part}/2", env=own)
        run("curate", "merge", tmp_path / "out", env={**env, "GRISTMILL_CACHE": str(tmp_path / "machine2")})
    assert tree(tmp_path / "out") == tree(tmp_path / "alone" / "out")


def test_a_second_writer_is_refused_and_told_who_the_first_is(bucket):
    name, files, env = bucket
    holder = {"pid": 1, "host": "far-away", "command": "curate filter", "boot": "1"}
    files.pipe_file(f"s3://{name}/out/.lock", json.dumps(holder).encode())
    _, err = run("curate", "filter", f"s3://{name}/raw", f"s3://{name}/out", env=env, check=3)
    assert "far-away" in err and "delete the object" in err


def test_mistakes_with_buckets_are_said_plainly(bucket):
    name, _, env = bucket
    _, err = run("curate", "filter", f"s3://{name}/nothing", "out", env=env, check=2)
    assert "nothing is there" in err
    _, err = run("curate", "filter", f"s3://{name}", "out", env=env, check=2)
    assert "names no folder" in err
    _, err = run("curate", "filter", "s3://no-such-bucket-here/raw", "out", env=env, check=2)
    assert "no such bucket" in err
