"""The backbone's blocks: a graph convolution F and how its result joins what came before.

    plain      h_l = F(h_{l−1})
    residual   h_l = F(h_{l−1}) + h_{l−1}
    dense      h_l = concat(F(h_{l−1}), h_{l−1})
    dgcnn      plain, with its own convolutions

A block is a module `Block(channels, config)`; `forward(x, y)` makes its output, with
`block.out_channels` channels, from its input x (B, N, channels) and the convolution's result
y = F(x) (B, N, config.width). The first block of a network has nothing to join and is always plain.
docs/model.md shows how to write one of one's own, for `--arch package.module:Class`.

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

    Attributes:
        repeats: an output holds its input's channels. `DeepGCN` then keeps of every block only what
            is new, y, and its head sums the weights of equal channels.

    Example:
        >>> x, y = torch.zeros(1, 1, 2), torch.ones(1, 1, 1)
        >>> config = ModelConfig(arch="densegcn", width=1, layout="paper")  # new channels first
        >>> Dense(2, config)(x, y).tolist()
        [[[1.0, 0.0, 0.0]]]
    """

    repeats = True

    def __init__(self, channels: int, config: ModelConfig) -> None:
        super().__init__()
        self.layout = config.layout
        self.out_channels = channels + config.width

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return concatenate([x, y], self.layout)


class DGCNN(nn.Module):
    """Pass on the result of DGCNN's EdgeConv blocks: two units in each MLP, one in the last.

    Reference:
        Wang et al., Dynamic Graph CNN for Learning on Point Clouds, TOG 2019, figure 3 (bottom).
    """

    style = Style(norm_first=True, eps=1e-5, slope=0.2, bias=False)

    def __init__(self, channels: int, config: ModelConfig) -> None:  # noqa: ARG002
        super().__init__()
        self.out_channels = config.width

    @staticmethod
    def build_conv(channels: int, config: ModelConfig, layer: int) -> nn.Module:
        """Build the convolution of a layer."""
        if config.conv != "edge":
            raise ConfigError(
                f"--conv: found {config.conv!r}, expected 'edge': DGCNN is EdgeConv only."
            )
        units = 1 if layer == config.depth - 1 else 2
        return EdgeConv(channels, (config.width,) * units, DGCNN.style)

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


def build_backbone(config: ModelConfig) -> tuple[nn.ModuleList, nn.ModuleList, Style]:
    """Build the graph convolution of each layer, the block that it belongs to, and their style.

    Raises:
        ConfigError: a class of the user's own does not fit.

    Example:
        >>> _, blocks, _ = build_backbone(ModelConfig(arch="densegcn", depth=3, width=8))
        >>> [block.out_channels for block in blocks]
        [8, 16, 24]
    """
    chosen = block_class(config.arch)
    style = getattr(chosen, "style", None) or Style.of(config.layout)
    convs, blocks = nn.ModuleList(), nn.ModuleList()
    channels = config.in_channels
    for layer in range(config.depth):
        if own := getattr(chosen, "build_conv", None):
            convs.append(own(channels, config, layer))
        else:
            convs.append(build_conv(config.conv, channels, config.width, style))
        blocks.append(_build_block(chosen, channels, config) if layer else Plain(channels, config))
        channels = out_channels(blocks[-1])
    return convs, blocks, style


def _build_block(chosen: type[nn.Module], channels: int, config: ModelConfig) -> nn.Module:
    if ":" not in config.arch:
        return chosen(channels, config)
    inputs = torch.zeros(1, 2, channels), torch.zeros(1, 2, config.width)
    return build_checked(
        chosen,
        (channels, config),
        inputs,
        lambda block: (1, 2, out_channels(block)),
        flag=f"--arch {config.arch}",
    )


def out_channels(block: Any) -> int:
    """Return the channels of a block's output."""
    channels: int = block.out_channels
    return channels


def concatenate(pieces: Sequence[Tensor], layout: str) -> Tensor:
    """Join what dense blocks added (B, N, …), oldest first, in the channel order of a layout."""
    if len(pieces) == 1:
        return pieces[0]
    newest_first = layout == "paper"
    return torch.cat(tuple(pieces[::-1] if newest_first else pieces), dim=-1)


def dense_columns(depth: int, width: int, layout: str) -> Tensor:
    """Return, for each channel of all dense blocks' outputs in a row, which distinct one it is.

    Returns:
        (C·L·(L + 1)/2,) int64 with values below C·L, for L blocks that add C channels each.

    Example:
        >>> dense_columns(3, 1, "paper").tolist()  # the outputs are 0 | 1, 0 | 2, 1, 0
        [0, 1, 0, 2, 1, 0]
    """
    pieces = torch.arange(depth * width).view(depth, width)
    outputs = [concatenate(list(pieces[: layer + 1]), layout) for layer in range(depth)]
    return torch.cat(outputs)
