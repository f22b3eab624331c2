"""A signal stops a command wherever it lands, and what was half written is taken back."""

import signal
import subprocess
import sys
import textwrap

import pytest

HEAD = """
import gc, os, signal, sys, threading, time
from contextlib import ExitStack
from pathlib import Path
from curate.foundation.console import run
from curate.foundation.executor import Inline
from curate.foundation.store import replacing

NUMBER = signal.Signals[sys.argv[1]]

def send():
    os.kill(os.getpid(), NUMBER)
"""

IN_A_DESTRUCTOR = """
class Cycle:
    def __init__(self):
        self.me = self
    def __del__(self):
        send()
        sum(range(10))

def app():
    Cycle()
    gc.collect()
    time.sleep(5)
    print("went on")
"""

CAUGHT_BY_A_LIBRARY = """
def task(item):
    try:
        send()
        sum(range(10))
    except BaseException:
        pass
    return item

def app():
    for item in Inline().map(task, [1, 2, 3]):
        if item > 1:
            print("went on")
"""

IN_A_TEMPLATE = """
from pack.rendering import Template, TemplateFailed

def app():
    template = Template("{% for m in messages %}{% for n in m.many %}{{ n }}{% endfor %}{% endfor %}", {})
    def many():
        yield "a"
        send()
        yield "b"
    try:
        template.render([{"many": many()}])
    except TemplateFailed as error:
        print("quarantined", error)
"""

AT_THE_END_OF_A_CONTEXT = """
class Late(ExitStack):
    def __exit__(self, *raised):
        send()
        return super().__exit__(*raised)

def write():
    with Late() as stack:
        for name in ("tokens", "documents"):
            stack.enter_context(stack.enter_context(replacing(Path(name))).open("wb")).write(b"half")

def app():
    write()
    print("went on")
"""

WHILE_ANOTHER_ERROR_IS_TOLD = """
def app():
    try:
        send()
        sum(range(10))
    finally:
        raise OSError("a library's own error")
"""


TAIL = """
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    run(app)
except SystemExit as left:
    sys.stdout.flush()
    os._exit(left.code)  # as processes of multiprocessing end: nothing is torn down
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(
    "body",
    [IN_A_DESTRUCTOR, CAUGHT_BY_A_LIBRARY, IN_A_TEMPLATE, AT_THE_END_OF_A_CONTEXT, WHILE_ANOTHER_ERROR_IS_TOLD],
    ids=["destructor", "caught", "template", "context", "error"],
)
def test_a_signal_stops_a_command_wherever_it_lands(tmp_path, body, number):
    script = textwrap.dedent(HEAD) + body + TAIL
    (tmp_path / "script.py").write_text(script)
    work = tmp_path / "work"
    work.mkdir()
    ended = subprocess.run(
        [sys.executable, "-P", str(tmp_path / "script.py"), number.name],
        cwd=work, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 128 + number, (ended.returncode, ended.stdout, ended.stderr)
    assert ended.stdout == "" and "Traceback" not in ended.stderr and "ignored" not in ended.stderr, ended.stderr
    assert ended.stderr.startswith("error: ") and "\nhint: " in ended.stderr
    assert not list(work.iterdir()), "what was under way was not rolled back"
