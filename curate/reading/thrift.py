"""Thrift's compact protocol, as far as the headers and the footer of a Parquet file need it.

A struct is a dict by field number, a list a list; texts and floats are None. Raises IndexError past the end of the
bytes, ValueError for what is no such value. https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

from typing import Any, Final

_DEEPEST: Final = 8


def struct(data: bytes, at: int = 0, depth: int = 0) -> tuple[dict[int, Any], int]:
    """The fields of the struct at a place, and where it ends."""
    if depth > _DEEPEST:
        raise ValueError("nested too deep")
    fields: dict[int, Any] = {}
    number = 0
    while (byte := data[at]) != 0:
        at += 1
        if byte >> 4:
            number += byte >> 4
        else:
            raw, at = _varint(data, at)
            number = (raw >> 1) ^ -(raw & 1)
        fields[number], at = _value(data, at, byte & 15, depth)
    return fields, at + 1


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number of over 64 bits")


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (1, 2):
        return kind == 1, at
    if kind in (4, 5, 6):
        raw, at = _varint(data, at)
        return (raw >> 1) ^ -(raw & 1), at
    if kind in (3, 7, 8):
        size, at = (1, at) if kind == 3 else (8, at) if kind == 7 else _varint(data, at)
        if at + size > len(data):
            raise IndexError
        return None, at + size
    if kind in (9, 10):
        return _list(data, at, depth)
    if kind == 12:
        return struct(data, at, depth + 1)
    raise ValueError("Parquet has no such values")


def _list(data: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    size, kind, at = data[at] >> 4, data[at] & 15, at + 1
    if size == 15:
        size, at = _varint(data, at)
    if size > len(data) - at:  # each takes a byte at least
        raise IndexError
    if kind in (1, 2):  # in a list a boolean has a byte of its own
        return [byte == 1 for byte in data[at : at + size]], at + size
    out = []
    for _ in range(size):
        value, at = _value(data, at, kind, depth)
        out.append(value)
    return out, at
