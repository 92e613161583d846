"""Train one network in several processes, each on its part of every batch.

Every process is a rank of PyTorch's elastic launcher (`--devices`, torchrun) or of srun, and runs
the same code; rank 0 alone writes and reports. Gloo connects CPUs, NCCL GPUs.

All ranks take the same steps, so they have the same weights. Gradients are summed in one exchange
after the backward pass, not overlapped with it: the network is small (15 MB) for its work.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable

from pipelines.data.sampler import Batch, Sampler
from pipelines.data.store import IGNORED
from pipelines.errors import ConfigError, ProcessLostError
from pipelines.progress import counted

# A killed process is noticed at once, by its closed connections; this is for machines and networks
# that stop responding.
PATIENCE = timedelta(minutes=5)
LOWEST_PORT, PORTS = 20_000, 20_000  # SLURM gives no port: it is derived from the job's number

Value = TypeVar("Value")


@dataclass(frozen=True)
class Processes:
    """The processes of a training, as one of them sees it.

    Methods that exchange data need `connected`; without other processes they cost nothing.
    """

    rank: int = 0  # this process's number among all
    size: int = 1  # processes on all machines
    local_rank: int = 0  # among those of this machine
    local_size: int = 1  # processes on this machine
    address: str = ""  # the host where they meet
    port: int = 0  # of that host
    launcher: str = ""  # for messages

    @property
    def main(self) -> bool:
        """Whether this is rank 0, which writes the run directory and reports."""
        return self.rank == 0

    def broadcast(self, make: Callable[[], Value]) -> Value:
        """Return in every process what `make` returns in rank 0."""
        made: list[Any] = [make() if self.main else None]
        if self.size > 1:
            self._together(lambda: distributed.broadcast_object_list(made))
        value: Value = made[0]
        return value

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes, the same to the bit in each of them.

        No gradient flows through it, except in a process without others.
        """
        if self.size == 1:
            return values
        total = values.detach().clone()
        self._together(lambda: distributed.all_reduce(total))
        return total

    def any(self, holds: bool) -> bool:
        """Return whether something holds in any of the processes; all wait for each other."""
        return holds if self.size == 1 else bool(self.sum(torch.tensor(float(holds))) > 0)

    def local_batch(self, sampler: Sampler, epoch: int, blocks: np.ndarray) -> Batch:
        """Return this process's part of a batch; all parts are the batch of a single process.

        A process that gets no block of a small batch computes the first one, with no point
        labelled, so that it takes part in every exchange.
        """
        if self.size == 1:
            return sampler.batch(epoch, blocks)
        numbers = tuple(int(block) for block in blocks)
        own = np.array_split(blocks, self.size)[self.rank]
        made = sampler.batch(epoch, own if len(own) else blocks[:1])
        if len(own):
            return Batch(made.features, made.label, numbers)
        return Batch(made.features, np.full_like(made.label, IGNORED), numbers, idle=True)

    def slots(self, batch_size: int) -> frozenset[int] | None:
        """Return the places in a batch of the blocks that this process takes; None: all."""
        own = np.array_split(np.arange(batch_size), self.size)[self.rank]
        return frozenset(own.tolist()) if self.size > 1 else None

    def synchronize(self, model: Any, batch: Batch) -> None:
        """Make the batch norms of `model` use the whole batch, of which `batch` is a part."""
        if self.size > 1:
            weight = 0.0 if batch.idle else 1.0
            model.synchronize(lambda sums: _Sum.apply(sums * weight, self))

    def exchange_gradients(self, model: nn.Module, batch: Batch) -> None:
        """Add up the gradients of all processes, each on its part of a batch.

        The running statistics of the batch norms become the mean over the processes, weighted by
        their blocks: one process's alone would know a part of the data only. With synchronised
        norms they are the same already.
        """
        if self.size == 1:
            return
        grads = [one.grad for one in model.parameters() if one.grad is not None]
        norms = [one for one in model.buffers() if one.is_floating_point()]
        weight = 0.0 if batch.idle else len(batch.label) / len(batch.blocks)
        flat = torch.cat([*(g.flatten() for g in grads), *(n.flatten() * weight for n in norms)])
        summed = self.sum(flat).split([one.numel() for one in (*grads, *norms)])
        with torch.no_grad():
            for own, total in zip((*grads, *norms), summed, strict=True):
                own.copy_(total.view_as(own))

    def _together(self, action: Callable[[], Any]) -> None:
        """Do what needs the other processes; without them raise ProcessLostError."""
        try:
            action()
        except RuntimeError as error:  # what gloo, NCCL and the store raise
            raise ProcessLostError(
                f"another process of the {self.size} of this training ended or does not answer."
            ) from error


ALONE = Processes()


class _Sum(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        values, ctx.processes = args
        return ctx.processes.sum(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        return ctx.processes.sum(grads[0]), None


def read_ranks(environment: Mapping[str, str] = os.environ) -> Processes:
    """Return the processes of this training, of which torchrun or srun started this one.

    ConfigError: the launcher's variables are incomplete or make no sense.
    """
    variables, launcher = environment, "torchrun"
    if _int_of(environment, "WORLD_SIZE", 1) <= 1:
        variables, launcher = _slurm_variables(environment), "srun"
    if not variables:
        return ALONE
    rank, size = _int_of(variables, "RANK"), _int_of(variables, "WORLD_SIZE")
    if not 0 <= rank < size:
        raise ConfigError(
            f"{launcher}: found process number {rank} of {size}, expected 0 to {size - 1}."
        )
    local_rank = _int_of(variables, "LOCAL_RANK", rank)
    local_size = _int_of(variables, "LOCAL_WORLD_SIZE", size)
    address, port = variables.get("MASTER_ADDR", "127.0.0.1"), _int_of(variables, "MASTER_PORT")
    return Processes(rank, size, local_rank, local_size, address, port, launcher)


def _slurm_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return srun's variables under torchrun's names; none if srun did not start this process."""
    # SLURM_NTASKS and SLURM_PROCID are also set in a job's script, which srun has not started.
    tasks = environment.get("SLURM_STEP_NUM_TASKS", "1")
    if tasks == "1" or "SLURM_PROCID" not in environment:
        return {}
    local_size = environment.get("SLURM_STEP_TASKS_PER_NODE", tasks)  # "4(x2),3": 4 on this node
    lists = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
    nodes = next((environment[name] for name in lists if environment.get(name)), "127.0.0.1")
    # "gpu[07-09,12],login": the first host is "gpu07".
    first = re.match(r"([^,\[]+)(?:\[(\d+)[^\]]*\]([^,\[]*))?", nodes)
    if first is None:
        raise ConfigError(f"srun: found the list of nodes {nodes!r}, expected names of hosts.")
    port = LOWEST_PORT + _int_of(environment, "SLURM_JOB_ID", 0) % PORTS
    return {
        "WORLD_SIZE": tasks,
        "RANK": environment["SLURM_PROCID"],
        "LOCAL_WORLD_SIZE": re.split(r"\D", local_size)[0],
        "LOCAL_RANK": environment.get("SLURM_LOCALID", "0"),
        "MASTER_ADDR": environment.get("MASTER_ADDR") or "".join(first.groups("")),
        "MASTER_PORT": environment.get("MASTER_PORT", str(port)),
    }


def _int_of(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    """Return a variable as a number, or raise ConfigError."""
    text = environment.get(name)
    if text is None and default is not None:
        return default
    try:
        return int(text or "")
    except ValueError:
        raise ConfigError(
            f"{name}: found {text!r} in the environment, expected a number.\n"
            "Start several processes with --devices, torchrun or srun, which set it."
        ) from None


def check_devices(devices: int, processes: Processes) -> None:
    """Raise ConfigError if the launcher started another number of processes than asked for."""
    if devices not in (1, processes.size):
        raise ConfigError(
            f"--devices: found {devices}, but {processes.launcher} started {processes.size} "
            "processes.\nLeave --devices out: under a launcher it is their number."
        )


def device_of(processes: Processes, device: torch.device) -> torch.device:
    """Return the device of this process: each has a GPU of its own, or ConfigError is raised."""
    if device.type != "cuda" or processes.size == 1:
        return device
    count = torch.cuda.device_count()
    # srun can show each process a GPU of its own, the only one in sight.
    alone = count == 1 and processes.launcher == "srun"
    if not alone and processes.local_size > count:
        raise ConfigError(
            f"--devices: found {counted(count, 'GPU')} on this machine for "
            f"{processes.local_size} processes.\n"
            f"Use --devices {count}, or start the processes on more machines with torchrun."
        )
    device = torch.device("cuda", 0 if alone else processes.local_rank)
    torch.cuda.set_device(device)
    return device


@contextmanager
def connected(processes: Processes) -> Iterator[Processes]:
    """Connect the processes in a `with` block; raise ProcessLostError if not all of them come."""
    if processes.size == 1:
        yield processes
        return
    hook = sys.excepthook  # PyTorch puts "[rank0]:" before every line of a traceback
    meeting = f"{processes.address}:{processes.port}"
    try:
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            init_method=f"tcp://{meeting}",
            rank=processes.rank,
            world_size=processes.size,
            timeout=PATIENCE,
        )
    except RuntimeError as error:
        raise ProcessLostError(
            f"process {processes.rank} of {processes.size} did not meet the others at "
            f"{meeting}: {processes.launcher} has to start all of them."
        ) from error
    try:
        yield processes
    finally:
        distributed.destroy_process_group()
        sys.excepthook = hook
