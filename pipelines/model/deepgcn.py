"""The whole network: GCN backbone, fusion block, MLP prediction.

Reference:
    Li, Müller, Thabet, Ghanem, DeepGCNs: Can GCNs Go as Deep as CNNs?, ICCV 2019, figure 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from pipelines import kernels
from pipelines.config import ModelConfig
from pipelines.errors import ConfigError
from pipelines.kernels.ranks import RankTable

from .checkpointing import recomputed
from .conv import EdgeConv, build_conv
from .layers import Norm, Reduce, Style, Unit
from .linear import linear, linear_pair

# The channels that span the first graph: room-normalised xyz, or xyz within the block.
FIRST_GRAPH = {"paper": slice(6, 9), "torch": slice(0, 3)}
WITHOUT_GRADIENT = 32  # layers whose outputs are side by side at once in a deeper network


class DeepGCN(nn.Module):
    """A deep graph convolutional network for semantic segmentation of a block of points.

    Args:
        config: the network; see `pipelines.config.ModelConfig`.

    Shapes:
        features (B, N, in_channels) float → logits (B, N, num_classes).

    Example:
        >>> model = DeepGCN(ModelConfig(depth=3, width=8, k=4)).eval()
        >>> model(torch.rand(2, 64, 9)).shape
        torch.Size([2, 64, 13])
    """

    _columns: Tensor | None
    num_points: int = 4096  # per block in training; a run's weights carry their own
    draws: torch.Generator | None = None  # of stochastic dilation; None: PyTorch's own
    checkpoint_layers: int = 0  # layers of a segment of activation checkpointing; 0: none
    tables: Sequence[RankTable] | None = None  # a layer's ranks, if it has not to draw them itself

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        style = Style.of(config)
        self.layers = nn.ModuleList(build_layers(config, style))
        outputs = layer_outputs(config)
        self.fusion = Unit(sum(outputs), config.fusion_channels, style)
        first = Unit(config.fusion_channels + sum(outputs), 512, style)
        self.prediction = nn.ModuleList([first, Unit(512, 256, style)])
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(256, config.num_classes, bias=style.bias)
        self.register_buffer("_columns", dense_columns(config), persistent=False)
        initialize(self, config.layout)

    def forward(self, features: Tensor) -> Tensor:
        self._check(features)
        fused, own = self._sums(features)
        block = self.fusion.finish_max(fused)  # (B, fusion_channels)
        first, second = self.prediction
        assert isinstance(first, Unit)
        # The block vector is the same for all points of a block: one product per block.
        shared = linear(block, first.linear.weight[:, : self.config.fusion_channels])  # (B, 512)
        own = own + shared.unsqueeze(1)
        x = self.dropout(second(first.finish(own)))
        return linear(x, self.classifier.weight, self.classifier.bias)

    def synchronize(self, reduce: Reduce | None) -> None:
        """Let every batch norm add up its statistics through `reduce`; None: no longer."""
        for module in self.modules():
            if isinstance(module, Norm):
                module.reduce = reduce

    def backbone(self, features: Tensor) -> Tensor:
        """Return the outputs of all layers, (B, N, D); each layer's channels occur once."""
        self._check(features)
        graphs = Graphs(self, features, keep=False)
        outputs, _ = self._run(range(len(self.layers)), graphs, features)
        return torch.cat(outputs, dim=-1)

    def _sums(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return what all layers give to the fusion and the first prediction map.

        Σ_l W_l h_l + b, (B, N, fusion_channels) and (B, N, 512), from one product with the layers'
        outputs side by side, or segment by segment.
        """
        length = self.checkpoint_layers
        if not length and not torch.is_grad_enabled() and len(self.layers) > 2 * WITHOUT_GRADIENT:
            length = WITHOUT_GRADIENT
        if length:
            return self._sums_by_segment(features, length)
        graphs = Graphs(self, features, keep=False)
        outputs, _ = self._run(range(len(self.layers)), graphs, features)
        biases = self.fusion.linear.bias, self._first_prediction.bias
        return linear_pair(outputs, *zip(self._head_weights(), biases, strict=True))

    def _sums_by_segment(self, features: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Return what `_sums` does; kept are segments' inputs, graphs, and no layer's output."""
        layers = range(len(self.layers))
        segments = [layers[start : start + length] for start in layers[::length]]
        columns = [len(segment) * self.config.width for segment in segments]
        weights = (weight.split(columns, dim=1) for weight in self._head_weights())
        graphs = Graphs(self, features, keep=torch.is_grad_enabled())
        inputs: tuple[Tensor, ...] = (features,)
        sums = None
        for segment, *pair in zip(segments, *weights, strict=True):
            part = partial(self._segment, segment, graphs)
            modules = [self.layers[number] for number in segment]
            share, *outputs = recomputed(part, modules, *pair, *inputs)
            sums = share if sums is None else sums.add_(share)
            del share  # lest it be there beside the next one
            grows = self.config.arch == "densegcn" and segment[0] > 0
            inputs = (*inputs, *outputs) if grows else tuple(outputs)
        assert sums is not None
        fused, own = sums.split([self.config.fusion_channels, 512], dim=-1)
        biases = self.fusion.linear.bias, self._first_prediction.bias
        fused, own = (
            part.contiguous() if bias is None else part + bias
            for part, bias in zip((fused, own), biases, strict=True)
        )
        return fused, own

    def _segment(
        self, numbers: range, graphs: Graphs, fusion: Tensor, prediction: Tensor, *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        """Return a segment's share of both sums (B, N, fusion_channels + 512), then its outputs.

        Its outputs, as its inputs, are what the next segment needs: the last layer's output, or of
        a dense backbone every layer's. One product comes last: the repetition can leave it out.
        """
        outputs, x = self._run(numbers, graphs, self._joined(inputs))
        points = torch.cat(outputs, dim=-1)
        following = outputs if self.config.arch == "densegcn" else [x]
        return linear(points, torch.cat([fusion, prediction])), *following

    def _run(self, numbers: range, graphs: Graphs, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the layers' outputs, each with its own channels only, and the next one's input."""
        arch = self.config.arch
        outputs: list[Tensor] = []
        for number in numbers:
            y = self.layers[number](x, graphs.of(number, x))
            if arch == "resgcn" and number > 0:
                y = y + x
            x = self._joined((x, y)) if arch == "densegcn" and number > 0 else y
            outputs.append(y)
        return outputs, x

    def _joined(self, pieces: tuple[Tensor, ...]) -> Tensor:
        """Return a dense backbone's features, older pieces first: in the order of its layout."""
        if len(pieces) == 1:
            return pieces[0]
        newest_first = self.config.layout == "paper"
        return torch.cat(pieces[::-1] if newest_first else pieces, dim=-1)

    def _head_weights(self) -> tuple[Tensor, Tensor]:
        """Return the weights of the layers' outputs in fusion and first prediction map, (…, D).

        DenseGCN's outputs repeat their predecessors' channels: Σ_l W_l h_l over prefixes equals one
        product with the weight columns of equal channels summed.
        """
        own = self._first_prediction.weight[:, self.config.fusion_channels :]
        weights = self.fusion.linear.weight, own
        columns = self._columns
        if columns is None:
            return weights
        distinct = len(self.layers) * self.config.width
        fusion, prediction = (
            weight.new_zeros(len(weight), distinct).index_add(1, columns, weight)
            for weight in weights
        )
        return fusion, prediction

    @property
    def _first_prediction(self) -> nn.Linear:
        first = self.prediction[0]
        assert isinstance(first, Unit)
        return first.linear

    def draw_ranks(self) -> list[tuple[int, ...]]:
        """Return the ranks of the neighbours that each layer keeps this time."""
        return [self._ranks(number) for number in range(len(self.layers))]

    def rank_bounds(self) -> list[int]:
        """Return what the ranks of each layer are below, whatever is drawn."""
        k = self.config.k
        return [
            k * dilation if self._stochastic(dilation) else (k - 1) * dilation + 1
            for dilation in self.config.dilations()
        ]

    def _stochastic(self, dilation: int) -> bool:
        return self.training and dilation > 1 and self.config.epsilon > 0

    def _ranks(self, number: int) -> tuple[int, ...]:
        """Return the ranks of the neighbours that layer `number` keeps this time.

        Reference:
            DeepGCNs, section 3.3: dilated k-NN keeps ranks 0, d, 2d, …; stochastic dilation keeps,
            with probability ε while training, k of the k·d at random.
        """
        k, dilation = self.config.k, self.config.dilations()[number]
        if (
            self._stochastic(dilation)
            and torch.rand(1, generator=self.draws).item() < self.config.epsilon
        ):
            drawn = torch.randperm(k * dilation, generator=self.draws)[:k]
            return tuple(sorted(drawn.tolist()))
        return tuple(range(0, k * dilation, dilation))

    def _check(self, features: Tensor) -> None:
        if features.dim() != 3 or features.shape[-1] != self.config.in_channels:
            raise ConfigError(
                f"DeepGCN: found features of shape {tuple(features.shape)}, "
                f"expected (B, N, {self.config.in_channels})."
            )
        self.config.check_points(features.shape[1])


class Graphs:
    """The k-NN graphs of one pass.

    With `keep` each is made once, also where its layer is computed again: it is k numbers a point,
    its search takes half the time of a layer, and stochastic dilation draws its ranks once.
    """

    def __init__(self, model: DeepGCN, features: Tensor, *, keep: bool) -> None:
        self.features = features[..., FIRST_GRAPH[model.config.layout]]
        self.fixed = model.config.knn == "fixed"
        self.keep = keep or self.fixed
        self.ranks = model.tables or model.draw_ranks()
        self.bounds = model.rank_bounds()
        self.kept: dict[int, Tensor] = {}

    def of(self, number: int, x: Tensor) -> Tensor:
        """Return the graph (B, N, k) of layer `number`, whose input is x."""
        number = 0 if self.fixed else number
        if number in self.kept:
            return self.kept[number]
        some = x if number else self.features
        graph = kernels.knn(some, self.ranks[number], self.bounds[number])
        if self.keep:
            self.kept[number] = graph
        return graph


def build_layers(config: ModelConfig, style: Style) -> list[nn.Module]:
    """Build the backbone's vertex layers."""
    if config.arch == "dgcnn":
        return build_dgcnn_layers(config, style)
    layers, channels = [], config.in_channels
    for _ in range(config.depth):
        layers.append(build_conv(config.conv, channels, config.width, style))
        grows = config.arch == "densegcn" and len(layers) > 1
        channels = channels + config.width if grows else config.width
    return layers


def build_dgcnn_layers(config: ModelConfig, style: Style) -> list[nn.Module]:
    """Build DGCNN's EdgeConv blocks: two units each, one in the last.

    Reference:
        Wang et al., Dynamic Graph CNN for Learning on Point Clouds, TOG 2019, figure 3 (bottom).
    """
    if config.conv != "edge":
        raise ConfigError(
            f"--conv: found {config.conv!r}, expected 'edge': DGCNN is EdgeConv only."
        )
    layers: list[nn.Module] = []
    channels = config.in_channels
    for number in range(config.depth):
        units = 1 if number == config.depth - 1 else 2
        layers.append(EdgeConv(channels, (config.width,) * units, style))
        channels = config.width
    return layers


def layer_outputs(config: ModelConfig) -> list[int]:
    """Return the channels of each layer's output; a dense layer's holds all before it."""
    if config.arch == "densegcn":
        return [config.width * (number + 1) for number in range(config.depth)]
    return [config.width] * config.depth


def dense_columns(config: ModelConfig) -> Tensor | None:
    """Return, for each channel of DenseGCN's concatenated outputs, which distinct one it is.

    Shape (C·L·(L+1)/2,) int64 with values below C·L; None for other backbones, where nothing
    repeats.
    """
    if config.arch != "densegcn":
        return None
    pieces = torch.arange(config.depth * config.width).view(config.depth, config.width)
    outputs = []
    for number in range(config.depth):
        upto = pieces[: number + 1]
        outputs.append((upto.flip(0) if config.layout == "paper" else upto).reshape(-1))
    return torch.cat(outputs)


def initialize(model: nn.Module, layout: str) -> None:
    """Draw the weights as the release of `layout` does: Xavier or Kaiming normal, zero biases.

    PyG convolutions keep their own initialisation.
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
