"""float32 matrix multiplication on tensor cores, as exact as in float32, in Triton.

Tensor cores multiply fp16 and add up in float32. Each float32 is split into a sum of two fp16
(after its row was scaled into fp16's range by a power of two), and three of the four products of
two such sums are computed: the fourth is 2^-22 of the whole. The matrices are split a slab at a
time, so their parts never take more than 2 · SLAB rows. Sums are in a fixed order: a result has the
same bits every time on the same kind of GPU.

An element a of a row is, with the row's power of two 2^s, a 2^s = high + low + rest in fp16: s
brings the row's largest magnitude into [2^14, 2^15), and the rest is below 2^-22 of a, or 2^-40 of
the largest. If float32's result is not finite, neither is this one: it may be NaN instead of inf.

Reference:
    Ootomo and Yokota, Recovering Single Precision Accuracy from Tensor Cores While Surpassing the
    FP32 Theoretical Peak Performance, IJHPCA 2022. Departures: a power of two a row instead of one
    for all low parts; all three products leave the tensor cores as one sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

SLAB = 1 << 14  # rows, and elements of the inner dimension, that are split at once
SPLIT = 64  # rows and columns of a tile of `split_strided`
FEWEST = 1 << 31  # multiplications: with fewer float32's own units are about as fast
NARROWEST = 512  # the shortest dimension: with 256, splitting takes longer than is won (H200)
# Tensor cores are 15 times as fast as float32 there. On 8.6 and 8.9, 2 to 4 times: too little for 3
# products and the splitting. Others are not tested.
CAPABILITIES = ((8, 0), (9, 0))
MOST_CHUNKS = 8
CHUNKS_ELEMENTS = 1 << 25  # of all chunks of a result together: 128 MB
SHORTEST = 8  # steps of a chunk


@dataclass(frozen=True)
class Tiles:
    """How `multiply` is launched."""

    rows: int = 128  # of a tile of the result, as `columns`
    columns: int = 128
    inner: int = 64  # elements of the inner dimension of a step, which tensor cores add up
    warps: int = 8  # of a kernel instance
    stages: int = 3  # steps that are loaded into shared memory ahead
    group: int = 8  # rows of tiles that are computed side by side


# Shared memory, 227 KiB on 9.0 and 163 on 8.0, bounds the stages: one of 128 × 128 × 64 has 64 KiB.
# Tiles of 128 × 256 need more registers than a thread has, and so do inner ones of 64 on 8.0.
BEST = {9: Tiles(), 8: Tiles(inner=32)}


Parts = tuple[Tensor, Tensor]  # of `split`


def wanted(a: Tensor, b: Tensor) -> bool:
    """Return whether `matmul` can multiply a (…, l), as a matrix, by b (l, m), and is faster.

    Both are float32, and nothing (autocast, TF32) asks for lower precision.
    """
    if a.dtype != torch.float32 or b.dtype != torch.float32 or a.device != b.device:
        return False
    inner, m = b.shape
    if min(inner, m) < NARROWEST or a.numel() < NARROWEST * inner or a.numel() * m < FEWEST:
        return False
    if torch.is_autocast_enabled(a.device.type) or lower_precision_allowed():
        return False
    return a.device.type == "cpu" or torch.cuda.get_device_capability(a.device) in CAPABILITIES


def lower_precision_allowed() -> bool:
    """Return whether PyTorch may multiply float32 matrices with fewer bits.

    It has an old and a new switch; reading the old one raises after the new one was used.
    """
    try:
        return torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:
        return torch.backends.cuda.matmul.fp32_precision == "tf32"


def matmul(
    a: Tensor, b: Tensor, total: Tensor | None = None, *, bias: Tensor | None = None
) -> Tensor:
    """Return a b, or add it to `total` in place; see `pipelines.kernels.matmul`. All float32."""
    (n, inner), m = a.shape, b.shape[1]
    tiles = best(a.device)
    out = torch.empty(n, m, device=a.device) if total is None else total
    add = total is not None
    with torch.cuda.device_of(a):
        for start in range(0, inner, SLAB):
            some = slice(start, start + SLAB)
            for column in range(0, m, SLAB):
                across = slice(column, column + SLAB)
                right = split(b[some, across].t(), tiles.columns, tiles.inner)
                own = None if bias is None or start else bias[across].contiguous()
                for row in range(0, n, SLAB):
                    left = split(a[row : row + SLAB, some], tiles.rows, tiles.inner)
                    _multiply(left, right, own, out[row : row + SLAB, across], add, tiles)
            add = True
    return out


def best(device: torch.device) -> Tiles:
    """Return the fastest tiles for a device; in the interpreter any give the same result."""
    return BEST[torch.cuda.get_device_capability(device)[0] if device.type == "cuda" else 9]


def split(x: Tensor, row_tile: int, inner_tile: int) -> Parts:
    """Split the rows of x (rows, inner) float32 into parts, padded with zeros to whole tiles.

    Returns:
        (2, padded rows, width) fp16, the high parts and the low ones; (padded rows,) int32: the
        parts are those of the row times 2 to this power.
    """
    rows, inner = x.shape
    padded = triton.cdiv(rows, max(row_tile, SPLIT)) * max(row_tile, SPLIT)
    width = triton.cdiv(inner, inner_tile) * inner_tile
    parts = torch.empty(2, padded, width, dtype=torch.float16, device=x.device)
    shifts = torch.empty(padded, dtype=torch.int32, device=x.device)
    sizes = rows, inner, width, padded * width, *x.stride()
    if x.stride(1) == 1:
        split_rows[(padded // 4,)](x, parts, shifts, *sizes, ROWS=4, CHUNK=1024)
        return parts, shifts
    bits = torch.zeros(padded, dtype=torch.int32, device=x.device)
    across = padded // SPLIT
    row_maxima[(across, triton.cdiv(inner, SPLIT * 4))](
        x, bits, rows, inner, *x.stride(), ROWS=SPLIT, CHUNK=SPLIT, STEPS=4
    )
    split_strided[(across, triton.cdiv(width, SPLIT))](
        x, bits, parts, shifts, *sizes, ROWS=SPLIT, CHUNK=SPLIT
    )
    return parts, shifts


def _multiply(
    left: Parts, right: Parts, bias: Tensor | None, out: Tensor, add: bool, tiles: Tiles
) -> None:
    """Store left rightᵀ + bias into `out` (rows, columns), or add it."""
    n, m = out.shape
    (a, a_shifts), (b, b_shifts) = left, right
    width = a.shape[2]
    count = triton.cdiv(n, tiles.rows) * triton.cdiv(m, tiles.columns)
    steps = width // tiles.inner
    chunk = triton.cdiv(steps, split_k(count, steps, n * m, processors(out.device))) * tiles.inner
    number = triton.cdiv(width, chunk)
    where = out if number == 1 else torch.empty(number, n, m, device=out.device)
    multiply[(count, number)](
        *(a, b, a_shifts, b_shifts, a_shifts if bias is None or number > 1 else bias, where),
        *(n, m, width, chunk, a[0].numel(), b[0].numel()),
        *(where.stride(-2), where.stride(-1), n * m),
        **{"ROWS": tiles.rows, "COLUMNS": tiles.columns, "INNER": tiles.inner},
        **{"GROUP": tiles.group, "STAGES": tiles.stages},
        ADD=add and number == 1,
        BIAS=bias is not None and number == 1,
        num_warps=tiles.warps,
    )
    if number > 1:
        whole = where.sum(0) if bias is None else where.sum(0).add_(bias)
        if add:
            out.add_(whole)
        else:
            out.copy_(whole)


def split_k(tiles: int, steps: int, elements: int, processors: int) -> int:
    """Return into how many chunks, computed side by side, the inner dimension is split (split-K).

    One if there are tiles for all processors; else the fewest with which the last processor takes
    hardly longer than with any other number. `tiles` and `elements` are the result's, `steps` are
    along the inner dimension; a processor computes a tile at a time.
    """
    most = max(1, min(MOST_CHUNKS, steps // SHORTEST, CHUNKS_ELEMENTS // max(1, elements)))
    if tiles >= 4 * processors:
        return 1
    spent = [triton.cdiv(tiles * number, processors) / number for number in range(1, most + 1)]
    return next(at for at, time in enumerate(spent, start=1) if time <= 1.03 * min(spent))


def processors(device: torch.device) -> int:
    """Return the multiprocessors of a GPU."""
    if device.type != "cuda":
        return 1
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count


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
    """Store x 2^shift (rows, columns): high parts at `at`, low ones `piece` elements further."""
    half = shift >> 1  # 2^141 is no float32
    scaled = x * power(half)[:, None] * power(shift - half)[:, None]
    high = scaled.to(tl.float16)
    tl.store(at, high, mask=mask)
    tl.store(at + piece, (scaled - high.to(tl.float32)).to(tl.float16), mask=mask)


@triton.jit
def split_rows(
    x, parts, shifts,
    rows, inner, width, piece, row_stride, inner_stride,
    ROWS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Store parts (`piece` elements each) and shifts of ROWS whole rows, which are read twice."""
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
def row_maxima(
    x, bits,
    rows, inner, row_stride, inner_stride,
    ROWS: tl.constexpr, CHUNK: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Raise `bits` (padded rows,) int32 to the largest `magnitude` of each row of x (rows, inner).

    Several instances share a row: the maximum of integers is the same in any order.
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
def split_strided(
    x, bits, parts, shifts,
    rows, inner, width, piece, row_stride, inner_stride,
    ROWS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Store the parts and shifts of x (rows, inner), read along its columns; see `row_maxima`."""
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
    left, right, left_shifts, right_shifts, bias, out,
    rows, columns, width, chunk, left_piece, right_piece, row_stride, column_stride, chunk_stride,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr, GROUP: tl.constexpr,
    STAGES: tl.constexpr, ADD: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """Store a tile of the result over `chunk` elements of the inner dimension, or add to it.

    Tensor cores truncate a sum instead of rounding it. So they add up INNER products only, the
    small ones first, and ordinary additions the rest. The product of two low parts is left out.

    left and right are of `split`, with `left_piece` and `right_piece` elements of high parts. `out`
    is (chunks, rows, columns) float32 with these strides; a chunk is `chunk` elements of `width`,
    and both are multiples of INNER.
    """
    down, across = tile_of(tl.program_id(0), rows, columns, ROWS, COLUMNS, GROUP)
    row = down.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = across.to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    start = tl.program_id(1) * chunk
    inner = start + tl.arange(0, INNER)
    a = left + row[:, None] * width + inner[None, :]
    b = right + column[None, :] * width + inner[:, None]
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    steps = tl.cdiv(tl.minimum(chunk, width - start), INNER)
    for _ in tl.range(0, steps, num_stages=STAGES):
        a_high = tl.load(a)
        a_low = tl.load(a + left_piece)
        b_high = tl.load(b)
        b_low = tl.load(b + right_piece)
        some = tl.dot(a_low, b_high)
        some = tl.dot(a_high, b_low, some)
        total += tl.dot(a_high, b_high, some)
        a += INNER
        b += INNER
    shift = tl.load(left_shifts + row)[:, None] + tl.load(right_shifts + column)[None, :]
    total = unscaled(total, -shift)
    if BIAS:
        total += tl.load(bias + column, mask=column < columns, other=0.0)[None, :]
    where = out + tl.program_id(1).to(tl.int64) * chunk_stride
    where += row[:, None] * row_stride + column[None, :] * column_stride
    exists = (row < rows)[:, None] & (column < columns)[None, :]
    if ADD:
        total += tl.load(where, mask=exists)
    tl.store(where, total, mask=exists)
