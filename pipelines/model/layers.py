"""The unit that every part of the network is built of: linear map, batch norm and activation.

A 1 × 1 convolution over points or edges is a linear map of their channels, so arrays keep the shape
(…, C) throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from pipelines import kernels
from pipelines.kernels.reductions import row_sums

from .linear import linear, rows

# Sums a vector (n,) float64 over the ranks of a training; differentiable.
Reduce = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Style:
    """The details of a unit in which the two releases and DGCNN differ.

    Attributes:
        norm_first: linear → norm → activation (paper); else linear → activation → norm (torch).
        eps: batch-norm epsilon.
        slope: negative slope of the activation; 0 is ReLU.
        bias: whether the linear map has a bias.
    """

    norm_first: bool
    eps: float
    slope: float = 0.0
    bias: bool = True

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
        """Map (B, N, in_channels) to (B, N, out_channels)."""
        return self.finish(linear(x, self.linear.weight, self.linear.bias))

    def finish(self, x: Tensor) -> Tensor:
        """Apply norm and activation to the linear map's result (…, out_channels).

        May overwrite x.
        """
        if self.style.norm_first:
            # Activate before the view: writing in place into a view would cost a copy.
            return self.activate(self.norm(x.reshape(-1, x.shape[-1]))).view(x.shape)
        x = self.activate(x)
        return self.norm(x.reshape(-1, x.shape[-1])).view(x.shape)

    def finish_max(self, x: Tensor) -> Tensor:
        """Return max_i finish(x)_i (B, out_channels) over the points of x (B, N, out_channels).

        Norm and activation are monotone per channel, so they are applied to the largest or the
        smallest value alone, and nothing of x's size is stored.
        """
        extreme, total, squares = kernels.point_reduce(
            x,
            self.norm.weight.detach(),
            relu=not self.style.norm_first,
            moments=self.norm.training,
        )
        return self.finish_moments(extreme, total, squares, len(x) * x.shape[1])

    def finish_moments(
        self, x: Tensor, first: Tensor | None, second: Tensor | None, count: int
    ) -> Tensor:
        """Apply the norm, given its sums, and the activation if it comes after the norm.

        Args:
            x: (…, C), already activated if the activation comes first.
            first: Σ e (C,), or None in evaluation; as for `normalize_moments`.
            second: Σ e² (C,), or None in evaluation.
            count: how many values per channel were summed.
        """
        slope = self.style.slope if self.style.norm_first else None
        return normalize_moments(self.norm, x, first, second, count, slope=slope)

    def activate(self, x: Tensor) -> Tensor:
        """Apply the activation, in place."""
        return activate(x, self.style.slope)


def activate(x: Tensor, slope: float) -> Tensor:
    """Apply leaky_relu in place; with slope 0 every negative value becomes 0, even −∞."""
    return F.leaky_relu_(x, slope) if slope else F.relu_(x)


def activation_gradient(g: Tensor, x: Tensor, slope: float) -> Tensor:
    """Return the gradient of `activate`'s input x, given that of its result, g."""
    if slope:
        return torch.ops.aten.leaky_relu_backward(g, x, slope, False)
    return torch.ops.aten.threshold_backward(g, x, 0)


class Norm(nn.BatchNorm1d):
    """PyTorch's batch norm over rows (n, C), whose statistics may span several ranks.

    Attributes:
        reduce: sums the statistics of all ranks in training; None: only this rank's count.
    """

    reduce: Reduce | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.reduce is None or not self.training:
            return super().forward(x)
        first, second = _RowSums.apply(x)
        return normalize_moments(self, x, first, second, len(x))


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


def batch_moments(first: Tensor, second: Tensor, count: int | Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the biased variance (C,) from Σ e and Σ e² over `count` values.

    Example:
        >>> batch_moments(torch.tensor([6.0]), torch.tensor([20.0]), 2)
        (tensor([3.]), tensor([1.]))
    """
    mean = first / count
    return mean, (second / count - mean.square()).clamp_min(0)


def normalize_with(
    norm: nn.BatchNorm1d, x: Tensor, mean: Tensor, var: Tensor, slope: float | None = None
) -> Tensor:
    """Normalise x (…, C) by given moments with the scale and shift of `norm`.

    With a `slope` leaky_relu follows.
    """
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
        g = activation_gradient(grads[0], y, ctx.slope)
        dscale, dshift = rows(torch.mul(g, x, out=y)).sum(0), rows(g).sum(0)
        return g.mul_(scale), dscale, dshift, None


@torch.no_grad()
def track(norm: nn.BatchNorm1d, mean: Tensor, var: Tensor, count: int | Tensor) -> None:
    """Update the running statistics of `norm` with a batch's, as PyTorch's batch norm does."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    unbiased = var * (count / (count - 1))
    norm.num_batches_tracked.add_(1)
    momentum: float | Tensor
    if norm.momentum is None:  # the mean over all batches so far
        momentum = 1 / norm.num_batches_tracked.to(norm.running_mean.dtype)
    else:
        momentum = norm.momentum
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
    norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), momentum)


def normalize_moments(
    norm: Norm,
    x: Tensor,
    first: Tensor | None,
    second: Tensor | None,
    count: int,
    *,
    slope: float | None = None,
) -> Tensor:
    """Apply `norm` to x with the batch statistics of a larger set of values, given its sums.

    x is, for example, the maximum over each point's edges, and the set is all edges. The kernels
    deliver the sums, and `norm.reduce` sums them over the ranks.

    Args:
        norm: the batch norm; without sums its running statistics are used.
        x: (…, C).
        first: Σ e (C,) over the set, None in evaluation.
        second: Σ e² (C,) over the set, None in evaluation.
        count: how many values per channel the set has.
        slope: the negative slope of the activation that follows, None: no activation.

    Example:
        >>> edges = torch.rand(2, 5, 4, 3, dtype=torch.float64)  # (B, N, k, C)
        >>> norm, largest = Norm(3).double(), edges.amax(dim=2)
        >>> sums = edges.sum(dim=(0, 1, 2)), edges.square().sum(dim=(0, 1, 2))
        >>> found = normalize_moments(norm, largest, *sums, count=2 * 5 * 4)
        >>> expected = Norm(3).double()(edges.view(-1, 3)).view(edges.shape).amax(dim=2)
        >>> torch.allclose(found, expected)
        True
    """
    if first is None or second is None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        return normalize_with(norm, x, norm.running_mean, norm.running_var, slope)
    number: int | Tensor = count
    if norm.reduce is not None:
        sums = norm.reduce(torch.cat([first, second, first.new_tensor([count])]))
        first, second = sums[:-1].chunk(2)
        number = sums[-1].detach()
    mean, var = batch_moments(first, second, number)
    track(norm, mean, var, number)
    return normalize_with(norm, x, mean, var, slope)
