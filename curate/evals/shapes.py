"""One row of an eval file -> question turns, choices, answer: by a mapping, or by the columns that published sets use.

The guess looks at column names only, in the order below, so that rows with the same columns are read the same way.
Cost: a dictionary look-up a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from string import Formatter
from typing import Any, Final

from curate.evals.model import Fields

# Most specific first: SVAMP, ASDiv, DROP and instructions with an input need two columns for their question.
QUESTIONS: Final = (
    *("{Body} {Question}", "{body} {question}", "{passage}\n{question}", "{instruction}\n{input}"),
    *("question", "Question", "problem", "Problem", "query", "prompt", "instruction", "Instruction", "turns"),
    *("question_stem", "question_content", "ctx", "goal", "sentence", "messages", "text", "input", "description"),
)
CHOICES: Final[tuple[str | tuple[str, ...], ...]] = (
    *("choices.text", "choices", "options", "endings", "mc1_targets.choices"),
    *(("A", "B", "C", "D"), ("sol1", "sol2"), ("option1", "option2")),
)
ANSWERS: Final = (
    *("solution", "Solution", "canonical_solution", "code", "answerKey", "best_answer", "answer", "Answer", "label"),
    *("gold", "target", "output", "ground_truth", "Correct Answer", "result"),
)
IDS: Final = ("task_id", "unique_id", "question_id", "prompt_id", "query_id", "id", "ID", "key", "idx", "ind")
MMLU: Final = Fields(
    question="question", choices=("A", "B", "C", "D"), answer="answer", columns=("question", *"ABCD", "answer")
)
PREFIX: Final = "Question: "  # of a prompt, not of the question: ARC as evaluation harnesses hand it on
OUTPUTS: Final = "outputs of models, not questions"


@dataclass(frozen=True, slots=True)
class Asked:
    """What one row asks: a text a turn, the choices, the answer as text, and the row's own id."""

    turns: tuple[str, ...]
    choices: tuple[str, ...]
    answer: str | None
    ident: str | None


class Unmapped(ValueError):
    """A row that gives no question, with the reason; `columns` says that its columns are not known."""

    def __init__(self, reason: str, *, columns: bool = False) -> None:
        super().__init__(reason)
        self.columns = columns


def model_outputs(row: Any) -> bool:
    """Whether a row holds solutions of models to another set's questions."""
    values = row.values() if isinstance(row, dict) else ()
    return any(isinstance(value, dict) and {"solution", "is_correct"} <= set(value) for value in values)


def guess(row: Mapping[str, Any]) -> Fields | None:
    """The fields of a row by its columns; None when no column is known to hold a question."""
    inner = ((name, value if isinstance(value, dict) else None) for name, value in row.items())
    return _guess(tuple(path for name, value in inner for path in (name, *(f"{name}.{key}" for key in value or ()))))


@lru_cache(256)
def _guess(paths: tuple[str, ...]) -> Fields | None:
    question = next((name for name in QUESTIONS if set(columns_of(name)) <= set(paths)), None)
    if question is None:
        return None
    taken = columns_of(question)
    choices = next((name for name in CHOICES if {*([name] if isinstance(name, str) else name)} <= set(paths)), None)
    answer = next((name for name in ANSWERS if name in paths and name not in taken), None)
    ident = next((name for name in IDS if name in paths and name not in taken), None)
    return Fields(question=question, choices=choices, answer=answer, id=ident)


def columns_of(question: str) -> list[str]:
    """The columns that a question, a column or a format string, takes."""
    if "{" not in question:
        return [question]
    return [name for _, name, _, _ in Formatter().parse(question) if name]


def ask(row: Any, fields: Fields | None) -> Asked:
    """What a row asks; `fields` None guesses. Raises `Unmapped`."""
    if not isinstance(row, Mapping):
        raise Unmapped(f"not an object but a {type(row).__name__}", columns=True)
    fields = fields or guess(row)
    if fields is None:
        raise Unmapped(f"no question among its columns: {_keys(row)}", columns=True)
    turns = _question(row, fields.question)
    if not turns:
        raise Unmapped("an empty question")
    choices = _choices(row, fields.choices)
    found = None if fields.answer is None else _look(row, fields.answer)
    if isinstance(found, list) and not choices:  # several answers, or endings of which one is right: all are its own
        choices, found = _texts(found), None
    answer = _answer(row, fields, found, choices)
    ident = None if fields.id is None else _look(row, fields.id)
    return Asked(turns, choices, answer, None if ident is None else _text(ident).strip() or None)


def fitted(row: Any, fields: Fields) -> Fields | None:
    """`fields` where a row has its question; what else it lacks, or all of it, by a guess."""
    found = guess(row) if isinstance(row, Mapping) else None
    if found is None or any(_look(row, name) is None for name in columns_of(fields.question)):
        return found
    first = fields.choices if isinstance(fields.choices, str) else (fields.choices or ("",))[0]
    return Fields(
        question=fields.question,
        choices=fields.choices if first and _look(row, first) is not None else found.choices,
        answer=fields.answer if fields.answer and _look(row, fields.answer) is not None else found.answer,
        id=fields.id if fields.id and _look(row, fields.id) is not None else found.id,
    )


def _keys(row: Mapping[str, Any]) -> str:
    shown = [str(key)[:40] for key in row]
    return ", ".join(shown[:12]) + (", ..." if len(shown) > 12 else "")


def _look(row: Any, name: str) -> Any:
    """The value of a column; `outer.inner` goes inside, numbers index lists; None when it is not there."""
    if isinstance(row, Mapping) and name in row:
        return row[name]
    value = row
    for part in name.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def _question(row: Mapping[str, Any], question: str) -> tuple[str, ...]:
    names = columns_of(question)
    values = {name: _look(row, name) for name in names}
    if missing := [name for name, value in values.items() if value is None]:
        if missing[0] in row:
            raise Unmapped("an empty question")
        raise Unmapped(f"no column {missing[0]!r} among {_keys(row)}", columns=True)
    if "{" in question:
        parts = [
            literal + (_text(values[name]).strip() if name else "")
            for literal, name, _, _ in Formatter().parse(question)
        ]
        return tuple(text for text in ["".join(parts).strip()] if text)
    return tuple(text for turn in _turns(values[names[0]]) if (text := turn.strip().removeprefix(PREFIX).strip()))


def _turns(value: Any) -> Iterator[str]:
    """The user's turns of a text, a list of texts, or lists of messages."""
    if isinstance(value, list):
        for item in value:
            yield from _turns(item)
    elif isinstance(value, Mapping):
        role, content = value.get("role", value.get("from")), value.get("content", value.get("value"))
        if role in ("user", "human") and content is not None:
            yield _text(content)
    else:
        yield _text(value)


def _choices(row: Mapping[str, Any], name: str | tuple[str, ...] | None) -> tuple[str, ...]:
    if name is None:
        return ()
    if isinstance(name, tuple):
        return _texts([_look(row, part) for part in name])
    found = _look(row, name)
    return _texts(found if isinstance(found, list) else [found])


def _texts(values: list[Any]) -> tuple[str, ...]:
    return tuple(_text(value) for value in values if value is not None)


def _answer(row: Mapping[str, Any], fields: Fields, found: Any, choices: tuple[str, ...]) -> str | None:
    """The answer as text: a number or a letter names one of the choices."""
    if found is None or isinstance(found, list) or not choices:
        return (_text(found).strip() or None) if found is not None else None
    place: int | None = found if isinstance(found, int) and not isinstance(found, bool) else None
    if isinstance(found, str) and (letter := found.strip()) not in choices:
        inner = fields.choices.rpartition(".")[0] if isinstance(fields.choices, str) else ""
        labels = _look(row, f"{inner}.label") if inner else None
        ends = [name[-1:] for name in fields.choices] if isinstance(fields.choices, tuple) else []
        if isinstance(labels, list) and letter in labels:
            place = labels.index(letter)
        elif letter in ends:
            place = ends.index(letter)
        elif letter.isdigit():
            place = int(letter)
        elif len(letter) == 1 and letter.isascii() and letter.isupper():
            place = ord(letter) - ord("A")
    if place is not None:
        return choices[place] if 0 <= place < len(choices) else None
    return _text(found).strip() or None


def _text(value: Any) -> str:
    """A value as the text a reader would write: whole numbers without a point, structures as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, (dict, list, bool)):
        from curate.foundation.store import canonical

        return canonical(value)
    return str(value)
