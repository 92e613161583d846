"""The backbone's blocks: a graph convolution F and how its result joins what came before.

    plain      h_l = F(h_{l−1})
    residual   h_l = F(h_{l−1}) + h_{l−1}
    dense      h_l = concat(F(h_{l−1}), h_{l−1})
    dgcnn      plain, with its own convolutions

A block is a module `Block(channels, config)`. Its `forward(x, y)` joins a layer's input
x (B, N, channels) and its convolution's result y = F(x) (B, N, config.width) to the layer's output
(B, N, out_channels); `out_channels` is an attribute. The first block of a network has nothing to
join, so it is always plain. docs/model.md shows how to write a block of your own, for
`--arch package.module:Class`.

Reference:
    Li et al., DeepGCNs, ICCV 2019, section 3.2.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pipelines.config import CONVS, ModelConfig
from pipelines.errors import ConfigError, did_you_mean

from .conv import OURS, EdgeConv, PyGConv
from .layers import Style


class Plain(nn.Module):
    """Return a convolution's result unchanged.

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
    """Concatenate a block's input and its convolution's result of `config.width` channels.

    Example:
        >>> x, y = torch.zeros(1, 1, 2), torch.ones(1, 1, 1)
        >>> config = ModelConfig(arch="densegcn", width=1, layout="paper")  # new channels first
        >>> Dense(2, config)(x, y).tolist()
        [[[1.0, 0.0, 0.0]]]
    """

    # An output includes its input, so `DeepGCN` keeps only each block's y, and sums the head's
    # weights over repeated channels.
    includes_input = True

    def __init__(self, channels: int, config: ModelConfig) -> None:
        super().__init__()
        self.layout = config.layout
        self.out_channels = channels + config.width

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return concatenate([x, y], self.layout)


class DGCNN(nn.Module):
    """Return the result of DGCNN's EdgeConv, whose MLP has two units, in the last layer one.

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


BLOCKS = {"plaingcn": Plain, "resgcn": Residual, "densegcn": Dense, "dgcnn": DGCNN}


def build_backbone(
    config: ModelConfig,
) -> tuple[nn.ModuleList, nn.ModuleList, list[int], Style]:
    """Build each layer's graph convolution and block.

    Returns them, the channels of the blocks' outputs, and the style of all units.

    Example:
        >>> build_backbone(ModelConfig(arch="densegcn", depth=3, width=8))[2]
        [8, 16, 24]
    """
    own = ":" in config.arch
    chosen: Any = own_class(config.arch, flag="--arch") if own else BLOCKS[config.arch]
    style = getattr(chosen, "style", None) or Style.of(config.layout)
    convs, blocks, outputs = nn.ModuleList(), nn.ModuleList(), []
    channels = config.in_channels
    for layer in range(config.depth):
        if hasattr(chosen, "build_conv"):
            convs.append(chosen.build_conv(channels, config, layer))
        else:
            convs.append(build_conv(config.conv, channels, config.width, style))
        if own and layer:
            inputs = torch.zeros(2, 2, channels), torch.zeros(2, 2, config.width)
            block = build_checked(chosen, (channels, config), inputs, None, f"--arch {config.arch}")
        else:
            block = (chosen if layer else Plain)(channels, config)
        blocks.append(block)
        channels = block.out_channels
        outputs.append(channels)
    return convs, blocks, outputs, style


def build_conv(name: str, in_channels: int, out_channels: int, style: Style) -> nn.Module:
    """Build the graph convolution `name` with units of the given style.

    `name` is one of `pipelines.config.CONVS`, a class of `torch_geometric.nn`, or
    "package.module:Class", which brings its own norm and activation; see docs/model.md.

    Raises:
        ConfigError: there is no such class, or it does not map C to C' channels.

    Example:
        >>> build_conv("GATConv", 9, 64, Style.of("paper")).conv
        GATConv(9, 64, heads=1)
    """
    if name in OURS:
        return OURS[name](in_channels, out_channels, style)
    found = own_class(name, flag="--conv") if ":" in name else pyg_class(name)
    channels, flag = (in_channels, out_channels), f"--conv {name}"
    pyg = sys.modules.get("torch_geometric.nn")  # a subclass of its classes has imported it
    if ":" not in name or (pyg and issubclass(found, pyg.MessagePassing)):
        inputs = torch.zeros(2, in_channels), torch.tensor([[0, 1], [1, 0]])
        layer: Any = build_checked(found, channels, inputs, out_channels, flag)
        layer.reset_parameters()  # as version 0.1 did, so that a seed gives the same weights
        return PyGConv(layer, out_channels, style)
    # Two blocks, because a batch norm over blocks needs more than one in training.
    inputs = torch.zeros(2, 2, in_channels), torch.zeros(2, 2, 1, dtype=torch.int32)
    return build_checked(found, channels, inputs, out_channels, flag)


def pyg_class(name: str) -> type[nn.Module]:
    """Return the convolution `name` of `torch_geometric.nn`."""
    from torch_geometric import nn as pyg

    names = [entry for entry in dir(pyg) if entry.endswith("Conv")]
    if name not in names:
        raise ConfigError(
            f"--conv: found the unknown convolution {name!r}."
            f"{did_you_mean(name, [*CONVS, *names])}\n"
            f"Expected one of {', '.join(CONVS)}, a class of torch_geometric.nn such as GATConv, "
            "or package.module:Class."
        )
    found: type[nn.Module] = getattr(pyg, name)
    return found


def own_class(name: str, *, flag: str) -> type[nn.Module]:
    """Import "package.module:Class" from an installed package or the current folder.

    Importing runs code: only call this with a name that the user gave. The current folder is
    searched last, so that its files never shadow an installed module.

    Raises:
        ConfigError: there is no such module or class, or it is not a `torch.nn.Module`.

    Example:
        >>> own_class("torch.nn:Identity", flag="--conv")
        <class 'torch.nn.modules.linear.Identity'>
    """
    module_name, _, class_name = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the module can raise anything
        raise ConfigError(
            f"{flag} {name}: the module {module_name} cannot be imported: {error}\n"
            f"Expected it in an installed package or in the current folder, {here}."
        ) from error
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        classes = [each for each, value in vars(module).items() if isinstance(value, type)]
        raise ConfigError(
            f"{flag} {name}: {class_name} in {module.__file__} is "
            f"{'missing' if found is None else repr(found)}, expected a torch.nn.Module class."
            f"{did_you_mean(class_name, classes)}"
        )
    return found


def build_checked(
    cls: type[nn.Module],
    arguments: tuple[Any, ...],
    inputs: tuple[Tensor, ...],
    out_channels: int | None,
    flag: str,
) -> Any:
    """Build a class that is not ours, and run it on `inputs` in evaluation and in training mode.

    Its result must have `out_channels` channels; None: as many as its attribute of that name. This
    changes neither its buffers nor the random state. `flag` names the class in messages.
    """
    kinds = ", ".join(repr(a) if isinstance(a, int) else type(a).__name__ for a in arguments)
    shown = f"{flag}: {cls.__name__}({kinds})"
    try:
        module = cls(*arguments)
    except Exception as error:  # the class can raise anything
        hint = f"Its signature is {inspect.signature(cls)}; expected one that needs only these."
        where = hint if isinstance(error, TypeError) else _origin(error, cls)
        raise ConfigError(f"{shown} cannot be built: {_first_line(error)}\n{where}") from error
    if torch.get_default_device().type == "meta":
        return module  # only sizes are needed, and many modules cannot run without values
    for training in (False, True):
        mode = "training" if training else "evaluation"
        buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
        try:
            with torch.no_grad(), torch.random.fork_rng([]):
                result = functional_call(module.train(training), buffers, inputs)
                channels: Any = module.out_channels if out_channels is None else out_channels
        except Exception as error:
            shapes = ", ".join(str(tuple(value.shape)) for value in inputs)
            raise ConfigError(
                f"{shown} fails on inputs of shapes {shapes} in {mode}: {_first_line(error)}\n"
                f"{_origin(error, cls)}"
            ) from error
        expected = (*inputs[0].shape[:-1], channels)
        found = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        if found != expected:
            raise ConfigError(
                f"{flag}: {cls.__name__} returned {found} in {mode}, expected shape {expected}."
            )
    return module


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or repr(error)


def _origin(error: Exception, cls: type[nn.Module]) -> str:
    """Return a sentence about where in the file of `cls` an error was raised."""
    file = inspect.getsourcefile(cls)
    frames = reversed(traceback.extract_tb(error.__traceback__))
    if line := next((frame.lineno for frame in frames if frame.filename == file), None):
        return f"It comes from {file}, line {line}; docs/model.md says what a class has to do."
    return f"The signature of its forward is {inspect.signature(cls.forward)}; see docs/model.md."


def concatenate(pieces: Sequence[Tensor], layout: str) -> Tensor:
    """Concatenate what dense blocks added, L × (B, N, C), oldest first, in the layout's order."""
    if len(pieces) == 1:
        return pieces[0]
    return torch.cat(tuple(pieces[::-1] if layout == "paper" else pieces), dim=-1)


def dense_columns(depth: int, width: int, layout: str) -> Tensor:
    """Number the channels of all dense blocks' concatenated outputs; repeated ones share a number.

    Returns:
        (C·L·(L + 1)/2,) int64 with values below C·L, for L blocks that add C channels each.

    Example:
        >>> dense_columns(3, 1, "paper").tolist()  # the outputs are 0 | 1, 0 | 2, 1, 0
        [0, 1, 0, 2, 1, 0]
    """
    pieces = list(torch.arange(depth * width).view(depth, width))
    return torch.cat([concatenate(pieces[:count], layout) for count in range(1, depth + 1)])
