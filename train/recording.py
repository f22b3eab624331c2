"""Scores beside a run: `evaluations/<task>.json`, and the rows of the run card's before-and-after table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from curate.cards.render import write_card
from curate.foundation.errors import DataError
from curate.foundation.store import MANIFEST, Store
from train.final import FOLDER as FINAL

FOLDER: Final = "evaluations"
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


def record_evaluation(run: Path, rows: Sequence[Row]) -> dict[str, Any]:
    """Add flat rows with `task` and `model` to a run's manifest, commit it again and render its card again.

    A row takes the place of an earlier one with the same task and model. Returns the manifest. Raises `DataError` when
    a file of the run was changed since it was written: a new commit would hide that.
    """
    store = Store(run, "run")
    with store.locked(f"record an evaluation of {run}"):
        manifest = store.manifest()
        # Scores taken again are new by intent; nothing else may have changed.
        if problems := [line for line in store.verify() if not line.startswith(f"{FOLDER}/")]:
            raise DataError(
                f"{run}: {problems[0]}; its scores are not recorded",
                hint="train it again with --overwrite, or put the file back",
            )
        table = {(row["task"], row["model"]): dict(row) for row in manifest.get("evaluation") or ()}
        table |= {(row["task"], row["model"]): dict(row) for row in rows}
        columns = list(dict.fromkeys(key for row in table.values() for key in row))
        facts = {key: value for key, value in manifest.items() if key not in OWN}
        facts["evaluation"] = [{key: row.get(key) for key in columns} for row in table.values()]
        written = [name for name in store.names() if name.startswith(f"{FOLDER}/")]
        manifest = store.commit(facts, {*manifest["files"], *written})
        write_card(store.root, manifest)
    return manifest
