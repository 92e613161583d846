"""Products with weights: the only ones whose numbers autocast shortens."""

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
    """Return x Wᵀ + b in the type of x: autocast shortens the numbers of the product alone."""
    if kernels.own_product(x, weight.t()):
        out: Tensor = _Linear.apply(x, weight, bias)
        return out
    return F.linear(x, weight, bias).to(x.dtype)


Map = tuple[Tensor, Tensor | None]  # weight (C', C) and bias (C',) of a linear map


def linear_pair(pieces: Sequence[Tensor], first: Map, second: Map) -> tuple[Tensor, Tensor]:
    """Return what `linear` gives for x and each of two maps, where x is `pieces` side by side.

    Kept for the backward pass are the pieces, which others may keep as well: it puts them side by
    side again. The gradient of x is added up in one array; autograd would take two of its size.

    Args:
        pieces: (…, C₁), (…, C₂), …
        first, second: maps of their channels, all together.
    """
    if not torch.is_grad_enabled():
        x = torch.cat(tuple(pieces), dim=-1)
        return linear(x, *first), linear(x, *second)
    one, two = _Pair.apply(*first, *second, *(rows(piece) for piece in pieces))
    shape = pieces[0].shape[:-1]
    return one.view(*shape, -1), two.view(*shape, -1)


class Products:
    """The products of a backward pass, in the precision of the forward pass that makes this.

    Args:
        x: a tensor of the forward pass.
    """

    def __init__(self, x: Tensor) -> None:
        self.device = x.device.type
        self.shorten = torch.is_autocast_enabled(self.device) and x.dtype != torch.float64
        self.type = torch.get_autocast_dtype(self.device)
        self.kernels = kernels.forced()  # a backward pass may be in a thread that has no `use`

    @contextmanager
    def again(self) -> Iterator[None]:
        """Use the autocast and the kernels of the forward pass within a `with` block."""
        with (
            torch.autocast(self.device, dtype=self.type, enabled=self.shorten),
            kernels.use(self.kernels),
        ):
            yield

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Return a b (n, m), of matrices (n, l) and (l, m), in the type of a."""
        with self.again():
            return kernels.product(a, b).to(a.dtype)

    def added(self, total: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Add a b to `total` (n, m), in place."""
        if self.shorten:
            return total.add_(self(a, b))
        with self.again():
            return kernels.product(a, b, total)


def rows(x: Tensor) -> Tensor:
    """Return (…, C) as a matrix (n, C)."""
    return x.reshape(-1, x.shape[-1])


class _Linear(torch.autograd.Function):
    """x Wᵀ + b by `kernels.product`, forward and backward; x is (…, C)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.product = Products(x)
        ctx.save_for_backward(x, weight)
        y = kernels.product(rows(x), weight.t(), bias=bias)
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        dy = rows(grad)
        return (
            ctx.product(dy, weight).view_as(x) if ctx.needs_input_grad[0] else None,
            ctx.product(dy.t(), rows(x)) if ctx.needs_input_grad[1] else None,
            dy.sum(0) if ctx.needs_input_grad[2] else None,
        )


class _Pair(torch.autograd.Function):
    """Both products of a matrix (n, C) in pieces (n, C₁), (n, C₂), …"""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        first, first_bias, second, second_bias, *pieces = args
        ctx.product = Products(pieces[0])
        ctx.save_for_backward(first, second, *pieces)
        x = torch.cat(pieces, dim=1)
        return linear(x, first, first_bias), linear(x, second, second_bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        first, second, *pieces = ctx.saved_tensors
        product, wanted = ctx.product, ctx.needs_input_grad
        one, two = grads
        x = torch.cat(pieces, dim=1) if wanted[0] or wanted[2] else None
        maps = (
            product(one.t(), x) if wanted[0] else None,
            one.sum(0) if wanted[1] else None,
            product(two.t(), x) if wanted[2] else None,
            two.sum(0) if wanted[3] else None,
        )
        del x  # before its gradient, which is as large
        if not any(wanted[4:]):
            return *maps, *(None,) * len(pieces)
        dx = product.added(product(one, first), two, second)
        return *maps, *dx.split([piece.shape[1] for piece in pieces], dim=1)
