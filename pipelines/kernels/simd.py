# ruff: noqa: ARG001, ARG005 - Numba dictates the arguments of intrinsics and their generators
"""Vectors inside Numba functions, for the loops that LLVM does not vectorise by itself.

A vector of 8 or 16 elements stays in registers, like a `__m256` in C; LLVM chooses the instructions
of the processor at hand (one register of AVX-512, or several of AVX2, SSE or NEON), so nothing here
depends on one processor and no C compiler is needed. Every function below works inside `@njit` code
only. Positions in an array count elements, need no alignment and are not checked.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending
from numba.core import cgutils, types
from numba.core.datamodel import models
from numba.core.registry import cpu_target
from numba.extending import register_model

LANES = 8
WIDE = 16
intrinsic: Any = extending.intrinsic  # typed as what it wraps, not as what it returns
INT1, INT32, INT64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)


class Vector(types.Type):
    """The Numba type of `lanes` elements of the Numba type `lane`."""

    def __init__(self, lane: Any, lanes: int = LANES) -> None:
        self.lane, self.lanes = lane, lanes
        super().__init__(name=f"vector{lanes}({lane})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        lane = manager.lookup(kind.lane).get_value_type()
        super().__init__(manager, kind, ir.VectorType(lane, kind.lanes))


def wide_registers() -> bool:
    """Return whether the processor that Numba compiles for holds 16 float32 in one register."""
    return "+avx512f" in cpu_target.target_context.codegen().magic_tuple()[2]


def makers(lanes: int) -> tuple[Any, Any, Any]:
    """Return the functions `load`, `load_splat` and `splat` that make vectors of `lanes` elements.

    load(array, start) is the vector array[start : start + lanes] of a contiguous 1-D array;
    load_splat(array, start) repeats array[start]; splat(value) repeats a value.
    """

    @intrinsic
    def load(typing: Any, array: Any, start: Any) -> Any:
        kind = Vector(array.dtype, lanes)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = pointer_to(context, builder, signature, args)
            return load_vector(builder, pointer, context.get_value_type(kind))

        return kind(array, types.intp), generate

    @intrinsic
    def load_splat(typing: Any, array: Any, start: Any) -> Any:
        kind = Vector(array.dtype, lanes)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            value = builder.load(pointer_to(context, builder, signature, args))
            return splat_vector(builder, value, context.get_value_type(kind))

        return kind(array, types.intp), generate

    @intrinsic
    def splat(typing: Any, value: Any) -> Any:
        kind = Vector(value, lanes)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return splat_vector(builder, args[0], context.get_value_type(kind))

        return kind(value), generate

    return load, load_splat, splat


load, load_splat, splat = makers(LANES)
wide_load, wide_load_splat, wide_splat = makers(WIDE)


@intrinsic
def store(typing: Any, array: Any, start: Any, vector: Any) -> Any:
    """Write a vector to the array from `start` on; integers are narrowed to the array's type."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = pointer_to(context, builder, signature, args)
        value, kind = args[2], ir.VectorType(pointer.type.pointee, args[2].type.count)
        store_vector(builder, value if value.type == kind else builder.trunc(value, kind), pointer)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), generate


def lanewise(result: Callable[..., Any] | None = None) -> Callable[[Callable[..., Any]], Any]:
    """Make an intrinsic of a function that builds LLVM code, called with the builder and values.

    `result` returns the Numba type of what is built, given those of the arguments; None: the last.
    """

    def decorate(build: Callable[..., Any]) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return build(builder, *args)

        def typed(typing: Any, *kinds: Any) -> Any:
            return (result(*kinds) if result else kinds[-1])(*kinds), generate

        typed.__name__ = build.__name__
        typed.__signature__ = inspect.signature(build)  # type: ignore[attr-defined]
        return intrinsic(typed)

    return decorate


@lanewise()
def add(builder: Any, a: Any, b: Any) -> Any:
    """Return a + b."""
    return builder.fadd(a, b)


@lanewise()
def multiply(builder: Any, a: Any, b: Any) -> Any:
    """Return a · b."""
    return builder.fmul(a, b)


@lanewise()
def fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a · b + c, rounded once."""
    bits = 32 if isinstance(a.type.element, ir.FloatType) else 64
    return llvm_call(builder, f"llvm.fma.v{a.type.count}f{bits}", a.type, [a, b, c])


@lanewise()
def relu_of(builder: Any, a: Any) -> Any:
    """Return the larger of a and 0; NaN stays NaN."""
    zero = ir.Constant(a.type, None)
    return builder.select(builder.fcmp_ordered("<", a, zero), zero, a)


@lanewise()
def choose_beyond(builder: Any, a: Any, b: Any, yes: Any, no: Any) -> Any:
    """Return `yes` in the lanes where a > b or a is NaN, else `no`."""
    beyond = builder.or_(builder.fcmp_ordered(">", a, b), builder.fcmp_unordered("uno", a, a))
    return builder.select(beyond, yes, no)


@lanewise()
def choose_positive(builder: Any, a: Any, yes: Any) -> Any:
    """Return `yes` in the lanes where a > 0, else 0."""
    positive = builder.fcmp_ordered(">", a, ir.Constant(a.type, None))
    return builder.select(positive, yes, ir.Constant(yes.type, None))


@lanewise()
def choose_equal(builder: Any, a: Any, b: Any, yes: Any) -> Any:
    """Return `yes` in the lanes where the integers a and b are equal, else 0."""
    return builder.select(builder.icmp_signed("==", a, b), yes, ir.Constant(yes.type, None))


@lanewise()
def minimum(builder: Any, a: Any, b: Any) -> Any:
    """Return the smaller of a and b; b where one of them is NaN."""
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


@lanewise()
def maximum(builder: Any, a: Any, b: Any) -> Any:
    """Return the larger of a and b; b where one of them is NaN."""
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


@lanewise()
def count_before(builder: Any, a: Any, places: Any, b: Any, others: Any, total: Any) -> Any:
    """Return `total` plus, for each lane of (a, places), the lanes of (b, others) that precede it.

    One precedes another that is larger or that, being equal, has a higher place.
    """
    for n in range(LANES):
        lane = ir.Constant(ir.VectorType(INT32, LANES), [n] * LANES)
        value = builder.shuffle_vector(b, b, lane)
        place = builder.shuffle_vector(others, others, lane)
        equal = builder.fcmp_ordered("==", a, value)
        later = builder.and_(equal, builder.icmp_signed(">", places, place))
        precedes = builder.or_(builder.fcmp_ordered(">", a, value), later)
        total = builder.sub(total, builder.sext(precedes, total.type))
    return total


@lanewise(lambda a: Vector(types.float64, a.lanes))
def widen(builder: Any, a: Any) -> Any:
    """Return a float vector as float64."""
    wide = ir.VectorType(ir.DoubleType(), a.type.count)
    return a if a.type == wide else builder.fpext(a, wide)


@lanewise(lambda a: Vector(types.int32, a.lanes))
def positions(builder: Any, a: Any) -> Any:
    """Return a vector of unsigned integers, or of int32, as int32."""
    wide = ir.VectorType(INT32, a.type.count)
    return a if a.type == wide else builder.zext(a, wide)


@lanewise(lambda a: Vector(types.int32, a.lanes))
def truncate(builder: Any, a: Any) -> Any:
    """Return a vector of floats, cut off towards zero, as int32."""
    return builder.fptosi(a, ir.VectorType(INT32, a.type.count))


@lanewise(lambda *_: types.int64)
def mask_le(builder: Any, a: Any, b: Any) -> Any:
    """Return a ≤ b as bits, lane 0 lowest; a NaN is not ≤ anything."""
    if a.type.count == LANES or wide_registers():
        return _bits(builder, builder.fcmp_ordered("<=", a, b))
    low, high = (
        _bits(builder, builder.fcmp_ordered("<=", _half(builder, a, n), _half(builder, b, n)))
        for n in range(2)
    )
    return builder.or_(low, builder.shl(high, INT64(LANES)))


@lanewise(lambda *_: types.int64)
def any_le(builder: Any, a: Any, bound: Any) -> Any:
    """Return 1 if any of the 16 lanes of a is ≤ that of `bound`, else 0."""
    near = builder.fcmp_ordered("<=", a, bound)
    if not wide_registers():
        near = builder.or_(_half(builder, near, 0), _half(builder, near, 1))
    bits = _bits(builder, near)
    return builder.zext(builder.icmp_unsigned("!=", bits, bits.type(0)), INT64)


@lanewise(lambda *_: types.int64)
def mask_equal(builder: Any, vector: Any, number: Any) -> Any:
    """Return, as bits, which lanes of an integer vector are `number`, lane 0 lowest."""
    wanted = splat_vector(builder, builder.trunc(number, INT32), vector.type)
    return _bits(builder, builder.icmp_signed("==", vector, wanted))


@lanewise(lambda *_: types.int64)
def popcount(builder: Any, bits: Any) -> Any:
    """Return the number of bits of a mask."""
    return builder.ctpop(bits)


@lanewise(lambda *_: types.int64)
def lowest_bit(builder: Any, bits: Any) -> Any:
    """Return the place of the lowest set bit of a mask that has one."""
    return builder.cttz(bits, INT1(1))


@lanewise(lambda value: types.uint32)
def float_bits(builder: Any, value: Any) -> Any:
    """Return the bits of a float32 as uint32."""
    return builder.bitcast(value, INT32)


@intrinsic
def store_chosen(typing: Any, array: Any, start: Any, vector: Any, mask: Any, table: Any) -> Any:
    """Write those of 16 lanes whose bits are set to the array from `start` on, lowest first.

    All of array[start : start + 16] may be written to. `table` is PLACES.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, start, vector, mask, table = args
        if wide_registers():
            bits = builder.bitcast(builder.trunc(mask, ir.IntType(WIDE)), ir.VectorType(INT1, WIDE))
            letter = "i" if vector.type.element == INT32 else "f"
            name = f"llvm.x86.avx512.mask.compress.v{WIDE}{letter}32"
            given = [vector, ir.Constant(vector.type, None), bits]
            pointer = pointer_to(context, builder, signature, args)
            store_vector(builder, llvm_call(builder, name, vector.type, given), pointer)
            return context.get_dummy_value()
        rows = context.make_array(signature.args[4])(context, builder, table).data
        for half in range(2):
            bits = builder.and_(builder.lshr(mask, INT64(LANES * half)), INT64(2**LANES - 1))
            row = builder.gep(rows, [builder.mul(bits, INT64(LANES))])
            places = load_vector(builder, row, ir.VectorType(INT32, LANES))
            chosen = _permute(context, builder, _half(builder, vector, half), places)
            store_vector(builder, chosen, pointer_to(context, builder, signature, (args[0], start)))
            start = builder.add(start, builder.ctpop(bits))
        return context.get_dummy_value()

    return types.void(array, types.intp, vector, types.int64, table), generate


# For each mask of 8 bits, the places of the set ones, then zeros.
_rows = np.zeros((1 << LANES, LANES), np.int32)
for _mask, _row in enumerate(_rows):
    _set = [n for n in range(LANES) if _mask >> n & 1]
    _row[: len(_set)] = _set
PLACES = _rows.reshape(-1)


def pointer_to(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """Return the pointer to args[0][args[1]]."""
    array = context.make_array(signature.args[0])(context, builder, args[0])
    return builder.gep(array.data, [args[1]])


def load_vector(builder: Any, pointer: Any, kind: Any) -> Any:
    return builder.load(builder.bitcast(pointer, kind.as_pointer()), align=1)


def store_vector(builder: Any, value: Any, pointer: Any) -> None:
    builder.store(value, builder.bitcast(pointer, value.type.as_pointer()), align=1)


def splat_vector(builder: Any, value: Any, kind: Any) -> Any:
    """Return a value as often as the LLVM type `kind` has lanes."""
    places = ir.VectorType(INT32, kind.count)
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, value, INT32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(places, None))


def _half(builder: Any, vector: Any, half: int) -> Any:
    """Return the lower (0) or upper (1) eight of sixteen lanes."""
    lanes = ir.Constant(ir.VectorType(INT32, LANES), [*range(half * LANES, (half + 1) * LANES)])
    return builder.shuffle_vector(vector, vector, lanes)


def _bits(builder: Any, lanes: Any) -> Any:
    """Return a vector of truth values as the bits of an int64, lane 0 lowest."""
    return builder.zext(builder.bitcast(lanes, ir.IntType(lanes.type.count)), INT64)


def llvm_call(builder: Any, name: str, result: Any, args: Any) -> Any:
    """Call one of LLVM's own functions."""
    kind = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def _permute(context: Any, builder: Any, vector: Any, places: Any) -> Any:
    """Return eight lanes of 32 bits in the order of `places`."""
    if "+avx2" in context.codegen().magic_tuple()[2]:
        name = "permd" if vector.type.element == INT32 else "permps"
        return llvm_call(builder, f"llvm.x86.avx2.{name}", vector.type, [vector, places])
    result = ir.Constant(vector.type, ir.Undefined)
    for n in range(LANES):
        place = builder.extract_element(places, INT32(n))
        value = builder.extract_element(vector, place)
        result = builder.insert_element(result, value, INT32(n))
    return result
