"""The unit that everything is built of: a linear map with batch norm and an activation.

A 1 × 1 convolution over points (or edges) is a linear map of their channels, so arrays keep the
shape (…, C) throughout.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import ModelConfig


@dataclass(frozen=True)
class Style:
    """What the two releases and DGCNN do differently inside a unit.

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
    def of(cls, config: ModelConfig) -> Style:
        """Return the style of a network."""
        if config.arch == "dgcnn":
            return cls(norm_first=True, eps=1e-5, slope=0.2, bias=False)
        if config.layout == "paper":
            return cls(norm_first=True, eps=1e-3)
        return cls(norm_first=False, eps=1e-5)


class Unit(nn.Module):
    """A linear map with batch norm and an activation, in the order of its style."""

    def __init__(self, in_channels: int, out_channels: int, style: Style) -> None:
        super().__init__()
        self.style = style
        self.linear = nn.Linear(in_channels, out_channels, bias=style.bias)
        self.norm = nn.BatchNorm1d(out_channels, eps=style.eps)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, in_channels) to (B, N, out_channels)."""
        return self.finish(self.linear(x))

    def finish(self, x: Tensor) -> Tensor:
        """Apply norm and activation to what the linear map gave, (…, out_channels)."""
        if self.style.norm_first:
            return self.activate(self.normalize(x))
        return self.normalize(self.activate(x))

    def activate(self, x: Tensor) -> Tensor:
        """Apply the activation."""
        return F.leaky_relu(x, self.style.slope) if self.style.slope else F.relu(x)

    def normalize(self, x: Tensor) -> Tensor:
        """Apply batch norm over all dimensions but the last."""
        return self.norm(x.reshape(-1, x.shape[-1])).view(x.shape)


def batch_moments(first: Tensor, second: Tensor, count: int | Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the biased variance (C,) from Σ e and Σ e² over `count` values."""
    mean = first / count
    return mean, (second / count - mean.square()).clamp_min(0)


def normalize_with(norm: nn.BatchNorm1d, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """Normalise x (…, C) by given moments, as `norm` would if it had computed them itself."""
    scale = norm.weight * torch.rsqrt(var + norm.eps).to(x.dtype)
    return x * scale + (norm.bias - mean.to(x.dtype) * scale)


@torch.no_grad()
def track(norm: nn.BatchNorm1d, mean: Tensor, var: Tensor, count: int | Tensor) -> None:
    """Move the running statistics of `norm` towards a batch's, as PyTorch's batch norm does."""
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
    norm: nn.BatchNorm1d, x: Tensor, first: Tensor | None, second: Tensor | None, count: int
) -> Tensor:
    """Apply `norm` to x with the batch statistics of a larger set, known by its sums.

    Args:
        norm: the batch norm; in evaluation its running statistics are used, as always.
        x: (…, C).
        first: Σ e (C,) over the set, None in evaluation.
        second: Σ e² (C,) over the set, None in evaluation.
        count: how many values per channel the set has.
    """
    if first is None or second is None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        return normalize_with(norm, x, norm.running_mean, norm.running_var)
    mean, var = batch_moments(first, second, count)
    track(norm, mean, var, count)
    return normalize_with(norm, x, mean, var)
