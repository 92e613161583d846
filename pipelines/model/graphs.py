"""The dilated k-NN graphs: which of its nearest points a point is connected to, layer by layer.

With dilation d a point's neighbours are every d-th of its k·d nearest points, itself included.
Stochastic dilation: in training, with probability ε, they are k of the k·d at random.

Reference:
    Li et al., DeepGCNs, ICCV 2019, section 3.3.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from pipelines import kernels
from pipelines.config import ModelConfig
from pipelines.errors import ConfigError
from pipelines.kernels.knn_search import RankTable, ranks_of
from pipelines.progress import counted

# The channels that span the first graph: room-normalised xyz, or xyz within the block.
FIRST_GRAPH = {"paper": slice(6, 9), "torch": slice(0, 3)}
POSITION = slice(0, 3)  # the channels of a point's place, m, which `--spatial` graphs span


def knn(x: Tensor, k: int, dilation: int = 1) -> Tensor:
    """Return each point's neighbours: every `dilation`-th of its k·dilation nearest points.

    By Euclidean distance, on the CPU and on GPUs, without an N × N matrix or any approximation but
    that of float32: it can swap neighbours whose distances differ by its rounding. That is relative
    to the extent of a block: where points are nearer to one another than a thousandth of it, give
    float64, which is slower. A point is its own first neighbour, unless another is as near within
    the rounding. docs/benchmarks.md compares it with other libraries.

    Args:
        x: points or features (N, C), or blocks of them (B, N, C), floating point and finite. No
            gradient flows through a selection.
        k: neighbours of a point.
        dilation: 1 takes the k nearest.

    Returns:
        (N, k) or (B, N, k) int32, positions within the block, on x's device. Points at the same
        place are ordered by index. The order within a row is unspecified but deterministic.

    Raises:
        ConfigError: x is no such tensor, or its squares overflow; k or dilation is no integer, or a
            block has too few points for them.

    Example:
        >>> line = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
        >>> knn(line, 2).sort().values.tolist()
        [[0, 1], [0, 1], [1, 2], [2, 3]]

    Reference:
        Li et al., DeepGCNs, ICCV 2019, section 3.3 (dilated aggregation).
    """
    if not isinstance(x, Tensor):
        raise ConfigError(f"knn: found x of type {type(x).__name__}, expected a torch.Tensor.")
    if x.dim() not in (2, 3) or not x.is_floating_point():
        raise ConfigError(
            f"knn: found x of shape {tuple(x.shape)} and type {x.dtype}, "
            "expected (N, C) or (B, N, C) floating point."
        )
    try:
        k, dilation = operator.index(k), operator.index(dilation)
    except TypeError:
        raise ConfigError(
            f"knn: found k {k!r} and dilation {dilation!r}, expected integers."
        ) from None
    if k < 1 or dilation < 1 or (k - 1) * dilation >= x.shape[-2]:
        raise ConfigError(
            f"knn: found k {k} and dilation {dilation} for {x.shape[-2]} points, expected both at "
            f"least 1 and (k − 1)·dilation below the number of points."
        )
    if not x.isfinite().all():
        raise ConfigError(f"knn: {counted(int((~x.isfinite()).sum()), 'value')} of x not finite.")
    exact = torch.finfo(torch.float64 if x.dtype == torch.float64 else torch.float32)
    limit = math.sqrt(exact.max / (16 * max(1, x.shape[-1])))
    if x.numel() and float(x.detach().abs().max()) > limit:
        raise ConfigError(
            f"knn: found values up to {float(x.detach().abs().max()):.1e}, expected none above "
            f"{limit:.1e}: squared distances would not fit into {exact.dtype}."
        )
    blocks = x if x.dim() == 3 else x.unsqueeze(0)
    index = kernels.knn(blocks, range(0, (k - 1) * dilation + 1, dilation))
    return index if x.dim() == 3 else index.squeeze(0)


def draw_ranks(
    config: ModelConfig, *, training: bool, generator: torch.Generator | None = None
) -> list[tuple[int, ...]]:
    """Draw for each layer the ranks of its neighbours: 0 is a point itself, 1 the nearest other.

    Example:
        >>> draw_ranks(ModelConfig(depth=4, k=3), training=False)
        [(0, 1, 2), (0, 1, 2), (0, 2, 4), (0, 3, 6)]
    """
    ranks = []
    for dilation in config.dilations():
        chosen = list(range(0, config.k * dilation, dilation))
        if (
            _is_stochastic(config, dilation, training=training)
            and torch.rand(1, generator=generator).item() < config.epsilon
        ):
            drawn = torch.randperm(config.k * dilation, generator=generator)[: config.k]
            chosen = sorted(drawn.tolist())
        ranks.append(tuple(chosen))
    return ranks


def rank_bounds(config: ModelConfig, *, training: bool) -> list[int]:
    """Return for each layer a number above its ranks in every draw."""
    k = config.k
    return [
        k * d if _is_stochastic(config, d, training=training) else (k - 1) * d + 1
        for d in config.dilations()
    ]


def _is_stochastic(config: ModelConfig, dilation: int, *, training: bool) -> bool:
    return training and dilation > 1 and config.epsilon > 0


class Graphs:
    """The graphs of one pass of a network on features (B, N, in_channels), (B, N, k) int32 each.

    Layers can share one, see `ModelConfig.graph_layers`. `keep` them all if layers will be
    recomputed: k indices per point take little memory, a search takes half the time of a layer, and
    ranks must be drawn only once.
    """

    def __init__(
        self,
        features: Tensor,
        config: ModelConfig,
        ranks: Sequence[tuple[int, ...] | RankTable],
        bounds: Sequence[int],
        *,
        keep: bool,
    ) -> None:
        self.coordinates = features[..., FIRST_GRAPH[config.layout]]  # (B, N, 3)
        self.position = features[..., POSITION]  # (B, N, 3)
        self.graph_layers, self.first_spatial = config.graph_layers(), config.first_spatial
        self.ranks, self.bounds = ranks, bounds
        self.keep = keep
        self.kept: dict[int, Tensor] = {}
        self.nearest: Tensor | None = None  # (B, N, ranks) int32, see `_in_space`

    def of(self, layer: int, x: Tensor) -> Tensor:
        """Return the graph of a layer: of its input's space, x (B, N, C), of space, or shared."""
        layer = self.graph_layers[layer]
        if layer not in self.kept:
            if not self.keep:
                self.kept.clear()  # no later layer shares the one before
            if layer < self.first_spatial:
                space = x if layer else self.coordinates
                self.kept[layer] = kernels.knn(space, self.ranks[layer], self.bounds[layer])
            else:
                self.kept[layer] = self._in_space(layer)
        return self.kept[layer]

    def _in_space(self, layer: int) -> Tensor:
        """Return a graph of positions; on the CPU one search finds the ranks of all such layers."""
        if self.position.device.type != "cpu":
            return kernels.knn(self.position, self.ranks[layer], self.bounds[layer])
        owners = {*self.graph_layers[self.first_spatial :]}
        every = sorted({rank for owner in owners for rank in ranks_of(self.ranks[owner])})
        if self.nearest is None:
            self.nearest = kernels.knn(self.position, every)
        return self.nearest[..., [every.index(rank) for rank in ranks_of(self.ranks[layer])]]
