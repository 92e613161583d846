"""EdgeConv's linear map with its reduction over the edges, of which only the input is kept.

Batch statistics make the gradients of a reduction depend on u and v, two arrays of the size of the
input. The backward pass computes them again, from the input: two of its six products.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipelines import kernels

from .linear import Products, linear, rows


def split_edge_map(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return u and v (B, N, C') with W [x_i ; x_j − x_i] + b = u_i + v_j.

    Args:
        x: (B, N, C).
        weight: W (C', 2C).
        bias: b (C',).
    """
    own, relative = weight.chunk(2, dim=1)
    return linear(x, own - relative, bias), linear(x, relative)


def edge_map_reduce(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    index: Tensor,
    sign: Tensor,
    *,
    relu: bool,
    moments: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Reduce the edge values W [x_i ; x_j − x_i] + b; see `pipelines.kernels.edge_reduce`."""
    passes = kernels.edge_passes(x)
    if passes is None or not torch.is_grad_enabled():
        u, v = split_edge_map(x, weight, bias)
        return kernels.edge_reduce(u, v, index, sign, relu=relu, moments=moments)
    extreme, first, second = _MapReduce.apply(passes, x, weight, bias, index, sign, relu, moments)
    return (extreme, first, second) if moments else (extreme, None, None)


class _MapReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        passes, x, weight, bias, index, sign, relu, moments = args
        ctx.product = Products(x)
        u, v = split_edge_map(x, weight, bias)
        extreme, winner, *sums = passes.reduce(u, v, index, sign, relu=relu, moments=moments)
        if not moments:
            ctx.mark_non_differentiable(*sums)
        ctx.passes, ctx.flags = passes, (relu, moments)
        ctx.save_for_backward(x, weight, bias, index, winner)
        return extreme, *sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        x, weight, bias, index, winner = ctx.saved_tensors
        relu, moments = ctx.flags
        u = v = None
        if relu or moments:
            with ctx.product.again():
                u, v = split_edge_map(x, weight, bias)
        spread = ctx.passes.spread(u, v, index, winner, grads, relu=relu, moments=moments)
        du, dv = (rows(each) for each in spread)
        return None, *_map_gradients(ctx, du, dv, x, weight), *(None,) * 4


def _map_gradients(
    ctx: Any, du: Tensor, dv: Tensor, x: Tensor, weight: Tensor
) -> tuple[Tensor | None, ...]:
    """Return the gradients of x, weight and bias, from those of u and v as matrices (B·N, C')."""
    product, wanted = ctx.product, ctx.needs_input_grad[1:4]
    dx = dweight = None
    if wanted[0]:
        own, relative = weight.chunk(2, dim=1)
        dx = product.added(product(du, own - relative), dv, relative).view(x.shape)
    if wanted[1]:
        own, relative = (product(each.t(), rows(x)) for each in (du, dv))
        dweight = torch.cat([own, relative.sub_(own)], dim=1)
    return dx, dweight, du.sum(0) if wanted[2] else None
