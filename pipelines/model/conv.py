"""The graph convolutions: a point's new features from its own and its neighbours'.

Each is a module `Conv(in_channels, out_channels, …)` whose forward pass maps x (B, N, C) and
index (B, N, k) int32, the neighbours of each point within its block, to (B, N, C').
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from pipelines import kernels
from pipelines.config import CONVS
from pipelines.errors import ConfigError, did_you_mean

from .layers import Norm, Style, Unit
from .linear import edge_map_reduce, linear, split_edge_map


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
    if unit.norm.training:
        degree = in_degree(index).unsqueeze(-1)  # (B, N, 1)
        exact = x.double()
        sums = (degree * exact).sum(dim=(0, 1)), (degree * exact.square()).sum(dim=(0, 1))
        return unit.finish_moments(x, index.numel(), *sums)
    return unit.finish_moments(x, 0, None, None)


def in_degree(index: Tensor) -> Tensor:
    """Return how often each point occurs as a neighbour, (B, N) float64.

    Example:
        >>> in_degree(torch.tensor([[[0, 1], [1, 1], [2, 0]]])).tolist()
        [[2.0, 3.0, 1.0]]
    """
    B, N, k = index.shape
    ones = torch.ones(B, N * k, dtype=torch.float64, device=index.device)
    return ones.new_zeros(B, N).scatter_add_(1, index.long().view(B, N * k), ones)


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


def build_conv(name: str, in_channels: int, out_channels: int, style: Style) -> nn.Module:
    """Build the graph convolution `name`.

    Args:
        name: one of `pipelines.config.CONVS`, a class of `torch_geometric.nn`, or
            "package.module:Class"; see docs/model.md.
        in_channels: C.
        out_channels: C'.
        style: of the units; "package.module:Class" brings its own norm and activation.

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
        layer: Any = build_checked(found, channels, inputs, out_channels, flag=flag)
        layer.reset_parameters()  # as version 0.1 did, so that a seed gives the same weights
        return PyGConv(layer, out_channels, style)
    # Two blocks, because a batch norm over blocks needs more than one in training.
    inputs = torch.zeros(2, 2, in_channels), torch.zeros(2, 2, 1, dtype=torch.int32)
    return build_checked(found, channels, inputs, out_channels, flag=flag)


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
    searched last, so that its files never take the place of an installed module.

    Raises:
        ConfigError: there is no such module or class, or it is no `torch.nn.Module`.

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
    except Exception as error:  # the module can do anything
        raise ConfigError(
            f"{flag} {name}: the module {module_name} cannot be imported: {error}\n"
            f"Expected it in an installed package or in the current folder, {here}."
        ) from error
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        classes = [each for each, value in vars(module).items() if isinstance(value, type)]
        raise ConfigError(
            f"{flag} {name}: {class_name} in {module.__file__} is "
            f"{'missing' if found is None else repr(found)}, expected a class of torch.nn.Module."
            f"{did_you_mean(class_name, classes)}"
        )
    return found


def build_checked(
    cls: type[nn.Module],
    arguments: tuple[Any, ...],
    inputs: tuple[Tensor, ...],
    out_channels: int | None,
    *,
    flag: str,
) -> nn.Module:
    """Build a class that is not ours, and try it on a tiny input, in evaluation and in training.

    Neither its buffers nor the random state change by that.

    Args:
        cls: the class, which `flag` names.
        arguments: of its constructor.
        inputs: of its forward pass.
        out_channels: that it has to return; None: as many as its attribute `out_channels` says.
        flag: the option and its value, for messages.

    Raises:
        ConfigError: it cannot be built or run, or returns something else.
    """
    kinds = ", ".join(repr(a) if isinstance(a, int) else type(a).__name__ for a in arguments)
    shown = f"{flag}: {cls.__name__}({kinds})"
    try:
        module = cls(*arguments)
    except Exception as error:  # the class can do anything
        hint = f"Its signature is {inspect.signature(cls)}; expected one that needs only these."
        where = hint if isinstance(error, TypeError) else _place(error, cls)
        raise ConfigError(f"{shown} cannot be built: {_first_line(error)}\n{where}") from error
    if torch.get_default_device().type == "meta":
        return module  # only sizes are wanted, and many modules cannot run without values
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
                f"{shown} does not map inputs of shapes {shapes} in {mode}: {_first_line(error)}\n"
                f"{_place(error, cls)}"
            ) from error
        expected = (*inputs[0].shape[:-1], channels)
        if not isinstance(result, Tensor) or result.shape != expected:
            found = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise ConfigError(
                f"{flag}: {cls.__name__} returned {found} in {mode}, expected shape {expected}."
            )
    return module


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or repr(error)


def _place(error: Exception, cls: type[nn.Module]) -> str:
    """Say where in the file of `cls` an error comes from."""
    file = inspect.getsourcefile(cls)
    frames = reversed(traceback.extract_tb(error.__traceback__))
    if line := next((frame.lineno for frame in frames if frame.filename == file), None):
        return f"It comes from {file}, line {line}; docs/model.md says what a class has to do."
    return f"Its forward pass is {inspect.signature(cls.forward)}; see docs/model.md."
