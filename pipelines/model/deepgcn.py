"""The whole network: GCN backbone, fusion, prediction. docs/model.md has a figure of it.

Reference:
    Li, Müller, Thabet, Ghanem, DeepGCNs: Can GCNs Go as Deep as CNNs?, ICCV 2019, figure 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from pipelines.config import BLOCK_SIZE, ModelConfig
from pipelines.config.model import GREY
from pipelines.errors import ConfigError
from pipelines.kernels.knn_search import RankTable

from . import graphs
from .blocks import build_backbone, concatenate, dense_columns
from .graphs import Graphs
from .head import EVALUATION_SEGMENT, HIDDEN, Map, Segment, fold, linear_pair, map_by_segment
from .layers import Dropout, Norm, Reduce, Unit, linear

RGB = slice(3, 6)  # channels of the colour, see `data.blocks.block_features`


class DeepGCN(nn.Module):
    """A deep graph convolutional network for semantic segmentation of a block of points.

    Shapes: features (B, N, in_channels) float → logits (B, N, num_classes).

    Example:
        >>> model = DeepGCN(ModelConfig(depth=3, width=8, k=4)).eval()
        >>> model(torch.rand(2, 64, 9)).shape
        torch.Size([2, 64, 13])
    """

    num_points: int = 4096  # N in training; weights files carry it
    block_size: float = BLOCK_SIZE  # m, the side of a block in training; likewise
    voxel: float = 0.0  # m, the side of the voxels in training, 0: none; likewise
    classes: tuple[str, ...] = ()  # names of the outputs, in order, if it is of a weights file
    frozen: int = 0  # first layers that training leaves as they are, see `freeze`
    frozen_norm: bool = False  # see `freeze_norm`
    checkpoint_layers: int = 0  # layers per segment of activation checkpointing; 0: off
    generator: torch.Generator | None = None  # for stochastic dilation; None: PyTorch's default
    rank_tables: Sequence[RankTable] | None = (
        None  # ranks in a CUDA graph; None: drawn at each pass
    )
    dense_columns: Tensor | None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.layers, self.blocks, channels, style = build_backbone(config)
        fused, concatenated = config.fusion_channels, sum(channels)  # 1024 and D in docs/model.md
        self.fusion = Unit(concatenated, fused, style)
        self.prediction = nn.ModuleList(
            [Unit(fused + concatenated, HIDDEN[0], style), Unit(*HIDDEN, style)]
        )
        self.dropout = Dropout(config.dropout)
        self.classifier = nn.Linear(HIDDEN[1], config.num_classes, bias=style.bias)
        # A dense block's output includes its input: `backbone` returns only the new channels.
        self.includes_input: bool = getattr(self.blocks[-1], "includes_input", False)
        self.output_channels = [config.width] * config.depth if self.includes_input else channels
        columns = (
            dense_columns(config.depth, config.width, config.layout)
            if self.includes_input
            else None
        )
        self.register_buffer("dense_columns", columns, persistent=False)
        initialize(self, config.layout)

    def forward(self, features: Tensor) -> Tensor:
        features = self._seen(features)
        graphs = self._graphs(features)

        # Backbone: each layer's h_l. Then the first linear maps of fusion and prediction, over all
        # of them: (B, N, fusion_channels) and (B, N, 512).
        if segments := self._segments(graphs):
            fused, local = map_by_segment(segments, features, *self._maps())
        else:
            outputs, _ = self._run(range(self.config.depth), graphs, features)  # L × (B, N, C)
            fused, local = linear_pair(outputs, *self._maps())

        # Fusion: the maximum over the points gives one vector for the block.
        block = self.fusion.finish_max(fused)  # (B, fusion_channels)

        # Prediction: an MLP over each point's outputs and the block's vector. The vector's part of
        # the first linear map is the same for all points, so it is computed once.
        first, second = self.prediction
        assert isinstance(first, Unit)
        shared = linear(block, first.linear.weight[:, : self.config.fusion_channels])  # (B, 512)
        x = first.finish(local + shared.unsqueeze(1))  # (B, N, 512)
        x = self.dropout(second(x))  # (B, N, 256)
        return linear(x, self.classifier.weight, self.classifier.bias)  # (B, N, num_classes)

    @property
    def label(self) -> str:
        """The network in short, with its blocks and voxels unless they are as published."""
        return self.config.label_with(self.block_size, self.voxel)

    def freeze(self, layers: int) -> None:
        """Let training leave the first layers as they are: weights and running statistics."""
        self.frozen = layers
        for module in (*self.layers[:layers], *self.blocks[:layers]):
            module.requires_grad_(False)
        self.train(self.training)

    def freeze_norm(self) -> None:
        """Let training normalise by the running statistics, as inference does, and keep them.

        Weights and biases of the batch norms are trained like the others.
        """
        self.frozen_norm = True
        self.train(self.training)

    def train(self, mode: bool = True) -> DeepGCN:
        """Set the mode, as PyTorch has it; what is frozen stays in evaluation mode."""
        super().train(mode)
        if self.frozen_norm:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        for module in (*self.layers[: self.frozen], *self.blocks[: self.frozen]):
            module.eval()
        return self

    def backbone(self, features: Tensor) -> tuple[Tensor, ...]:
        """Return the layers' outputs, L × (B, N, C); for dense blocks, only the channels they add.

        Example:
            >>> model = DeepGCN(ModelConfig(depth=3, width=8, k=4)).eval()
            >>> [tuple(h.shape) for h in model.backbone(torch.rand(2, 64, 9))]
            [(2, 64, 8), (2, 64, 8), (2, 64, 8)]
        """
        features = self._seen(features)
        outputs, _ = self._run(range(self.config.depth), self._graphs(features), features)
        return tuple(outputs)

    def _run(
        self, layers: range, graphs: Graphs, *pieces: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Run some layers; return their outputs, as `backbone` does, and the next layer's input.

        An input comes in `pieces`: for a dense block one from each block before it, else one.
        """
        x = concatenate(pieces, self.config.layout)
        outputs = []
        for layer in layers:
            y = self.layers[layer](x, graphs.of(layer, x))  # (B, N, C)
            x = self.blocks[layer](x, y)  # (B, N, the block's out_channels)
            outputs.append(y if self.includes_input else x)
        if not self.includes_input:
            return outputs, [x]
        return outputs, [*pieces, *outputs] if layers.start else outputs

    def _segments(self, graphs: Graphs) -> list[Segment]:
        """Divide the backbone into segments; return none if the outputs of all layers are kept."""
        length = self.checkpoint_layers
        if not length:
            if torch.is_grad_enabled() or self.config.depth <= 2 * EVALUATION_SEGMENT:
                return []
            length = EVALUATION_SEGMENT
        every = range(self.config.depth)
        parts = [every[start : start + length] for start in every[::length]]
        return [
            Segment(
                partial(self._run, part, graphs),
                [module[layer] for layer in part for module in (self.layers, self.blocks)],
                sum(self.output_channels[layer] for layer in part),
            )
            for part in parts
        ]

    def _maps(self) -> tuple[Map, Map]:
        """Return the first linear maps of fusion and prediction, over the layers' outputs."""
        fusion, first = self.fusion.linear, self.prediction[0]
        assert isinstance(first, Unit)
        own = first.linear.weight[:, self.config.fusion_channels :]
        weights = [fusion.weight, own]  # (fusion_channels, D), (512, D)
        if self.dense_columns is not None:
            distinct = sum(self.output_channels)
            weights = [fold(weight, self.dense_columns, distinct) for weight in weights]
        return (weights[0], fusion.bias), (weights[1], first.linear.bias)

    def _seen(self, features: Tensor) -> Tensor:
        """Check the input and return it as the network sees it: grey if it is without colours."""
        config = self.config
        if features.dim() != 3 or features.shape[-1] != config.in_channels:
            raise ConfigError(
                f"DeepGCN: found features of shape {tuple(features.shape)}, "
                f"expected (B, N, {config.in_channels})."
            )
        config.check_points(features.shape[1])
        if config.rgb:
            return features
        grey = torch.full_like(features[..., RGB], GREY)
        return torch.cat((features[..., : RGB.start], grey, features[..., RGB.stop :]), dim=-1)

    def _graphs(self, features: Tensor) -> Graphs:
        """Return the graphs of a pass."""
        config = self.config
        ranks = self.rank_tables or self.draw_ranks()
        keep = self.checkpoint_layers > 0 and torch.is_grad_enabled()
        return Graphs(features, config, ranks, self.rank_bounds(), keep=keep)

    def draw_ranks(self) -> list[tuple[int, ...]]:
        """Draw the ranks of each layer's neighbours."""
        return graphs.draw_ranks(self.config, training=self.training, generator=self.generator)

    def rank_bounds(self) -> list[int]:
        """Return an upper bound of each layer's ranks; see `pipelines.model.graphs`."""
        return graphs.rank_bounds(self.config, training=self.training)

    def synchronize(self, reduce: Reduce | None) -> None:
        """Make every batch norm sum its statistics with `reduce`; None: use its own alone."""
        for module in self.modules():
            if isinstance(module, Norm):
                module.reduce = reduce


def initialize(model: nn.Module, layout: str) -> None:
    """Draw the weights as the release of `layout` does, with zero biases.

    PyG's convolutions and the user's own classes keep their initialisation.
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
