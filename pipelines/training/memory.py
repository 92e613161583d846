"""How much memory a training step needs, and which step fits into the memory that is free.

What autograd keeps is measured on small networks (`pipelines.model.figures`), so the estimate holds
for any graph convolution, block and implementation of the kernels. Temporary memory is added by
formula.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass

from pipelines import kernels
from pipelines.config import ModelConfig, TrainConfig
from pipelines.model.figures import kept_bytes, meta_network
from pipelines.model.head import HIDDEN, segment_length
from pipelines.progress import Progress
from pipelines.runtime.memory import (
    CHECKPOINTED_ARRAY,
    LARGE_ARRAY,
    available_memory,
    return_freed_memory,
)
from pipelines.runtime.process import trainings_at_once

from .accumulation import smaller_options
from .distributed import Ranks

FLOAT = 4  # bytes
SHARE = 0.8  # of the free memory that a training may plan with: estimates err by up to 20 %
CPU_WORKSPACE = 100 << 20  # compiled code and k-NN candidates; compiling takes 80 to 125 MB more
GPU_WORKSPACE = 3 * (128 << 20)  # a slab of distances, its candidates, and a reserve
FRAGMENTATION = 0.65  # of the activations: freed pieces that fit nothing; 0.35 to 1.0 were measured
REFERENCE_TILE, REFERENCE_BYTES = 1 << 24, 20  # distances of a tile; each with its sorted copy


@dataclass(frozen=True)
class MemoryEstimate:
    """The peak memory of a training step beyond the start of the process, in bytes."""

    parameters: int
    gradients: int
    optimizer: int  # Adam's two moments
    activations: int  # what is kept for the backward pass, at its largest
    workspace: int  # temporary: gradients of activations, k-NN, the optimizer's own
    # Freed pieces that the C library keeps, for speed; none with activation checkpointing, which
    # hands freed memory back (`runtime.memory`).
    fragmentation: int

    @property
    def total(self) -> int:
        return sum(dataclasses.astuple(self))


def estimate_memory(
    config: TrainConfig, *, device: str, batch_size: int | None = None
) -> MemoryEstimate:
    """Estimate the peak memory of a training step.

    Args:
        config: what to train; `checkpoint_layers` of None counts as off.
        device: "cpu" or "cuda", whose kernels are measured.
        batch_size: blocks at once; None: `config.micro_batch`, or a rank's whole batch.
    """
    model, points = config.model, config.num_points
    total = (batch_size or config.micro_batch or config.local_batch) * points
    network = meta_network(model)
    weights = FLOAT * sum(weight.numel() for weight in network.parameters())
    kept_each, temporary_each = _activations(model, config.checkpoint_layers or 0, device)
    kept = int(total * kept_each)
    temporary = int(total * temporary_each) + _workspace(device, total * points)
    head = FLOAT * (model.fusion_channels + HIDDEN[0]) * network.fusion.linear.in_features
    # At the end of the backward pass the gradient of the head's first maps exists twice, by layer
    # and as a whole; then Adam takes two arrays as large as the largest weight.
    temporary = max(temporary, 2 * head - kept)
    fragmented = device == "cpu" and not config.checkpoint_layers
    fragmentation = int(FRAGMENTATION * (kept + temporary)) if fragmented else 0
    return MemoryEstimate(weights, weights, 2 * weights, kept, temporary, fragmentation)


def fit_memory(config: TrainConfig, device: str, sharing: int = 1) -> TrainConfig:
    """Return `config` with `micro_batch` and `checkpoint_layers` set if a step needs them to fit.

    Chosen is the largest micro-batch that fits, without checkpointing if possible. If nothing fits,
    the smallest is taken, as the estimate may be too high. Settings that the user gave stay.
    `sharing` is the number of ranks that share the memory of the device, "cpu" or "cuda".
    """
    room = SHARE * available_memory(device) / sharing
    chosen = config
    for size, length in itertools.product(_micro_batches(config), _segments(config)):
        chosen = dataclasses.replace(config, micro_batch=size, checkpoint_layers=length)
        if estimate_memory(chosen, device=device).total <= room:
            break
    return chosen


def _micro_batches(config: TrainConfig) -> list[int | None]:
    """Return what `micro_batch` may be, the largest first; None is a rank's whole batch."""
    # Synchronised batch norm needs all blocks of a rank at once.
    if config.micro_batch is not None or config.sync_bn:
        return [config.micro_batch]
    sizes = {math.ceil(config.local_batch / parts) for parts in range(2, config.local_batch + 1)}
    return [None, *sorted(sizes, reverse=True)]


def _segments(config: TrainConfig) -> list[int | None]:
    """Return what `checkpoint_layers` may be; None is off."""
    if config.checkpoint_layers is not None:
        return [config.checkpoint_layers]
    return [None, segment_length(config.model.depth)]


def sharing_memory(ranks: Ranks, device: str) -> int:
    """Return how many processes share a device's memory.

    Those of this training on the CPU, times the trainings that run beside it (`ablate --workers`).
    """
    return trainings_at_once() * (ranks.local_world_size if device == "cpu" else 1)


def settle_memory(
    config: TrainConfig, device: str, ranks: Ranks, progress: Progress
) -> TrainConfig:
    """Return `config` with micro-batch and checkpointing decided, and warn if it may not fit.

    A resumed run keeps what was decided at its start: another size would be another function.
    """
    sharing = sharing_memory(ranks, device)
    with progress.task("Estimating memory"):
        config = fit_memory(config, device, sharing)
    if sharing * estimate_memory(config, device=device).total > available_memory(device):
        progress.warn(
            f"memory may run out: {describe_memory(config, device, sharing)}.\n"
            f"To need less: {', '.join(smaller_options(config))}."
        )
    return config


def arrange_memory(config: TrainConfig, device: str, ranks: Ranks) -> None:
    """Return freed memory to the system if the training needs much of what there is.

    Otherwise it is kept, which is faster (`runtime.device.pick_device`).
    """
    if config.checkpoint_layers:
        return_freed_memory(CHECKPOINTED_ARRAY)
        return
    needed = sharing_memory(ranks, "cpu") * estimate_memory(config, device=device).total
    if device == "cpu" and needed > available_memory(device) / 2:
        return_freed_memory(LARGE_ARRAY)


def describe_memory(config: TrainConfig, device: str, sharing: int = 1) -> str:
    """Return the estimate beside the free memory: "memory about 1.2 GB of 23 GB"."""
    estimate = sharing * estimate_memory(config, device=device).total
    needed, free = (
        f"{size / 1e9:.1f} GB" if size < 9.95e9 else f"{size / 1e9:.0f} GB"
        for size in (estimate, available_memory(device))
    )
    return f"memory about {needed} of {free}"


def _activations(model: ModelConfig, length: int, device: str) -> tuple[float, float]:
    """Return the bytes per point that are kept for the backward pass, and the temporary ones.

    With checkpointing (`length` layers per segment) the peak is in the head's backward pass or in
    that of the segment that keeps most.
    """
    depth, network = model.depth, meta_network(model)
    backbone, head = kept_bytes(model, device, depth)
    repeats, outputs = network.repeats, FLOAT * sum(network.output_channels)
    fused = FLOAT * model.fusion_channels
    mapped = fused + FLOAT * HIDDEN[0]  # by the head's first maps
    if not length:
        kept = backbone + head
        # In the head's backward pass: the gradients into and out of the fusion's map. After it,
        # besides what the layers keep: their outputs concatenated, or the gradient of these, and
        # the gradient of the mapped ones. Dense blocks have kept copies of what they concatenated.
        after_head = backbone + (2 if repeats else 1) * outputs + mapped
        return kept, max(fused, after_head - kept)
    width = outputs / depth
    starts = range(0, depth, length)
    inputs = (outputs if repeats else len(starts) * width) + FLOAT * model.k * depth
    during_head = head - outputs + 2 * fused
    ends = [kept_bytes(model, device, end)[0] for end in (*starts, depth)]
    segment = max(after - before for before, after in itertools.pairwise(ends))
    # A segment's outputs concatenated, their gradient, that of the mapped ones, a layer's own.
    during_segment = segment + (2 * length + 8) * width + 2 * mapped + (outputs if repeats else 0)
    return inputs + segment, max(during_head, during_segment) - segment


def _workspace(device: str, distances: int) -> int:
    if kernels.forced() == "reference":
        return REFERENCE_BYTES * min(REFERENCE_TILE, distances)
    return CPU_WORKSPACE if device == "cpu" else GPU_WORKSPACE
