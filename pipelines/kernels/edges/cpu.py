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

from pipelines.kernels import autograd as passes
from pipelines.kernels import reference
from pipelines.kernels import threads as team
from pipelines.kernels.simd import LANES

from . import cpu_loops as loops

FAST = (torch.float32, torch.float64)


def neighbor_max(x: Tensor, index: Tensor) -> Tensor:
    """Return max_j x_j; see `pipelines.kernels.neighbor_max`."""
    if x.dtype not in FAST:
        return reference.neighbor_max(x, index)
    sign = torch.ones(x.shape[-1], dtype=x.dtype)
    return edge_reduce(None, x, index, sign, relu=False, moments=False)[0]


def neighbor_sum(x: Tensor, index: Tensor) -> Tensor:
    """Return Σ_j x_j; see `pipelines.kernels.neighbor_sum`."""
    if x.dtype not in FAST:
        return reference.neighbor_sum(x, index)
    check_index(index, x.shape[1])
    return _Sum.apply(pad(x), index.contiguous())[..., : x.shape[-1]]


def edge_reduce(
    u: Tensor | None, v: Tensor, index: Tensor, sign: Tensor, *, relu: bool, moments: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Reduce u_i + v_j over the edges; see `pipelines.kernels.edge_reduce`. No u means zeros."""
    if u is not None and v.dtype not in FAST:
        return reference.edge_reduce(u, v, index, sign, relu=relu, moments=moments)
    return passes.edge_reduce(PASSES, u, v, index, sign, relu=relu, moments=moments)


def edge_passes(x: Tensor) -> passes.Passes | None:
    """Return the two passes of `edge_reduce`; see `pipelines.kernels.edge_passes`."""
    return PASSES if x.dtype in FAST else None


def reduce(
    u: Tensor | None, v: Tensor, index: Tensor, sign: Tensor, *, relu: bool, moments: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Do the forward pass over the edges; see `passes.Passes`."""
    check_index(index, v.shape[1])
    channels = v.shape[-1]
    u, v = None if u is None else pad(u), pad(v)
    batch, points, padded = v.shape
    direction = pad(torch.where(sign < 0, -1.0, 1.0).to(v.dtype))
    winner = torch.empty(v.shape, dtype=_place_type(index))
    extreme = torch.empty_like(v)
    tasks = -(-batch * points // loops.POINTS)
    sums = torch.zeros(tasks, 2, padded if moments else 0, dtype=torch.float64)
    arrays = flat(v if u is None else u, v, index.contiguous(), direction, extreme, winner, sums)
    flags = u is not None, relu, moments
    team.run(loops.reduce_all, (*arrays, _sizes(v, index), flags), tasks)
    first, second = sums[..., :channels].sum(dim=0)
    return extreme[..., :channels], winner, first, second


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
    channels = grads[0].shape[-1]
    g = pad(grads[0])
    u, v = (None if each is None else pad(each) for each in (u, v))
    du, dv = torch.empty_like(g), torch.zeros_like(g)
    flags = u is not None, relu, moments
    v = g if v is None else v
    arrays = flat(v if u is None else u, v, index.contiguous(), winner, g)
    shared = *flat(du, dv), _sizes(g, index), flags
    if moments:
        constant, slope = (pad(each.to(g.dtype)) for each in (grads[1], 2 * grads[2]))
        team.run(loops.spread_all, (*arrays, *flat(constant, slope), *shared), _channel_tasks(g))
    else:
        team.run(loops.spread_winners_all, (*arrays, *shared), _channel_tasks(g))
    return du[..., :channels], dv[..., :channels]


PASSES = passes.Passes(reduce, spread)


def pad(x: Tensor) -> Tensor:
    """Return x contiguous, its last dimension filled up with zeros to whole vectors."""
    missing = -x.shape[-1] % LANES
    return F.pad(x, (0, missing)) if missing else x.contiguous()


def check_index(index: Tensor, points: int) -> None:
    """Raise IndexError unless all of `index` lies in 0 … points − 1: the loops don't look."""
    low, high = torch.aminmax(index)
    if low < 0 or high >= points:
        raise IndexError(f"neighbour index: found {low} to {high}, expected 0 to {points - 1}")


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
