"""How much memory a training step needs, and which step fits into the memory that is free.

What autograd keeps is measured on small networks (`pipelines.model.figures`), so the estimate holds
for any graph convolution, block and implementation of the kernels. Temporary memory is added by
formula.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines import kernels
from pipelines.config import ModelConfig, TrainConfig
from pipelines.errors import RunError
from pipelines.model.figures import kept_bytes, meta_network
from pipelines.model.head import HIDDEN, segment_length
from pipelines.progress import Progress, counted
from pipelines.runtime.memory import (
    CHECKPOINTED_ARRAY,
    LARGE_ARRAY,
    available_memory,
    is_out_of_memory,
    return_freed_memory,
)
from pipelines.runtime.process import trainings_at_once

from .distributed import Processes

FLOAT = 4  # bytes
USABLE = 0.8  # of the free memory: estimates are within 30 %
CPU_WORKSPACE = 100 << 20  # compiled code and k-NN candidates; compiling takes 80 to 125 MB more
GPU_WORKSPACE = 3 * (128 << 20)  # a slab of distances, its candidates, and a reserve
FRAGMENTATION = 0.65  # of the activations: freed pieces that fit nothing; 0.35 to 1.0 were measured
REFERENCE_TILE, REFERENCE_BYTES = 1 << 24, 20  # distances of a tile; each with its sorted copy


def estimate_memory(config: TrainConfig, device: str) -> int:
    """Estimate the peak memory of a training step beyond the start of the process, in bytes.

    The step's blocks are `config.micro_batch`, or a rank's whole batch; `checkpoint_layers` of None
    counts as off. `device` is "cpu" or "cuda", whose kernels are measured.
    """
    model, network = config.model, meta_network(config.model)
    total = (config.micro_batch or config.local_batch) * config.num_points
    weights = FLOAT * sum(weight.numel() for weight in network.parameters())
    kept_each, temporary_each = _activations(model, config.checkpoint_layers or 0, device)
    if kernels.forced() == "reference":
        workspace = REFERENCE_BYTES * min(REFERENCE_TILE, total * config.num_points)
    else:
        workspace = CPU_WORKSPACE if device == "cpu" else GPU_WORKSPACE
    kept = int(total * kept_each)
    head = FLOAT * (model.fusion_channels + HIDDEN[0]) * network.fusion.linear.in_features
    # At the end of the backward pass the gradient of the head's first maps exists twice, by layer
    # and as a whole; then Adam takes two arrays as large as the largest weight.
    temporary = max(int(total * temporary_each) + workspace, 2 * head - kept)
    # Freed pieces that the C library keeps, for speed; with checkpointing it returns them.
    fragmented = device == "cpu" and not config.checkpoint_layers
    fragmentation = int(FRAGMENTATION * (kept + temporary)) if fragmented else 0
    return 4 * weights + kept + temporary + fragmentation  # with gradients and Adam's two moments


def fit_memory(
    config: TrainConfig, device: str, sharing: int = 1, memory: float | None = None
) -> TrainConfig:
    """Return `config` with `micro_batch` and `checkpoint_layers` set if a step needs them to fit.

    It takes the largest micro-batch that fits, without checkpointing if possible. If none fits, it
    takes the smallest, as the estimate may be too high. Settings that the user gave stay.
    `sharing` is the number of ranks that share the memory of the device, "cpu" or "cuda": so many
    bytes, or None for what is free now.
    """
    room = USABLE * (available_memory(device) if memory is None else memory) / sharing
    sizes: list[int | None] = [config.micro_batch]
    lengths: list[int | None] = [config.checkpoint_layers]
    # Synchronised batch norm needs all blocks of a rank at once.
    if config.micro_batch is None and not config.sync_bn:
        blocks = config.local_batch
        parts = {math.ceil(blocks / parts) for parts in range(2, blocks + 1)}
        sizes += sorted(parts, reverse=True)
    if config.checkpoint_layers is None:
        lengths.append(segment_length(config.model.depth))
    chosen = config
    for size, length in itertools.product(sizes, lengths):
        chosen = dataclasses.replace(config, micro_batch=size, checkpoint_layers=length)
        if estimate_memory(chosen, device) <= room:
            break
    return chosen


def sharing_memory(processes: Processes, device: str) -> int:
    """Return how many processes share a device's memory, including those of other trainings."""
    return trainings_at_once() * (processes.local_size if device == "cpu" else 1)


def settle_memory(
    config: TrainConfig, device: str, processes: Processes, progress: Progress
) -> TrainConfig:
    """Return `config` with micro-batch and checkpointing decided, and warn if it may not fit.

    A resumed run keeps what was decided at its start, as the micro-batch shapes the result.
    """
    sharing = sharing_memory(processes, device)
    with progress.task("Estimating memory"):
        config = fit_memory(config, device, sharing)
    if sharing * estimate_memory(config, device) > available_memory(device):
        progress.warn(
            f"memory may run out: {describe_memory(config, device, sharing)}.\n"
            f"To need less: {', '.join(smaller_options(config))}."
        )
    return config


def arrange_memory(config: TrainConfig, device: str, processes: Processes) -> None:
    """Let freed memory return to the system if the training needs much of it.

    Otherwise the process keeps it, which is faster (`runtime.device.pick_device`).
    """
    if config.checkpoint_layers:
        return_freed_memory(CHECKPOINTED_ARRAY)
    elif device == "cpu":
        needed = sharing_memory(processes, device) * estimate_memory(config, device)
        if needed > available_memory(device) / 2:
            return_freed_memory(LARGE_ARRAY)


def describe_memory(config: TrainConfig, device: str, sharing: int = 1) -> str:
    """Return the estimate beside the free memory: "memory about 1.2 GB of 23 GB"."""
    estimate = sharing * estimate_memory(config, device)
    needed, free = (
        f"{size / 1e9:.1f} GB" if size < 9.95e9 else f"{size / 1e9:.0f} GB"
        for size in (estimate, available_memory(device))
    )
    return f"memory about {needed} of {free}"


@contextmanager
def explain_out_of_memory(config: TrainConfig) -> Iterator[None]:
    """Turn running out of memory into a RunError that names what to change."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        model = config.model
        raise RunError(
            f"out of memory with batches of {counted(config.batch_size, 'block')} of "
            f"{config.num_points} points "
            f"({model.arch}-{model.depth}, C {model.width}, k {model.k}).\n"
            f"Start a new run with one or more of {', '.join(smaller_options(config))}."
        ) from error


def smaller_options(config: TrainConfig) -> list[str]:
    """Return options that need less memory than `config`, those that change least first."""
    model, points = config.model, config.num_points // 2
    micro = config.micro_batch or config.local_batch
    recomputable = not config.checkpoint_layers and model.depth > 2
    options = {
        f"--checkpoint-layers {segment_length(model.depth)}": recomputable,
        f"--micro-batch {micro // 2}": micro > 1 and not config.sync_bn,
        f"--batch-size {config.batch_size // 2}": config.batch_size > 1,
        f"-k {model.k // 2}": model.k > 1,
        f"--num-points {points}": model.widest <= points,
        f"--width {model.width // 2}": model.width > 1,
    }
    return [option for option, fits in options.items() if fits] or ["a smaller --depth"]


def _activations(model: ModelConfig, length: int, device: str) -> tuple[float, float]:
    """Return the bytes per point that are kept for the backward pass, and the temporary ones.

    With checkpointing (`length` layers per segment) the peak is in the head's backward pass or in
    that of the segment that keeps most.
    """
    depth, network = model.depth, meta_network(model)
    backbone, head = kept_bytes(model, device, depth)
    repeats, outputs = network.includes_input, FLOAT * sum(network.output_channels)
    fused = FLOAT * model.fusion_channels
    mapped = fused + FLOAT * HIDDEN[0]  # by the head's first maps
    if not length:
        kept = backbone + head
        # In the head's backward pass: the gradients into and out of the fusion's map. After it,
        # besides what the layers keep: their outputs concatenated, or the gradient of these, and
        # the gradient of the mapped ones. Dense blocks have kept copies of what they concatenated.
        after_head = backbone + (2 if repeats else 1) * outputs + mapped
        return kept, max(fused, after_head - kept)
    length, width = min(length, depth), outputs / depth
    starts = range(0, depth, length)
    inputs = (outputs if repeats else len(starts) * width) + FLOAT * model.k * depth
    during_head = head - outputs + 2 * fused
    ends = [kept_bytes(model, device, end)[0] for end in (*starts, depth)]
    segment = max(after - before for before, after in itertools.pairwise(ends))
    # A segment's outputs concatenated, their gradient, that of the mapped ones, a layer's own.
    during_segment = segment + (2 * length + 8) * width + 2 * mapped + (outputs if repeats else 0)
    return inputs + segment, max(during_head, during_segment) - segment
