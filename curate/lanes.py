"""Eight bytes at a time: loads, stores and byte tests on 64-bit words, for the kernels.

A test gives a word with 0x80 in each byte that passes and 0 in the others, exact for any bytes (no borrow crosses a
byte). Cost: a few instructions for eight bytes, and loops of them become vector code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numba
import numpy as np
from llvmlite import ir
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


@_instructions
def lower_and_mark(typing: Any, data: Any, at: Any) -> Any:
    """Lower-case A to Z in data[at:at + 64], in place; bit k of the result: byte k is a letter, digit, _ or above 0x7F."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lanes = ir.VectorType(ir.IntType(8), 64)

        def every(byte: int) -> Any:
            return ir.Constant(lanes, [byte] * 64)

        def among(value: Any, first: str, count: int) -> Any:
            return builder.icmp_unsigned("<", builder.sub(value, every(ord(first))), every(count))

        kind = signature.args[0]
        start = context.make_array(kind)(context, builder, args[0]).data
        place = builder.bitcast(cgutils.gep(builder, start, args[1]), lanes.as_pointer())
        text = builder.load(place, align=1)
        lower = builder.select(among(text, "A", 26), builder.or_(text, every(0x20)), text)
        builder.store(lower, place, align=1)
        marks = builder.or_(among(lower, "a", 26), among(lower, "0", 10))
        marks = builder.or_(marks, builder.icmp_unsigned("==", lower, every(ord("_"))))
        marks = builder.or_(marks, builder.icmp_signed("<", lower, every(0)))
        return builder.bitcast(marks, ir.IntType(64))

    return types.uint64(data, types.intp), build


@_instructions
def count_zeros(typing: Any, word: Any) -> Any:
    """The number of zero bits below the lowest one of a word, 64 where there is none."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), build


@_instructions
def ones(typing: Any, word: Any) -> Any:
    """The number of one bits of a word."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.int64(types.uint64), build


@_instructions
def copy_bytes(typing: Any, data: Any, at: Any, out: Any, to: Any, size: Any) -> Any:
    """Copy data[at:at + size] to out[to:to + size], which must not overlap; no bounds check."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, target = (
            cgutils.gep(builder, context.make_array(kind)(context, builder, array).data, place)
            for kind, array, place in ((signature.args[0], args[0], args[1]), (signature.args[2], args[2], args[3]))
        )
        cgutils.raw_memcpy(builder, target, source, args[4], 1)
        return context.get_dummy_value()

    return types.void(data, types.intp, out, types.intp, types.intp), build


@_instructions
def copy_from(typing: Any, address: Any, out: Any, to: Any, size: Any) -> Any:
    """Copy `size` bytes from a memory address to out[to:]; no bounds check."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target = cgutils.gep(builder, context.make_array(signature.args[1])(context, builder, args[1]).data, args[2])
        source = builder.inttoptr(args[0], ir.IntType(8).as_pointer())
        cgutils.raw_memcpy(builder, target, source, args[3], 1)
        return context.get_dummy_value()

    return types.void(types.uint64, out, types.intp, types.intp), build
