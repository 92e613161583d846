"""The vertex layers: how a point's new features follow from its own and its neighbours'.

Every layer maps x (B, N, C) and index (B, N, k) int32, the neighbours within the block, to
(B, N, C').
"""

from __future__ import annotations

import inspect
import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipelines import kernels
from pipelines.config import CONVS
from pipelines.errors import ConfigError, did_you_mean

from .edge_linear import edge_map_reduce, split_edge_map
from .layers import Norm, Style, Unit
from .linear import linear


class EdgeConv(nn.Module):
    """max_j MLP([x_i, x_j − x_i]) with one or more units in the MLP.

    With one unit no edge is ever stored. The linear map splits,

        W [x_i ; x_j − x_i] + b = ((W_a − W_b) x_i + b) + W_b x_j = u_i + v_j,

    and what follows it is monotone per channel: increasing where the norm's scale is positive,
    decreasing where it is negative, so the largest or the smallest edge decides.

    Reference:
        Wang et al., Dynamic Graph CNN, TOG 2019, equation 7; Li et al., DeepGCNs, ICCV 2019.
    """

    def __init__(self, in_channels: int, channels: tuple[int, ...], style: Style) -> None:
        super().__init__()
        widths = (2 * in_channels, *channels)
        self.mlp = nn.ModuleList([Unit(*pair, style) for pair in itertools.pairwise(widths)])

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        first = self.mlp[0]
        assert isinstance(first, Unit)
        edge_map = first.linear.weight, first.linear.bias
        if len(self.mlp) > 1:
            u, v = split_edge_map(x, *edge_map)
            edges = first.finish(u.unsqueeze(2) + kernels.gather(v, index))  # (B, N, k, C')
            for unit in list(self.mlp)[1:]:
                edges = unit(edges)
            return edges.max(dim=2).values
        extreme, total, squares = edge_map_reduce(
            x,
            *edge_map,
            index,
            first.norm.weight.detach(),
            relu=not first.style.norm_first,
            moments=first.norm.training,
        )
        return first.finish_moments(extreme, total, squares, index.numel())


class MRConv(nn.Module):
    """MLP([x_i, max_j (x_j − x_i)]), the max-relative graph convolution.

    Reference:
        Li et al., DeepGCNs, TPAMI 2021, section 3.2 (MRGCN).
    """

    def __init__(self, in_channels: int, out_channels: int, style: Style) -> None:
        super().__init__()
        self.mlp = Unit(2 * in_channels, out_channels, style)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        relative = kernels.neighbor_max(x, index) - x
        return self.mlp(torch.cat([x, relative], dim=-1))


class SAGEConv(nn.Module):
    """MLP₂([x_i, max_j MLP₁(x_j)]), optionally l2-normalised.

    MLP₁ acts on the edges' sources. It gives the same for every edge that leaves a point, so it is
    computed once a point, and its batch statistics count a point as often as it is a neighbour.

    Reference:
        Hamilton et al., GraphSAGE, NeurIPS 2017; Li et al., DeepGCNs, TPAMI 2021, section 3.2.
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
    """Apply norm and activation to x (B, N, C) with the statistics of all edges' sources."""
    x = x if unit.style.norm_first else unit.activate(x)
    if unit.norm.training:
        degree = in_degree(index).unsqueeze(-1)  # (B, N, 1)
        exact = x.double()
        total = (degree * exact).sum(dim=(0, 1))
        squares = (degree * exact.square()).sum(dim=(0, 1))
        return unit.finish_moments(x, total, squares, index.numel())
    return unit.finish_moments(x, None, None, 0)


def in_degree(index: Tensor) -> Tensor:
    """Return how often each point is a neighbour, (B, N) float64."""
    batch, points, _ = index.shape
    flat = index.long().view(batch, -1)
    ones = torch.ones_like(flat, dtype=torch.float64)
    return torch.zeros(batch, points, dtype=torch.float64, device=index.device).scatter_add_(
        1, flat, ones
    )


class GINConv(nn.Module):
    """MLP((1 + ε) x_i + Σ_j x_j) with ε learned from 0, or fixed at 0.

    Reference:
        Xu et al., How Powerful are Graph Neural Networks?, ICLR 2019, equation 4.1.
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
    """Any `torch_geometric.nn` convolution of (x, edge_index), with norm and activation.

    Autocast does not reach the convolution: many of PyG's cannot mix types of numbers.
    """

    def __init__(self, name: str, in_channels: int, out_channels: int, style: Style) -> None:
        super().__init__()
        self.conv = build_pyg(name, in_channels, out_channels)
        self.style = style
        self.norm = Norm(out_channels, eps=style.eps)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        batch, points, channels = x.shape
        with torch.autocast(x.device.type, enabled=False):
            y = self.conv(x.reshape(-1, channels), edge_index(index))
        if self.style.norm_first:
            return F.relu(self.norm(y)).view(batch, points, -1)
        return self.norm(F.relu(y)).view(batch, points, -1)


def edge_index(index: Tensor) -> Tensor:
    """Return PyG's edge_index (2, B·N·k) int64, rows source j and target i, over a whole batch."""
    batch, points, k = index.shape
    first = torch.arange(batch, device=index.device).view(batch, 1, 1) * points
    source = (index.long() + first).view(-1)
    target = torch.arange(batch * points, device=index.device).repeat_interleave(k)
    return torch.stack([source, target])


def build_pyg(name: str, in_channels: int, out_channels: int) -> nn.Module:
    """Build the `torch_geometric.nn` convolution `name`.

    Raises:
        ConfigError: there is no such convolution, or it needs more than two channel counts and an
            edge_index.
    """
    from torch_geometric import nn as pyg

    names = [entry for entry in dir(pyg) if entry.endswith("Conv")]
    if name not in names:
        raise ConfigError(
            f"--conv: found the unknown convolution {name!r}."
            f"{did_you_mean(name, [*CONVS, *names])}\n"
            f"Expected one of {', '.join(CONVS)} or a class of torch_geometric.nn such as GATConv."
        )
    try:
        layer = getattr(pyg, name)(in_channels, out_channels)
        if torch.get_default_device().type == "meta":
            return layer  # only shapes are asked for, and many cannot be tried without numbers
        points = torch.zeros(2, in_channels)
        result = layer(points, torch.tensor([[0, 1], [1, 0]]))
    except Exception as error:  # any signature is possible in a hundred foreign classes
        raise ConfigError(
            f"--conv {name}: torch_geometric.nn.{name}({in_channels}, {out_channels}) does not map "
            f"(x, edge_index) by itself: {str(error).splitlines()[0] if str(error) else error!r}\n"
            f"Its signature is {_signature(getattr(pyg, name))}; choose one that needs only two "
            "channel counts, such as GATConv, SAGEConv or TransformerConv."
        ) from error
    if not isinstance(result, Tensor) or result.shape != (2, out_channels):
        raise ConfigError(
            f"--conv {name}: expected (2, {out_channels}) features from 2 points, found "
            f"{tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__}."
        )
    layer.reset_parameters()
    return layer


def _signature(layer: Any) -> str:
    return str(inspect.signature(layer.__init__)).replace("(self, ", "(")


def build_conv(name: str, in_channels: int, out_channels: int, style: Style) -> nn.Module:
    """Build the vertex layer `name`: one of `pipelines.config.CONVS` or a PyG class name."""
    if name == "edge":
        return EdgeConv(in_channels, (out_channels,), style)
    if name == "mr":
        return MRConv(in_channels, out_channels, style)
    if name in ("sage", "sage-n"):
        return SAGEConv(in_channels, out_channels, style, l2=name == "sage-n")
    if name in ("gin", "gin-0"):
        return GINConv(in_channels, out_channels, style, learned_eps=name == "gin")
    return PyGConv(name, in_channels, out_channels, style)
