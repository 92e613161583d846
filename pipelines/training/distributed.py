"""Several processes that train one network together, each on its share of every batch.

One of them, rank 0, directs: it alone writes and speaks. Plain `torch.distributed` does the
talking: gloo between CPUs, NCCL between GPUs. A process that is alone has a `Processes` too, whose
every method then costs nothing.

The weights are the same everywhere, since all take the same steps: the gradients are added up in
one exchange after the backward pass, not overlapped with it, because the network is small (15 MB)
for its work.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable
from torch.distributed.rendezvous import rendezvous

from pipelines.data.sampler import Batch, BlockSampler
from pipelines.data.store import IGNORED
from pipelines.errors import RunError

from .placement import Place

# How long the others are waited for. A process that is killed is noticed at once, by its closed
# connections; this is for machines and networks that just fall silent.
PATIENCE = timedelta(minutes=5)

Value = TypeVar("Value")


class ProcessLostError(RunError):
    """Another process of the training has ended or does not answer."""


class EverywhereError(RunError):
    """An error that every process of the training finds; rank 0 reports it for all."""


@dataclass(frozen=True)
class Processes:
    """The processes of a training, as one of them sees it.

    Attributes:
        place: which of them this is.
        store: where they leave messages for one another; None for a process that is alone.
    """

    place: Place = field(default_factory=Place)
    store: Any = None

    @property
    def rank(self) -> int:
        """This process's number, from 0."""
        return self.place.rank

    @property
    def size(self) -> int:
        """How many there are."""
        return self.place.size

    @property
    def main(self) -> bool:
        """Whether this process directs: it writes the run directory and speaks to the person."""
        return self.rank == 0

    def tell(self, name: str, value: Any) -> None:
        """Let the others know something that JSON can hold."""
        if self.size > 1:
            self._together(lambda: self.store.set(name, json.dumps(value)))

    def hear(self, name: str) -> Any:
        """Return what rank 0 tells, and wait until it does.

        Raises:
            ProcessLostError: it ends without telling it.
        """
        return json.loads(self._together(lambda: self.store.get(name)))

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes, the same to the bit in each of them.

        No gradient flows through it, except for a process that is alone.
        """
        if self.size == 1:
            return values
        total = values.detach().clone()
        self._together(lambda: distributed.all_reduce(total))
        return total

    def any(self, fact: bool) -> bool:
        """Return whether something holds in any of the processes."""
        return fact if self.size == 1 else bool(self.sum(torch.tensor(float(fact))) > 0)

    def all_same(self, value: float) -> bool:
        """Return whether a number is the same to the bit in all processes."""
        rows = torch.zeros(self.size, dtype=torch.float64)
        rows[self.rank] = value
        return bool((self.sum(rows) == value).all())

    def share(self, sampler: BlockSampler, epoch: int, blocks: np.ndarray) -> Batch:
        """Return this process's share of a batch, as drawn in an epoch.

        The draws follow from (seed, epoch, block), so all shares together are the batch that one
        process would have made. A process that gets no block of a small batch computes the first
        one, with no point labelled, so that it takes part in every exchange.
        """
        if self.size == 1:
            return sampler.batch(epoch, blocks)
        numbers = tuple(int(block) for block in blocks)
        own = np.array_split(blocks, self.size)[self.rank]
        made = sampler.batch(epoch, own if len(own) else blocks[:1])
        if len(own):
            return Batch(made.features, made.label, numbers)
        return Batch(made.features, np.full_like(made.label, IGNORED), numbers, idle=True)

    def synchronize(self, model: Any, batch: Batch) -> None:
        """Have the batch norms of `model` count the whole batch, of which `batch` is a share."""
        if self.size > 1:
            weight = 0.0 if batch.idle else 1.0
            model.synchronize(lambda sums: _Sum.apply(sums * weight, self))

    def exchange(self, model: nn.Module, batch: Batch) -> None:
        """Add up the gradients of all processes, each on its share of a batch.

        The running statistics of the batch norms become the mean over the processes, weighted by
        their blocks: one process's alone would know a part of the data only. Where the norms count
        the whole batch they are the same already.
        """
        if self.size == 1:
            return
        grads = [one.grad for one in model.parameters() if one.grad is not None]
        norms = [one for one in model.buffers() if one.is_floating_point()]
        weight = 0.0 if batch.idle else len(batch.label) / len(batch.blocks)
        flat = torch.cat([*(g.flatten() for g in grads), *(n.flatten() * weight for n in norms)])
        parts = self.sum(flat).split([one.numel() for one in (*grads, *norms)])
        with torch.no_grad():
            for place, part in zip((*grads, *norms), parts, strict=True):
                place.copy_(part.view_as(place))

    def _together(self, action: Callable[[], Value]) -> Value:
        """Do what needs the other processes.

        Raises:
            ProcessLostError: one of them has ended or does not answer.
        """
        try:
            return action()
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


def meet(place: Place, store: Any = None) -> Processes:
    """Return the processes that meet in a store, all able to leave messages.

    Args:
        place: of this process among them.
        store: where they meet; None: at the place's address.

    Raises:
        ProcessLostError: nobody answers there.
    """
    if place.size == 1:
        return ALONE
    try:
        if store is None:
            where = f"tcp://{place.address}:{place.port}"
            meeting = rendezvous(where, place.rank, place.size, timeout=PATIENCE)
            store, _, _ = next(meeting)
        store.set(here(place.rank), "")
    except RuntimeError as error:
        raise _absent(place) from error
    return Processes(place, store)


def here(rank: int) -> str:
    """Return the name of the message that a process has come."""
    return f"here/{rank}"


@contextmanager
def connected(processes: Processes, device: torch.device) -> Iterator[None]:
    """Let the processes exchange tensors on the CPU and on `device` within a `with` block.

    Raises:
        ProcessLostError: they did not all come.
    """
    if processes.size == 1:
        yield
        return
    hook = sys.excepthook  # PyTorch puts "[rank0]:" before every line of a traceback
    try:
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=processes.store,
            rank=processes.rank,
            world_size=processes.size,
            timeout=PATIENCE,
        )
    except RuntimeError as error:
        raise _absent(processes.place) from error
    try:
        yield
    finally:
        distributed.destroy_process_group()
        sys.excepthook = hook


def _absent(place: Place) -> ProcessLostError:
    return ProcessLostError(
        f"process {place.rank} of {place.size} did not meet the others at "
        f"{place.address}:{place.port}: {place.launcher} has to start all of them."
    )
