"""The types of evaluation sets: the table of items, what is known of a set, how the columns of a file are read."""

from __future__ import annotations

from dataclasses import dataclass, field
from string import Formatter
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, field_validator

if TYPE_CHECKING:
    import pyarrow as pa


class Fields(BaseModel):
    """Which columns of a file hold what; a column inside another is written `outer.inner`.

    `question` is a column or a format string over columns (`{passage} {question}`); a list in it gives one item a
    turn. `choices` is a column with a list, or a list of columns. `answer` is a text, or which of the choices: its
    number from 0, or its letter. `columns` names the columns of a csv without a header.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: str
    choices: str | tuple[str, ...] | None = None
    answer: str | None = None
    id: str | None = None
    columns: tuple[str, ...] | None = None

    @field_validator("question")
    @classmethod
    def _readable(cls, value: str) -> str:
        for _, name, spec, conversion in Formatter().parse(value):
            if name is not None and (not name or spec or conversion):
                raise ValueError("a format string names columns as {column}, with no conversion or format after it")
        return value


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that gave no item: its file (relative), its number from 0 and why; never its text."""

    file: str
    row: int
    reason: str


@dataclass(frozen=True, slots=True)
class SetFacts:
    """What is known of one eval set.

    `origin` has `path`, or `hub`, `revision`, `config` and `split`; `digest` is of the items' content, in any order.
    """

    items: int
    rows: int
    bad: int
    licence: str
    origin: dict[str, str | None]
    digest: str

    def as_json(self) -> dict[str, Any]:
        """The facts as a JSON object."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class EvalSets:
    """Eval sets read into one table, sorted by eval, file, row and turn, and what could not be read.

    `table`: eval string, item string (unique within its eval), question large_string, choices list<large_string>,
    answer large_string (null where there is none), file string, row int64. `skipped` pairs files with the reason.
    """

    table: pa.Table
    sets: dict[str, SetFacts] = field(default_factory=dict)
    bad: tuple[BadRow, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()

    @property
    def digest(self) -> str:
        """One digest over names and contents of every set, whatever the order of files and arguments."""
        from curate.foundation.store import digest_of

        return digest_of({name: facts.digest for name, facts in sorted(self.sets.items())})


def schema() -> pa.Schema:
    """The Arrow schema of `EvalSets.table`."""
    import pyarrow as pa

    return pa.schema(
        [
            ("eval", pa.string()),
            ("item", pa.string()),
            ("question", pa.large_string()),
            ("choices", pa.list_(pa.large_string())),
            ("answer", pa.large_string()),
            ("file", pa.string()),
            ("row", pa.int64()),
        ]
    )
