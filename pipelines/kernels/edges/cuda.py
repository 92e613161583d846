"""EdgeConv and MRConv reductions in Triton: one pass over the edges each way, none stored.

The forward pass keeps the place of the winning neighbour for each point and channel, the backward
pass computes the edge values again. The gradient of a source point is added up by one program, over
the edges that leave it, in the order of their targets: the result is always the same, to the bit.
`cuda_edge_programs` has the Triton programs.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipelines.kernels import autograd as passes
from pipelines.kernels.knn_search.cuda import on

from . import triton_kernels as programs
from .reverse import number_type, reverse, sources

NUMBERS = 1024  # of a program's array of points (or edges) and channels
MOST_BLOCK = 64  # channels of a program
WARPS = 4
EDGES = 4  # that a program of one source adds up at a time
SOURCE_WARPS = 1  # of such a program
SUMMED = 16  # rows that a program of `sum_rows` adds up at a time
LONG = 1 << 31  # edges or numbers of an array that 32 bits cannot count
WINNER_FIRST = False  # see `cuda_edge_programs.spread_to_sources`


def neighbor_max(x: Tensor, index: Tensor) -> Tensor:
    """Return max_j x_j; see `pipelines.kernels.neighbor_max`."""
    sign = torch.ones(x.shape[-1], dtype=x.dtype, device=x.device)
    return edge_reduce(None, x, index, sign, relu=False, moments=False)[0]


def neighbor_sum(x: Tensor, index: Tensor) -> Tensor:
    """Return Σ_j x_j; see `pipelines.kernels.neighbor_sum`."""
    return _Sum.apply(x.contiguous(), index.contiguous())


def edge_reduce(
    u: Tensor | None, v: Tensor, index: Tensor, sign: Tensor, *, relu: bool, moments: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Reduce u_i + v_j over the edges; see `pipelines.kernels.edge_reduce`. No u means zeros.

    An index outside 0 … N − 1 gives NaN: a check that raises would stop the GPU in every layer.
    """
    return passes.edge_reduce(PASSES, u, v, index, sign, relu=relu, moments=moments)


def reduce(
    u: Tensor | None, v: Tensor, index: Tensor, sign: Tensor, *, relu: bool, moments: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Do the forward pass over the edges; see `passes.Passes`."""
    v, index = v.contiguous(), index.contiguous()
    own = v if u is None else u.contiguous()
    batch, points, channels = v.shape
    k = index.shape[-1]
    block, rows, grid = _shape(v)
    extreme = torch.empty_like(v)
    winner = torch.empty_like(v, dtype=torch.uint8 if k <= 256 else torch.int32)
    kept = (grid[0], 2, channels) if moments else (0, 2, channels)
    sums = torch.empty(kept, dtype=torch.float64, device=v.device)
    # `torch.where` would copy two numbers to the GPU and wait: no CUDA graph could record that.
    direction = (sign < 0).to(v.dtype) * -2 + 1
    with on(v.device):
        programs.reduce[grid](
            *(own, v, index, direction, extreme, winner, sums),
            *(batch * points, points, channels, k),
            HAS_U=u is not None,
            RELU=relu,
            MOMENTS=moments,
            ROWS=rows,
            BLOCK=block,
            WIDE=_wide(v, block),
            FLOAT=_float(v),
            num_warps=WARPS,
            enable_fp_fusion=True,
        )
    first, second = sums.sum(dim=0)
    return extreme, winner, first, second


def spread(
    u: Tensor | None,
    v: Tensor | None,
    index: Tensor,
    winner: Tensor,
    grads: tuple[Tensor, ...],
    *,
    relu: bool,
    moments: bool,
) -> tuple[Tensor, Tensor]:
    """Do the backward pass over the edges; see `passes.Passes`."""
    g, index = grads[0].contiguous(), index.contiguous()
    linear = g, g
    if moments:
        number = torch.float64 if g.dtype == torch.float64 else torch.float32
        linear = grads[1].to(number).contiguous(), (2 * grads[2]).to(number).contiguous()
    arrays = winner, g, *linear
    flags = {"HAS_U": u is not None, "RELU": relu, "MOMENTS": moments}
    v = g if v is None else v.contiguous()
    u = v if u is None else u.contiguous()
    du = _to_targets(u, v, index, arrays, flags)
    return du, _to_sources(u, v, reverse(index), index.shape[-1], arrays, flags)


PASSES = passes.Passes(reduce, spread)

Arrays = tuple[Tensor, ...]  # winner, the extremes' gradient, the sums' two


def _to_targets(
    u: Tensor, v: Tensor, index: Tensor, arrays: Arrays, flags: dict[str, bool]
) -> Tensor:
    """Return the gradient of u (B, N, C)."""
    g = arrays[1]
    if not (flags["RELU"] or flags["MOMENTS"]):
        return g
    batch, points, channels = g.shape
    block, rows, grid = _shape(g)
    du = torch.empty_like(u)
    with on(g.device):
        programs.spread_to_targets[grid](
            *(u, v, index, *arrays, du),
            *(batch * points, points, channels, index.shape[-1]),
            **flags,
            ROWS=rows,
            BLOCK=block,
            WIDE=_wide(v, block),
            FLOAT=_float(v),
            num_warps=WARPS,
            enable_fp_fusion=True,
        )
    return du


def _to_sources(
    u: Tensor,
    v: Tensor,
    graph: tuple[Tensor, Tensor],
    k: int,
    arrays: Arrays,
    flags: dict[str, bool],
) -> Tensor:
    """Return the gradient of v (B, N, C), by the `graph` that `reverse` returns."""
    g = arrays[1]
    batch, points, channels = v.shape
    block, _, _ = _shape(v)
    order, begin = graph
    dv = torch.empty_like(v)
    with on(v.device):
        programs.spread_to_sources[(batch * points, triton.cdiv(channels, block))](
            *(u, v, order, begin, begin.stride(0), *arrays, dv, channels, k),
            **flags,
            WINNER_FIRST=WINNER_FIRST,
            NUMBER=tl.uint64 if max(order.numel(), v.numel()) >= LONG else tl.uint32,
            EDGES=EDGES,
            BLOCK=block,
            WIDE=_wide(g, block),
            FLOAT=_float(v),
            num_warps=SOURCE_WARPS,
            enable_fp_fusion=True,
        )
    return dv


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        x, index = args
        ctx.save_for_backward(index)
        edges = index.numel()
        begin = torch.arange(
            0, edges + 1, index.shape[-1], dtype=number_type(index), device=x.device
        )
        return _sum_rows(x, sources(index), begin, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        (index,) = ctx.saved_tensors
        order, begin = reverse(index)
        return _sum_rows(grads[0].contiguous(), order, begin, index.shape[-1]), None


def _sum_rows(x: Tensor, edges: Tensor, begin: Tensor, k: int) -> Tensor:
    """Return, for each point, the sum of rows e // k of x (B, N, C) for its list of `edges` e."""
    batch, points, channels = x.shape
    block, _, _ = _shape(x)
    out = torch.empty_like(x)
    with on(x.device):
        programs.sum_rows[(batch * points, triton.cdiv(channels, block))](
            *(x, edges, begin, begin.stride(0), out, batch * points, channels, k),
            EDGES=SUMMED,
            BLOCK=block,
            WIDE=_wide(x, block),
            FLOAT=_float(x),
            num_warps=WARPS // 2,
            enable_fp_fusion=True,
        )
    return out


def _shape(x: Tensor) -> tuple[int, int, tuple[int, int]]:
    """Return a program's channels and points, and the grid that covers x (B, N, C)."""
    batch, points, channels = x.shape
    block = min(MOST_BLOCK, triton.next_power_of_2(channels))
    rows = NUMBERS // block
    return block, rows, (triton.cdiv(batch * points, rows), triton.cdiv(channels, block))


def _wide(x: Tensor, block: int) -> int:
    """Return how many channels of x a thread loads at once: 16 bytes."""
    return min(block, 16 // x.element_size())


def _float(x: Tensor) -> Any:
    """Return the type that a program computes in: float64, else float32."""
    return tl.float64 if x.dtype == torch.float64 else tl.float32
