"""leaky_relu(scale · x + shift) and its gradients in Triton, each reading x once.

Batch norm by known moments followed by an activation is such a function; in PyTorch's own
operations it reads x twice, and its gradients six times.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

ELEMENTS = 4096  # of a kernel instance's tile
MOST_BLOCK = 64  # channels of a tile
INSTANCES = 1056  # that share the rows of a backward pass: eight for each SM of an H200
WARPS = 4


def activate(x: Tensor, scale: Tensor, shift: Tensor, slope: float) -> Tensor:
    """Return leaky_relu(scale · x + shift), (…, C) as x; scale and shift are (C,)."""
    x = x.contiguous()
    out = torch.empty_like(x)
    block, rows, total = _shape(x)
    with torch.cuda.device_of(x):
        forward[(triton.cdiv(total, rows), triton.cdiv(x.shape[-1], block))](
            *(x, scale.contiguous(), shift.contiguous(), out, total, x.shape[-1]),
            **_constants(x, rows, block, slope),
        )
    return out


def gradients(
    g: Tensor, x: Tensor, scale: Tensor, shift: Tensor, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, scale and shift, given that of `activate`'s result, g (…, C)."""
    x, g = x.contiguous(), g.contiguous()
    dx = torch.empty_like(x)
    channels = x.shape[-1]
    block, rows, total = _shape(x)
    instances = min(INSTANCES, triton.cdiv(total, rows))
    sums = torch.empty(instances, 2, channels, dtype=x.dtype, device=x.device)
    with torch.cuda.device_of(x):
        backward[(instances, triton.cdiv(channels, block))](
            *(g, x, scale.contiguous(), shift.contiguous(), dx, sums, total, channels),
            **_constants(x, rows, block, slope),
        )
    dscale, dshift = sums.sum(0)
    return dx, dscale, dshift


def _shape(x: Tensor) -> tuple[int, int, int]:
    """Return the channels and rows of a tile, and the number of rows of x."""
    channels = x.shape[-1]
    block = min(MOST_BLOCK, triton.next_power_of_2(channels))
    return block, ELEMENTS // block, x.numel() // channels


def _constants(x: Tensor, rows: int, block: int, slope: float) -> dict[str, Any]:
    return {
        "ROWS": rows,
        "BLOCK": block,
        "SLOPE": slope,
        "FLOAT": tl.float64 if x.dtype == torch.float64 else tl.float32,
        "num_warps": WARPS,
        "enable_fp_fusion": True,
    }


@triton.jit
def cut(value, y, SLOPE: tl.constexpr):
    """Return `value` where y is positive or NaN, SLOPE · value elsewhere."""
    if SLOPE == 0:  # not 0 · value, which is NaN for infinite ones
        return tl.where(y <= 0, 0.0, value)
    else:
        return tl.where(y <= 0, SLOPE * value, value)


@triton.jit
def forward(
    x, scale, shift, out,
    total, channels,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, SLOPE: tl.constexpr, FLOAT: tl.constexpr,
):  # fmt: skip
    """Compute `activate` for a tile of rows and channels."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    exists = (row < total)[:, None] & (c < channels)[None, :]
    at = row[:, None] * channels + c[None, :]
    factor = tl.load(scale + c, mask=c < channels, other=0.0).to(FLOAT)[None, :]
    addend = tl.load(shift + c, mask=c < channels, other=0.0).to(FLOAT)[None, :]
    y = tl.load(x + at, mask=exists, other=0.0).to(FLOAT) * factor + addend
    y = cut(y, y, SLOPE)
    tl.store(out + at, y.to(out.dtype.element_ty), mask=exists)


@triton.jit
def backward(
    g, x, scale, shift, dx, sums,
    total, channels,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, SLOPE: tl.constexpr, FLOAT: tl.constexpr,
):  # fmt: skip
    """Compute `gradients` of the tiles of one instance, which adds them up in sums[instance]."""
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    within = c < channels
    factor = tl.load(scale + c, mask=within, other=0.0).to(FLOAT)[None, :]
    addend = tl.load(shift + c, mask=within, other=0.0).to(FLOAT)[None, :]
    dscale = tl.zeros([ROWS, BLOCK], FLOAT)
    dshift = tl.zeros([ROWS, BLOCK], FLOAT)
    step = tl.num_programs(0) * ROWS
    for first in range(tl.program_id(0) * ROWS, total, step):
        row = first + tl.arange(0, ROWS)
        exists = (row < total)[:, None] & within[None, :]
        at = row.to(tl.int64)[:, None] * channels + c[None, :]
        value = tl.load(x + at, mask=exists, other=0.0).to(FLOAT)
        d = tl.load(g + at, mask=exists, other=0.0).to(FLOAT)
        d = cut(d, value * factor + addend, SLOPE)
        dscale += d * value
        dshift += d
        tl.store(dx + at, (d * factor).to(dx.dtype.element_ty), mask=exists)
    out = sums + tl.program_id(0) * 2 * channels + c
    tl.store(out, tl.sum(dscale, 0).to(sums.dtype.element_ty), mask=within)
    tl.store(out + channels, tl.sum(dshift, 0).to(sums.dtype.element_ty), mask=within)
