"""What a network costs: its weights, its arithmetic, and what its backward pass keeps.

Arithmetic and kept activations are counted, not derived: small networks of 2, 3 and 4 layers run
on few points, PyTorch counts their matrix multiplications, and every tensor that autograd saves is
added up. Both are at most quadratic in the depth (the input of dense blocks grows) and in the
points (the distances of a graph), so the small networks determine every size. That holds for any
graph convolution or block, including PyTorch Geometric's and the user's own.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pipelines import kernels
from pipelines.config import ModelConfig

from .deepgcn import DeepGCN

LEAST_POINTS = 64  # of the small networks
DEPTHS = (2, 3, 4)
# PyTorch does not count a matmul that adds to its result.
ADDED = {torch.ops.aten.addmm_: lambda _, a, b, *__, **___: 2 * a[0] * a[1] * b[1]}

Figures = Callable[[int, int], tuple[float, float]]  # (depth, points) → both figures


@functools.lru_cache(maxsize=8)
def meta_network(config: ModelConfig) -> DeepGCN:
    """Return a network with shapes but without memory.

    Example:
        >>> sum(weight.numel() for weight in meta_network(ModelConfig()).parameters())  # ResGCN-28
        3644301
    """
    with torch.device("meta"):
        return DeepGCN(config)


def forward_flop(model: ModelConfig, points: int) -> float:
    """Return the floating-point operations of a forward pass of one block.

    Only matrix multiplications count, an addition and a multiplication for each product, and none
    is left out: N² scalar products for every graph, of `--spatial` graphs for all together, though
    symmetry and pruning save most of them.

    Example:
        >>> f"{forward_flop(ModelConfig(), 4096):.3g}"  # ResGCN-28
        '8.36e+10'
    """
    return round(_counted(model, _multiplied)(model.depth, points)[0])


def step_flop(model: ModelConfig, points: int) -> float:
    """Return the operations of a training step of one block: forward and backward pass.

    Example:
        >>> step_flop(ModelConfig(), 4096) > 2 * forward_flop(ModelConfig(), 4096)
        False
    """
    return round(_counted(model, _multiplied)(model.depth, points)[1])


def search_flop(channels: int, points: int) -> float:
    """Return the operations of all distances between the points of one block.

    Example:
        >>> search_flop(64, 4096)
        2147483648
    """
    return 2 * points * points * channels


def kept_bytes(model: ModelConfig, device: str, depth: int) -> tuple[float, float]:
    """Return what backbone and head keep for the backward pass, in bytes per point, at a depth.

    The depth of `model` itself does not matter. The kernels of `device`, "cpu" or "cuda", are used.

    Example:
        >>> backbone, head = kept_bytes(ModelConfig(), "cpu", 28)
        >>> backbone > head
        True
    """
    if not depth:
        return 0.0, 0.0
    kept = _counted(model, _saved, device, kernels.forced())
    # What a network without points keeps does not grow with them.
    (backbone, head), (fixed_backbone, fixed_head) = kept(depth, 1), kept(depth, 0)
    return backbone - fixed_backbone, head - fixed_head


def _small(model: ModelConfig) -> ModelConfig:
    """Return the smallest network like `model`, whose figures hold for every depth."""
    return dataclasses.replace(
        model,
        depth=DEPTHS[0],
        dilation=False,
        epsilon=0.0,
        knn_every=1,
        knn_until=None,
        spatial=None,
    )


def _counted(
    model: ModelConfig, measure: Callable[..., tuple[int, int]], *setting: str | None
) -> Figures:
    """Return two figures of networks like `model` as a function of depth and points."""
    each = _figures(_small(model), measure, *setting)  # each layer has a graph of its own
    if model.knn == "fixed" or not model.sharing:
        return each
    one = _figures(dataclasses.replace(_small(model), knn="fixed"), measure, *setting)
    spatial_too = _figures(dataclasses.replace(_small(model), spatial="1"), measure, *setting)

    def figures(depth: int, points: int) -> tuple[float, float]:
        def searches(layers: int) -> list[float]:
            """What all graphs but the first take in a network of so many layers."""
            return [a - b for a, b in zip(each(layers, points), one(layers, points), strict=True)]

        first, second = one(depth, points)
        if depth == 1:  # its only graph is counted
            return first, second
        like = model.of_depth(depth)
        for layer in {*like.graph_layers()[: like.first_spatial]} - {0}:
            after, before = searches(layer + 1), searches(layer)
            first, second = first + after[0] - before[0], second + after[1] - before[1]
        in_space = {*like.graph_layers()[like.first_spatial :]} - {0}
        searched = 0 < like.first_spatial < depth  # else `one` has searched positions
        times = len(in_space) if measure is _saved else int(searched)  # one search for all
        (more, more_too), (less, less_too) = spatial_too(2, points), one(2, points)
        return first + times * (more - less), second + times * (more_too - less_too)

    return figures


@functools.lru_cache(maxsize=256)
def _figures(
    small: ModelConfig, measure: Callable[..., tuple[int, int]], *setting: str | None
) -> Figures:
    """Measure two figures of small networks; return them as a function of depth and points."""
    least = max(LEAST_POINTS, small.k)
    networks = [dataclasses.replace(small, depth=depth) for depth in DEPTHS]
    grid = [
        [measure(network, times * least, *setting) for times in (1, 2, 3)] for network in networks
    ]  # depths × points × 2

    def figures(depth: int, points: int) -> tuple[float, float]:
        of_depths = [_parabola(row, points / least - 1) for row in grid]
        first, second = _parabola(of_depths, depth - DEPTHS[0])
        return first, second

    return figures


def _parabola(rows: Sequence[Sequence[float]], steps: float) -> list[float]:
    """Return the values `steps` after the first on the parabolas through three rows, a step apart.

    Example:
        >>> _parabola([(0, 1), (1, 1), (4, 1)], 5)
        [25.0, 1.0]
    """
    return [
        first + steps * (second - first) + steps * (steps - 1) / 2 * (third - 2 * second + first)
        for first, second, third in zip(*rows, strict=True)
    ]


def _multiplied(config: ModelConfig, points: int) -> tuple[int, int]:
    """Return the operations of a forward pass and of a step."""
    # The reference kernels neither skip nor repeat any arithmetic.
    with torch.random.fork_rng([]), torch.enable_grad(), kernels.use("reference"):
        model, features = DeepGCN(config).train(), torch.rand(1, points, config.in_channels)
        with FlopCounterMode(display=False, custom_mapping=ADDED) as counter:
            loss = model(features).sum()
            forward = counter.get_total_flops()
            loss.backward()
            return forward, counter.get_total_flops()


def _saved(
    config: ModelConfig, points: int, device: str, implementation: str | None
) -> tuple[int, int]:
    """Return the bytes that backbone and head of a network save for the backward pass."""
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    devices = [torch.cuda.current_device()] if device == "cuda" else []
    with torch.random.fork_rng(devices), torch.enable_grad(), kernels.use(implementation):
        model = DeepGCN(config).to(device).train()
        features = torch.rand(1, points, config.in_channels, device=device)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            outputs = model.backbone(features)
            backbone = sum(storages.values())
            del outputs
            storages.clear()
            logits = model(features)
            total = sum(storages.values())
            del logits
    return backbone, total - backbone
