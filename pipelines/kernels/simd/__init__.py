# ruff: noqa: ARG001, ARG005 - Numba dictates the arguments of intrinsics and their generators
"""Vectors of eight numbers inside Numba functions, for the loops that LLVM does not vectorise.

A vector lives in registers, like a `__m256` in C; LLVM chooses the instructions of the machine at
hand (two registers of SSE or NEON, one of AVX2), so nothing here depends on one processor and no
C compiler is needed. Every function below works inside `@njit` code only. Positions in an array
count numbers, not vectors, need no alignment and are not checked.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending
from numba.core import cgutils, types
from numba.core.datamodel import models
from numba.extending import register_model

LANES = 8
intrinsic: Any = extending.intrinsic  # typed as what it wraps, not as what it returns


class Vector(types.Type):
    """The Numba type of `lanes` numbers of the Numba type `lane`."""

    def __init__(self, lane: Any, lanes: int = LANES) -> None:
        self.lane, self.lanes = lane, lanes
        super().__init__(name=f"vector{lanes}({lane})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        lane = manager.lookup(kind.lane).get_value_type()
        super().__init__(manager, kind, ir.VectorType(lane, kind.lanes))


_POSITIONS = Vector(types.int32)


@intrinsic
def load(typing: Any, array: Any, start: Any) -> Any:
    """Return the vector `array[start : start + 8]` of a contiguous 1-D array."""
    kind = Vector(array.dtype)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = pointer_to(context, builder, signature, args)
        return load_vector(builder, pointer, context.get_value_type(kind))

    return kind(array, types.intp), generate


@intrinsic
def load_positions(typing: Any, array: Any, start: Any) -> Any:
    """Return `array[start : start + 8]` of an unsigned integer array, widened to int32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = pointer_to(context, builder, signature, args)
        narrow = ir.VectorType(pointer.type.pointee, LANES)
        wide = context.get_value_type(_POSITIONS)
        value = load_vector(builder, pointer, narrow)
        return value if narrow == wide else builder.zext(value, wide)

    return _POSITIONS(array, types.intp), generate


@intrinsic
def load_splat(typing: Any, array: Any, start: Any) -> Any:
    """Return eight times the number `array[start]`."""
    kind = Vector(array.dtype)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = builder.load(pointer_to(context, builder, signature, args))
        return splat_vector(builder, value, context.get_value_type(kind))

    return kind(array, types.intp), generate


@intrinsic
def splat(typing: Any, value: Any) -> Any:
    """Return eight times the number `value`."""
    kind = Vector(value)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return splat_vector(builder, args[0], context.get_value_type(kind))

    return kind(value), generate


@intrinsic
def store(typing: Any, array: Any, start: Any, vector: Any) -> Any:
    """Write a vector to the array from `start` on; integers are narrowed to the array's type."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = pointer_to(context, builder, signature, args)
        value, kind = args[2], ir.VectorType(pointer.type.pointee, args[2].type.count)
        if value.type != kind:
            value = builder.trunc(value, kind)
        target = builder.bitcast(pointer, kind.as_pointer())
        builder.store(value, target, align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), generate


@intrinsic
def add(typing: Any, a: Any, b: Any) -> Any:
    """Return a + b."""
    return a(a, b), lambda context, builder, signature, args: builder.fadd(*args)


@intrinsic
def multiply(typing: Any, a: Any, b: Any) -> Any:
    """Return a · b."""
    return a(a, b), lambda context, builder, signature, args: builder.fmul(*args)


@intrinsic
def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a · b + c, rounded once."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = args[0].type
        bits = signature.return_type.lane.bitwidth
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(kind, [kind] * 3), f"llvm.fma.v{kind.count}f{bits}"
        )
        return builder.call(function, args)

    return a(a, b, c), generate


@intrinsic
def relu_of(typing: Any, a: Any) -> Any:
    """Return the larger of a and 0; NaN stays NaN."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        zero = ir.Constant(args[0].type, None)
        return builder.select(builder.fcmp_ordered("<", args[0], zero), zero, args[0])

    return a(a), generate


@intrinsic
def choose_beyond(typing: Any, a: Any, b: Any, yes: Any, no: Any) -> Any:
    """Return `yes` in the lanes where a > b or a is NaN, else `no`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        a, b, yes, no = args
        beyond = builder.or_(builder.fcmp_ordered(">", a, b), builder.fcmp_unordered("uno", a, a))
        return builder.select(beyond, yes, no)

    return yes(a, b, yes, no), generate


@intrinsic
def choose_positive(typing: Any, a: Any, yes: Any) -> Any:
    """Return `yes` in the lanes where a > 0, else 0."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        positive = builder.fcmp_ordered(">", args[0], ir.Constant(args[0].type, None))
        return builder.select(positive, args[1], ir.Constant(args[1].type, None))

    return yes(a, yes), generate


@intrinsic
def choose_equal(typing: Any, a: Any, b: Any, yes: Any) -> Any:
    """Return `yes` in the lanes where the integers a and b are equal, else 0."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        equal = builder.icmp_signed("==", args[0], args[1])
        return builder.select(equal, args[2], ir.Constant(args[2].type, None))

    return yes(a, b, yes), generate


@intrinsic
def widen(typing: Any, a: Any) -> Any:
    """Return a float vector as float64."""
    kind = Vector(types.float64)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = context.get_value_type(kind)
        return args[0] if args[0].type == wide else builder.fpext(args[0], wide)

    return kind(a), generate


@intrinsic
def mask_le(typing: Any, a: Any, b: Any) -> Any:
    """Return a ≤ b as bits, lane 0 lowest; a NaN is not ≤ anything."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = builder.bitcast(builder.fcmp_ordered("<=", *args), ir.IntType(args[0].type.count))
        return builder.zext(bits, ir.IntType(64))

    return types.int64(a, b), generate


@intrinsic
def any_le(typing: Any, a: Any, b: Any, bound: Any) -> Any:
    """Return 1 if any lane of a or of b is ≤ that of `bound`, else 0."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        a, b, bound = args
        near = builder.or_(
            builder.fcmp_ordered("<=", a, bound), builder.fcmp_ordered("<=", b, bound)
        )
        bits = builder.bitcast(near, ir.IntType(LANES))
        return builder.zext(builder.icmp_unsigned("!=", bits, bits.type(0)), ir.IntType(64))

    return types.int64(a, b, bound), generate


@intrinsic
def mask_equal(typing: Any, vector: Any, number: Any) -> Any:
    """Return, as eight bits, which lanes of an integer vector are `number`, lane 0 lowest."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector, number = args
        wanted = splat_vector(builder, builder.trunc(number, INT32), vector.type)
        bits = builder.bitcast(builder.icmp_signed("==", vector, wanted), ir.IntType(LANES))
        return builder.zext(bits, ir.IntType(64))

    return types.int64(vector, types.int64), generate


@intrinsic
def count_before(typing: Any, a: Any, places: Any, b: Any, others: Any, total: Any) -> Any:
    """Return `total` plus, for each lane of (a, places), the lanes of (b, others) that precede it.

    One precedes another that is larger or that, being equal, has a higher place.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        a, places, b, others, total = args
        for n in range(LANES):
            lane = ir.Constant(ir.VectorType(INT32, LANES), [n] * LANES)
            value = builder.shuffle_vector(b, b, lane)
            place = builder.shuffle_vector(others, others, lane)
            equal = builder.fcmp_ordered("==", a, value)
            later = builder.and_(equal, builder.icmp_signed(">", places, place))
            precedes = builder.or_(builder.fcmp_ordered(">", a, value), later)
            total = builder.sub(total, builder.sext(precedes, total.type))
        return total

    return _POSITIONS(a, places, b, others, total), generate


@intrinsic
def popcount(typing: Any, mask: Any) -> Any:
    """Return the number of bits of a mask."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.int64(types.int64), generate


@intrinsic
def float_bits(typing: Any, value: Any) -> Any:
    """Return the bits of a float32 as uint32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], INT32)

    return types.uint32(types.float32), generate


@intrinsic
def lowest_bit(typing: Any, mask: Any) -> Any:
    """Return the place of the lowest set bit of a mask that has one."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), generate


@intrinsic
def minimum(typing: Any, a: Any, b: Any) -> Any:
    """Return the smaller of a and b; b where one of them is NaN."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<", *args), *args)

    return a(a, b), generate


@intrinsic
def maximum(typing: Any, a: Any, b: Any) -> Any:
    """Return the larger of a and b; b where one of them is NaN."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", *args), *args)

    return a(a, b), generate


@intrinsic
def truncate(typing: Any, a: Any) -> Any:
    """Return a vector of floats, cut off towards zero, as int32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fptosi(args[0], context.get_value_type(_POSITIONS))

    return _POSITIONS(a), generate


@intrinsic
def transpose(typing: Any, array: Any, source: Any, target: Any, row: Any) -> Any:
    """Copy the 4 × 4 numbers at `source`, whose rows are `row` apart, to `target`, transposed.

    Four lanes, not eight: shuffles across the halves of a register are slow on some processors.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, source, target, row = args
        kind = ir.VectorType(context.get_value_type(signature.args[0].dtype), 4)
        vectors = []
        for n in range(4):
            place = builder.add(source, builder.mul(row, row.type(n)))
            pointer = pointer_to(context, builder, signature, (args[0], place))
            vectors.append(load_vector(builder, pointer, kind))
        for n, vector in enumerate(_transposed(builder, vectors)):
            place = builder.add(target, builder.mul(row, row.type(n)))
            pointer = pointer_to(context, builder, signature, (args[0], place))
            builder.store(vector, builder.bitcast(pointer, kind.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, types.intp), generate


@intrinsic
def compress_places(typing: Any, mask: Any, table: Any) -> Any:
    """Return the places of the mask's set bits, lowest first; `table` is PLACES."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        start = builder.mul(args[0], args[0].type(LANES))
        array = context.make_array(signature.args[1])(context, builder, args[1])
        kind = context.get_value_type(_POSITIONS)
        return load_vector(builder, builder.gep(array.data, [start]), kind)

    return _POSITIONS(types.int64, table), generate


@intrinsic
def permute(typing: Any, vector: Any, places: Any) -> Any:
    """Return the vector's lanes in the order of `places`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector, places = args
        lane = signature.args[0].lane
        if "+avx2" in context.codegen().magic_tuple()[2] and lane in (types.float32, types.int32):
            name = "permps" if lane == types.float32 else "permd"
            kind = ir.FunctionType(vector.type, [vector.type, places.type])
            function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.avx2.{name}")
            return builder.call(function, args)
        result = ir.Constant(vector.type, ir.Undefined)
        for n in range(LANES):
            place = builder.extract_element(places, _int32(n))
            value = builder.extract_element(vector, place)
            result = builder.insert_element(result, value, _int32(n))
        return result

    return vector(vector, places), generate


INT32 = ir.IntType(32)


def _int32(value: int) -> Any:
    return ir.Constant(INT32, value)


def pointer_to(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """Return the pointer to args[0][args[1]]."""
    array = context.make_array(signature.args[0])(context, builder, args[0])
    return builder.gep(array.data, [args[1]])


def load_vector(builder: Any, pointer: Any, kind: Any) -> Any:
    """Return the vector of the LLVM type `kind` at a pointer, which need not be aligned."""
    return builder.load(builder.bitcast(pointer, kind.as_pointer()), align=1)


def splat_vector(builder: Any, value: Any, kind: Any) -> Any:
    """Return a number as often as the LLVM type `kind` has lanes."""
    places = ir.VectorType(INT32, kind.count)
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, value, _int32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(places, None))


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """Transpose four vectors of four in two rounds, each of which interleaves pairs of rows."""
    places = ir.VectorType(INT32, 4)
    low, high = (ir.Constant(places, half) for half in ([0, 4, 1, 5], [2, 6, 3, 7]))
    for _ in range(2):
        first, second, third, fourth = rows
        pairs = ((first, third), (second, fourth))
        rows = [builder.shuffle_vector(a, b, half) for a, b in pairs for half in (low, high)]
    return rows


def _places() -> np.ndarray:
    table = np.zeros((1 << LANES, LANES), np.int32)
    for mask in range(1 << LANES):
        bits = [n for n in range(LANES) if mask >> n & 1]
        table[mask, : len(bits)] = bits
    return table.reshape(-1)


PLACES = _places()
