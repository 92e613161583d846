"""The unit that every part of the network consists of: linear map, batch norm and activation.

A 1 × 1 convolution over points or edges is a linear map of their channels, so arrays keep the shape
(…, C) throughout. Linear maps are the only matrix multiplications that run in a lower precision
under autocast; their results, like everything else, keep the type of the input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from pipelines import kernels
from pipelines.kernels.reductions import row_sums

# Sums a vector (n,) float64 over the ranks of a training; differentiable.
Reduce = Callable[[Tensor], Tensor]
VALUES = 1 << 16  # of the 16 bits that dropout draws


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x Wᵀ + b in the type of x (…, C), with the weight W (C', C) and the bias b (C',).

    Autocast lowers the precision of the matmul alone.

    Example:
        >>> linear(torch.ones(2, 5, 3), torch.ones(4, 3)).shape
        torch.Size([2, 5, 4])
    """
    if kernels.uses_split_matmul(x, weight.t()):
        out: Tensor = _Linear.apply(x, weight, bias)
        return out
    return F.linear(x, weight, bias).to(x.dtype)


class Dropout(nn.Dropout):
    """Dropout that draws 16 random bits for a value on the CPU, where PyTorch takes 18 ns for each.

    The probability is rounded to a multiple of 2⁻¹⁶. On other devices it is PyTorch's own.

    Example:
        >>> Dropout(0.5)(torch.ones(1000)).unique()
        tensor([0., 2.])
    """

    def forward(self, x: Tensor) -> Tensor:
        dropped = round(self.p * VALUES)
        if not self.training or x.device.type != "cpu" or not 0 < dropped < VALUES:
            return super().forward(x)
        bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None)
        drawn = bits.view(torch.int16)[: x.numel()].view(x.shape)  # −VALUES / 2 … VALUES / 2 − 1
        kept = (drawn >= dropped - VALUES // 2).to(x.dtype)
        return x * kept.mul_(VALUES / (VALUES - dropped))


class Matmul:
    """Matrix multiplication in a backward pass, in the precision of the forward pass.

    It is created in the forward pass, with any of its tensors as x.
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
        """Return a b (n, m) for matrices (n, l) and (l, m), in the type of a."""
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


class Norm(nn.BatchNorm1d):
    """PyTorch's batch norm over rows (n, C), whose statistics may span several ranks."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float
    reduce: Reduce | None = None  # in training; None: the statistics of this rank alone

    def forward(self, x: Tensor) -> Tensor:
        if self.reduce is None or not self.training:
            return super().forward(x)
        return self.by_moments(x, len(x), *_RowSums.apply(x))

    def by_moments(
        self,
        x: Tensor,
        count: int,
        total: Tensor | None,
        squares: Tensor | None,
        *,
        slope: float | None = None,
    ) -> Tensor:
        """Normalise x with the batch statistics of a larger set of values e, given its sums.

        x is, for example, the maximum over each point's edges, and the set is all edges: the
        kernels return both without storing the edges.

        Args:
            x: (…, C).
            count: how many values per channel the set has.
            total: Σ e (C,) float64 over the set; None: use the running statistics.
            squares: Σ e² (C,) float64 over the set, or None.
            slope: the negative slope of the activation that follows; None: no activation.

        Example:
            >>> edges = torch.rand(2, 5, 4, 3, dtype=torch.float64)  # (B, N, k, C)
            >>> sums = edges.sum(dim=(0, 1, 2)), edges.square().sum(dim=(0, 1, 2))
            >>> found = Norm(3).double().by_moments(edges.amax(dim=2), 2 * 5 * 4, *sums)
            >>> expected = Norm(3).double()(edges.view(-1, 3)).view(edges.shape).amax(dim=2)
            >>> torch.allclose(found, expected)
            True
        """
        if total is None or squares is None:
            return normalize(self, x, self.running_mean, self.running_var, slope)
        number: int | Tensor = count
        if self.reduce is not None:
            sums = self.reduce(torch.cat([total, squares, total.new_tensor([count])]))
            total, squares = sums[:-1].chunk(2)
            number = sums[-1].detach()
        mean = total / number
        var = (squares / number - mean.square()).clamp_min(0)  # biased
        self._track(mean, var, number)
        return normalize(self, x, mean, var, slope)

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor, count: int | Tensor) -> None:
        """Move the running statistics towards a batch's mean and biased variance (C,)."""
        self.num_batches_tracked.add_(1)
        unbiased = var * (count / (count - 1))
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)


class _RowSums(torch.autograd.Function):
    """Sum x and x² over the rows of x (n, C) to (C,) float64, without a float64 copy of x."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        (x,) = args
        ctx.save_for_backward(x)
        return row_sums(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        (x,) = ctx.saved_tensors
        first, second = (grad.to(x.dtype) for grad in grads)
        return torch.addcmul(first, x, 2 * second)


def normalize(norm: Norm, x: Tensor, mean: Tensor, var: Tensor, slope: float | None) -> Tensor:
    """Normalise x (…, C) with the given moments (C,), followed by leaky_relu if `slope` is set."""
    scale = norm.weight * torch.rsqrt(var + norm.eps).to(x.dtype)
    shift = norm.bias - mean.to(x.dtype) * scale
    if slope is None:
        return torch.addcmul(shift, x, scale)
    activated: Tensor = _Activated.apply(x, scale, shift, slope)
    return activated


class _Activated(torch.autograd.Function):
    """Compute leaky_relu(scale · x + shift); only x is saved, the backward pass recomputes it."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        x, scale, shift, slope = args
        ctx.slope, ctx.ops = slope, kernels.activation_ops(x)
        ctx.save_for_backward(x, scale, shift)
        if ctx.ops is not None:
            found: Tensor = ctx.ops.activate(x, scale, shift, slope)
            return found
        return activate(torch.addcmul(shift, x, scale), slope)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        x, scale, shift = ctx.saved_tensors
        if ctx.ops is not None:
            return *ctx.ops.gradients(grads[0], x, scale, shift, ctx.slope), None
        y = torch.addcmul(shift, x, scale)
        if ctx.slope:
            g = torch.ops.aten.leaky_relu_backward(grads[0], y, ctx.slope, False)
        else:
            g = torch.ops.aten.threshold_backward(grads[0], y, 0)
        dscale, dshift = rows(torch.mul(g, x, out=y)).sum(0), rows(g).sum(0)
        return g.mul_(scale), dscale, dshift, None


def activate(x: Tensor, slope: float) -> Tensor:
    """Apply leaky_relu in place; with slope 0 every negative value becomes 0, even −∞."""
    return F.leaky_relu_(x, slope) if slope else F.relu_(x)


@dataclass(frozen=True)
class Style:
    """The details of a unit in which the two releases and DGCNN differ."""

    norm_first: bool  # linear → norm → activation (paper); else linear → activation → norm (torch)
    eps: float  # of the batch norm
    slope: float = 0.0  # negative slope of the activation; 0 is ReLU
    bias: bool = True  # whether the linear map has one

    @classmethod
    def of(cls, layout: str) -> Style:
        """Return the style of a release.

        Example:
            >>> Style.of("torch")
            Style(norm_first=False, eps=1e-05, slope=0.0, bias=True)
        """
        if layout == "paper":
            return cls(norm_first=True, eps=1e-3)
        return cls(norm_first=False, eps=1e-5)


class Unit(nn.Module):
    """A linear map with batch norm and an activation, in the order of its style.

    Example:
        >>> unit = Unit(6, 8, Style.of("paper"))
        >>> unit(torch.rand(2, 5, 6)).shape
        torch.Size([2, 5, 8])
    """

    def __init__(self, in_channels: int, out_channels: int, style: Style) -> None:
        super().__init__()
        self.style = style
        self.linear = nn.Linear(in_channels, out_channels, bias=style.bias)
        self.norm = Norm(out_channels, eps=style.eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.finish(linear(x, self.linear.weight, self.linear.bias))

    def finish(self, x: Tensor) -> Tensor:
        """Apply norm and activation to the linear map's result (…, C'); may overwrite it."""
        if self.style.norm_first:
            # Activate before the view: writing in place into a view would cost a copy.
            return self.activate(self.norm(rows(x))).view(x.shape)
        return self.norm(rows(self.activate(x))).view(x.shape)

    def finish_max(self, x: Tensor) -> Tensor:
        """Return max_i finish(x)_i (B, C') over the points of x (B, N, C').

        Norm and activation are monotone per channel, so they are applied to the largest or the
        smallest value alone, and nothing as large as x is stored.
        """
        sign, relu = self.norm.weight.detach(), not self.style.norm_first
        extreme, *sums = kernels.point_reduce(x, sign, relu=relu, moments=self.norm.training)
        return self.finish_moments(extreme, x.shape[0] * x.shape[1], *sums)

    def finish_moments(
        self, x: Tensor, count: int, total: Tensor | None, squares: Tensor | None
    ) -> Tensor:
        """Apply norm and activation to x (…, C'), given sums as for `Norm.by_moments`.

        If the activation comes first, x is already activated.
        """
        slope = self.style.slope if self.style.norm_first else None
        return self.norm.by_moments(x, count, total, squares, slope=slope)

    def activate(self, x: Tensor) -> Tensor:
        """Apply the activation, in place."""
        return activate(x, self.style.slope)
