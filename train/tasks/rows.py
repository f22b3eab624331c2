"""The rows of a task's split: from a local copy, or from the hub through the client's cache.

A local copy is a file, or a folder with a file for each split. MBPP is one file, whose splits are ranges of its task
numbers (601 to 974 train, 11 to 510 test: Austin et al. 2021). Cost: one pass over the files of the split.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from curate.evals import hub, local, registry
from curate.evals.rows import rows_of
from curate.foundation.errors import Offline, UsageError

if TYPE_CHECKING:
    from train.tasks.items import Task

Row = tuple[int, Any, str]  # number, value, and why there is none
MBPP: Final[Mapping[str, range]] = {"train": range(601, 975), "test": range(11, 511)}


def rows_of_file(path: Path) -> Iterator[Row]:
    """The rows of a data file of any kind we read; raises `UsageError` when there is none."""
    if not path.is_file() or not local.is_data(path.name):
        raise UsageError(
            f"{path}: {'not a data file' if path.is_file() else 'no such file'}",
            hint='a task is a file (jsonl, json, csv, parquet) of {"prompt": ..., "answer": ...}',
        )
    for _, number, value, problem in rows_of(path, path.name, None):
        yield number, value, problem


def rows_of_task(task: Task, split: str) -> Iterator[Row]:
    """The rows of one split; raises `UsageError` when it cannot be told, `Offline` when it is not on this machine."""
    whole = task.known and task.name == "mbpp"
    paths = _local(task.data, split, whole) if task.data else _hub(task.name, split)
    for path in paths:
        for number, value, problem in rows_of_file(path):
            if whole and isinstance(value, Mapping) and value.get("task_id") not in MBPP[split]:
                continue
            yield number, value, problem


def _local(data: Path, split: str, whole: bool) -> list[Path]:
    """The files of a split: those of a folder that are named after it, or the one given (`train` lies beside it).

    `whole` says that one file holds every split.
    """
    if data.is_file():
        if split == "test" or whole:
            return [data]
        found = _named(data.parent, split)
    else:
        every, _ = local.find(str(data))
        found = _named(data, split) or (every if len(every) == 1 and (split == "test" or whole) else [])
    if not found:
        raise UsageError(
            f"--data {data}: no file of the {split} split",
            hint=f"name a folder that holds {split}.jsonl" + (", or ask with --shots 0" if split == "train" else ""),
        )
    return found


def _named(folder: Path, split: str) -> list[Path]:
    """The data files of a folder that are called after a split, pieces included; of several spellings the plainest."""
    found = [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and local.is_data(path.name) and local.PIECE.sub("", path.name.partition(".")[0]) == split
    ]
    return found or [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and local.is_data(path.name) and path.name.partition(".")[0].lower().endswith(f"_{split}")
    ]


def _hub(name: str, split: str) -> list[Path]:
    """The files of a registry set's split in the hub client's cache, fetched when they are not there."""
    entry = registry.entry(name)
    if split != "test":
        files = tuple(glob.replace("test", split) for glob in entry.files)
        entry = replace(entry, splits=(split,), files=files)
    found = _kept(entry)
    if not found:
        try:
            hub.fetch(name, entry)
        except Offline as error:
            raise Offline(error.message, hint=f"use a local copy: train eval MODEL --task {name} --data PATH") from None
        found = _kept(entry)
    return found


def _kept(entry: registry.Entry) -> list[Path]:
    root = hub.kept(entry)
    return [root / name for name in hub.chosen(entry, hub.names_in(root))] if root else []
