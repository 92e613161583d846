"""The graph convolutions: a point's new features from its own and its neighbours'.

Each is a module `Conv(in_channels, out_channels, …)` whose forward pass maps x (B, N, C) and
index (B, N, k) int32, the neighbours of each point within its block, to (B, N, C').
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from pipelines import kernels

from .layers import Matmul, Norm, Style, Unit, linear, rows


class EdgeConv(nn.Module):
    """Compute max_j MLP([x_i, x_j − x_i]), with one or more units in the MLP.

    With one unit no edge is ever stored. The linear map W = [W_a, W_b] splits,

        W [x_i ; x_j − x_i] + b = ((W_a − W_b) x_i + b) + W_b x_j = u_i + v_j,

    and norm and activation are monotone per channel: where the norm's scale is positive the largest
    edge value gives the maximum, where it is negative the smallest.

    Reference:
        Wang et al., Dynamic Graph CNN, TOG 2019, equation 7; Li et al., DeepGCNs, ICCV 2019.

    Example:
        >>> x, index = torch.rand(2, 50, 9), torch.zeros(2, 50, 4, dtype=torch.int32)
        >>> EdgeConv(9, 64, Style.of("paper"))(x, index).shape
        torch.Size([2, 50, 64])
    """

    def __init__(
        self, in_channels: int, out_channels: int, style: Style, *, units: int = 1
    ) -> None:
        super().__init__()
        widths = (2 * in_channels, *[out_channels] * units)
        self.mlp = nn.ModuleList([Unit(*pair, style) for pair in itertools.pairwise(widths)])

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        first = self.mlp[0]
        assert isinstance(first, Unit)
        weight, bias = first.linear.weight, first.linear.bias
        if len(self.mlp) > 1:
            u, v = split_edge_map(x, weight, bias)  # (B, N, C')
            edges = first.finish(u.unsqueeze(2) + kernels.gather(v, index))  # (B, N, k, C')
            for unit in list(self.mlp)[1:]:
                edges = unit(edges)
            return edges.max(dim=2).values
        sign, relu = first.norm.weight.detach(), not first.style.norm_first
        extreme, *sums = edge_map_reduce(
            x, weight, bias, index, sign, relu=relu, moments=first.norm.training
        )  # (B, N, C')
        return first.finish_moments(extreme, index.numel(), *sums)


def split_edge_map(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return u and v (B, N, C') with W [x_i ; x_j − x_i] + b = u_i + v_j.

    x is (B, N, C), the weight W (C', 2C) and the bias b (C',).

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
        du, dv = (rows(each) for each in gradients)  # (B·N, C')
        matmul, wanted = ctx.matmul, ctx.needs_input_grad[1:4]
        dx = dweight = None
        if wanted[0]:
            own, relative = weight.chunk(2, dim=1)
            dx = matmul.added(matmul(du, own - relative), dv, relative).view(x.shape)
        if wanted[1]:
            own, relative = (matmul(each.t(), rows(x)) for each in (du, dv))
            dweight = torch.cat([own, relative.sub_(own)], dim=1)
        return None, dx, dweight, du.sum(0) if wanted[2] else None, *(None,) * 4


class MRConv(nn.Module):
    """Compute MLP([x_i, max_j (x_j − x_i)]), the max-relative graph convolution.

    Reference:
        Li et al., DeepGCNs, TPAMI 2021, section 3.2 (MRGCN).

    Example:
        >>> x, index = torch.rand(2, 50, 9), torch.zeros(2, 50, 4, dtype=torch.int32)
        >>> MRConv(9, 64, Style.of("paper"))(x, index).shape
        torch.Size([2, 50, 64])
    """

    def __init__(self, in_channels: int, out_channels: int, style: Style) -> None:
        super().__init__()
        self.mlp = Unit(2 * in_channels, out_channels, style)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        relative = kernels.neighbor_max(x, index) - x
        return self.mlp(torch.cat([x, relative], dim=-1))


class SAGEConv(nn.Module):
    """Compute MLP₂([x_i, max_j MLP₁(x_j)]), optionally l2-normalised.

    MLP₁ depends on an edge's source alone, so it is computed once per point; its batch statistics
    weight a point by the number of edges that it is the source of.

    Reference:
        Hamilton et al., GraphSAGE, NeurIPS 2017; Li et al., DeepGCNs, TPAMI 2021, section 3.2.

    Example:
        >>> x, index = torch.rand(2, 50, 9), torch.zeros(2, 50, 4, dtype=torch.int32)
        >>> SAGEConv(9, 64, Style.of("paper"), l2=True)(x, index).shape
        torch.Size([2, 50, 64])
    """

    def __init__(self, in_channels: int, out_channels: int, style: Style, *, l2: bool) -> None:
        super().__init__()
        self.l2 = l2
        self.neighbor_mlp = Unit(in_channels, in_channels, style)
        self.mlp = Unit(2 * in_channels, out_channels, style)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        own = self.neighbor_mlp.linear
        message = finish_weighted(self.neighbor_mlp, linear(x, own.weight, own.bias), index)
        y = self.mlp(torch.cat([x, kernels.neighbor_max(message, index)], dim=-1))
        return F.normalize(y, dim=-1) if self.l2 else y


def finish_weighted(unit: Unit, x: Tensor, index: Tensor) -> Tensor:
    """Apply norm and activation to x (B, N, C), with batch statistics over all edges' sources."""
    x = x if unit.style.norm_first else unit.activate(x)
    if not unit.norm.training:
        return unit.finish_moments(x, 0, None, None)
    exact, sources = x.double(), index.long().flatten(1)  # (B, N, C), (B, N·k)
    ones = torch.ones_like(sources, dtype=exact.dtype)
    degree = torch.zeros_like(exact[..., 0]).scatter_add_(1, sources, ones).unsqueeze(-1)
    sums = (degree * exact).sum(dim=(0, 1)), (degree * exact.square()).sum(dim=(0, 1))
    return unit.finish_moments(x, index.numel(), *sums)


class GINConv(nn.Module):
    """Compute MLP((1 + ε) x_i + Σ_j x_j) with ε learned from 0, or fixed at 0.

    Reference:
        Xu et al., How Powerful are Graph Neural Networks?, ICLR 2019, equation 4.1.

    Example:
        >>> x, index = torch.rand(2, 50, 9), torch.zeros(2, 50, 4, dtype=torch.int32)
        >>> GINConv(9, 64, Style.of("paper"), learned_eps=True)(x, index).shape
        torch.Size([2, 50, 64])
    """

    def __init__(
        self, in_channels: int, out_channels: int, style: Style, *, learned_eps: bool
    ) -> None:
        super().__init__()
        self.eps = nn.Parameter(torch.zeros(1)) if learned_eps else None
        self.mlp = Unit(in_channels, out_channels, style)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        own = x if self.eps is None else (1 + self.eps) * x
        return self.mlp(own + kernels.neighbor_sum(x, index))


class PyGConv(nn.Module):
    """Follow a convolution of PyTorch Geometric, (x, edge_index) → x, by norm and activation.

    It runs without autocast: many of PyG's convolutions cannot mix dtypes.
    """

    def __init__(self, conv: nn.Module, out_channels: int, style: Style) -> None:
        super().__init__()
        self.conv = conv
        self.style = style
        self.norm = Norm(out_channels, eps=style.eps)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        B, N, C = x.shape
        with torch.autocast(x.device.type, enabled=False):
            y = self.conv(x.reshape(B * N, C), edge_index(index))  # (B·N, C')
        y = F.relu(self.norm(y)) if self.style.norm_first else self.norm(F.relu(y))
        return y.view(B, N, -1)


def edge_index(index: Tensor) -> Tensor:
    """Return PyG's edge_index (2, B·N·k) int64 of a batch: source j, then target i.

    Example:
        >>> edge_index(torch.tensor([[[0, 1], [1, 0]]])).tolist()
        [[0, 1, 1, 0], [0, 0, 1, 1]]
    """
    B, N, k = index.shape
    first = torch.arange(B, device=index.device).view(B, 1, 1) * N
    source = (index.long() + first).view(-1)
    target = torch.arange(B * N, device=index.device).repeat_interleave(k)
    return torch.stack([source, target])


OURS: dict[str, Callable[[int, int, Style], nn.Module]] = {
    "edge": EdgeConv,
    "mr": MRConv,
    "sage": partial(SAGEConv, l2=False),
    "sage-n": partial(SAGEConv, l2=True),
    "gin": partial(GINConv, learned_eps=True),
    "gin-0": partial(GINConv, learned_eps=False),
}
