"""Proof that a chat template does nothing but put texts in their places, for one shape of conversation.

The template runs once with `Text` objects instead of strings. A Text can be printed, joined, stripped and asked
whether it contains, starts with, ends with or equals something; every such question is answered "no" and written
down. Whatever else a template does to a text raises Unprovable. What is printed is then, for every conversation of
the same shape whose texts answer all questions with "no" and are not blank, the same literals around its own texts:
no second render is needed. This is symbolic execution with path conditions (King 1976, CACM 19:7), on one path.

Constructs that turn what they print into strings again (macros, set blocks, filter blocks) are refused, because a
question asked about such a string would go unseen. Cost: one render a shape of conversation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pack.rendering import Template, private_environment

# Text of a slot after some strips: each is (side, characters), side one of "strip", "lstrip", "rstrip".
Strip = tuple[str, str]
_MARK: Final = re.compile("\ue000(\\d+)\ue001")
_SPACE: Final = ""  # `characters` of a strip of any white space


class Unprovable(BaseException):
    """The template does more to a text than printing it; a BaseException so that no construct swallows it."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a template asks of the text of a slot, as it stands before any strip; the path assumes "no"."""

    slot: int
    kind: str  # contains, startswith, endswith, equals
    what: str


@dataclass(frozen=True, slots=True)
class Trace:
    """literals[0] slot literals[1] ... : slots with their strips, and the questions asked on the way."""

    literals: list[str]
    slots: list[tuple[int, tuple[Strip, ...]]]
    questions: frozenset[Question]


@dataclass(frozen=True, slots=True)
class Hole:
    """Stands for a text in the messages given to `trace`."""

    slot: int


class _Record:
    """What one run prints and asks."""

    def __init__(self) -> None:
        self.printed: list[tuple[int, tuple[Strip, ...]]] = []
        self.questions: set[Question] = set()


class Text:
    """A text whose characters nobody knows but that it is not blank: a run of literals and stripped slots."""

    __slots__ = ("_parts", "_record")

    def __init__(self, record: _Record, parts: tuple[str | tuple[int, tuple[Strip, ...]], ...]) -> None:
        self._record, self._parts = record, tuple(part for part in parts if part != "")

    def __str__(self) -> str:
        out = ""
        for part in self._parts:
            if not isinstance(part, str):
                self._record.printed.append(part)
                part = f"\ue000{len(self._record.printed) - 1}\ue001"
            out += part
        return out

    def __add__(self, other: object) -> Text:
        return Text(self._record, (*self._parts, *_parts(other)))

    def __radd__(self, other: object) -> Text:
        return Text(self._record, (*_parts(other), *self._parts))

    def __bool__(self) -> bool:
        return True  # a blank text never comes here, and strips of white space leave something of any other

    def strip(self, chars: object = None) -> Text:
        """As str.strip."""
        return self.lstrip(chars).rstrip(chars)

    def lstrip(self, chars: object = None) -> Text:
        """As str.lstrip."""
        return Text(self._record, (_stripped(self._parts[0], "lstrip", chars), *self._parts[1:]))

    def rstrip(self, chars: object = None) -> Text:
        """As str.rstrip."""
        return Text(self._record, (*self._parts[:-1], _stripped(self._parts[-1], "rstrip", chars)))

    def startswith(self, what: object, *rest: object) -> bool:
        """As str.startswith: asked, and answered "no"."""
        return self._ask("startswith", what, rest)

    def endswith(self, what: object, *rest: object) -> bool:
        """As str.endswith: asked, and answered "no"."""
        return self._ask("endswith", what, rest)

    def __contains__(self, what: object) -> bool:
        return self._ask("contains", what, ())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Text):
            if other._parts == self._parts:
                return True
            raise Unprovable("two texts are compared")
        if not isinstance(other, str):
            return False
        return bool(other.strip()) and self._ask("equals", other, ())

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        raise Unprovable("a text is a key")

    def __getitem__(self, key: object) -> object:
        if isinstance(key, str):
            raise TypeError("string indices must be integers")
        raise Unprovable("a text is cut")

    def __getattr__(self, name: str) -> object:
        if hasattr(str, name):
            raise Unprovable(f"str.{name}")
        raise AttributeError(name)

    def __format__(self, spec: str) -> str:
        raise Unprovable("a text is formatted")

    def __iter__(self) -> Any:
        raise Unprovable("a text is walked through")

    def __len__(self) -> int:
        raise Unprovable("a text is measured")

    def _ask(self, kind: str, what: object, rest: tuple[object, ...]) -> bool:
        if rest or not isinstance(what, str) or not what or len(self._parts) != 1:
            raise Unprovable(f"an unusual {kind}")
        part = self._parts[0]
        # Of a stripped text: what does not stand in the whole does not stand in a part of it.
        if isinstance(part, str) or (part[1] and kind != "contains"):
            raise Unprovable(f"{kind} of a stripped text")
        self._record.questions.add(Question(part[0], kind, what))
        return False


def _parts(value: object) -> tuple[Any, ...]:
    if isinstance(value, Text):
        return value._parts
    if isinstance(value, str):
        return (value,)
    raise TypeError("can only concatenate str")


def _stripped(part: Any, side: str, chars: object) -> Any:
    if chars not in (None, "\n"):
        raise Unprovable("an unusual strip")
    if isinstance(part, str):
        kept: str = getattr(part, side)(chars)
        if not kept:
            raise Unprovable("a strip that reaches past a literal")
        return kept
    return part[0], (*part[1], (side, _SPACE if chars is None else "\n"))


def trace(template: Template, messages: Sequence[Mapping[str, Any]]) -> Trace:
    """What the template prints for messages whose texts are Holes. Raises Unprovable."""
    record = _Record()
    chat = [{key: _unwrap(value, record) for key, value in message.items()} for message in messages]
    scope = {"messages": chat, "tools": None, "documents": None, "add_generation_prompt": False}
    try:
        text = "".join(_compiled(template).generate(**template.special, **scope))
    except Unprovable:
        raise
    except Exception as error:
        raise Unprovable(type(error).__name__) from None
    pieces = _MARK.split(text)
    order = [int(number) for number in pieces[1::2]]
    if order != list(range(len(record.printed))) or "\ue000" in "".join(pieces[0::2]):
        raise Unprovable("what was printed is not what came out")
    return Trace(pieces[0::2], record.printed, frozenset(record.questions))


def _unwrap(value: object, record: _Record) -> object:
    return Text(record, ((value.slot, ()),)) if isinstance(value, Hole) else value


_traced: dict[tuple[str, tuple[tuple[str, str], ...]], Any] = {}


def _compiled(template: Template) -> Any:
    """The template, compiled for texts nobody knows; kept for the last template asked about."""
    key = (template.source, tuple(sorted(template.special.items())))
    if key not in _traced:
        _traced.clear()
        _traced[key] = _compile(template.source)
    return _traced[key]


def _compile(source: str) -> Any:
    from jinja2 import nodes
    from jinja2.visitor import NodeTransformer

    class Joins(NodeTransformer):
        """`a ~ b` as a filter: the library's own join makes a plain string of a text."""

        def visit_Concat(self, node: Any) -> Any:
            self.generic_visit(node)
            return nodes.Filter(
                nodes.List(node.nodes, lineno=node.lineno), "gristmill_join", [], [], None, None, lineno=node.lineno
            )

    environment = private_environment()
    tree = environment.parse(source)
    for block in (nodes.Macro, nodes.AssignBlock, nodes.FilterBlock, nodes.Import, nodes.FromImport, nodes.Include):
        if tree.find(block) is not None:
            raise Unprovable(block.__name__)
    for call in tree.find_all(nodes.CallBlock):
        if not isinstance(call.call.node, nodes.ExtensionAttribute):  # `{% generation %}` is one, and only prints
            raise Unprovable("CallBlock")
    _fence(environment)
    return environment.from_string(Joins().visit(tree))


_BLIND: Final = ("length", "count", "first", "last", "list", "selectattr", "rejectattr")


def _fence(environment: Any) -> None:
    """Filters, tests and operators refuse a Text but for those that treat it as it treats itself."""
    filters: dict[str, Any] = {name: _refusing(function) for name, function in environment.filters.items()}
    for name in _BLIND:  # they look at a list, not into the texts that lie in it
        filters[name] = _refusing(environment.filters[name], deep=False)
    trim, string, default = (environment.filters[name] for name in ("trim", "string", "default"))
    filters["trim"] = lambda value, chars=None: (
        value.strip(chars) if isinstance(value, Text) else trim(value, _plain(chars))
    )
    filters["string"] = lambda value: value if isinstance(value, Text) else string(_plain(value))
    filters["default"] = filters["d"] = default
    filters["gristmill_join"] = _join
    environment.filters = filters
    tests: dict[str, Any] = {name: _refusing(test) for name, test in environment.tests.items()}
    for name in ("defined", "undefined", "none", "equalto", "eq", "==", "ne", "!=", "in", "true", "false", "boolean"):
        tests[name] = environment.tests[name]
    for name, answer in (("string", True), ("iterable", True), ("sequence", True), ("mapping", False)):
        tests[name] = _answering(environment.tests[name], answer)
    environment.tests = tests
    environment.intercepted_binops = frozenset((*environment.intercepted_binops, "%"))
    environment.binop_table = {**environment.binop_table, "%": _refusing(environment.binop_table["%"])}


def _join(values: list[object]) -> object:
    if not any(isinstance(value, Text) for value in values):
        return "".join(str(_plain(value)) for value in values)
    start, *rest = (value if isinstance(value, Text) else str(_plain(value)) for value in values)
    for value in rest:
        start = start + value  # str + Text is Text.__radd__
    return start


def _holds_text(value: object, deep: bool) -> bool:
    if isinstance(value, Text):
        return True
    if not deep:
        return False
    if isinstance(value, dict):
        return any(_holds_text(item, True) for item in value.values())
    return isinstance(value, (list, tuple)) and any(_holds_text(item, True) for item in value)


def _plain(value: Any) -> Any:
    if _holds_text(value, True):
        raise Unprovable("a text inside something else")
    return value


def _refusing(function: Any, *, deep: bool = True) -> Any:
    from functools import wraps

    @wraps(function)  # keeps what jinja writes on functions that want its environment or context
    def checked(*args: Any, **kwargs: Any) -> Any:
        if any(_holds_text(value, deep) for value in (*args, *kwargs.values())):
            raise Unprovable(getattr(function, "__name__", "a filter"))
        return function(*args, **kwargs)

    return checked


def _answering(test: Any, answer: bool) -> Any:
    return lambda value: answer if isinstance(value, Text) else test(value)
