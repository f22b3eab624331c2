"""Local eval sets: which files, what each is called, and their items.

A set is called by the last folder and the stem of its file (`gsm8k/test`), so it has the same name whether the file,
its folder or a folder above is given; where two would share a name, as many more folders as tell them apart. Pieces
(`test-00000-of-00002.parquet`) and the members of a zip are one set.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from curate.evals.model import BadRow, Fields
from curate.evals.shapes import OUTPUTS, Unmapped, ask, fitted, model_outputs
from curate.foundation.errors import MachineError, UsageError
from curate.reading.plan import JUNK, META, container_of, stem

ANSWERS: Final = (
    "possible_answer"  # BFCL keeps the answers to a file in a folder of this name, under the same file name
)
PIECE: Final = re.compile(r"-\d{5}-of-\d{5}$")
Item = dict[str, Any]


@dataclass
class Read:
    """One set as read: its items in file and row order, counts, and what gave none."""

    name: str
    items: list[Item] = field(default_factory=list)
    rows: int = 0
    bad: list[BadRow] = field(default_factory=list)
    seen: dict[str, int] = field(default_factory=dict)

    def add(self, file: str, label: str, row: int, value: Any, fields: Fields | None, answer: Any = None) -> None:
        """Add the items of a row, one a turn; raises `Unmapped`."""
        asked = ask(value, fields)
        given = asked.answer
        if answer is not None:
            from curate.foundation.store import canonical

            given = canonical(answer)
        ident = asked.ident or f"{label}:{row}"
        count = self.seen[ident] = self.seen.get(ident, 0) + 1
        ident += f"~{count}" if count > 1 else ""
        for turn, text in enumerate(asked.turns, 1):
            item = ident if turn == 1 else f"{ident}#{turn}"
            choices = list(asked.choices)
            place = {"file": file, "row": row}
            self.items.append(
                {"eval": self.name, "item": item, "question": text, "choices": choices, "answer": given} | place
            )


def find(given: str) -> tuple[list[Path], list[tuple[str, str]]]:
    """The eval files at a path, sorted, and what was passed over with the reason."""
    path = Path(given).expanduser()
    if not path.exists():
        beside = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
        near = get_close_matches(path.name, beside, 1)
        hint = f"did you mean {path.parent / near[0]}?" if near else "name a folder or a file of questions"
        raise UsageError(f"--against {given}: no such folder or file", hint=hint)
    path = path.resolve()
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        raise MachineError(f"--against {given}: no permission to read", hint="check the permissions of that path")
    if path.is_file():
        if not is_data(path.name):
            raise UsageError(
                f"--against {given}: not a data file", hint="jsonl, json, csv, tsv, parquet, arrow, or a zip of them"
            )
        return [path], []
    files, skipped = [], []
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in JUNK)
        for name in sorted(names):
            here = Path(folder) / name
            shown = here.relative_to(path.parent).as_posix()
            if name.startswith("."):
                continue
            if name in META or not is_data(name):
                skipped.append((shown, "not a data file"))
            elif not _named_in_text(here):
                skipped.append(
                    (os.fsencode(shown).decode("utf-8", "backslashreplace"), "its name is not UTF-8: rename it")
                )
            elif not here.is_file() or not os.access(here, os.R_OK):
                skipped.append((shown, "not a readable file"))
            else:
                files.append(here)
    if not files:
        raise UsageError(
            f"--against {given}: no data file in it", hint="jsonl, json, csv, tsv, parquet, arrow, or a zip of them"
        )
    return files, skipped


def _named_in_text(path: Path) -> bool:
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def is_data(name: str) -> bool:
    """Whether a file name is that of a file we read."""
    return container_of(name) is not None or name.lower().endswith(".zip")


def named(files: list[Path]) -> dict[str, list[Path]]:
    """Files by the name of their set."""
    depth = 1
    while True:
        out: dict[str, list[Path]] = {}
        for path in files:
            own = PIECE.sub("", stem(path.name.removesuffix(".zip").removesuffix(".ZIP")))
            out.setdefault("/".join([*path.parts[1:-1][-depth:], own]), []).append(path)
        apart = all(
            len({(path.parent, PIECE.sub("", stem(path.name))) for path in paths}) == 1 for paths in out.values()
        )
        if apart or depth > max(len(path.parts) for path in files):
            return {name: sorted(out[name]) for name in sorted(out)}
        depth += 1


def read_set(name: str, paths: list[Path], fields: Fields | None) -> tuple[Read, list[tuple[str, str]]]:
    """Read one set; raises `UsageError` naming the columns when no row gives a question."""
    out, skipped = Read(name), []
    for path in paths:
        shown = f"{path.parent.name}/{path.name}"
        if path.parent.name == ANSWERS and (path.parent.parent / path.name).is_file():
            skipped.append((shown, f"the answers to {path.parent.parent.name}/{path.name}"))
        elif reason := read_file(out, path, shown, fields):
            skipped.append((shown, reason))
    return out, skipped


def read_file(out: Read, path: Path, shown: str, fields: Fields | None, prefix: str = "", *, exact: bool = True) -> str:
    """Add the rows of a file; gives the reason when it holds no questions on purpose.

    `exact` takes `fields` as they are; else a row without their columns is guessed. Raises `UsageError` naming the
    columns when no row gives a question.
    """
    from curate.evals.rows import rows_of

    answers = _answers(path)
    before, unmapped = len(out.items), ""
    for stem_of, row, value, problem in rows_of(path, shown, fields if exact else None):
        label = prefix + PIECE.sub("", stem_of)
        if (fields is None or not exact) and model_outputs(value):
            return OUTPUTS
        out.rows += 1
        try:
            if problem:
                raise Unmapped(problem)
            key = value.get("id") if isinstance(value, Mapping) and answers else None
            own = fields if exact or fields is None else fitted(value, fields)
            out.add(_place(shown, label), label, row, value, own, answers.get(str(key)))
        except Unmapped as error:
            unmapped = unmapped or (str(error) if error.columns else "")
            out.bad.append(BadRow(_place(shown, label), row, str(error)))
    if len(out.items) == before:
        reason = unmapped or (out.bad[-1].reason if out.bad else "no rows")
        hint = f"say which columns hold what: --set decontaminate.evals.{out.name}.fields.question=COLUMN"
        raise UsageError(
            f"{shown}: no question could be read: {reason}",
            hint=hint if unmapped else "mend the file, download it again, or leave it out",
        )
    return ""


def _place(shown: str, label: str) -> str:
    return f"{shown}/{label}" if shown.lower().endswith(".zip") else shown


def _answers(path: Path) -> dict[str, Any]:
    """The answers that lie beside a file, by id."""
    beside = path.parent / ANSWERS / path.name
    if not beside.is_file():
        return {}
    from curate.evals.rows import rows_of

    found = (value for _, _, value, problem in rows_of(beside, beside.name, None) if not problem)
    return {
        str(value["id"]): value.get("ground_truth") for value in found if isinstance(value, Mapping) and "id" in value
    }
