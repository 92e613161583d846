"""The whole network: GCN backbone, fusion, prediction. docs/model.md has a figure of it.

Reference:
    Li, Müller, Thabet, Ghanem, DeepGCNs: Can GCNs Go as Deep as CNNs?, ICCV 2019, figure 2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipelines import kernels
from pipelines.config import ModelConfig
from pipelines.errors import ConfigError
from pipelines.kernels.knn_search import RankTable

from .blocks import build_backbone, dense_columns, out_channels
from .head import HIDDEN, WITHOUT_GRADIENT, head_maps, head_maps_by_segment
from .layers import Norm, Reduce, Unit
from .linear import linear

# The channels that span the first graph: room-normalised xyz, or xyz within the block.
FIRST_GRAPH = {"paper": slice(6, 9), "torch": slice(0, 3)}


class DeepGCN(nn.Module):
    """A deep graph convolutional network for semantic segmentation of a block of points.

    Shapes: features (B, N, in_channels) float → logits (B, N, num_classes).

    Args:
        config: the network; see `pipelines.config.ModelConfig`.

    Attributes:
        num_points: N in training; weights files carry it.
        draws: the generator of stochastic dilation; None: PyTorch's own.
        checkpoint_layers: layers per segment of activation checkpointing; 0: off.
        tables: the ranks that each layer's graph reads, in a CUDA graph; None: drawn in each pass.
        output_channels: of each layer's output, as `backbone` returns it.
        repeats: whether the blocks' outputs repeat their inputs' channels.

    Example:
        >>> model = DeepGCN(ModelConfig(depth=3, width=8, k=4)).eval()
        >>> model(torch.rand(2, 64, 9)).shape
        torch.Size([2, 64, 13])
    """

    dense_columns: Tensor | None
    output_channels: list[int]
    num_points: int = 4096
    draws: torch.Generator | None = None
    checkpoint_layers: int = 0
    tables: Sequence[RankTable] | None = None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.layers, self.blocks, style = build_backbone(config)
        self.repeats = getattr(self.blocks[-1], "repeats", False)
        outputs, fused = [out_channels(block) for block in self.blocks], config.fusion_channels
        self.output_channels = [config.width] * config.depth if self.repeats else outputs
        self.fusion = Unit(sum(outputs), fused, style)
        first = Unit(fused + sum(outputs), HIDDEN[0], style)
        self.prediction = nn.ModuleList([first, Unit(*HIDDEN, style)])
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(HIDDEN[1], config.num_classes, bias=style.bias)
        columns = dense_columns(config.depth, config.width, config.layout) if self.repeats else None
        self.register_buffer("dense_columns", columns, persistent=False)
        initialize(self, config.layout)

    def forward(self, features: Tensor) -> Tensor:
        self._check(features)
        graphs = Graphs(self, features)

        # Backbone: h_l for each layer, mapped to what fusion and prediction need of all of them.
        if length := self._segment_length():
            fused, local = head_maps_by_segment(self, graphs, features, length)
        else:
            outputs, _ = self.run(range(len(self.layers)), graphs, features)  # L × (B, N, C)
            fused, local = head_maps(self, outputs)  # (B, N, fusion_channels), (B, N, 512)

        # Fusion: the maximum over the points gives one vector for the block.
        block = self.fusion.finish_max(fused)  # (B, fusion_channels)

        # Prediction: an MLP of each point's outputs and the block's vector, whose part of the first
        # map is the same for all points and so is computed once.
        first, second = self.prediction
        assert isinstance(first, Unit)
        shared = linear(block, first.linear.weight[:, : self.config.fusion_channels])  # (B, 512)
        x = first.finish(local + shared.unsqueeze(1))  # (B, N, 512)
        x = self.dropout(second(x))  # (B, N, 256)
        return linear(x, self.classifier.weight, self.classifier.bias)  # (B, N, num_classes)

    def backbone(self, features: Tensor) -> tuple[Tensor, ...]:
        """Return the layers' outputs, L × (B, N, C); of dense blocks only what each one adds.

        Example:
            >>> model = DeepGCN(ModelConfig(depth=3, width=8, k=4)).eval()
            >>> [tuple(h.shape) for h in model.backbone(torch.rand(2, 64, 9))]
            [(2, 64, 8), (2, 64, 8), (2, 64, 8)]
        """
        self._check(features)
        return tuple(self.run(range(len(self.layers)), Graphs(self, features), features)[0])

    def run(self, layers: range, graphs: Graphs, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Run some layers on x; return their outputs as in `backbone`, and the next one's input."""
        outputs = []
        for layer in layers:
            y = self.layers[layer](x, graphs.of(layer, x))  # (B, N, C)
            x = self.blocks[layer](x, y)
            outputs.append(y if self.repeats else x)
        return outputs, x

    def synchronize(self, reduce: Reduce | None) -> None:
        """Let every batch norm sum its statistics through `reduce`; None: no longer."""
        for module in self.modules():
            if isinstance(module, Norm):
                module.reduce = reduce

    def draw_ranks(self) -> list[tuple[int, ...]]:
        """Return the ranks of the neighbours that each layer keeps this time.

        Example:
            >>> DeepGCN(ModelConfig(depth=4, width=8, k=3)).eval().draw_ranks()
            [(0, 1, 2), (0, 1, 2), (0, 2, 4), (0, 3, 6)]
        """
        return [self._ranks(dilation) for dilation in self.config.dilations()]

    def rank_bounds(self) -> list[int]:
        """Return a bound for each layer that its ranks are below in every draw."""
        k = self.config.k
        return [
            k * dilation if self._stochastic(dilation) else (k - 1) * dilation + 1
            for dilation in self.config.dilations()
        ]

    def _ranks(self, dilation: int) -> tuple[int, ...]:
        """Return ranks 0, d, 2d, …, or in training, with probability ε, k of the k·d at random.

        Reference:
            DeepGCNs, section 3.3.
        """
        k = self.config.k
        if (
            self._stochastic(dilation)
            and torch.rand(1, generator=self.draws).item() < self.config.epsilon
        ):
            drawn = torch.randperm(k * dilation, generator=self.draws)[:k]
            return tuple(sorted(drawn.tolist()))
        return tuple(range(0, k * dilation, dilation))

    def _stochastic(self, dilation: int) -> bool:
        return self.training and dilation > 1 and self.config.epsilon > 0

    def _segment_length(self) -> int:
        """Return the layers per segment, 0 to keep all layers' outputs."""
        if self.checkpoint_layers:
            return self.checkpoint_layers
        deep = not torch.is_grad_enabled() and len(self.layers) > 2 * WITHOUT_GRADIENT
        return WITHOUT_GRADIENT if deep else 0

    def _check(self, features: Tensor) -> None:
        if features.dim() != 3 or features.shape[-1] != self.config.in_channels:
            raise ConfigError(
                f"DeepGCN: found features of shape {tuple(features.shape)}, "
                f"expected (B, N, {self.config.in_channels})."
            )
        self.config.check_points(features.shape[1])


class Graphs:
    """The k-NN graphs of one pass, (B, N, k) each.

    If layers will be recomputed, a graph is kept instead: it is k indices per point, its search
    takes half the time of a layer, and stochastic dilation must draw its ranks once.
    """

    def __init__(self, model: DeepGCN, features: Tensor) -> None:
        self.features = features[..., FIRST_GRAPH[model.config.layout]]
        self.fixed = model.config.knn == "fixed"
        self.keep = self.fixed or (model.checkpoint_layers > 0 and torch.is_grad_enabled())
        self.ranks = model.tables or model.draw_ranks()
        self.bounds = model.rank_bounds()
        self.kept: dict[int, Tensor] = {}

    def of(self, layer: int, x: Tensor) -> Tensor:
        """Return the graph of a layer, in the space of its input x."""
        layer = 0 if self.fixed else layer
        if layer in self.kept:
            return self.kept[layer]
        space = x if layer else self.features
        graph = kernels.knn(space, self.ranks[layer], self.bounds[layer])
        if self.keep:
            self.kept[layer] = graph
        return graph


def initialize(model: nn.Module, layout: str) -> None:
    """Draw the weights as the release of `layout` does: Xavier or Kaiming normal, zero biases.

    Convolutions of PyG or of the user's own keep their own initialisation.
    """
    for module in model.modules():
        if isinstance(module, Unit | DeepGCN):
            linear = module.linear if isinstance(module, Unit) else module.classifier
            if layout == "paper":
                nn.init.xavier_uniform_(linear.weight)
            else:
                nn.init.kaiming_normal_(linear.weight)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)
