"""Conditions on records, written as YAML: `{field: extra.reward, is: 1}`.

Operators: is, not, in, not_in, lt, le, gt, ge, exists, contains, matches; several in one entry must all hold. Entries
nest with `all: [...]` and `any: [...]`. A field a record lacks meets only `not`, `not_in` and `exists: false`; a value
of another type is never equal and never ordered (`"1"` is not 1, true is not 1).

Cost: a field is read once a batch, vectorised where it is text or a count; `extra.*` parses the JSON of rows that hold
the key. `matches` runs on an automaton (RE2: time linear in the text, no backtracking).
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curate.foundation.errors import UsageError
from curate.stages.fields import FIELDS, read_field

Mask = NDArray[np.bool_]
PATTERN_CAP: Final = 1000
SYNTAX: Final = "write for example {field: extra.difficulty, is: hard}"
ORDER: Final = {"lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge}
OPS: Final = ("is", "not", "in", "not_in", *ORDER, "exists", "contains", "matches")


@dataclass
class View:
    """A batch whose fields are read at most once."""

    table: pa.Table
    read: dict[str, Any] = field(default_factory=dict)

    def values(self, name: str) -> Any:
        """The values of a field, one a row: an Arrow array, or a list where types may differ from row to row."""
        if name not in self.read:
            self.read[name] = read_field(self.table, name)
        return self.read[name]


@dataclass(slots=True, frozen=True)
class Condition:
    """A compiled entry: `holds(view)` gives a bool a row; `text` is how to quote it."""

    holds: Callable[[View], Mask]
    text: str


def compile_condition(entry: Any) -> Condition:
    """A condition from its YAML form; `UsageError` names the nearest field or operator."""
    if not isinstance(entry, dict) or not entry:
        raise UsageError(f"a condition must be a mapping, got {entry!r}", hint=SYNTAX)
    for name, join in (("all", np.logical_and), ("any", np.logical_or)):
        if name in entry:
            if len(entry) > 1 or not isinstance(entry[name], list | tuple) or not entry[name]:
                raise UsageError(f"`{name}` takes a list of conditions and nothing beside it", hint=SYNTAX)
            parts = [compile_condition(part) for part in entry[name]]
            return Condition(partial(_joined, parts, join), f" {name[:3]} ".join(part.text for part in parts))
    if "field" not in entry:
        raise UsageError(f"a condition needs a `field`, got {sorted(map(str, entry))}", hint=SYNTAX)
    target = _known_field(entry["field"])
    operands = {key: value for key, value in entry.items() if key != "field"}
    if not operands:
        raise UsageError(f"the condition on {target} needs an operator: {', '.join(OPS)}", hint=SYNTAX)
    tests = [_compile_test(target, str(name), value) for name, value in operands.items()]
    text = " and ".join(f"{target} {name} {value}" for name, value in operands.items())
    return Condition(partial(_all_tests, target, tests), text)


def _joined(parts: Sequence[Condition], join: Callable[[Mask, Mask], Mask], view: View) -> Mask:
    mask = parts[0].holds(view)
    for part in parts[1:]:
        mask = join(mask, part.holds(view))
    return mask


def _all_tests(target: str, tests: Sequence[Callable[[Any], Mask]], view: View) -> Mask:
    values = view.values(target)
    mask = np.ones(view.table.num_rows, np.bool_)
    for test in tests:
        mask &= test(values)
    return mask


def nearest(word: str, known: Sequence[str]) -> str:
    """A hint naming the known word closest to a mistyped one, or all of them."""
    found = difflib.get_close_matches(word, known, 1, 0.5)
    return f"did you mean {found[0]!r}?" if found else f"known: {', '.join(known)}"


def _known_field(name: Any) -> str:
    if isinstance(name, str) and (name in FIELDS or (name.startswith("extra.") and len(name) > 6)):
        return name
    raise UsageError(f"unknown field {name!r} in a condition", hint=nearest(str(name), [*FIELDS, "extra.KEY"]))


def _compile_test(target: str, name: str, operand: Any) -> Callable[[Any], Mask]:
    if name not in OPS:
        raise UsageError(f"unknown operator {name!r} on {target}", hint=nearest(name, OPS))
    if name in ("in", "not_in") and not isinstance(operand, list | tuple):
        raise UsageError(f"{target} {name}: needs a list, got {operand!r}", hint=SYNTAX)
    if name == "exists" and not isinstance(operand, bool):
        raise UsageError(f"{target} exists: true or false, got {operand!r}", hint=SYNTAX)
    if name in ORDER and not (isinstance(operand, int | float | str) and not isinstance(operand, bool)):
        raise UsageError(f"{target} {name}: needs a number or a text, got {operand!r}", hint=SYNTAX)
    if name in ("contains", "matches"):
        return _text_test(target, name, operand)
    return partial(_each, name, operand)


def _each(name: str, operand: Any, values: Any) -> Mask:
    items = values if isinstance(values, list) else values.to_pylist()
    if name == "exists":
        return np.fromiter(((item is not None) is operand for item in items), np.bool_, len(items))
    if name in ORDER:
        compare = ORDER[name]
        kind = str if isinstance(operand, str) else (int, float)
        gen = (isinstance(x, kind) and not isinstance(x, bool) and bool(compare(x, operand)) for x in items)
        return np.fromiter(gen, np.bool_, len(items))
    wanted = list(operand) if name in ("in", "not_in") else [operand]
    hits = np.fromiter((any(_same(item, one) for one in wanted) for item in items), np.bool_, len(items))
    return ~hits if name in ("not", "not_in") else hits


def _same(left: Any, right: Any) -> bool:
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)


def _text_test(target: str, name: str, operand: Any) -> Callable[[Any], Mask]:
    if not isinstance(operand, str) or not operand or len(operand) > PATTERN_CAP:
        raise UsageError(f"{target} {name}: needs a text of 1 to {PATTERN_CAP:,} characters", hint=SYNTAX)
    if name == "matches":
        try:
            pc.match_substring_regex(pa.array([""]), operand)
        except pa.ArrowInvalid as error:
            raise UsageError(
                f"{target} matches: {error}", hint="RE2 syntax: no look-around, no back-references"
            ) from None
    return partial(_search, name == "matches", operand)


def _search(regex: bool, operand: str, values: Any) -> Mask:
    if isinstance(values, list):
        values = pa.array([item if isinstance(item, str) else None for item in values], pa.large_string())
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        return np.zeros(len(values), np.bool_)
    found = pc.match_substring_regex(values, operand) if regex else pc.match_substring(values, operand)
    return np.asarray(pc.fill_null(found, False).to_numpy(zero_copy_only=False), dtype=np.bool_)
