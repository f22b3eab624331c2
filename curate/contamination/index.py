"""The index of evaluation sets: built once, written as plain arrays, memory-mapped by every worker.

Cost: opening costs nothing; on disk about 60 bytes a word of the eval sets.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curate.contamination.lookup import Sets
from curate.contamination.scan import Plan
from curate.foundation.store import Store
from curate.splitting import Hashes, Ints

FORMAT: Final = 4  # raise when the same eval sets would be indexed or judged otherwise
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class EvalIndex:
    """Everything that scanning and deciding need of the eval sets; `items` has eval, item, question and answer.

    `eval_of[i]` is the item's eval (in `evals`), `tokens[i]` the tokens it has; `place` says for each owner of an n-gram
    where in the item it stands. `short[i]`: the item is sought word for word only, `exact[i]`: both so
    and by its bigrams; `answered[i]`: with its answer, whose
    words are `answers[answer_at[i]:answer_at[i+1]]`; `offered[i]`: with its choices, which are those from
    `choice_of[i]` to `choice_of[i+1]`, choice k of the words
    `choices[choice_at[k]:choice_at[k+1]]`. `dropped` (n, 4) are the n-grams that are
    boilerplate of an eval: an item, a place in it, words (negative: tokens), and the number of items that share them;
    `common[i]`: so is all of it.
    """

    evals: tuple[str, ...]
    tables: tuple[tuple[int, bool], ...]
    items: pa.Table
    eval_of: Ints
    tokens: Ints
    place: Ints
    short: Bools
    exact: Bools
    answered: Bools
    answers: Hashes
    answer_at: Ints
    offered: Bools
    choices: Hashes
    choice_at: Ints
    choice_of: Ints
    common: Bools
    dropped: Ints
    plan: Plan

    @cached_property
    def spoken(self) -> Ints:
        """Words an item."""
        return np.diff(self.plan.word_at)

    @cached_property
    def distinct(self) -> Ints:
        """Distinct bigrams an item that count."""
        return np.diff(self.plan.bigram_at)

    def choices_of(self, item: int) -> list[list[int]]:
        """The choices of an item that have words, as words."""
        at = self.choice_at[self.choice_of[item] : self.choice_of[item + 1] + 1].tolist()
        return [self.choices[a:b].tolist() for a, b in pairwise(at)]

    def length(self, table: int) -> Ints:
        """Tokens an item, as an n-gram table sees them."""
        return self.tokens if self.tables[table][1] else self.spoken


ARRAYS: Final = tuple(
    field.name for field in fields(EvalIndex) if field.name not in ("evals", "tables", "items", "plan")
)


def write(index: EvalIndex, store: Store, folder: str) -> None:
    """Store an index below `folder`; its description comes last."""
    arrays = {name: getattr(index, name) for name in ARRAYS}
    arrays |= {f"sets.{name}": value for name, value in index.plan.sets._asdict().items()}
    arrays |= {f"plan.{name}": value for name, value in index.plan._asdict().items() if name != "sets"}
    for name, value in arrays.items():
        with store.writing(f"{folder}/{name}.npy", durable=False) as temp, temp.open("wb") as file:
            np.save(file, value, allow_pickle=False)
    with (
        store.writing(f"{folder}/items.arrow", durable=False) as temp,
        pa.ipc.new_file(str(temp), index.items.schema) as writer,
    ):
        writer.write_table(index.items)
    store.write_json(f"{folder}/index.json", {"format": FORMAT, "evals": index.evals, "tables": index.tables})


def is_written(folder: Path) -> bool:
    """Whether `folder` holds a whole index."""
    return (folder / "index.json").is_file()


def open_index(folder: Path) -> EvalIndex:
    """Memory-map an index."""
    from curate.tables import read_arrow

    about = json.loads((folder / "index.json").read_bytes())

    def array(name: str) -> Any:
        path = folder / f"{name}.npy"
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        return np.asarray(found)  # a plain view of the map: numba knows no memmap

    sets = Sets(*(array(f"sets.{name}") for name in Sets._fields))
    plan = Plan(sets, *(array(f"plan.{name}") for name in Plan._fields if name != "sets"))
    return EvalIndex(
        evals=tuple(about["evals"]),
        tables=tuple((size, every) for size, every in about["tables"]),
        items=read_arrow(folder / "items.arrow"),
        plan=plan,
        **{name: array(name) for name in ARRAYS},
    )
