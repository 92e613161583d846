"""Products of float32 matrices on tensor cores, as exact as in float32, written in Triton.

Tensor cores multiply numbers of 16 bits and add up in float32. A float32 is here the sum of two
fp16 (after its row was brought into fp16's range by a power of two), and three of the four
products of two such sums are computed: the fourth is 2^-22 of the whole. The two matrices are split
a slab at a time, so their parts never take more than 2 · SLAB rows. Sums are in a fixed order:
a result has the same bits every time on the same kind of GPU. `cuda_product_programs` has the
programs.

Where float32's product is not finite, neither is this one: it may be NaN where float32 has inf.

Reference:
    Ootomo and Yokota, Recovering Single Precision Accuracy from Tensor Cores While Surpassing the
    FP32 Theoretical Peak Performance, IJHPCA 2022. Departures: a power of two a row instead of one
    for all low parts; all three products leave the tensor cores as one sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from pipelines.kernels.knn_search.cuda import on

from . import triton_kernels as programs

SLAB = 1 << 14  # rows, and numbers of the inner dimension, that are split at once
SPLIT = 64  # rows and columns that a program splits where rows aren't contiguous
FEWEST = 1 << 31  # multiplications: with fewer float32's own units are about as fast
NARROWEST = 512  # the shortest dimension: with 256, splitting takes longer than is won (H200)
# Tensor cores are 15 times as fast as float32 there. On 8.6 and 8.9, 2 to 4 times: too little for 3
# products and the splitting. Others are not tested.
CAPABILITIES = ((8, 0), (9, 0))
MOST_SHARES = 8
SHARES_NUMBERS = 1 << 25  # of all shares of a result together: 128 MB
SHORTEST = 8  # steps of a share


@dataclass(frozen=True)
class Tiles:
    """How `multiply` is launched: the result's tile, what tensor cores add up, loads on the way."""

    rows: int = 128
    columns: int = 128
    inner: int = 64  # numbers of the inner dimension of a step
    warps: int = 8
    stages: int = 3  # steps in shared memory
    every: int = 1  # steps that tensor cores add up: their error grows with inner · every
    group: int = 8  # rows of tiles that are computed side by side


# Shared memory, 227 KiB on 9.0 and 163 on 8.0, limits the stages: of 128 × 128 × 64 one has 64 KiB.
# Tiles of 128 × 256 need more registers than a thread has, and so do inner ones of 64 on 8.0.
BEST = {9: Tiles(), 8: Tiles(inner=32)}
CANDIDATES = (
    Tiles(),
    Tiles(stages=2),
    Tiles(inner=32, stages=4),
    Tiles(inner=32, stages=4, every=2),
    Tiles(inner=32, stages=6),
    Tiles(rows=64, warps=4, stages=2),
)


@dataclass(frozen=True)
class Parts:
    """The rows of a matrix as fp16 parts.

    Attributes:
        parts: (2, padded rows, width) fp16, the high parts and the low ones; zeros where padded.
        shifts: (padded rows,) int32: the parts are of the numbers times 2^shift.
        rows: how many there are.
    """

    parts: Tensor
    shifts: Tensor
    rows: int


def wanted(a: Tensor, b: Tensor) -> bool:
    """Tell whether `product` can multiply a (…, l), as a matrix, by b (l, m), and is faster.

    Both are float32, and nothing (autocast, TF32) asks for shorter numbers.
    """
    if a.dtype != torch.float32 or b.dtype != torch.float32 or a.device != b.device:
        return False
    inner, m = b.shape
    if min(inner, m) < NARROWEST or a.numel() < NARROWEST * inner or a.numel() * m < FEWEST:
        return False
    if torch.is_autocast_enabled(a.device.type) or shorter_allowed():
        return False
    return a.device.type == "cpu" or torch.cuda.get_device_capability(a.device) in CAPABILITIES


def shorter_allowed() -> bool:
    """Tell whether PyTorch may multiply float32 matrices with fewer bits.

    It has an old and a new switch; reading the old one raises where the new one was used.
    """
    try:
        return torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:
        return torch.backends.cuda.matmul.fp32_precision == "tf32"


def product(
    a: Tensor,
    b: Tensor,
    total: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    tiles: Tiles | None = None,
) -> Tensor:
    """Return a b, or add it to `total` in place; see `pipelines.kernels.product`.

    Args:
        a: (n, l) float32, of any strides, as `b`.
        b: (l, m) float32.
        total: (n, m) float32.
        bias: (m,) float32, added to every row.
        tiles: how it is computed; None: as is best on this GPU.
    """
    (n, inner), m = a.shape, b.shape[1]
    tiles = tiles or best(a.device)
    out = torch.empty(n, m, device=a.device) if total is None else total
    add = total is not None
    with on(a.device):
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
    """Return the tiles that are best on a device; in the interpreter any are right."""
    return BEST[torch.cuda.get_device_capability(device)[0] if device.type == "cuda" else 9]


def split(x: Tensor, row_tile: int, inner_tile: int) -> Parts:
    """Return x (rows, inner) float32 in parts, padded to multiples of the tiles."""
    rows, inner = x.shape
    padded = triton.cdiv(rows, max(row_tile, SPLIT)) * max(row_tile, SPLIT)
    width = triton.cdiv(inner, inner_tile) * inner_tile
    parts = torch.empty(2, padded, width, dtype=torch.float16, device=x.device)
    shifts = torch.empty(padded, dtype=torch.int32, device=x.device)
    sizes = rows, inner, width, padded * width, *x.stride()
    if x.stride(1) == 1:
        programs.split_rows[(padded // 4,)](x, parts, shifts, *sizes, ROWS=4, CHUNK=1024)
        return Parts(parts, shifts, rows)
    bits = torch.zeros(padded, dtype=torch.int32, device=x.device)
    across = padded // SPLIT
    programs.largest[(across, triton.cdiv(inner, SPLIT * 4))](
        x, bits, rows, inner, *x.stride(), ROWS=SPLIT, CHUNK=SPLIT, STEPS=4
    )
    programs.split[(across, triton.cdiv(width, SPLIT))](
        x, bits, parts, shifts, *sizes, ROWS=SPLIT, CHUNK=SPLIT
    )
    return Parts(parts, shifts, rows)


def _multiply(
    left: Parts, right: Parts, bias: Tensor | None, out: Tensor, add: bool, tiles: Tiles
) -> None:
    """Store left rightᵀ + bias into `out` (rows, columns), or add it."""
    n, m = out.shape
    width = left.parts.shape[2]
    count = triton.cdiv(n, tiles.rows) * triton.cdiv(m, tiles.columns)
    steps = width // tiles.inner
    number = shares(count, steps, n * m, processors(out.device))
    share = triton.cdiv(steps, number) * tiles.inner
    number = triton.cdiv(width, share)
    where = out if number == 1 else torch.empty(number, n, m, device=out.device)
    programs.multiply[(count, number)](
        *(left.parts, right.parts, left.shifts, right.shifts),
        *(left.shifts if bias is None or number > 1 else bias, where),
        *(n, m, width, share, left.parts[0].numel(), right.parts[0].numel()),
        *(where.stride(-2), where.stride(-1), n * m),
        ROWS=tiles.rows,
        COLUMNS=tiles.columns,
        INNER=tiles.inner,
        GROUP=tiles.group,
        STAGES=tiles.stages,
        EVERY=tiles.every,
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


def shares(tiles: int, steps: int, numbers: int, processors: int) -> int:
    """Return in how many shares the inner dimension is computed side by side.

    One where there are tiles for all processors; else the fewest with which the last of them waits
    hardly longer than with any other number.

    Args:
        tiles: of the result.
        steps: along the inner dimension.
        numbers: of the result.
        processors: that do a tile at a time.
    """
    most = max(1, min(MOST_SHARES, steps // SHORTEST, SHARES_NUMBERS // max(1, numbers)))
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
