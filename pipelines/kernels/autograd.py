"""`edge_reduce` for autograd, from the two passes over the edges that an implementation has.

They are apart from autograd for those who keep something else for the backward pass than u and v,
as `model.linear` does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Passes(NamedTuple):
    """The two passes, neither of which autograd follows.

    Shapes: u, v, extreme, g, du, dv (B, N, C); winner (B, N, C) or with more channels, integers;
    index (B, N, k) int32; sign (C,); both sums and their gradients g1, g2 (C,) float64.

    Attributes:
        reduce: (u or None, v, index, sign, *, relu, moments) → extreme, winner, Σ e, Σ e²: as
            `pipelines.kernels.edge_reduce`, and which place in `index` has the extreme. No u means
            zeros. Without `moments` the sums are empty.
        spread: (u or None, v or None, index, winner, (g, g1, g2), *, relu, moments) → du, dv: the
            gradients of u and v. Without `relu` and `moments` u and v may both be None.
    """

    reduce: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]
    spread: Callable[..., tuple[Tensor, Tensor]]


def edge_reduce(
    passes: Passes,
    u: Tensor | None,
    v: Tensor,
    index: Tensor,
    sign: Tensor,
    *,
    relu: bool,
    moments: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Reduce u_i + v_j over the edges; see `pipelines.kernels.edge_reduce`. No u means zeros."""
    extreme, first, second = _Reduce.apply(passes, u, v, index, sign, bool(relu), bool(moments))
    return (extreme, first, second) if moments else (extreme, None, None)


class _Reduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        passes, u, v, index, sign, relu, moments = args
        extreme, winner, *sums = passes.reduce(u, v, index, sign, relu=relu, moments=moments)
        if not moments:
            ctx.mark_non_differentiable(*sums)
        ctx.passes, ctx.has_u, ctx.flags = passes, u is not None, (relu, moments)
        ctx.save_for_backward(*((u, v) if relu or moments else (None, None)), index, winner)
        return extreme, *sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        relu, moments = ctx.flags
        du, dv = ctx.passes.spread(*ctx.saved_tensors, grads, relu=relu, moments=moments)
        return None, du if ctx.has_u else None, dv, None, None, None, None
