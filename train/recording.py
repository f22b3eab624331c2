"""Scores beside a run: `evaluations/<task>.json`, and the rows of the run card's before-and-after table.

An evaluation is new when the manifest that names its files is written. Until then the earlier files lie in
`.evaluations.old/`, and whoever comes after a kill puts back what the manifest still names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any, Final

from curate.cards.render import write_card
from curate.foundation.errors import DataError
from curate.foundation.store import MANIFEST, Store, sync_folder
from train.final import FOLDER as FINAL

FOLDER: Final = "evaluations"
OLD: Final = f".{FOLDER}.old"
OWN: Final = ("digest", "files", "format", "kind")  # what commit itself puts into a manifest
Row = Mapping[str, str | int | float | bool | None]


def run_of(model: Path) -> Path | None:
    """The run that a folder is, or whose `final/` it is; None for any other model."""
    folder = model.parent if model.name == FINAL else model
    return folder if (folder / FINAL).is_dir() and (folder / MANIFEST).is_file() else None


def sound(store: Store, under: str = "") -> None:
    """Raise `DataError` when files of a complete run (those `under` a folder) are not the ones that were written."""
    if problems := [line for line in store.verify() if line.startswith(under)]:
        shown = "\n".join(f"  {line}" for line in problems[:20])
        raise DataError(
            f"{store.root}: {len(problems)} problem(s)\n{shown}",
            hint="put the files back, or train it again with --overwrite",
        )


def settle(run: Path) -> None:
    """Undo a recording that was killed before its commit; nothing where none was."""
    if (run / OLD).is_dir():
        store = Store(run, "run")
        with store.locked(f"settle the evaluations of {run}"):
            put_back(store)


def put_back(store: Store) -> None:
    """`settle` of a run whose lock is held."""
    old = store.path(OLD)
    if not old.is_dir():
        return
    named = {name: entry for name, entry in store.manifest()["files"].items() if name.startswith(f"{FOLDER}/")}
    for name, entry in named.items():
        kept = f"{OLD}/{name.removeprefix(f'{FOLDER}/')}"
        if store.path(kept).is_file() and store.entry(kept) == entry:
            store.path(kept).replace(store.path(name))
    for name in store.names():
        if name.startswith(f"{FOLDER}/") and name not in named:
            store.remove(name)
    if store.path(FOLDER).is_dir():
        sync_folder(store.path(FOLDER))
    rmtree(old)


def recordable(run: Path) -> None:
    """Raise `DataError` when a file of the run was changed since it was written: a new commit would hide that."""
    settle(run)
    _refuse_changed(Store(run, "run"))


def _refuse_changed(store: Store) -> None:
    # Scores taken again are new by intent; nothing else may have changed.
    if problems := [line for line in store.verify() if not line.startswith(f"{FOLDER}/")]:
        raise DataError(
            f"{store.root}: {problems[0]}; its scores are not recorded",
            hint="train it again with --overwrite, or put the file back",
        )


def record_evaluation(run: Path, rows: Sequence[Row], files: Mapping[str, bytes] | None = None) -> dict[str, Any]:
    """Add flat rows with `task` and `model` to a run's manifest, commit it again and render its card again.

    A row takes the place of an earlier one with the same task and model; so do `files`, by their names below
    `evaluations/`, all with the manifest or none. Returns the manifest. Raises as `recordable` does.
    """
    store, given = Store(run, "run"), files or {}
    with store.locked(f"record an evaluation of {run}"):
        put_back(store)
        _refuse_changed(store)
        manifest = store.manifest()
        table = {(row["task"], row["model"]): dict(row) for row in manifest.get("evaluation") or ()}
        table |= {(row["task"], row["model"]): dict(row) for row in rows}
        columns = list(dict.fromkeys(key for row in table.values() for key in row))
        facts = {key: value for key, value in manifest.items() if key not in OWN}
        facts["evaluation"] = [{key: row.get(key) for key in columns} for row in table.values()]
        if given:
            _set_aside(store)
        for name, data in given.items():
            store.write_bytes(f"{FOLDER}/{name}", data)
        written = [name for name in store.names() if name.startswith(f"{FOLDER}/")]
        manifest = store.commit(facts, {*manifest["files"], *written})
        rmtree(store.path(OLD), ignore_errors=True)
        write_card(store.root, manifest)
    return manifest


def _set_aside(store: Store) -> None:
    """A copy of the earlier evaluations, whole once it has its name."""
    fresh = store.path(f"{OLD}.tmp-{0:012x}")  # a name that the next sweep takes away
    rmtree(fresh, ignore_errors=True)
    if store.path(FOLDER).is_dir():
        copytree(store.path(FOLDER), fresh)
    else:
        fresh.mkdir()
    fresh.rename(store.path(OLD))
    sync_folder(store.root)
