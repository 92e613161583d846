"""Distances with the digits of float32 from fp16 products; see `pipelines.kernels.knn_search.cuda`.

Reference:
    Ootomo and Yokota, Recovering single precision accuracy from Tensor Cores while surpassing the
    FP32 theoretical peak performance, 2022 (the sums of fp16 products).
"""

from __future__ import annotations

import triton
import triton.language as tl

LANES = tl.constexpr(4)  # threads that hold a row's distances of a tile, and buffers of a row
INT32_MAX = tl.constexpr(0x7FFFFFFF)
NAN_BITS = tl.constexpr(0x7FC00000)


@triton.jit
def order_bits(distance):
    """Return int32 that is ordered as the float32 `distance`: −0 equals 0, NaN is the largest."""
    distance = tl.where(distance == 0, 0.0, distance)
    bits = distance.to(tl.int32, bitcast=True)
    bits = tl.where(distance != distance, NAN_BITS, bits)
    return bits ^ ((bits >> 31) & INT32_MAX)


@triton.jit
def distance_of(bits):
    """Return the float32 distance that has these order bits."""
    return (bits ^ ((bits >> 31) & INT32_MAX)).to(tl.float32, bitcast=True)


@triton.jit
def scale_of(largest):
    """Return the power of two that brings `largest` into [2¹⁴, 2¹⁵), fp16 ending at 2¹⁶; and 1/it.

    For values smaller than 2⁻¹¹², NaN and ∞ it is that of the nearest value that has one.
    """
    exponent = (largest.to(tl.int32, bitcast=True) >> 23) & 0xFF
    exponent = tl.minimum(tl.maximum(exponent, 15), 254)
    scale = ((268 - exponent) << 23).to(tl.float32, bitcast=True)
    return scale, ((exponent - 14) << 23).to(tl.float32, bitcast=True)


@triton.jit
def centred(x, mean, at, block, row_exists, channel, channels):
    """Load x − mean at rows `at` and some channels, zero beyond."""
    known = channel < channels
    value = tl.load(
        x + at[:, None] * channels + channel[None, :],
        mask=row_exists[:, None] & known[None, :],
        other=0.0,
    )
    return value - tl.load(mean + block * channels + channel, mask=known, other=0.0)[None, :]


@triton.jit
def prepare(
    x, mean, parts, units, squares, points, padded, channels, C: tl.constexpr, ROWS: tl.constexpr
):
    """Store `parts`, `units` and `squares` of x (B, N, channels) less mean (B, channels), float32.

    `padded` is M, a multiple of ROWS; C is at least `channels`.
    """
    PART: tl.constexpr = C if C < 64 else 64
    block = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < points
    at = block * points + row
    to = block * padded + row
    piece = tl.num_programs(1).to(tl.int64) * padded * C
    total = tl.zeros([ROWS], tl.float32)
    largest = tl.zeros([ROWS], tl.float32)
    for first in tl.static_range(0, C, PART):
        value = centred(x, mean, at, block, inside, first + tl.arange(0, PART), channels)
        total += tl.sum(value * value, 1)
        largest = tl.maximum(largest, tl.max(tl.abs(value), 1))
    scale, unit = scale_of(largest)
    for first in tl.static_range(0, C, PART):
        channel = first + tl.arange(0, PART)
        value = centred(x, mean, at, block, inside, channel, channels) * scale[:, None]
        high = value.to(tl.float16)
        low = (value - high.to(tl.float32)).to(tl.float16)
        high, low = tl.where(inside[:, None], high, 0.0), tl.where(inside[:, None], low, 0.0)
        out = parts + to[:, None] * C + channel[None, :]
        tl.store(out, high)
        tl.store(out + piece, low)
    tl.store(units + to, unit)
    tl.store(squares + to, tl.where(inside, total, float("inf")))


@triton.jit
def product(a0, a1, b0, b1, total):
    """Add a·b to float32 `total`, both in two fp16 parts; small products first.

    The product of the two low parts is left out: at most 2⁻²² of the whole.
    """
    total = tl.dot(a1, b0, total)
    total = tl.dot(a0, b1, total)
    return tl.dot(a0, b0, total)


@triton.jit
def rows_of(parts, units, points, padded, start, row, C: tl.constexpr, PART: tl.constexpr):
    """Return what a kernel instance needs of the rows `start` + `row` of its block.

    These are the block's first point; pointers to the rows' high parts (ROWS, PART); −2 times their
    units; the offset from high to low parts. Rows beyond the last point repeat it, and nothing is
    stored of them.
    """
    first_point = tl.program_id(1).to(tl.int64) * padded
    point = first_point + tl.minimum(start + row, points - 1)
    own = parts + point[:, None] * C + tl.arange(0, PART)[None, :]
    piece = tl.num_programs(1).to(tl.int64) * padded * C
    return first_point, own, -2.0 * tl.load(units + point), piece


@triton.jit
def load_parts(parts, piece):
    """Load both parts of a tile of features."""
    return tl.load(parts), tl.load(parts + piece)


@triton.jit
def tile_distances(
    a0, a1, own, others, units, squares, unit, column, piece, C: tl.constexpr, PART: tl.constexpr
):
    """Return the distances (ROWS, COLUMNS) of rows to the points at `column`.

    a0 and a1 are the rows' parts, used if all C channels are one piece (PART).
    """
    # Loaded early, to be there when the products are.
    square = tl.load(squares + column)
    other_unit = tl.load(units + column)
    other = others + column[None, :] * C
    total = tl.zeros([a0.shape[0], column.shape[0]], tl.float32)
    if C == PART:
        b0, b1 = load_parts(other, piece)
        total = product(a0, a1, b0, b1, total)
    else:
        for channel in range(0, C, PART):
            a0, a1 = load_parts(own + channel, piece)
            b0, b1 = load_parts(other + channel, piece)
            total = product(a0, a1, b0, b1, total)
    return square[None, :] + (total * unit[:, None]) * other_unit[None, :]


@triton.jit
def lanes_of(distance):
    """Return distances (ROWS, COLUMNS) as (ROWS, LANES, M), where a lane is what one thread holds.

    Element i of lane t is column 8·(i // 2) + 2 t + i % 2: the layout of tensor cores' results.
    """
    ROWS: tl.constexpr = distance.shape[0]
    COLUMNS: tl.constexpr = distance.shape[1]
    pieces = tl.reshape(distance, [ROWS, COLUMNS // 8, LANES, 2])
    return tl.reshape(tl.permute(pieces, (0, 2, 1, 3)), [ROWS, LANES, COLUMNS // LANES])


@triton.jit
def halves_of(pieces):
    """Split (ROWS, LANES, M) into its first and second half; no element leaves its thread."""
    HALF: tl.constexpr = pieces.shape[2] // 2
    halves = tl.reshape(pieces, [pieces.shape[0], pieces.shape[1], 2, HALF])
    return tl.split(tl.permute(halves, (0, 1, 3, 2)))
