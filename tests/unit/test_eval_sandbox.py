"""Hostile programs come to a defined end, touch nothing outside, and cannot claim to have passed."""

import os
import socket
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from train.tasks.sandbox import Job, Limits, execute

LIMITS = Limits(cpu=2, wall=8, memory=512 << 20, file=1 << 20)


def run(program, *pairs, **limits):
    (said,), _ = execute([Job(program, pairs)], replace(LIMITS, **limits))
    return said


@pytest.mark.parametrize(
    ("program", "outcome"),
    [
        ("assert 1 + 1 == 2", "passed"),
        ("assert 1 + 1 == 3", "failed"),
        ("def f(:", "error SyntaxError"),
        ("1 / 0", "error ZeroDivisionError"),
        ("def f(): f()\nf()", "error RecursionError"),
        ("while True: pass", "timeout"),
        ("x = [0] * 10**9", "memory"),
        ("x = []\nwhile True: x.append(bytearray(1 << 20))", "memory"),
        ("import sys; sys.exit(0)", "exited"),
        ("raise SystemExit", "exited"),
        ("import os; os._exit(0)", "exited"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "error PermissionError"),
        ("import os; os.fork()", "error PermissionError"),
        ("import os; os.system('true')", "error PermissionError"),
        ("import subprocess; subprocess.run(['true'])", "error PermissionError"),
        ("import socket; socket.socket()", "error PermissionError"),
        ("open('here', 'w').write('x' * (8 << 20))", "output"),
        ("print('x' * 10000000, flush=True)", "passed"),
        ("open('here', 'w').write('x'); assert open('here').read() == 'x'", "passed"),
        ("import os; assert not os.environ", "passed"),
        ("import threading; t = threading.Thread(target=print); t.start(); t.join()", "passed"),
        ("import os; os.write(3, b'passed')", "error forged"),
        ("import os; os.write(3, b'passed'); os._exit(0)", "error forged"),
        ("import os; os.close(3)", "exited"),
        ("import gc, __main__; assert __name__ == '__main__' and __main__.__dict__ is globals()", "passed"),
    ],
)
def test_a_program_comes_to(program, outcome):
    said = run(program)
    assert said == outcome


def test_a_sleeper_is_ended_by_the_clock():
    assert run("import time; time.sleep(600)", wall=1) == "timeout"


def test_one_that_dies_takes_no_other_with_it():
    crash = "import ctypes; ctypes.string_at(0)"
    jobs = [Job("assert True"), Job(crash), Job("assert True"), Job("while True: pass"), Job("assert False")]
    said, layers = execute(jobs, LIMITS)
    assert said == ["passed", "killed", "passed", "timeout", "failed"] and "no network by" in layers


RAW = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
"""


def linux_only():
    _, layers = execute([Job("")], LIMITS)
    if "seccomp" not in layers or "Landlock" not in layers:
        pytest.skip(f"this kernel does not offer every layer: {layers}")


def test_the_kernel_refuses_what_goes_around_python():
    """libc called directly: the audit hook sees none of it."""
    linux_only()
    denied = "assert libc.{call} == -1 and ctypes.get_errno() == 1, ctypes.get_errno()"
    for call in (
        "socket(2, 1, 0)",
        "fork()",
        "vfork()",
        "setsid()",
        "kill(-1, 9)",
        "ptrace(0, 0, 0, 0)",
        "chmod(b'/', 511)",
    ):
        if call != "vfork()":
            assert run(RAW + denied.format(call=call)) == "passed", call
    assert run(RAW + "assert libc.execv(b'/bin/true', None) == -1") == "passed"


def test_a_fork_bomb_makes_no_process():
    bomb = RAW + "while True:\n    assert libc.fork() != 0"
    assert run(bomb, cpu=1) == "timeout"


@pytest.mark.parametrize(
    "open_it", ["open({path!r}, 'w')", "import os; os.remove({path!r})", "import os; os.chmod({path!r}, 0)"]
)
def test_nothing_outside_is_written_or_removed(tmp_path, open_it):
    kept = tmp_path / "kept"
    kept.write_text("mine")
    assert run(open_it.format(path=str(kept))) == "error PermissionError"
    assert kept.read_text() == "mine"
    raw = RAW + f"assert libc.unlink({str(kept).encode()!r}) == -1\nassert libc.open({str(kept).encode()!r}, 2) == -1"
    linux_only()
    assert run(raw) == "passed" and kept.read_text() == "mine"


def test_the_network_of_this_machine_is_out_of_reach():
    """A listener on the loopback device gets no connection, not even by a raw system call."""
    linux_only()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(1.5)
        heard = []

        def wait():
            try:
                heard.append(server.accept())
            except TimeoutError:
                pass

        thread = threading.Thread(target=wait)
        thread.start()
        port = server.getsockname()[1]
        assert run(f"import socket; socket.create_connection(('127.0.0.1', {port}))") == "error PermissionError"
        thread.join()
    assert heard == []


def test_temporary_folders_are_gone_afterwards(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    execute([Job("open('a', 'w').write('b')"), Job("import os; os.mkdir('c'); os._exit(1)")], LIMITS)
    assert list(tmp_path.iterdir()) == []


def test_no_process_is_left(tmp_path):
    execute([Job("import threading, time; threading.Thread(target=time.sleep, args=(600,)).start()")], LIMITS)
    mine = {path.name for path in Path("/proc").glob("[0-9]*") if parent_of(path) == os.getpid()}
    assert mine == {name for name in mine if "confine" not in command_of(name)}


def parent_of(path):
    try:
        return int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return 0


def command_of(name):
    try:
        return (Path("/proc") / name / "cmdline").read_text()
    except OSError:
        return ""


ADD = "a, b = map(int, input().split())\nprint(a + b)"


@pytest.mark.parametrize(
    ("program", "outcome"),
    [
        (ADD, "passed"),
        (ADD + "\nimport sys; sys.exit(0)", "passed"),
        (ADD + "\nimport sys; sys.exit(1)", "exited"),
        ("print(3)", "failed"),
        ("print(input())\ninput()", "error EOFError"),
        ("while True: print('x' * 1000)", "output"),
        ("import os; os._exit(0)", "failed"),
    ],
)
def test_programs_that_answer_inputs(program, outcome):
    assert run(program, ("1 2\n", "3\n"), ("5 6\n", "11")) == outcome


@pytest.mark.parametrize(
    ("found", "wanted", "agree"),
    [
        ("YES", "yes\n", True),
        ("0.3333333", "0.33333", True),
        ("0.34", "0.33333", False),
        ("1000001", "1000000", False),
        ("1  2\n3", "1 2 3", True),
        ("1 2", "1 2 3", False),
        ("nan", "1", False),
    ],
)
def test_outputs_are_compared_by_tokens(found, wanted, agree):
    from train.tasks.confine import same

    assert same(found, wanted) is agree


def test_the_same_programs_come_to_the_same_whatever_runs_beside_them():
    jobs = [Job(f"assert {n} % 7") for n in range(80)]
    assert execute(jobs, LIMITS, workers=1)[0] == execute(jobs, LIMITS, workers=4)[0]
