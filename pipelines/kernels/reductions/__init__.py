"""Reductions over edges and over points for autograd, and the sums of batch statistics.

`cpu` (Numba) and `cuda` (Triton) compute over edges without storing one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class EdgeOps(NamedTuple):
    """Compute `edge_reduce` forward and backward, outside autograd.

    They are for layers that save other tensors than u and v for the backward pass, as
    `pipelines.model.conv` does.

    Shapes: u, v, extreme, g, du, dv (B, N, C); winner (B, N, C) or with more channels, integers;
    index (B, N, k) int32; sign (C,); both sums and their gradients g1, g2 (C,) float64.

    Attributes:
        forward: (u or None, v, index, sign, *, relu, moments) → extreme, winner, Σ e, Σ e²: as
            `pipelines.kernels.edge_reduce`, and the position in `index` of the extreme. No u means
            zeros. Without `moments` the sums are empty.
        backward: (u or None, v or None, index, winner, (g, g1, g2), *, relu, moments) → du, dv: the
            gradients of u and v. Without `relu` and `moments` u and v may both be None.
    """

    forward: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]
    backward: Callable[..., tuple[Tensor, Tensor]]


def edge_reduce(
    ops: EdgeOps,
    u: Tensor | None,
    v: Tensor,
    index: Tensor,
    sign: Tensor,
    *,
    relu: bool,
    moments: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Reduce u_i + v_j over the edges; see `pipelines.kernels.edge_reduce`. No u means zeros."""
    extreme, first, second = _EdgeReduce.apply(ops, u, v, index, sign, bool(relu), bool(moments))
    return (extreme, first, second) if moments else (extreme, None, None)


class _EdgeReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        ops, u, v, index, sign, relu, moments = args
        extreme, winner, *sums = ops.forward(u, v, index, sign, relu=relu, moments=moments)
        if not moments:
            ctx.mark_non_differentiable(*sums)
        ctx.ops, ctx.has_u, ctx.flags = ops, u is not None, (relu, moments)
        ctx.save_for_backward(*((u, v) if relu or moments else (None, None)), index, winner)
        return extreme, *sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        relu, moments = ctx.flags
        du, dv = ctx.ops.backward(*ctx.saved_tensors, grads, relu=relu, moments=moments)
        return None, du if ctx.has_u else None, dv, None, None, None, None


def point_reduce(
    x: Tensor, sign: Tensor, *, relu: bool, moments: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Reduce x over the points in PyTorch's own operations; see `pipelines.kernels.point_reduce`.

    On a GPU they are as fast as its memory. Unlike `reference`, nothing after the activation is
    saved for the backward pass.
    """
    extreme, first, second = _PointReduce.apply(x, sign, bool(relu), bool(moments))
    return (extreme, first, second) if moments else (extreme, None, None)


class _PointReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        x, sign, relu, moments = args
        high, at_high = x.max(dim=1)
        low, at_low = x.min(dim=1)
        extreme = torch.where(sign < 0, low, high)  # (B, C)
        first = second = extreme.new_zeros(0, dtype=torch.float64)
        if moments:
            rows = x.reshape(-1, x.shape[-1])
            first, second = row_sums(rows.relu() if relu else rows)
        else:
            ctx.mark_non_differentiable(first, second)
        ctx.flags = relu, moments
        ctx.save_for_backward(x, torch.where(sign < 0, at_low, at_high))
        return extreme.relu() if relu else extreme, first, second

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        x, winner = ctx.saved_tensors
        relu, moments = ctx.flags
        if moments:
            first, second = (grad.to(x.dtype) for grad in grads[1:])
            dx = torch.addcmul(first, x, 2 * second)
        else:
            dx = torch.zeros_like(x)
        dx.scatter_add_(1, winner.unsqueeze(1), grads[0].unsqueeze(1))
        return (dx.mul_(x > 0) if relu else dx), None, None, None


def row_sums(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return Σ x and Σ x² (C,) float64 over rows (n, C) of any type, without a float64 copy.

    Squares are taken around the mean: of large values, rounding would hide a small variance.
    """
    total = rows.sum(dim=0)
    mean = total / len(rows)
    centred = (rows - mean).square_().sum(dim=0).double()
    first, mean = total.double(), mean.double()
    return first, centred + 2 * mean * first - len(rows) * mean.square()
