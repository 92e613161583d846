"""Reduction over the points of a block on the CPU: extremes and moments in one pass.

A task is a range of points of one block, whatever the number of threads, and the tasks' results are
joined in their order, so no bit depends on the threads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipelines.kernels import reference
from pipelines.kernels import threads as team
from pipelines.kernels.edges.cpu import FAST, flat, pad

from . import cpu_loops as loops


def point_reduce(
    x: Tensor, sign: Tensor, *, relu: bool, moments: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Reduce x over the points; see `pipelines.kernels.point_reduce`."""
    if x.dtype not in FAST:
        return reference.point_reduce(x, sign, relu=relu, moments=moments)
    channels = x.shape[-1]
    direction = pad(torch.where(sign < 0, -1.0, 1.0).to(x.dtype))
    extreme, first, second = _Reduce.apply(pad(x), direction, bool(relu), bool(moments))
    extreme = extreme[..., :channels]
    return (extreme, first[:channels], second[:channels]) if moments else (extreme, None, None)


class _Reduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        x, direction, relu, moments = args
        batch, points, channels = x.shape
        parts = -(-points // loops.POINTS)
        best = x.new_empty(batch, parts, channels)
        place = torch.empty(batch, parts, channels, dtype=torch.int32)
        sums = torch.zeros(batch * parts, 2, channels if moments else 0, dtype=torch.float64)
        ctx.flags = flags = relu, moments
        arrays = flat(x, direction, best, place, sums)
        team.run(loops.reduce_all, (*arrays, (points, channels), flags), batch * parts)
        extreme, part = best.max(dim=1)  # (B, C)
        winner = place.gather(1, part.unsqueeze(1)).squeeze(1)
        first, second = sums.sum(dim=0)
        if not moments:
            ctx.mark_non_differentiable(first, second)
        ctx.save_for_backward(x, winner)
        return extreme * direction, first, second

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        x, winner = ctx.saved_tensors
        batch, points, channels = x.shape
        relu, moments = ctx.flags
        g = grads[0].contiguous()
        first, second = grads[1:] if moments else (g.new_zeros(channels),) * 2
        linear = flat(first.to(x.dtype), 2 * second.to(x.dtype))
        dx = torch.empty_like(x)
        shared = (*flat(x, winner, g), *linear, *flat(dx), (points, channels), (relu, moments))
        team.run(loops.spread_all, shared, batch * -(-points // loops.POINTS))
        return dx, None, None, None
