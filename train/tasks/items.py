"""What a model is asked: the items of a task, the subset that a seed draws, the worked examples before a question.

Items are drawn by the digest of (seed, item), so a subset depends on neither the order of a file nor its other
items: the same seed asks the same questions before and after. Examples come from the train split alone. Cost: one pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from curate.evals.shapes import Unmapped, ask
from curate.foundation.errors import DataError, UsageError
from curate.foundation.store import digest_of
from train.tasks import programs
from train.tasks.answers import MARKER, boxed
from train.tasks.programs import Code
from train.tasks.rows import rows_of_file, rows_of_task

Kind = Literal["number", "latex", "answer", "code", "open"]
NAMED: Final = ("gsm8k", "math", "humaneval", "mbpp", "code-contests")
INSTRUCTIONS: Final[Mapping[str, str]] = {
    "number": "Solve the problem step by step. Write the answer as a number behind #### on the last line.",
    "latex": "Solve the problem step by step. Put the final answer in \\boxed{}.",
    "answer": "Write the answer behind #### on the last line.",
    "code": "Solve the task in Python. Answer with one block of code, fenced by ```python and ```.",
    "pairs": "Write a Python program that reads standard input and writes standard output. Answer with one block of code, "
    "fenced by ```python and ```.",
    "open": "",
}


@dataclass(frozen=True, slots=True)
class Item:
    """One question with its reference answer; `kind` says how answers are judged, `level` how hard it is said to be."""

    prompt: str
    answer: str
    kind: Kind = "answer"
    level: str | None = None
    code: Code | None = None

    @property
    def ident(self) -> str:
        """A digest of the question and what is right."""
        return digest_of([self.prompt, self.answer, self.code.behind if self.code else ""])

    @property
    def instruction(self) -> str:
        """What this kind of task asks for, in a sentence."""
        return INSTRUCTIONS["pairs" if self.code and self.code.pairs else self.kind]

    @property
    def shown(self) -> str:
        """The reference as a worked example shows it."""
        return programs.fenced(self.answer) if self.kind == "code" else self.answer


def item_of(row: Mapping[str, Any]) -> Item:
    """One row as an item, its kind by its columns; raises `Unmapped` for a row without a question."""
    if found := programs.code_of(row):
        question, solution, code = found
        return Item(question, solution, "code", programs.level_of(row), code)
    asked = ask(row, None)
    if len(asked.turns) > 1:
        raise Unmapped("a question of several turns")
    if asked.choices:
        raise Unmapped("multiple choice, which is judged by likelihood: see lm-eval in the docs")
    answer = asked.answer or ""
    kind: Kind = "answer" if answer else "open"
    if MARKER.search(answer):
        kind = "number"
    elif boxed(answer) is not None:
        kind = "latex"
    return Item(asked.turns[0], answer, kind, programs.level_of(row))


def read_items(path: Path, count: int | None = None) -> list[Item]:
    """The first `count` items of a file; raises `UsageError` without one, `DataError` naming a row that gives no item."""
    items: list[Item] = []
    for number, value, problem in rows_of_file(path):
        if count is not None and len(items) >= count:
            break
        items.append(_made(path.name, number, value, problem))
    if not items:
        raise DataError(f"{path}: holds no items", hint='write one {"prompt": ..., "answer": ...} a line')
    return items


def _made(name: str, number: int, value: Any, problem: str) -> Item:
    try:
        if problem:
            raise Unmapped(problem)
        if not isinstance(value, Mapping):
            raise Unmapped("not an object")
        return item_of(value)
    except (Unmapped, KeyError, TypeError) as error:
        raise DataError(f"{name}, row {number + 1}: {error}", hint="mend or remove that row") from error


@dataclass(frozen=True, slots=True)
class Task:
    """Where items come from: a registry name (`known`), with a local copy or without, or a file of any shape."""

    name: str
    data: Path | None = None
    known: bool = True

    @classmethod
    def of(cls, given: str, data: Path | None) -> Task:
        """`given` as typed: one of the five names, another set of the registry, or a file. Raises `UsageError`."""
        from curate.evals.registry import SETS

        if given in NAMED or given in SETS:
            return cls(given, data)
        path = Path(given)
        if not path.is_file():
            known = ", ".join(NAMED)
            raise UsageError(
                f"--task {given}: no such file, and no task of that name",
                hint=f'{known}, or a file of {{"prompt": ..., "answer": ...}}',
            )
        return cls(path.name.partition(".")[0], path, known=False)

    def items(self, split: str = "test") -> list[Item]:
        """Every item of a split, in the order of its files; raises what reading gives."""
        return [_made(self.name, number, value, problem) for number, value, problem in rows_of_task(self, split)]


def subset(items: Sequence[Item], count: int | None, seed: int) -> list[Item]:
    """`count` items drawn by `seed`, in their own order; all when `count` is None or there are no more."""
    if count is None or count >= len(items):
        return list(items)
    keys = sorted((digest_of([seed, item.ident]), place) for place, item in enumerate(items))
    return [items[place] for place in sorted(place for _, place in keys[:count])]


def examples(task: Task, count: int, seed: int, asked: Iterable[Item]) -> list[Item]:
    """`count` worked examples of the train split drawn by `seed`; never a question that is asked. Raises `UsageError`."""
    if not count:
        return []
    taken = {" ".join(item.prompt.split()).casefold() for item in asked}
    train = [item for item in task.items("train") if " ".join(item.prompt.split()).casefold() not in taken]
    train = [item for item in train if item.answer]
    if len(train) < count:
        raise UsageError(f"--shots {count}: the train split of {task.name} has {len(train)}", hint="ask for fewer")
    drawn = sorted(train, key=lambda item: digest_of(["shot", seed, item.ident]))
    return [replace(item, level=None) for item in drawn[:count]]
