"""Reduction over the points of a block on a GPU, in PyTorch's own operations.

They are as fast as the memory there; what is saved is the memory for values after the activation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipelines.kernels.reductions import row_sums


def point_reduce(
    x: Tensor, sign: Tensor, *, relu: bool, moments: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Reduce x over the points; see `pipelines.kernels.point_reduce`."""
    extreme, first, second = _Reduce.apply(x, sign, bool(relu), bool(moments))
    return (extreme, first, second) if moments else (extreme, None, None)


class _Reduce(torch.autograd.Function):
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
