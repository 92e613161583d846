"""Triton programs of `cuda_product`: float32 matrices as fp16 parts, and products of the parts.

    split_rows  the parts of rows whose numbers lie side by side
    largest     the largest magnitude of each row, where they don't
    split       the parts of such rows
    multiply    the product of two matrices in parts

A number a of a row is, with the row's power of two 2^s, a 2^s = high + low + rest in fp16: s brings
the row's largest magnitude into [2^14, 2^15), and the rest is below 2^-22 of a, or 2^-40 of the
largest. What is not finite has parts that are not finite either.
"""

from __future__ import annotations

import triton
import triton.language as tl

MAGNITUDE = tl.constexpr(0x7FFFFFFF)  # all bits of a float32 but its sign
TOP = tl.constexpr(14)  # the exponent that the largest magnitudes get; fp16 ends below 2^16


@triton.jit
def magnitude(x):
    """Return float32 bits without the sign: ordered as magnitudes are, inf and NaN last."""
    return x.to(tl.int32, bitcast=True) & MAGNITUDE


@triton.jit
def power(exponent):
    """Return 2^exponent in float32, of int32 from −126 to 127."""
    return ((exponent + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def shift_of(bits):
    """Return the exponent s (int32, −114 to 141) for rows with the largest magnitudes `bits`."""
    return TOP + 127 - (bits >> 23)


@triton.jit
def store_parts(x, shift, at, piece, mask):
    """Store x 2^shift (rows, columns) as high parts at `at` and low ones `piece` numbers on."""
    half = shift >> 1  # 2^141 is no float32
    scaled = x * power(half)[:, None] * power(shift - half)[:, None]
    high = scaled.to(tl.float16)
    tl.store(at, high, mask=mask)
    tl.store(at + piece, (scaled - high.to(tl.float32)).to(tl.float16), mask=mask)


@triton.jit
def split_rows(
    x,
    parts,
    shifts,
    rows,
    inner,
    width,
    piece,
    row_stride,
    inner_stride,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Store the parts and shifts of ROWS whole rows, which are read twice.

    Args:
        x: (rows, inner) float32 with these strides.
        parts: (2, padded rows, width) fp16, `piece` numbers each; zeros beyond `rows` and `inner`.
        shifts: (padded rows,) int32.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    chunk = tl.arange(0, CHUNK)
    exists = (row < rows)[:, None]
    source = x + row[:, None] * row_stride
    most = tl.zeros([ROWS], tl.int32)
    for first in range(0, inner, CHUNK):
        at = first + chunk[None, :]
        some = tl.load(source + at * inner_stride, mask=exists & (at < inner), other=0.0)
        most = tl.maximum(most, tl.max(magnitude(some), 1))
    shift = shift_of(most)
    tl.store(shifts + row, shift)
    for first in range(0, width, CHUNK):
        at = first + chunk[None, :]
        some = tl.load(source + at * inner_stride, mask=exists & (at < inner), other=0.0)
        store_parts(some, shift, parts + row[:, None] * width + at, piece, at < width)


@triton.jit
def largest(
    x,
    bits,
    rows,
    inner,
    row_stride,
    inner_stride,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
    STEPS: tl.constexpr,
):
    """Raise `bits` (padded rows,) int32 to the largest `magnitude` of each row of x (rows, inner).

    Programs share rows: of whole numbers the maximum is the same in any order.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    exists = (row < rows)[None, :]
    most = tl.zeros([ROWS], tl.int32)
    for step in range(STEPS):
        at = (tl.program_id(1).to(tl.int64) * STEPS + step) * CHUNK + tl.arange(0, CHUNK)[:, None]
        where = x + row[None, :] * row_stride + at * inner_stride
        some = tl.load(where, mask=exists & (at < inner), other=0.0)
        most = tl.maximum(most, tl.max(magnitude(some), 0))
    tl.atomic_max(bits + row, most, mask=row < rows, sem="relaxed")


@triton.jit
def split(
    x,
    bits,
    parts,
    shifts,
    rows,
    inner,
    width,
    piece,
    row_stride,
    inner_stride,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Store the parts and shifts of x (rows, inner), read along its columns.

    Args:
        bits: (padded rows,) int32, of `largest`.
        parts, shifts: as in `split_rows`.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    at = tl.program_id(1).to(tl.int64) * CHUNK + tl.arange(0, CHUNK)
    exists = (row < rows)[None, :] & (at < inner)[:, None]
    where = x + row[None, :] * row_stride + at[:, None] * inner_stride
    some = tl.trans(tl.load(where, mask=exists, other=0.0))  # (ROWS, CHUNK)
    shift = shift_of(tl.load(bits + row))
    if tl.program_id(1) == 0:
        tl.store(shifts + row, shift)
    store_parts(
        some, shift, parts + row[:, None] * width + at[None, :], piece, (at < width)[None, :]
    )


@triton.jit
def tile_of(number, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr, GROUP: tl.constexpr):
    """Return the row and column of tile `number`, GROUP rows of tiles at a time.

    Tiles that are computed at the same time share what they load.
    """
    across = tl.cdiv(columns, COLUMNS)
    group = number // (GROUP * across)
    height = tl.minimum(tl.cdiv(rows, ROWS) - group * GROUP, GROUP)
    within = number - group * GROUP * across
    return group * GROUP + within % height, within // height


@triton.jit
def unscaled(total, exponent):
    """Return total 2^exponent, of int32 from −282 to 228: more than one float32 can be."""
    quarter = exponent >> 2
    once = power(quarter)
    return total * once * once * once * power(exponent - 3 * quarter)


@triton.jit
def multiply(
    left,
    right,
    left_shifts,
    right_shifts,
    bias,
    out,
    rows,
    columns,
    width,
    share,
    left_piece,
    right_piece,
    row_stride,
    column_stride,
    share_stride,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
    GROUP: tl.constexpr,
    STAGES: tl.constexpr,
    EVERY: tl.constexpr,
    ADD: tl.constexpr,
    BIAS: tl.constexpr,
):
    """Store a tile of the product over `share` numbers of the inner dimension, or add to it.

    Tensor cores cut off what an addition loses instead of rounding it. So they add up few numbers,
    INNER · EVERY, the small products first, and ordinary additions the rest. The product of two
    low parts is left out: 2^-22 of the whole.

    Args:
        left: (2, padded rows, width) fp16 of `split`, `left_piece` numbers each.
        right: (2, padded columns, width) fp16.
        left_shifts, right_shifts: (padded rows,), (padded columns,) int32.
        bias: (columns,) float32, with BIAS.
        out: (shares, rows, columns) float32 with these strides; a share is `share` numbers of
            `width`, and both are multiples of INNER.
    """
    down, across = tile_of(tl.program_id(0), rows, columns, ROWS, COLUMNS, GROUP)
    row = down.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = across.to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    start = tl.program_id(1) * share
    inner = start + tl.arange(0, INNER)
    a = left + row[:, None] * width + inner[None, :]
    b = right + column[None, :] * width + inner[:, None]
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    some = tl.zeros([ROWS, COLUMNS], tl.float32)
    steps = tl.cdiv(tl.minimum(share, width - start), INNER)
    for step in tl.range(0, steps, num_stages=STAGES):
        a_high = tl.load(a)
        a_low = tl.load(a + left_piece)
        b_high = tl.load(b)
        b_low = tl.load(b + right_piece)
        if EVERY == 1:
            some = tl.dot(a_low, b_high)
            some = tl.dot(a_high, b_low, some)
            some = tl.dot(a_high, b_high, some)
            total += some
        else:
            some = tl.dot(a_low, b_high, some)
            some = tl.dot(a_high, b_low, some)
            some = tl.dot(a_high, b_high, some)
            if step % EVERY == EVERY - 1:
                total += some
                some = tl.zeros([ROWS, COLUMNS], tl.float32)
        a += INNER
        b += INNER
    if EVERY > 1:
        total += some
    shift = tl.load(left_shifts + row)[:, None] + tl.load(right_shifts + column)[None, :]
    total = unscaled(total, -shift)
    if BIAS:
        total += tl.load(bias + column, mask=column < columns, other=0.0)[None, :]
    where = out + tl.program_id(1).to(tl.int64) * share_stride
    where += row[:, None] * row_stride + column[None, :] * column_stride
    exists = (row < rows)[:, None] & (column < columns)[None, :]
    if ADD:
        total += tl.load(where, mask=exists)
    tl.store(where, total, mask=exists)
