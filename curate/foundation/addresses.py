"""Addresses (`s3://bucket/folder`) where a folder of this machine is meant: refused, never made into a folder `s3:`.

A command that stages (see remote.py) is listed here with the arguments that may be addresses; everywhere else, and for
every other scheme, each path that a command is given is checked before the command does anything. Text that is no path
(a prompt, a Ray cluster's address, `hf://` for RAW) is left to the command.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from curate.foundation.errors import UsageError

STAGED: Final = {
    "curate filter": ("raw", "out"),
    "curate verify": ("out",),
    "pack build": ("out", "shards"),
    "pack verify": ("shards",),
    "train run": ("shards", "out"),
}
STORE: Final = "s3"
_ADDRESS: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")  # also after `Path` folded the slashes
_TEXTS: Final = ("address", "instruction", "prompt_format")


def scheme_of(place: str | Path) -> str:
    """The scheme of an address, in lower case; "" for a path (also for one of a Windows drive)."""
    found = _ADDRESS.match(str(place))
    return found[1].lower() if found else ""


def on_this_machine(place: str | Path, who: str = "this") -> None:
    """Raises UsageError for an address, with what takes one."""
    if scheme := scheme_of(place):
        url = _ADDRESS.sub(rf"{scheme}://", str(place), count=1)
        *first, last = STAGED
        raise UsageError(
            f"{url}: {who} works on folders of this machine, and this is an address",
            hint=f"copy it here and name the folder; {STORE}:// is for the arguments of {', '.join(first)} and {last}",
        )


def guard(app: Any) -> None:
    """Let every command of a typer app, and of those below it, refuse addresses among the paths it is given."""
    if not hasattr(app, "registered_commands"):  # a worker's own function
        return
    for name, info in _commands(app, app.info.name):
        info.callback = _guarded(info.callback, name)


def _commands(app: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every command with its full name; `gristmill curate filter` is `curate filter`."""
    for info in app.registered_commands:
        yield f"{name} {info.name or info.callback.__name__}", info
    for group in app.registered_groups:
        below = group.typer_instance
        yield from _commands(below, below.info.name or (f"{name} {group.name}" if group.name else name))


def _guarded(command: Callable[..., None], name: str) -> Callable[..., None]:
    @functools.wraps(command)
    def checked(**given: Any) -> None:
        for argument, value in given.items():
            for place in value if isinstance(value, list) else [value]:
                if not _may_be(place, argument, name):
                    on_this_machine(place, name)
        command(**given)

    return checked


def _may_be(place: Any, argument: str, command: str) -> bool:
    """Whether what a command is given may stand: no address, one that it stages, or text that is no path."""
    if not isinstance(place, str | Path) or not (scheme := scheme_of(place)):
        return True
    if isinstance(place, str) and ("://" not in place or argument in _TEXTS or (argument, scheme) == ("raw", "hf")):
        return True
    return scheme == STORE and argument in STAGED.get(command, ())
