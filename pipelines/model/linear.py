"""Linear maps of channels, with what their backward passes keep and recompute.

These are the only matrix multiplications that run in a lower precision under autocast; their
results, like everything else, keep the type of the input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from pipelines import kernels


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x Wᵀ + b in the type of x; autocast lowers the precision of the matmul alone.

    Args:
        x: (…, C).
        weight: W (C', C).
        bias: b (C',).

    Example:
        >>> linear(torch.ones(2, 5, 3), torch.ones(4, 3)).shape
        torch.Size([2, 5, 4])
    """
    if kernels.uses_split_matmul(x, weight.t()):
        out: Tensor = _Linear.apply(x, weight, bias)
        return out
    return F.linear(x, weight, bias).to(x.dtype)


Map = tuple[Tensor, Tensor | None]  # weight (C', C) and bias (C',) of a linear map


def linear_pair(pieces: Sequence[Tensor], first: Map, second: Map) -> tuple[Tensor, Tensor]:
    """Return what `linear` gives for x and each of two maps, where x concatenates `pieces`.

    Only the pieces are saved, which other layers save anyway: the backward pass concatenates them
    again, and accumulates the gradient of x in one array where autograd would allocate two.

    Args:
        pieces: (…, C₁), (…, C₂), …
        first: weight (C', C₁ + C₂ + …) and bias (C',).
        second: likewise, with any C'.

    Example:
        >>> pieces, weight = [torch.ones(2, 5, 3), torch.ones(2, 5, 3)], torch.ones(4, 6)
        >>> [tuple(y.shape) for y in linear_pair(pieces, (weight, None), (weight, None))]
        [(2, 5, 4), (2, 5, 4)]
    """
    if not torch.is_grad_enabled():
        x = torch.cat(tuple(pieces), dim=-1)
        return linear(x, *first), linear(x, *second)
    one, two = _Pair.apply(*first, *second, *(rows(piece) for piece in pieces))
    shape = pieces[0].shape[:-1]
    return one.view(*shape, -1), two.view(*shape, -1)


class Matmul:
    """Matrix multiplication in a backward pass, in the precision of the forward pass.

    It is created in the forward pass, of which x is any tensor.
    """

    def __init__(self, x: Tensor) -> None:
        self.device = x.device.type
        self.lower = torch.is_autocast_enabled(self.device) and x.dtype != torch.float64
        self.dtype = torch.get_autocast_dtype(self.device)
        self.kernels = kernels.forced()  # autograd's own threads do not see `kernels.use`

    @contextmanager
    def as_in_forward(self) -> Iterator[None]:
        """Use the forward pass's autocast state and kernels in a `with` block."""
        with (
            torch.autocast(self.device, dtype=self.dtype, enabled=self.lower),
            kernels.use(self.kernels),
        ):
            yield

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Return a b (n, m), of matrices (n, l) and (l, m), in the type of a."""
        with self.as_in_forward():
            return kernels.matmul(a, b).to(a.dtype)

    def added(self, total: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Add a b to `total` (n, m), in place."""
        if self.lower:
            return total.add_(self(a, b))
        with self.as_in_forward():
            return kernels.matmul(a, b, total)


def rows(x: Tensor) -> Tensor:
    """Return (…, C) as a matrix (n, C)."""
    return x.reshape(-1, x.shape[-1])


class _Linear(torch.autograd.Function):
    """Compute x Wᵀ + b (x is (…, C)) by `kernels.matmul`, forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.matmul = Matmul(x)
        ctx.save_for_backward(x, weight)
        y = kernels.matmul(rows(x), weight.t(), bias=bias)
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        dy = rows(grad)
        return (
            ctx.matmul(dy, weight).view_as(x) if ctx.needs_input_grad[0] else None,
            ctx.matmul(dy.t(), rows(x)) if ctx.needs_input_grad[1] else None,
            dy.sum(0) if ctx.needs_input_grad[2] else None,
        )


class _Pair(torch.autograd.Function):
    """Apply two maps to a matrix (n, C) that is given in pieces (n, C₁), (n, C₂), …"""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        first, first_bias, second, second_bias, *pieces = args
        ctx.matmul = Matmul(pieces[0])
        ctx.save_for_backward(first, second, *pieces)
        x = torch.cat(pieces, dim=1)
        return linear(x, first, first_bias), linear(x, second, second_bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        first, second, *pieces = ctx.saved_tensors
        matmul, wanted = ctx.matmul, ctx.needs_input_grad
        one, two = grads
        x = torch.cat(pieces, dim=1) if wanted[0] or wanted[2] else None
        maps = (
            matmul(one.t(), x) if wanted[0] else None,
            one.sum(0) if wanted[1] else None,
            matmul(two.t(), x) if wanted[2] else None,
            two.sum(0) if wanted[3] else None,
        )
        del x  # before its gradient, which is as large
        if not any(wanted[4:]):
            return *maps, *(None,) * len(pieces)
        dx = matmul.added(matmul(one, first), two, second)
        return *maps, *dx.split([piece.shape[1] for piece in pieces], dim=1)


def split_edge_map(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return u and v (B, N, C') with W [x_i ; x_j − x_i] + b = u_i + v_j.

    Args:
        x: (B, N, C).
        weight: W (C', 2C).
        bias: b (C',).

    Example:
        >>> u, v = split_edge_map(torch.rand(2, 5, 3), torch.rand(4, 6), None)
        >>> u.shape == v.shape == (2, 5, 4)
        True
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
    """Reduce the edge values W [x_i ; x_j − x_i] + b; see `pipelines.kernels.edge_reduce`.

    For the backward pass only x is saved. If the gradients depend on u and v, as with batch
    statistics, they are recomputed: two of the backward pass's six matmuls.
    """
    ops = kernels.edge_ops(x)
    if ops is None or not torch.is_grad_enabled():
        u, v = split_edge_map(x, weight, bias)
        return kernels.edge_reduce(u, v, index, sign, relu=relu, moments=moments)
    extreme, first, second = _MapReduce.apply(ops, x, weight, bias, index, sign, relu, moments)
    return (extreme, first, second) if moments else (extreme, None, None)


class _MapReduce(torch.autograd.Function):
    """Reduce without keeping u and v."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        ops, x, weight, bias, index, sign, relu, moments = args
        ctx.matmul = Matmul(x)
        u, v = split_edge_map(x, weight, bias)
        extreme, winner, *sums = ops.forward(u, v, index, sign, relu=relu, moments=moments)
        if not moments:
            ctx.mark_non_differentiable(*sums)
        ctx.ops, ctx.flags = ops, (relu, moments)
        ctx.save_for_backward(x, weight, bias, index, winner)
        return extreme, *sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        x, weight, bias, index, winner = ctx.saved_tensors
        relu, moments = ctx.flags
        u = v = None
        if relu or moments:
            with ctx.matmul.as_in_forward():
                u, v = split_edge_map(x, weight, bias)
        gradients = ctx.ops.backward(u, v, index, winner, grads, relu=relu, moments=moments)
        du, dv = (rows(each) for each in gradients)
        return None, *_map_gradients(ctx, du, dv, x, weight), *(None,) * 4


def _map_gradients(
    ctx: Any, du: Tensor, dv: Tensor, x: Tensor, weight: Tensor
) -> tuple[Tensor | None, ...]:
    """Return the gradients of x, weight and bias, from those of u and v as matrices (B·N, C')."""
    matmul, wanted = ctx.matmul, ctx.needs_input_grad[1:4]
    dx = dweight = None
    if wanted[0]:
        own, relative = weight.chunk(2, dim=1)
        dx = matmul.added(matmul(du, own - relative), dv, relative).view(x.shape)
    if wanted[1]:
        own, relative = (matmul(each.t(), rows(x)) for each in (du, dv))
        dweight = torch.cat([own, relative.sub_(own)], dim=1)
    return dx, dweight, du.sum(0) if wanted[2] else None
