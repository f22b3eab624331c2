"""Commands of the river as real processes: forked from a server that has the imports ready, failed and killed at will.

A trial is a process group of its own, so that `kill` takes its workers along. A `Fault` lets the Nth call of one kind
that touches the trial's folders fail: Python's own calls with the error itself, a native writer's (Arrow, Parquet) by
putting `/dev/full` where it is about to write, so that the kernel says no.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import signal
import sys
import types
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

KINDS = {
    "open": (errno.EACCES, errno.EIO, errno.ENOSPC),
    "write": (errno.ENOSPC, errno.EIO),
    "fsync": (errno.EIO, errno.ENOSPC),
    "rename": (errno.EIO, errno.EACCES, errno.ENOSPC),
    "link": (errno.EIO, errno.EACCES, errno.ENOSPC),
    "unlink": (errno.EIO, errno.EACCES),
}
PRELOAD = [
    "pyarrow.parquet", "polars", "numba", "typer", "rich.console", "xxhash", "orjson", "jinja2", "yaml", "pydantic",
    "torch", "transformers", "transformers.generation", "safetensors.torch", "accelerate", "tokenizers", "peft",
    "gigatoken", "curate.cli", "curate.commands", "curate.pipeline", "curate.ingest", "curate.reading",
    "curate.stages.registry", "curate.stages.minhash", "curate.stages.near", "curate.stages.exact",
    "curate.stages.quality", "curate.stages.length", "curate.stages.select", "curate.cards.render", "pack.cli",
    "pack.commands", "pack.build", "pack.batches", "pack.engines", "pack.show", "train.cli", "train.commands",
    "train.running", "train.starting", "train.loop", "train.final", "train.adapters", "warmed",
]  # fmt: skip
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(PRELOAD)


@dataclass(frozen=True)
class Fault:
    """The `number`-th call of `kind` (from 1) below `root` fails with `code`.

    Number 0 lets none fail and counts the calls of every kind, into the file `tally`.
    """

    root: str
    kind: str
    number: int
    code: int
    tally: str


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


class Trial:
    """A command under way; `words` is a command line without the program's name."""

    def __init__(self, program, words, cwd, fault=None, env=None):
        self.cwd = Path(cwd)
        self.said = [self.cwd / f"said.{name}" for name in ("out", "err")]
        arguments = (program, [str(word) for word in words], str(cwd), fault, env or {})
        self.process = CONTEXT.Process(target=child, args=arguments)
        with nameless_main():
            self.process.start()

    @property
    def pid(self):
        return self.process.pid

    def running(self, seconds=0.0):
        """Whether it still runs after so long."""
        self.process.join(seconds)
        return self.process.exitcode is None

    def signal(self, number):
        with suppress(ProcessLookupError):  # it was faster, and is gone
            os.kill(self.pid, number)

    def kill(self):
        """kill -9 of the whole process group; False when it was over already."""
        if not self.running():
            return False
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:  # not yet a leader of its own, or just gone
            os.kill(self.pid, signal.SIGKILL)
        self.process.join()
        return self.process.exitcode == -signal.SIGKILL

    def end(self, seconds=120):
        """What came of it; a trial that hangs is killed, and fails the test."""
        if not wait([self.process.sentinel], seconds):
            self.signal(signal.SIGUSR1)  # where each thread is, into what it said
            self.running(2.0)
            self.kill()
            raise AssertionError(f"hangs: {self._read()}")
        self.process.join()
        return Ended(self.process.exitcode, *self._read())

    def _read(self):
        return [path.read_text(errors="replace") if path.exists() else "" for path in self.said]


def run(program, *words, cwd, fault=None, env=None, check=None):
    """Start a command and wait for its end; `check` is the exit code it must have."""
    ended = Trial(program, words, cwd, fault, env).end()
    if check is not None:
        assert ended.code == check, f"exit {ended.code}\n{ended.out}\n{ended.err}"
    return ended


def counted(program, *words, cwd, root):
    """Run a command undisturbed; how many calls of each kind it makes below `root`."""
    tally = Path(cwd) / "tally"
    run(program, *words, cwd=cwd, fault=Fault(str(root), "", 0, 0, str(tally)), check=0)
    return dict(zip(KINDS, map(int, tally.read_text().replace("\0", "").split()), strict=True))


@contextmanager
def nameless_main():
    """While entered, children have no main module to import again: that of the tests is pytest."""
    real = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = real


def child(program, words, cwd, fault, env):
    """Become the command: a group of its own, its words in files, its scratch below `cwd`."""
    os.setsid()
    os.chdir(cwd)
    scratch = Path(cwd) / "tmp"
    scratch.mkdir(exist_ok=True)
    os.environ |= {"TMPDIR": str(scratch), "COLUMNS": "200", **env}
    for name, number in (("out", 1), ("err", 2)):
        handle = os.open(f"said.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(handle, number)
        os.close(handle)
    sys.stdin = Path(os.devnull).open()  # noqa: SIM115
    import faulthandler
    import importlib
    import tempfile

    from curate.foundation.console import run as run_app

    faulthandler.register(signal.SIGUSR1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the suite may run in the background, which ignores it
    tempfile.tempdir = None
    app = importlib.import_module(f"{program}.cli").app
    sys.argv = [program, *words]
    if limit := env.get("GRISTMILL_TEST_FSIZE"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
    if fault is not None:
        install(fault)
    run_app(app)


class Gate:
    """Counts the calls of one kind and lets one fail."""

    def __init__(self, fault):
        self.fault = fault
        self.count = dict.fromkeys(KINDS, 0)

    def due(self, kind, path):
        """Whether this call is the one that fails."""
        if (self.fault.number and kind != self.fault.kind) or not self.ours(path):
            return False
        self.count[kind] += 1
        if not self.fault.number:
            os.pwrite(self.tally(), f"{self.count[kind]:9}\n".encode(), 10 * list(KINDS).index(kind))
        return self.count[kind] == self.fault.number

    def ours(self, path):
        if isinstance(path, int):
            try:
                path = Path(f"/proc/self/fd/{path}").readlink()
            except OSError:
                return False
        return os.path.abspath(os.fsdecode(path)).startswith(self.fault.root + os.sep)  # noqa: PTH100

    def tally(self):
        if not hasattr(self, "_handle"):
            self._handle = REAL["os.open"](self.fault.tally, os.O_WRONLY | os.O_CREAT, 0o644)
        return self._handle

    def fail(self, path):
        where = None if isinstance(path, int) else os.fsdecode(path)
        raise OSError(self.fault.code, os.strerror(self.fault.code), where)


REAL = {"os.open": os.open}


class Written:
    """A file opened for writing whose writes are counted."""

    def __init__(self, file, gate, path):
        self._file, self._gate, self._path = file, gate, path

    def write(self, data):
        if self._gate.due("write", self._path):
            raise OSError(self._gate.fault.code, os.strerror(self._gate.fault.code))
        return self._file.write(data)

    def __enter__(self):
        self._file.__enter__()
        return self

    def __exit__(self, *error):
        return self._file.__exit__(*error)

    def __getattr__(self, name):
        return getattr(self._file, name)


def install(fault):
    """Put the gate before every door that the store and the stages write through."""
    import builtins
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    gate = Gate(fault)

    def guard(module, name, kind, place=0, only=lambda *_: True):
        real = getattr(module, name)

        def guarded(*args, **kwargs):
            path = args[place]
            if (folder := kwargs.get("dir_fd")) is not None:
                path = Path(f"/proc/self/fd/{folder}").readlink() / os.fsdecode(path)
            if only(*args) and gate.due(kind, path):
                gate.fail(path)
            return real(*args, **kwargs)

        setattr(module, name, guarded)

    def writes(path, flags=os.O_RDONLY, *_):
        return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))

    guard(os, "open", "open", only=writes)
    guard(os, "fsync", "fsync")
    for name in ("rename", "replace"):
        guard(os, name, "rename", 1)
    guard(os, "link", "link", 1)
    for name in ("unlink", "remove"):
        guard(os, name, "unlink")
    real_open = io.open

    def opened(file, mode="r", *args, **kwargs):
        if not set(mode) & set("wxa+") or isinstance(file, int):
            return real_open(file, mode, *args, **kwargs)
        if gate.due("open", file):
            gate.fail(file)
        return Written(real_open(file, mode, *args, **kwargs), gate, file)

    io.open = builtins.open = opened

    def native(module, name, place=0):
        real = getattr(module, name)

        def made(*args, **kwargs):
            path = args[place]
            if isinstance(path, str | os.PathLike) and (module is not pa or args[1:2] == ("wb",)):
                if gate.due("open", path):
                    gate.fail(path)
                if gate.due("write", path):
                    Path(path).symlink_to("/dev/full")
            return real(*args, **kwargs)

        setattr(module, name, made)

    native(pa, "OSFile")
    native(pa.ipc, "new_file")
    native(pq, "ParquetWriter")
    import safetensors.torch

    import train.checkpoint

    native(safetensors.torch, "save_file", 1)
    train.checkpoint.save_file = safetensors.torch.save_file
