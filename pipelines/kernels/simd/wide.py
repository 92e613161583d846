# ruff: noqa: ARG001 - Numba dictates the arguments of intrinsics and their generators
"""Vectors of sixteen numbers, for processors that hold one in a register (AVX-512).

They work everywhere, as those of eight in `simd` do: LLVM takes several registers where it must.
Only where `in_one_register()` are they worth it. `fma`, `store` and `mask_le` of `simd` take them.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.registry import cpu_target

from . import INT32, Vector, intrinsic, load_vector, pointer_to, splat_vector

WIDE = 16


def in_one_register() -> bool:
    """Return whether the processor that Numba compiles for has registers of sixteen float32."""
    return _has_avx512(cpu_target.target_context)


def _has_avx512(context: Any) -> bool:
    return "+avx512f" in context.codegen().magic_tuple()[2]


@intrinsic
def load_wide(typing: Any, array: Any, start: Any) -> Any:
    """Return the vector `array[start : start + 16]` of a contiguous 1-D array."""
    kind = Vector(array.dtype, WIDE)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = pointer_to(context, builder, signature, args)
        return load_vector(builder, pointer, context.get_value_type(kind))

    return kind(array, types.intp), generate


@intrinsic
def load_splat_wide(typing: Any, array: Any, start: Any) -> Any:
    """Return sixteen times the number `array[start]`."""
    kind = Vector(array.dtype, WIDE)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = builder.load(pointer_to(context, builder, signature, args))
        return splat_vector(builder, value, context.get_value_type(kind))

    return kind(array, types.intp), generate


@intrinsic
def splat_wide(typing: Any, value: Any) -> Any:
    """Return sixteen times the number `value`."""
    kind = Vector(value, WIDE)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return splat_vector(builder, args[0], context.get_value_type(kind))

    return kind(value), generate


@intrinsic
def compress(typing: Any, vector: Any, mask: Any) -> Any:
    """Return the lanes whose bits are set, lowest first; what the other lanes hold is not said."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector, mask = args
        kind = vector.type
        bits = builder.bitcast(builder.trunc(mask, ir.IntType(WIDE)), ir.VectorType(_BIT, WIDE))
        if _has_avx512(context):
            letter = "f" if signature.args[0].lane == types.float32 else "i"
            function = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(kind, [kind, kind, bits.type]),
                f"llvm.x86.avx512.mask.compress.v{WIDE}{letter}32",
            )
            return builder.call(function, [vector, ir.Constant(kind, None), bits])
        result, place = ir.Constant(kind, None), ir.Constant(INT32, 0)
        for n in range(WIDE):
            lane = ir.Constant(INT32, n)
            result = builder.insert_element(result, builder.extract_element(vector, lane), place)
            place = builder.add(place, builder.zext(builder.extract_element(bits, lane), INT32))
            place = builder.and_(place, ir.Constant(INT32, WIDE - 1))
        return result

    return vector(vector, types.int64), generate


@intrinsic
def transpose_wide(typing: Any, array: Any, source: Any, target: Any) -> Any:
    """Copy the 16 × 16 numbers at `source` to `target`, transposed."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, source, target = args
        kind = context.get_value_type(Vector(signature.args[0].dtype, WIDE))
        rows = []
        for n in range(WIDE):
            place = builder.add(source, source.type(n * WIDE))
            pointer = pointer_to(context, builder, signature, (args[0], place))
            rows.append(load_vector(builder, pointer, kind))
        for n, row in enumerate(_transposed(builder, rows)):
            place = builder.add(target, target.type(n * WIDE))
            pointer = pointer_to(context, builder, signature, (args[0], place))
            builder.store(row, builder.bitcast(pointer, kind.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp), generate


_BIT = ir.IntType(1)


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """Transpose sixteen vectors in four rounds, each of which interleaves row n with row n + 8."""
    half = WIDE // 2
    low, high = (
        ir.Constant(ir.VectorType(INT32, WIDE), [n + WIDE * row for n in lanes for row in range(2)])
        for lanes in (range(half), range(half, WIDE))
    )
    for _ in range(WIDE.bit_length() - 1):
        pairs = zip(rows[:half], rows[half:], strict=True)
        rows = [builder.shuffle_vector(a, b, lanes) for a, b in pairs for lanes in (low, high)]
    return rows
