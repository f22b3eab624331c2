"""Eight bytes at a time: loads, stores and byte tests on 64-bit words, for the kernels.

A test gives a word with 0x80 in each byte that passes and 0 in the others, exact for any bytes (no borrow crosses a
byte). Cost: a few instructions for eight bytes, and loops of them become vector code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numba
import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic

HIGH: Final = np.uint64(0x8080808080808080)
LOW: Final = np.uint64(0x7F7F7F7F7F7F7F7F)
ONES: Final = np.uint64(0x0101010101010101)
EVEN: Final = np.uint64(0x00FF00FF00FF00FF)


def repeated(byte: int) -> np.uint64:
    """A word of eight equal bytes."""
    return np.uint64(byte * 0x0101010101010101)


def _instructions(function: Callable[..., Any]) -> Callable[..., Any]:
    return intrinsic(function)  # type: ignore[no-any-return]


def _inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    return numba.njit(inline="always")(function)  # type: ignore[no-any-return]


def _address(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    place = cgutils.gep(builder, data, at)
    return builder.bitcast(place, context.get_value_type(types.uint64).as_pointer())


@_instructions
def load8(typing: Any, data: Any, at: Any) -> Any:
    """The bytes data[at:at + 8] of a contiguous uint8 array as one little-endian word; no bounds check."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_address(context, builder, signature.args[0], *args), align=1)

    return types.uint64(data, types.intp), build


@_instructions
def store8(typing: Any, data: Any, at: Any, word: Any) -> Any:
    """Write a word to data[at:at + 8]; no bounds check."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _address(context, builder, signature.args[0], args[0], args[1]), align=1)
        return context.get_dummy_value()

    return types.void(data, types.intp, types.uint64), build


@_inlined
def equal(word: Any, byte: Any) -> Any:
    """Bytes equal to an ASCII byte, given as `repeated(byte)`."""
    return ~((((word & LOW) ^ byte) + LOW) | word) & HIGH


@_inlined
def below(word: Any, gap: Any) -> Any:
    """ASCII bytes below a bound of at most 0x80, given as `repeated(0x80 - bound)`."""
    return ~(((word & LOW) + gap) | word) & HIGH


@_inlined
def holds(word: Any, byte: Any) -> Any:
    """Not zero when some byte of a word, ASCII or not, equals `repeated(byte)`."""
    return ((word ^ byte) - ONES) & ~(word ^ byte) & HIGH
