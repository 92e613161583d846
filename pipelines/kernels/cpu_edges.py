"""EdgeConv and MRConv reductions on the CPU: one pass over the edges each way, none stored.

The forward pass keeps the place of the winning neighbour for each point and channel, the backward
pass computes the edge values again. No sum depends on the number of threads: forward, a task is a
range of points; backward it is a range of channels of one block, since a point's gradient goes to
the rows of its neighbours. `cpu_edge_loops` has the compiled loops.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from . import cpu_edge_loops as loops
from . import eager, team
from .simd import LANES

FAST = (torch.float32, torch.float64)


def neighbor_max(x: Tensor, index: Tensor) -> Tensor:
    """Return max_j x_j; see `pipelines.kernels.neighbor_max`."""
    if x.dtype not in FAST:
        return eager.neighbor_max(x, index)
    sign = torch.ones(x.shape[-1], dtype=x.dtype)
    return edge_reduce(None, x, index, sign, relu=False, moments=False)[0]


def neighbor_sum(x: Tensor, index: Tensor) -> Tensor:
    """Return Σ_j x_j; see `pipelines.kernels.neighbor_sum`."""
    if x.dtype not in FAST:
        return eager.neighbor_sum(x, index)
    check_index(index, x.shape[1])
    return _Sum.apply(pad(x), index.contiguous())[..., : x.shape[-1]]


def edge_reduce(
    u: Tensor | None, v: Tensor, index: Tensor, sign: Tensor, *, relu: bool, moments: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Reduce u_i + v_j over the edges; see `pipelines.kernels.edge_reduce`. No u means zeros."""
    if u is not None and v.dtype not in FAST:
        return eager.edge_reduce(u, v, index, sign, relu=relu, moments=moments)
    check_index(index, v.shape[1])
    channels = v.shape[-1]
    direction = pad(torch.where(sign < 0, -1.0, 1.0).to(v.dtype))
    extreme, first, second = _Reduce.apply(
        None if u is None else pad(u),
        pad(v),
        index.contiguous(),
        direction,
        bool(relu),
        bool(moments),
    )
    extreme = extreme[..., :channels]
    return (extreme, first[:channels], second[:channels]) if moments else (extreme, None, None)


def pad(x: Tensor) -> Tensor:
    """Return x contiguous, its last dimension filled up with zeros to whole vectors."""
    missing = -x.shape[-1] % LANES
    return F.pad(x, (0, missing)) if missing else x.contiguous()


def check_index(index: Tensor, points: int) -> None:
    """Raise IndexError unless all of `index` lies in 0 … points − 1: the loops don't look."""
    low, high = torch.aminmax(index)
    if low < 0 or high >= points:
        raise IndexError(f"neighbour index: found {low} to {high}, expected 0 to {points - 1}")


class _Reduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        u, v, index, direction, relu, moments = args
        batch, points, channels = v.shape
        winner = torch.empty(v.shape, dtype=_place_type(index))
        extreme = torch.empty_like(v)
        tasks = -(-batch * points // loops.POINTS)
        sums = torch.zeros(tasks, 2, channels if moments else 0, dtype=torch.float64)
        ctx.flags = flags = u is not None, relu, moments
        arrays = flat(v if u is None else u, v, index, direction, extreme, winner, sums)
        team.run(loops.reduce_all, (*arrays, _sizes(v, index), flags), tasks)
        first, second = sums.sum(dim=0)
        if not moments:
            ctx.mark_non_differentiable(first, second)
        needed = (u, v) if relu or moments else (None, None)
        ctx.save_for_backward(*needed, index, winner)
        return extreme, first, second

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        u, v, index, winner = ctx.saved_tensors
        has_u, _, moments = ctx.flags
        g = grads[0].contiguous()
        du, dv = torch.empty_like(g), torch.zeros_like(g)
        v = g if v is None else v
        arrays = flat(v if u is None else u, v, index, winner, g)
        shared = _sizes(g, index), ctx.flags
        if moments:
            linear = flat(grads[1].to(g.dtype), 2 * grads[2].to(g.dtype))
            shared = (*arrays, *linear, *flat(du, dv), *shared)
            team.run(loops.spread_all, shared, _channel_tasks(g))
        else:
            shared = (*arrays, *flat(du, dv), *shared)
            team.run(loops.spread_winners_all, shared, _channel_tasks(g))
        return du if has_u else None, dv, None, None, None, None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        x, index = args
        ctx.save_for_backward(index)
        total = torch.empty_like(x)
        tasks = -(-x.shape[0] * x.shape[1] // loops.POINTS)
        team.run(loops.gather_sum_all, (*flat(x, index, total), _sizes(x, index)), tasks)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        (index,) = ctx.saved_tensors
        g = grads[0].contiguous()
        total = torch.zeros_like(g)
        shared = (*flat(g, index, total), _sizes(g, index))
        team.run(loops.scatter_sum_all, shared, _channel_tasks(g))
        return total, None


def _place_type(index: Tensor) -> torch.dtype:
    return torch.uint8 if index.shape[-1] <= 256 else torch.int32


def flat(*tensors: Tensor) -> tuple[np.ndarray, ...]:
    """Return contiguous tensors as flat arrays that share their memory."""
    return tuple(tensor.detach().view(-1).numpy() for tensor in tensors)


def _sizes(x: Tensor, index: Tensor) -> tuple[int, int, int]:
    return x.shape[1], x.shape[2], index.shape[-1]


def _channel_tasks(x: Tensor) -> int:
    return x.shape[0] * -(-x.shape[-1] // loops.CHANNELS)
