"""What a training is computed on: this machine, or another one by its sizes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pipelines.config import ModelConfig, PlanConfig
from pipelines.model.figures import step_flop
from pipelines.progress import counted
from pipelines.runtime.device import describe_device
from pipelines.runtime.memory import available_memory

GB = 1e9
# Floating-point operations a second of training steps. Measured: ResGCN-28 on two cores 86 to 183
# GFLOP/s, on an H200 41 TFLOP/s (docs/benchmarks.md). Smaller GPUs are taken to be a third of that.
CORE_SPEED, GPU_SPEED = 60e9, 14e12
# What else a layer takes for each point: small networks do less arithmetic a second.
CORE_LAYER, GPU_LAYER = 1.5e-6, 2e-9  # s


@dataclass(frozen=True)
class Machine:
    """What computes, and the memory that a training can take."""

    device: str  # "cpu" or "cuda"
    name: str
    cores: int
    memory: int  # bytes, of the GPU if there is one
    here: bool = True  # whether it is this machine


def this_machine(device: torch.device) -> Machine:
    """Return this machine, with a device of it to train on."""
    threads = torch.get_num_threads()
    return Machine(device.type, describe_device(device), threads, available_memory(device.type))


def other_machine(config: PlanConfig) -> Machine:
    """Return the machine that a configuration describes; what it leaves open is as here.

    Whether a GPU is here makes no difference.
    """
    here = this_machine(torch.device("cpu"))
    if config.gpu_memory is not None:
        name = f"a GPU of {config.gpu_memory:g} GB"
        return Machine("cuda", name, here.cores, int(GB * config.gpu_memory), here=False)
    cores = config.cores or here.cores
    memory = here.memory if config.memory is None else int(GB * config.memory)
    return Machine("cpu", f"a CPU of {counted(cores, 'core')}", cores, memory, here=False)


def estimated_seconds(machine: Machine, model: ModelConfig, num_points: int) -> float:
    """Estimate the seconds of a training step for each block, from its arithmetic."""
    flop, layers = step_flop(model, num_points), num_points * model.depth
    if machine.device == "cuda":
        return flop / GPU_SPEED + layers * GPU_LAYER
    return (flop / CORE_SPEED + layers * CORE_LAYER) / machine.cores
