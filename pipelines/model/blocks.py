"""The backbone's blocks: a graph convolution F and how its result joins what came before.

    plain      h_l = F(h_{l−1})
    residual   h_l = F(h_{l−1}) + h_{l−1}
    dense      h_l = concat(F(h_{l−1}), h_{l−1})
    dgcnn      plain, with its own convolutions

A block is a module `Block(channels, config)`. Its `forward(x, y)` joins a layer's input
x (B, N, channels) and its convolution's result y = F(x) (B, N, config.width) to the layer's output
(B, N, out_channels); `out_channels` is an attribute. The first block of a network, before which
there is nothing to join, is always plain. docs/model.md shows how to write a block of your own, for
`--arch package.module:Class`.

Reference:
    Li et al., DeepGCNs, ICCV 2019, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.config import ModelConfig
from pipelines.errors import ConfigError

from .conv import EdgeConv, build_checked, build_conv, own_class
from .layers import Style


class Plain(nn.Module):
    """Pass a convolution's result on.

    Example:
        >>> x, y = torch.rand(1, 5, 9), torch.rand(1, 5, 64)
        >>> Plain(9, ModelConfig(width=64))(x, y) is y
        True
    """

    def __init__(self, channels: int, config: ModelConfig) -> None:  # noqa: ARG002 - see above
        super().__init__()
        self.out_channels = config.width

    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        return y


class Residual(nn.Module):
    """Add a block's input to its convolution's result.

    Example:
        >>> x, y = torch.rand(1, 5, 64), torch.rand(1, 5, 64)
        >>> torch.equal(Residual(64, ModelConfig(width=64))(x, y), x + y)
        True
    """

    def __init__(self, channels: int, config: ModelConfig) -> None:  # noqa: ARG002
        super().__init__()
        self.out_channels = config.width

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return y + x


class Dense(nn.Module):
    """Concatenate a block's input and its convolution's result: `config.width` channels more.

    Example:
        >>> x, y = torch.zeros(1, 1, 2), torch.ones(1, 1, 1)
        >>> config = ModelConfig(arch="densegcn", width=1, layout="paper")  # new channels first
        >>> Dense(2, config)(x, y).tolist()
        [[[1.0, 0.0, 0.0]]]
    """

    # Outputs hold their inputs' channels: `DeepGCN` keeps of each block only y, which is new, and
    # sums the head's weights of equal channels.
    repeats = True

    def __init__(self, channels: int, config: ModelConfig) -> None:
        super().__init__()
        self.layout = config.layout
        self.out_channels = channels + config.width

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return concatenate([x, y], self.layout)


class DGCNN(nn.Module):
    """Pass on the result of DGCNN's EdgeConv: two units in the MLP of each layer, one in the last.

    Reference:
        Wang et al., Dynamic Graph CNN for Learning on Point Clouds, TOG 2019, figure 3 (bottom).
    """

    style = Style(norm_first=True, eps=1e-5, slope=0.2, bias=False)

    def __init__(self, channels: int, config: ModelConfig) -> None:  # noqa: ARG002
        super().__init__()
        self.out_channels = config.width

    @staticmethod
    def build_conv(channels: int, config: ModelConfig, layer: int) -> nn.Module:
        if config.conv != "edge":
            raise ConfigError(
                f"--conv: found {config.conv!r}, expected 'edge': DGCNN is EdgeConv only."
            )
        units = 1 if layer == config.depth - 1 else 2
        return EdgeConv(channels, config.width, DGCNN.style, units=units)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        return y


BLOCKS: dict[str, type[nn.Module]] = {
    "plaingcn": Plain,
    "resgcn": Residual,
    "densegcn": Dense,
    "dgcnn": DGCNN,
}


def block_class(arch: str) -> type[nn.Module]:
    """Return the class of an architecture's blocks: one of ours, or "package.module:Class".

    Example:
        >>> block_class("densegcn").__name__
        'Dense'
    """
    return own_class(arch, flag="--arch") if ":" in arch else BLOCKS[arch]


def build_backbone(
    config: ModelConfig,
) -> tuple[nn.ModuleList, nn.ModuleList, list[int], Style]:
    """Build each layer's graph convolution and block.

    Returns:
        The convolutions, the blocks, the channels of their outputs, and the style of all units.

    Raises:
        ConfigError: a class of the user's own does not fit.

    Example:
        >>> build_backbone(ModelConfig(arch="densegcn", depth=3, width=8))[2]
        [8, 16, 24]
    """
    chosen = block_class(config.arch)
    style = getattr(chosen, "style", None) or Style.of(config.layout)
    convs, blocks, outputs = nn.ModuleList(), nn.ModuleList(), []
    channels = config.in_channels
    for layer in range(config.depth):
        if own := getattr(chosen, "build_conv", None):
            convs.append(own(channels, config, layer))
        else:
            convs.append(build_conv(config.conv, channels, config.width, style))
        block = _build_block(chosen, channels, config) if layer else Plain(channels, config)
        blocks.append(block)
        channels = block.out_channels
        outputs.append(channels)
    return convs, blocks, outputs, style


def _build_block(chosen: type[nn.Module], channels: int, config: ModelConfig) -> Any:
    if ":" not in config.arch:
        return chosen(channels, config)
    inputs = torch.zeros(2, 2, channels), torch.zeros(2, 2, config.width)
    return build_checked(chosen, (channels, config), inputs, None, flag=f"--arch {config.arch}")


def concatenate(pieces: Sequence[Tensor], layout: str) -> Tensor:
    """Join what dense blocks added, oldest first, L × (B, N, C), in the layout's channel order."""
    if len(pieces) == 1:
        return pieces[0]
    return torch.cat(tuple(pieces[::-1] if layout == "paper" else pieces), dim=-1)


def dense_columns(depth: int, width: int, layout: str) -> Tensor:
    """Number the channels of all dense blocks' concatenated outputs, equal ones alike.

    Returns:
        (C·L·(L + 1)/2,) int64 with values below C·L, for L blocks that add C channels each.

    Example:
        >>> dense_columns(3, 1, "paper").tolist()  # the outputs are 0 | 1, 0 | 2, 1, 0
        [0, 1, 0, 2, 1, 0]
    """
    pieces = list(torch.arange(depth * width).view(depth, width))
    return torch.cat([concatenate(pieces[:count], layout) for count in range(1, depth + 1)])
