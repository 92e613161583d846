# ruff: noqa: ARG001 - Numba dictates the arguments of intrinsics and their generators
"""Points in panels of 16, tiles of 16 × 16 scalar products of two panels, and their use.

A panel holds 16 points as (channel, 16) float32. The sum over the channels runs in order with fused
multiply-adds, so x_i · x_j has the same bits from either side, in every function below, and with
registers of any size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit
from numba.core import types

from pipelines.kernels import simd
from pipelines.kernels.simd import (
    PLACES,
    WIDE,
    Vector,
    any_le,
    fma,
    lowest_bit,
    makers,
    mask_le,
    maximum,
    minimum,
    popcount,
    store,
    store_chosen,
    wide_registers,
)
from pipelines.kernels.threads import parallel

PANEL = WIDE  # points; a row of a tile is one vector
TILE = PANEL * PANEL
ROWS = 256  # of a task
STRIP = 16  # panels that stay in the cache while the rows pass by
LINE = 64  # bytes of a line of the cache

ZERO = np.float32(0)
MINUS_ONE, MINUS_TWO = np.float32(-1), np.float32(-2)
INFINITY = np.float32(np.inf)
LARGEST = np.finfo(np.float32).max

load, load_splat, splat = makers(PANEL)


def room_for(size: int) -> np.ndarray:
    """Return an array (size,) of float32 that begins at a line of the cache.

    A vector of sixteen then lies in one line, not in two (measured: 8 % of the time of `pairs`).
    """
    room = np.empty(size + LINE // 4, np.float32)
    start = -room.ctypes.data % LINE // 4
    return room[start : start + size]


_room_for = njit(nogil=True)(room_for)


@parallel
def pack(x, chosen, packed, squares, task):
    """Write the rows `chosen` of x (N, C) in panels, and their squared lengths.

    The last panel is filled up with points at infinity.
    """
    channels = x.shape[1]
    for place in range(task * ROWS, min((task + 1) * ROWS, len(squares))):
        start = place // PANEL * channels * PANEL + place % PANEL
        total = 0.0
        for c in range(channels):
            value = x[chosen[place], c] if place < len(chosen) else ZERO
            packed[start + c * PANEL] = value
            total += np.float64(value) * np.float64(value)
        squares[place] = total if place < len(chosen) else INFINITY


FMA = f"llvm.fma.v{PANEL}f32"


def tile_intrinsics(rows: int, square: int) -> tuple[Any, Any, Any, Any]:
    """Return the functions `zeros`, `add_outer`, `store_rows` and `transpose` of a tile.

    zeros() makes `rows` vectors of 16 float32; add_outer(a, start, row, sums) adds a[start + n]
    times the vector `row` to the n-th; store_rows(array, start, sums) writes one after another;
    transpose(array, source, target) copies the `square` × `square` elements at `source`, of rows 16
    elements apart, to `target`, transposed.
    """
    kind = types.UniTuple(Vector(types.float32, PANEL), rows)

    @simd.intrinsic
    def zeros(typing: Any) -> Any:
        return kind(), lambda context, *_: ir.Constant(context.get_value_type(kind), None)

    @simd.intrinsic
    def add_outer(typing: Any, a: Any, start: Any, row: Any, sums: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            first = simd.pointer_to(context, builder, signature, args)
            _, _, row, sums = args
            for n in range(rows):
                value = builder.load(builder.gep(first, [simd.INT64(n)]))
                value = simd.splat_vector(builder, value, row.type)
                factors = [value, row, builder.extract_value(sums, n)]
                total = simd.llvm_call(builder, FMA, row.type, factors)
                sums = builder.insert_value(sums, total, n)
            return sums

        return kind(a, types.intp, row, kind), generate

    @simd.intrinsic
    def store_rows(typing: Any, array: Any, start: Any, sums: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            values = [builder.extract_value(args[2], n) for n in range(rows)]
            _store_apart(builder, simd.pointer_to(context, builder, signature, args), values)
            return context.get_dummy_value()

        return types.void(array, types.intp, kind), generate

    @simd.intrinsic
    def transpose(typing: Any, array: Any, source: Any, target: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            array, _, target = args
            first = simd.pointer_to(context, builder, signature, args)
            kind = ir.VectorType(first.type.pointee, square)
            places = [builder.gep(first, [simd.INT64(n * PANEL)]) for n in range(square)]
            values = _transposed(builder, [simd.load_vector(builder, at, kind) for at in places])
            first = simd.pointer_to(context, builder, signature, (array, target))
            _store_apart(builder, first, values)
            return context.get_dummy_value()

        return types.void(array, types.intp, types.intp), generate

    return zeros, add_outer, store_rows, transpose


def _store_apart(builder: Any, first: Any, values: list[Any]) -> None:
    """Store vectors 16 elements apart from the pointer `first` on."""
    for n, value in enumerate(values):
        simd.store_vector(builder, value, builder.gep(first, [simd.INT64(n * PANEL)]))


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """Transpose n vectors of n elements, n a power of 2.

    Each of log₂ n rounds interleaves row m with row m + n/2.
    """
    size, half = len(rows), len(rows) // 2
    low, high = (
        ir.Constant(
            ir.VectorType(simd.INT32, size), [n + size * row for n in lanes for row in range(2)]
        )
        for lanes in (range(half), range(half, size))
    )
    for _ in range(size.bit_length() - 1):
        pairs = zip(rows[:half], rows[half:], strict=True)
        rows = [builder.shuffle_vector(a, b, lanes) for a, b in pairs for lanes in (low, high)]
    return rows


def tile_functions(rows: int, square: int) -> tuple[Any, Any]:
    """Return `multiply`, which has `rows` rows of a tile in registers, and `turn`.

    multiply(rows, a, columns, b, size, tile) writes the scalar products of the panels
    rows[a : a + size] and columns[b : b + size]; turn(tile) writes the first tile, transposed in
    pieces of `square` × `square`, into the second.
    """
    zeros, add_outer, store_rows, transpose = tile_intrinsics(rows, square)
    at_once = rows

    @njit(forceinline=True)
    def multiply(rows, a, columns, b, size, tile):
        for first in range(0, PANEL, at_once):
            sums = zeros()
            for c in range(0, size, PANEL):
                sums = add_outer(rows, a + c + first, load(columns, b + c), sums)
            store_rows(tile, first * PANEL, sums)

    @njit(forceinline=True)
    def turn(tile):
        for r in range(0, PANEL, square):
            for c in range(0, PANEL, square):
                transpose(tile, r * PANEL + c, TILE + c * PANEL + r)

    return multiply, turn


# Rows whose sums are in registers: eight rows of one register, or four of two. With registers of
# eight elements squares of four are transposed, as shuffles across a register's halves can be slow.
EIGHT_LANES, SIXTEEN_LANES = (4, 4), (8, 16)
multiply, turn = tile_functions(*SIXTEEN_LANES if wide_registers() else EIGHT_LANES)


@njit(forceinline=True, error_model="numpy")
def append(tile, at, a, b, points, squares, threshold, candidates, counts, origin):
    """Append to the candidates of panel a the points of panel b within the rows' thresholds.

    tile[at …] holds the 16 × 16 scalar products. A full candidate buffer keeps overwriting its end
    and keeps counting.
    """
    keys, columns = candidates
    length = len(keys) // len(counts)
    minus_two = splat(MINUS_TWO)
    here, ids = load(squares, b * PANEL), load(points, b * PANEL)
    rows = 0
    for n in range(PANEL):
        key = fma(minus_two, load(tile, at + n * PANEL), here)
        rows |= any_le(key, load_splat(threshold, a * PANEL + n)) << n
    while rows:
        n = lowest_bit(rows)
        rows &= rows - 1
        key = fma(minus_two, load(tile, at + n * PANEL), here)
        mask = mask_le(key, load_splat(threshold, a * PANEL + n))
        row = (a - origin) * PANEL + n
        count = counts[np.uint64(row)]
        place = row * length + min(count, length - PANEL)
        store_chosen(keys, place, key, mask, PLACES)
        store_chosen(columns, place, ids, mask, PLACES)
        counts[np.uint64(row)] = count + popcount(mask)


@parallel
def thresholds(packed, points, sample, sample_squares, rank, threshold, floor, task):
    """Set each row's threshold, and the distance its bins begin at, from the sampled points.

    `rank` 0 means that every point is to be a candidate.
    """
    size = len(sample_squares)
    tile = _room_for(TILE)
    keys, scratch = np.empty(PANEL * size, np.float32), np.empty(3 * PANEL, np.float32)
    fraction = 0.5
    for row in range(task * ROWS, min((task + 1) * ROWS, len(threshold)), PANEL):
        if rank:
            _sample_keys(packed, row // PANEL, sample, sample_squares, tile, keys)
        for n in range(row, row + PANEL):
            if n >= points:
                threshold[n] = -INFINITY
            elif not rank:
                threshold[n], floor[n] = LARGEST, -INFINITY
            else:
                part = keys[(n - row) * size :]
                first, second, last = _ends(part, size, scratch)
                threshold[n] = _quantile(part, size, rank, first, last, fraction)
                floor[n] = second
                if first < threshold[n] < last:
                    fraction = (threshold[n] - first) / (last - first)


@njit(nogil=True, error_model="numpy")
def _sample_keys(packed, panel, sample, squares, tile, keys):
    """Write the distances of a panel's rows from the sampled points, one row after the other."""
    size, width = len(sample) // len(squares) * PANEL, len(squares)
    minus_two = splat(MINUS_TWO)
    for b in range(0, width, PANEL):
        multiply(packed, panel * size, sample, b // PANEL * size, size, tile)
        for n in range(PANEL):
            key = fma(minus_two, load(tile, n * PANEL), load(squares, b))
            store(keys, n * width + b, key)


@njit(nogil=True)
def _ends(keys, size, scratch):
    """Return the smallest, second smallest and largest key; NaN and infinity are left out."""
    lowest, low, high = splat(INFINITY), splat(INFINITY), splat(-INFINITY)
    for n in range(0, size, PANEL):
        key = load(keys, n)
        low = minimum(low, maximum(key, lowest))
        lowest = minimum(key, lowest)
        high = maximum(minimum(splat(LARGEST), key), high)
    store(scratch, 0, lowest)
    store(scratch, PANEL, low)
    store(scratch, 2 * PANEL, high)
    first, second, last = INFINITY, INFINITY, -INFINITY
    for n in range(2 * PANEL):
        second = min(second, max(first, scratch[n]))
        first = min(first, scratch[n])
    for n in range(2 * PANEL, 3 * PANEL):
        last = max(last, scratch[n])
    return first, second, last


@njit(nogil=True)
def _quantile(keys, size, rank, first, last, fraction):
    """Return a bound that at least `rank` keys, and few more, do not exceed, if there are enough.

    The first guess is `fraction` of the way from the first to the last key, as in the previous row.
    Steps away from it double until the bound is bracketed; then the bracket is halved.
    """
    below, above = float(first), float(last)
    guess = below + fraction * (above - below)
    step = 0.125 * (guess - below)
    for _ in range(32):
        count = _count(keys, size, np.float32(guess))
        if rank <= count <= rank + (rank >> 4):
            above = guess
            break
        if count < rank:
            below = guess
            step = abs(step)
        else:
            above = guess
            step = -abs(step)
        guess += step
        step *= 2
        if not below < guess < above:
            guess = 0.5 * (below + above)
            step *= 0.0625
    return np.float32(above)


@njit(forceinline=True)
def _count(keys, size, bound):
    """Return how many of the keys are at most `bound`."""
    count = 0
    for n in range(0, size, PANEL):
        count += popcount(mask_le(load(keys, n), splat(bound)))
    return count


@parallel
def pairs(packed, squares, threshold, order, axes, candidates, counts, origin, table, task):
    """Append candidates to the rows of panels a0 … a1 from panels b0 … b1 and, if `both`, back.

    `table[task]` is (a0, a1, b0, b1, both). `order` is (points, places, boxes, reach) of
    `order.Order`, which rules out pairs of panels. `candidates` is (keys, points), with room for as
    many of each row from panel `origin` on. If the two ranges are the same, each pair of panels is
    computed once, and the tiles on the diagonal serve their rows only.
    """
    a0, a1, b0, b1, both = table[task]
    points, places, boxes, reach = order
    tile = _room_for(2 * TILE)
    size = len(packed) // len(squares) * PANEL
    triangle = both and a0 == b0
    for strip in range(b0, b1, STRIP):
        for a in range(a0, a1):
            for b in range(max(strip, a) if triangle else strip, min(strip + STRIP, b1)):
                there = rows_within(places, boxes, reach, axes, a, b)
                back = rows_within(places, boxes, reach, axes, b, a) if both and a != b else 0
                if not there | back:
                    continue
                multiply(packed, a * size, packed, b * size, size, tile)
                if there:
                    append(tile, 0, a, b, points, squares, threshold, candidates, counts, origin)
                if back:
                    turn(tile)
                    append(tile, TILE, b, a, points, squares, threshold, candidates, counts, origin)


@njit(forceinline=True)
def rows_within(places, boxes, reach, axes, a, b):
    """Return, as 16 bits, which rows of panel a may have a neighbour within reach in panel b."""
    minus_one, nothing = splat(MINUS_ONE), splat(ZERO)
    near = nothing
    for axis in range(axes):
        low = load_splat(boxes, 2 * b * axes + axis)
        high = load_splat(boxes, (2 * b + 1) * axes + axis)
        place = load(places, (a * axes + axis) * PANEL)
        gap = maximum(maximum(fma(minus_one, place, low), fma(minus_one, high, place)), nothing)
        near = fma(gap, gap, near)
    return mask_le(near, load(reach, a * PANEL))


@njit(nogil=True)
def row_keys(packed, squares, row, keys):
    """Write the keys |x_j|² − 2 x_i·x_j of one row, with the bits that `pairs` sees."""
    channels = len(packed) // len(squares)
    start = row // PANEL * channels * PANEL + row % PANEL
    minus_two = splat(MINUS_TWO)
    for b in range(0, len(squares), PANEL):
        product = splat(ZERO)
        for c in range(0, channels * PANEL, PANEL):
            product = fma(load_splat(packed, start + c), load(packed, b * channels + c), product)
        store(keys, b, fma(minus_two, product, load(squares, b)))
