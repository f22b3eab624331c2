"""JSON read exactly: what the standard only allows by accident is refused with a reason.

Refused: NaN and Infinity, numbers beyond a double, duplicate keys, lone surrogates, nesting over `MAX_DEPTH`,
invalid UTF-8. Integers of any size are exact. Cost: the standard decoder with a Python hook an object, about 60 MB/s;
the fast paths of `curate.reading` come here only with rows they do not accept.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

MAX_DEPTH: Final = 128
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class Broken(ValueError):
    """JSON that is refused; `syntax` says that not even its extent can be trusted."""

    def __init__(self, reason: str, *, syntax: bool = False) -> None:
        super().__init__(reason)
        self.syntax = syntax


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise Broken("duplicate key")
    return out


def _constant(name: str) -> Any:
    raise Broken(f"{name} is not JSON")


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise Broken("number beyond a double")
    return value


def _int(text: str) -> int:
    if len(text) > 4000:
        raise Broken("integer of over 4,000 digits")
    return int(text)


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_pairs, parse_constant=_constant, parse_float=_float, parse_int=_int
)


def loads(data: str | bytes) -> Any:
    """Decode one JSON text; raises `Broken` with a reason that names no content."""
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Broken(f"invalid UTF-8 at byte {error.start}") from None
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise Broken(f"malformed JSON: {error.msg} at character {error.pos}", syntax=True) from None
    except RecursionError:
        raise Broken(f"nested deeper than {MAX_DEPTH}") from None
    if isinstance(value, (dict, list)):
        _check_depth(value)
    if "\\u" in text or not isinstance(data, bytes):
        check_surrogates(value)
    return value


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise Broken(f"nested deeper than {MAX_DEPTH}")
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, (dict, list))
        ]


def check_surrogates(value: Any) -> None:
    """Refuse a JSON value that holds half of a UTF-16 pair in any key or text."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            if _SURROGATE.search(item):
                raise Broken("lone surrogate")
        elif isinstance(item, dict):
            stack.extend(item)
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
