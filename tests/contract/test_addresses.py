"""An address where a folder of this machine is meant is refused by every command; nobody gets a folder called `s3:`."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from curate.foundation import addresses
from curate.foundation.errors import UsageError
from curate.foundation.store import Store

PROGRAMS = {"curate": "curate.cli", "pack": "pack.cli", "train": "train.cli", "gristmill": "train.suite"}
NO_PATHS = {"--set", "--address", "--instruction", "--prompt-format"}  # texts that may hold a scheme
FILLED = {"ID": "0" * 32, "T": "gsm8k", "F": "hf"}  # what a required argument is given beside the one under test


def commands():
    """Program and full name of every command, and its parameters."""
    for program, module in PROGRAMS.items():
        root = get_command(importlib.import_module(module).app)
        for name, entry in root.commands.items():
            if name in PROGRAMS:  # `gristmill curate ...`: the same app under another name
                continue
            for below, command in getattr(entry, "commands", {"": entry}).items():
                words = (name, below) if below else (name,)
                yield program, words, [item for item in command.params if item.name != "help"]


def texts():
    """Each parameter that takes text or a path, of each command."""
    for program, words, parameters in commands():
        for under_test in parameters:
            kind = under_test.type_descriptor.annotation
            if kind in (str, Path, list[str]) and not NO_PATHS & set(under_test.opts):
                yield program, words, under_test, parameters


def line(words, under_test, parameters, value):
    """A command line in which one parameter has a value; the required others are filled."""
    out = list(words)
    for item in parameters:
        given = value if item is under_test else FILLED.get((item.metavar or "").strip("[]"), "nothing")
        if item.param_type_name == "argument":
            out.append(given)
        elif item is under_test or item.required:
            out += [item.opts[-1], given]
    return out


@pytest.fixture(scope="module")
def guarded():
    """Each program, its commands guarded as `run` does it."""
    made = {}
    for program, module in PROGRAMS.items():
        app = importlib.import_module(module).app
        plain = [(info, info.callback) for _, info in addresses._commands(app, program)]
        addresses.guard(app)
        made[program] = get_command(app)
        for info, callback in plain:
            info.callback = callback
    return made


@pytest.fixture
def invoke(guarded, tmp_path, monkeypatch):
    """Run a command line in an empty folder; what it raised."""
    monkeypatch.chdir(tmp_path)

    def invoked(program, words):
        try:
            guarded[program].main(words, prog_name=program, standalone_mode=False)
        except (Exception, SystemExit) as error:
            return error
        return None

    return invoked


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_every_command_refuses_an_address_for_every_path_it_takes(scheme, invoke, tmp_path):
    refused = staged = 0
    for program, words, under_test, parameters in texts():
        command = " ".join((program, *words))
        if scheme == "s3" and under_test.name in addresses.STAGED.get(command, ()):
            staged += 1
            continue
        error = invoke(program, line(words, under_test, parameters, f"{scheme}://bucket/folder"))
        assert isinstance(error, UsageError) and error.exit_code == 2, (command, under_test.name, error)
        assert f"{scheme}://bucket/folder: {command} works on folders of this machine" in error.message
        assert all(name in error.hint for name in addresses.STAGED)
        assert not list(tmp_path.iterdir()), (command, under_test.name)
        refused += 1
    assert refused > 100 and staged == (sum(map(len, addresses.STAGED.values())) if scheme == "s3" else 0)


def test_the_programs_refuse_before_anything_is_made(tmp_path):
    for words in (("curate", "sample", "s3://b/raw"), ("train.suite", "curate", "sample", "s3://b/raw")):
        command = [sys.executable, "-P", "-m", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 2 and "s3://b/raw: curate sample works on" in done.stderr, done.stderr
        assert "hint: " in done.stderr and not list(tmp_path.iterdir())


def test_texts_with_a_scheme_in_them_are_no_addresses(invoke):
    for words in (
        ("run", "nothing", "--set", "sources.x.path=hf://a/b"),
        ("eval", "nothing", "--task", "gsm8k", "--instruction", "https://a.b says:"),
    ):
        assert "is an address" not in str(invoke("train", list(words)))
    assert "is an address" not in str(invoke("pack", ["build", "nothing", "--prompt-format", "ask://{prompt}"]))
    assert "is an address" not in str(invoke("curate", ["formats", "hf://name"]))


@pytest.mark.parametrize("place", ["s3://bucket/out", "s3:/bucket/out", "GS://bucket/out"])
def test_no_store_is_opened_on_an_address(place):
    with pytest.raises(UsageError, match="is an address"):
        Store(Path(place), "records")


@pytest.mark.parametrize("place", ["out", "/a/b", "C:/data", "a:b", "x/s3://y", "..", "s3:"])
def test_paths_are_paths(place):
    addresses.on_this_machine(place)
