"""The whole network: GCN backbone, fusion block, MLP prediction.

Reference:
    Li, Müller, Thabet, Ghanem, DeepGCNs: Can GCNs Go as Deep as CNNs?, ICCV 2019, figure 2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import kernels
from ..config import ModelConfig
from ..errors import ConfigError
from .conv import EdgeConv, build_conv
from .unit import Norm, Reduce, Style, Unit, linear

# The channels that span the first graph: room-normalised xyz, or xyz within the block.
FIRST_GRAPH = {"paper": slice(6, 9), "torch": slice(0, 3)}


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
        points = self.backbone(features)  # (B, N, D), D the distinct channels of all layers
        fused = self.fusion.finish(self._fold(self.fusion.linear, points))
        block = fused.max(dim=1).values  # (B, fusion_channels)
        first, second = self.prediction
        assert isinstance(first, Unit)
        x = first.finish(self._predict_from(first.linear, block, points))
        x = self.dropout(second(x))
        return linear(x, self.classifier.weight, self.classifier.bias)

    def synchronize(self, reduce: Reduce | None) -> None:
        """Let every batch norm add up its statistics through `reduce`; None: no longer."""
        for module in self.modules():
            if isinstance(module, Norm):
                module.reduce = reduce

    def backbone(self, features: Tensor) -> Tensor:
        """Return the outputs of all layers, (B, N, D); each layer's channels occur once."""
        arch, layout = self.config.arch, self.config.layout
        x = features
        outputs: list[Tensor] = []
        fixed = None
        for number, layer in enumerate(self.layers):
            if number == 0 or self.config.knn == "dynamic":
                space = features[..., FIRST_GRAPH[layout]] if number == 0 else x
                fixed = kernels.knn(space, self._ranks(number))
            assert fixed is not None
            y = layer(x, fixed)
            outputs.append(y)
            if number == 0 or arch in ("plaingcn", "dgcnn"):
                x = y
            elif arch == "resgcn":
                x = outputs[-1] = y + x
            else:
                x = torch.cat([y, x] if layout == "paper" else [x, y], dim=-1)
        return torch.cat(outputs, dim=-1)

    def _ranks(self, number: int) -> tuple[int, ...]:
        """Return the ranks of the neighbours that layer `number` keeps this time.

        Reference:
            DeepGCNs, section 3.3: dilated k-NN keeps ranks 0, d, 2d, …; stochastic dilation keeps,
            with probability ε while training, k of the k·d at random.
        """
        k, dilation = self.config.k, self.config.dilations()[number]
        stochastic = self.training and dilation > 1 and self.config.epsilon > 0
        if stochastic and torch.rand(1, generator=self.draws).item() < self.config.epsilon:
            drawn = torch.randperm(k * dilation, generator=self.draws)[:k]
            return tuple(sorted(drawn.tolist()))
        return tuple(range(0, k * dilation, dilation))

    def _fold(self, whole: nn.Linear, points: Tensor, first_column: int = 0) -> Tensor:
        """Apply `whole`, from `first_column` on, to all layers' full outputs.

        DenseGCN's outputs repeat their predecessors' channels: Σ_l W_l h_l over prefixes equals one
        product with the weight columns of equal channels summed.
        """
        weight = whole.weight[:, first_column:]
        if self._columns is not None:
            folded = weight.new_zeros(weight.shape[0], points.shape[-1])
            weight = folded.index_add(1, self._columns, weight)
        return linear(points, weight, whole.bias)

    def _predict_from(self, whole: nn.Linear, block: Tensor, points: Tensor) -> Tensor:
        """Apply the first prediction map to [block vector ; layers' outputs] of every point.

        The block vector is the same for all points of a block: one product per block.
        """
        width = self.config.fusion_channels
        shared = linear(block, whole.weight[:, :width])  # (B, 512)
        return self._fold(whole, points, first_column=width) + shared.unsqueeze(1)

    def _check(self, features: Tensor) -> None:
        if features.dim() != 3 or features.shape[-1] != self.config.in_channels:
            raise ConfigError(
                f"DeepGCN: found features of shape {tuple(features.shape)}, "
                f"expected (B, N, {self.config.in_channels})."
            )
        self.config.check_points(features.shape[1])


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
