"""Time a few steps of a training on its own data."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence

import numpy as np
import torch

from pipelines.config import TrainConfig
from pipelines.data.blocks import overlapping
from pipelines.data.sampler import Batch, BlockSampler
from pipelines.data.store import RoomInfo, Store
from pipelines.errors import DatasetError
from pipelines.model.deepgcn import DeepGCN
from pipelines.progress import Progress, counted
from pipelines.runtime.cuda_graphs import GraphedModel
from pipelines.runtime.device import cpu_threads
from pipelines.runtime.precision import Precision
from pipelines.training.memory import explain_out_of_memory
from pipelines.training.recipe import build_optimizer, choose_recipe
from pipelines.training.steps import Accumulation, Step, Stepper, pinned, prefetch

ROOMS = 4  # whose blocks are drawn: those of most points, which have some if any have
WARM_UP = {"cpu": 1, "cuda": 4}  # steps: compilation, the capture of CUDA graphs
CPU_BLOCKS = 4  # a step: a CPU takes as long for each block, however many there are
TIMED, MOST_TIMED = 2, 8  # steps


def seconds_of_steps(
    config: TrainConfig,
    store: Store,
    rooms: Sequence[RoomInfo],
    device: torch.device,
    seconds: float,
    progress: Progress,
) -> tuple[float, int]:
    """Return the seconds of a training step for each block, and how many steps were timed.

    `config` is resolved. It takes about `seconds` beside compilation, and two steps at least.

    Raises:
        DatasetError: the largest rooms have no blocks.
        RunError: memory ran out.
    """
    with explain_out_of_memory(config):
        size = config.batch_size if device.type == "cuda" else min(CPU_BLOCKS, config.batch_size)
        side, largest = config.block_side, sorted(rooms, key=lambda room: -room.points)
        sampler = BlockSampler(
            *(store, largest[:ROOMS], config.num_points, config.seed, overlapping(side)),
            layout=config.model.layout,
            parts=config.parts,
            size=side,
            voxel=config.voxel_side,
        )
        if not len(sampler):
            raise DatasetError(f"{config.data}: found no block of {side:g} m in the largest rooms.")
        warm_up = WARM_UP[device.type]
        most = warm_up + MOST_TIMED
        batches = [batch for epoch in range(most) for batch in sampler.batches(epoch, size)]
        whole = [batch for batch in batches if len(batch) == len(batches[0])][:most]
        steps: list[Step] = []
        with (
            torch.random.fork_rng([device] if device.type == "cuda" else []),
            cpu_threads(config.threads),
            progress.task(
                f"Timing steps of {counted(size, 'block')}", total=most, unit="steps"
            ) as task,
        ):
            stepper = _stepper(config, device)

            def make(blocks: np.ndarray) -> Batch:
                batch = sampler.batch(0, blocks)
                return pinned(batch) if device.type == "cuda" else batch

            began = time.monotonic()
            drawn = prefetch(make, whole, threads=max(1, config.workers))
            try:
                for step in stepper.steps(drawn, 0, 0):
                    steps.append(step)
                    task.advance()
                    if len(steps) == warm_up:
                        began = time.monotonic()
                    if len(steps) >= warm_up + TIMED and time.monotonic() - began > seconds:
                        break
            finally:
                drawn.close()
        each = sorted(step.seconds / len(step.batch.blocks) for step in steps[warm_up:] or steps)
        # The faster half: other work disturbs now and then, and never makes a step faster.
        return statistics.median(each[: math.ceil(len(each) / 2)]), len(each)


def _stepper(config: TrainConfig, device: torch.device) -> Stepper:
    """Return what takes the steps, as in a training from nothing."""
    model = DeepGCN(config.model).to(device)
    model.checkpoint_layers = config.checkpoint_layers or 0
    forward = GraphedModel(model, training=True)
    size = config.micro_batch or config.local_batch
    return Stepper(
        model,
        build_optimizer(model, config.parts, config.first_lr),
        choose_recipe(config, config.batch_size * (config.max_steps or 1)),
        Accumulation(size, forward=forward),
        Precision(config.precision, device),
    )
