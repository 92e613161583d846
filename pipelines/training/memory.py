"""How much memory a training step needs, how much there is, and how to make the one fit the other.

What autograd keeps is counted, not guessed: small networks of 2, 3 and 4 layers run forward on few
points, and every tensor that is saved for the backward pass is added up. It is linear in the points
and at most quadratic in the depth (a dense backbone's input grows), so this tells it for any
network, vertex layer and implementation of the kernels. What comes and goes is added by formula.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines import kernels
from pipelines.config import ModelConfig, TrainConfig
from pipelines.model.checkpointing import segment_length
from pipelines.model.deepgcn import DeepGCN
from pipelines.runtime.memory_limits import available_memory

FLOAT = 4  # bytes
LEAST_POINTS = 64  # of the small networks
DEPTHS = (2, 3, 4)
SHARE = 0.8  # of the available memory that a training may plan with: estimates err by up to 20 %
CPU_WORKSPACE = 100 << 20  # compiled code and k-NN's candidates; compiling takes 80 to 125 more
GPU_WORKSPACE = 3 * (128 << 20)  # a slab of products, what is kept of it, room to spare
HOLES = 0.65  # of what comes and goes: freed pieces that fit nothing; 0.35 to 1.0 were measured
EAGER_NUMBERS, EAGER_BYTES = 1 << 24, 20  # a tile of distances, with its sorted copy and order


@dataclass(frozen=True)
class MemoryEstimate:
    """The most memory a training step needs beyond the start of the process, in bytes.

    Attributes:
        parameters: the weights.
        gradients: theirs.
        optimizer: Adam's two moments.
        activations: what is kept for the backward pass, at its largest.
        workspace: what comes and goes: gradients of activations, k-NN, the optimizer's own.
        holes: pieces between them that the C library keeps free, for speed; none where layers are
            computed again, as freed memory is handed back then (`runtime.allocation`).
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    workspace: int
    holes: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(dataclasses.astuple(self))


def estimate_memory(
    config: TrainConfig, *, device: str, batch_size: int | None = None
) -> MemoryEstimate:
    """Estimate the peak memory of a training step.

    Args:
        config: what to train; `checkpoint_layers` of None counts as none.
        device: "cpu" or "cuda": where it is counted.
        batch_size: blocks at once; None: `config.micro_batch`, or all that a process has.
    """
    model, points = config.model, config.num_points
    total = (batch_size or config.micro_batch or config.local_batch) * points
    weights = FLOAT * count_weights(model)
    kept_each, passing_each = _activations(model, config.checkpoint_layers or 0, device)
    kept = int(total * kept_each)
    passing = int(total * passing_each) + _workspace(device, total * points)
    head = FLOAT * head_width(model) * channels_of_all(model)
    # At the end of the backward pass, the head's gradient is in pieces and whole; then Adam
    # takes two arrays as large as the largest weight.
    passing = max(passing, 2 * head - kept)
    keeps = device == "cpu" and not config.checkpoint_layers
    holes = int(HOLES * (kept + passing)) if keeps else 0
    return MemoryEstimate(weights, weights, 2 * weights, kept, passing, holes)


def fit_memory(config: TrainConfig, device: str, sharing: int = 1) -> TrainConfig:
    """Return `config` with `micro_batch` and `checkpoint_layers` set where a step needs them.

    The largest micro-batch that fits, computed without checkpointing if that fits as well; where
    nothing does, the least: the estimate may be too high. Micro-batches are of about equal size.
    What was asked for stays; None stays where a plain step fits.

    Args:
        config: what to train.
        device: "cpu" or "cuda".
        sharing: processes that have the device's memory together.
    """
    room = SHARE * available_memory(device) / sharing
    chosen = config
    for size in _micro_batches(config):
        for length in _segments(config):
            chosen = dataclasses.replace(config, micro_batch=size, checkpoint_layers=length)
            if estimate_memory(chosen, device=device).total <= room:
                return chosen
    return chosen


def _micro_batches(config: TrainConfig) -> list[int | None]:
    """Return what `micro_batch` may be, the largest first; None is all that a process has."""
    # Synchronised batch norm needs all blocks of a process at once.
    if config.micro_batch is not None or config.sync_bn:
        return [config.micro_batch]
    sizes = {math.ceil(config.local_batch / parts) for parts in range(2, config.local_batch + 1)}
    return [None, *sorted(sizes, reverse=True)]


def _segments(config: TrainConfig) -> list[int | None]:
    """Return what `checkpoint_layers` may be; None is without checkpointing."""
    if config.checkpoint_layers is not None:
        return [config.checkpoint_layers]
    return [None, segment_length(config.model.depth)]


def describe_memory(config: TrainConfig, device: str, sharing: int = 1) -> str:
    """Return the estimate against the device: "memory about 1.2 GB of 23 GB"."""
    estimate = sharing * estimate_memory(config, device=device).total
    return f"memory about {_size(estimate)} of {_size(available_memory(device))}"


def _size(number: int) -> str:
    """Return bytes for people, with two digits: "1.2 GB", "23 GB"."""
    return f"{number / 1e9:.1f} GB" if number < 9.95e9 else f"{number / 1e9:.0f} GB"


def head_width(model: ModelConfig) -> int:
    """Return the channels that fusion and first prediction map make of all layers' outputs."""
    return model.fusion_channels + 512


def channels_of_all(model: ModelConfig) -> int:
    """Return the channels of all layers' outputs, a dense backbone's repetitions included."""
    if model.arch == "densegcn":
        return model.width * model.depth * (model.depth + 1) // 2
    return model.width * model.depth


def _activations(model: ModelConfig, length: int, device: str) -> tuple[float, float]:
    """Return the bytes a point that are kept for the backward pass, and that come and go besides.

    With checkpointing (`length` layers a segment) there are two moments that may be the largest:
    the head's backward pass, and that of the segment that keeps most.
    """
    layers, head = _counted(model, device)
    depth, width = model.depth, FLOAT * model.width
    sums = FLOAT * head_width(model)
    fused = FLOAT * model.fusion_channels
    outputs = width * depth  # every layer's own channels
    if not length:
        kept = layers(depth) + head(depth)
        # Head: the gradients into and out of a map of the fused features. After it, beside all that
        # the layers keep: their outputs side by side or the gradient of these, that of the sums.
        again = outputs if model.arch == "densegcn" else 0  # what layers keep is joined already
        after_head = layers(depth) + outputs + again + sums
        return kept, max(fused, after_head - kept)
    starts = range(0, depth, length)
    dense = model.arch == "densegcn"
    inputs = (outputs if dense else len(starts) * width) + FLOAT * model.k * depth
    during_head = head(depth) - outputs + 2 * fused
    repeated = max(layers(min(start + length, depth)) - layers(start) for start in starts)
    # A segment's outputs side by side, their gradient, that of the sums, and a layer's own.
    during_layers = repeated + (2 * length + 8) * width + 2 * sums + (outputs if dense else 0)
    return inputs + repeated, max(during_head, during_layers) - repeated


class _Polynomial:
    """The curve of second degree through the values at DEPTHS."""

    def __init__(self, values: tuple[float, ...]) -> None:
        self.values = values

    def __call__(self, depth: int) -> float:
        """Return the value at a depth; 0 at depth 0."""
        if depth == 0:
            return 0.0
        first, second, third = self.values
        steps = depth - DEPTHS[0]
        bend = third - 2 * second + first
        return first + steps * (second - first) + steps * (steps - 1) / 2 * bend


def _counted(model: ModelConfig, device: str) -> tuple[_Polynomial, _Polynomial]:
    """Return what layers and head keep for the backward pass, bytes a point, at any depth."""
    small = dataclasses.replace(model, depth=DEPTHS[0], dilation=False, epsilon=0.0)
    return _count(small, device, kernels.forced())


@functools.lru_cache(maxsize=64)
def _count(
    model: ModelConfig,
    device: str,
    implementation: str | None,  # noqa: ARG001 - what is kept depends on it
) -> tuple[_Polynomial, _Polynomial]:
    points = max(LEAST_POINTS, model.k)
    found = []
    for depth in DEPTHS:
        network = dataclasses.replace(model, depth=depth)
        # Twice the points: what remains of the difference grows with the points.
        few, many = (_kept(network, device, n * points) for n in (1, 2))
        found.append([(b - a) / points for a, b in zip(few, many, strict=True)])
    layers, head = zip(*found, strict=True)
    return _Polynomial(layers), _Polynomial(head)


def _kept(config: ModelConfig, device: str, points: int) -> tuple[int, int]:
    """Return the bytes that the layers of a network and its head keep for the backward pass."""
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    devices = [torch.cuda.current_device()] if device == "cuda" else []
    with torch.random.fork_rng(devices), torch.enable_grad():
        model = DeepGCN(config).to(device).train()
        features = torch.rand(1, points, config.in_channels, device=device)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            outputs = model.backbone(features)
            layers = sum(storages.values())
            del outputs
            storages.clear()
            logits = model(features)
            total = sum(storages.values())
            del logits
    return layers, total - layers


def count_weights(config: ModelConfig) -> int:
    """Return the number of weights of a network, without building it."""
    with torch.device("meta"):
        model = DeepGCN(config)
    return sum(parameter.numel() for parameter in model.parameters())


def _workspace(device: str, distances: int) -> int:
    if kernels.forced() == "reference":
        return EAGER_BYTES * min(EAGER_NUMBERS, distances)
    return CPU_WORKSPACE if device == "cpu" else GPU_WORKSPACE
