"""One pass over batches: prefetch them, take training steps, or predict.

A step can pass its batch through the network in micro-batches, with less memory and the same
gradient: the loss is the mean over the labelled points of the whole batch, however they are spread.
But each micro-batch has its own batch-norm statistics, ranks of stochastic dilation and dropout.
So its size shapes the result, is part of the run's configuration, and stays the same on resume.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from pipelines.data.sampler import Batch
from pipelines.data.store import IGNORED
from pipelines.model.deepgcn import DeepGCN
from pipelines.runtime.cuda_graphs import graphed_evaluation
from pipelines.runtime.memory import is_out_of_memory, release_memory
from pipelines.runtime.precision import FULL, Precision
from pipelines.runtime.seeding import PassState

from .distributed import ALONE, Processes
from .recipe import Loss, Rates, Recipe, apply_rates

Item = TypeVar("Item")
Result = TypeVar("Result")

TRIALS = 2  # of `Accumulation`: the second step is the first with the optimizer's state in memory
AHEAD = 2  # prefetched results, beyond one for each thread


@dataclass(frozen=True)
class Step:
    """The figures of one training step."""

    loss: float  # mean over the batch's labelled points, before the step
    lr: float
    batch: Batch
    seconds: float  # from asking for the batch to the end of the step
    wait: float  # of these, the seconds spent waiting for the batch


@dataclass
class Pace:
    """Measures the speed of steps; the first one, which warms up, counts only if it is alone."""

    steps: int = 0
    blocks: int = 0
    seconds: float = 0.0
    wait: float = 0.0

    def add(self, step: Step) -> None:
        """Count a step."""
        if self.steps == 1:
            self.blocks, self.seconds, self.wait = 0, 0.0, 0.0
        self.steps += 1
        self.blocks += len(step.batch.blocks)
        self.seconds += step.seconds
        self.wait += step.wait

    @property
    def blocks_per_second(self) -> float:
        """Blocks trained on per second of steps; 0 before the first."""
        return self.blocks / self.seconds if self.seconds else 0.0

    @property
    def data_wait(self) -> float:
        """The fraction of the steps' time spent waiting for batches; 0 before the first."""
        return self.wait / self.seconds if self.seconds else 0.0


@dataclass
class Accumulation:
    """Adds up the gradients of a batch's micro-batches."""

    size: int  # blocks of a micro-batch
    trials: int = 0  # next steps that halve `size` and try again if memory runs out
    on_smaller: Callable[[int], None] = lambda _: None  # called with the halved size
    # Returns whether its argument is true in any process, so that all halve when one has to.
    anywhere: Callable[[bool], bool] = bool
    # Runs the forward passes when no trials are left, such as a `GraphedModel`; None: the network.
    forward: Callable[[Tensor], Tensor] | None = None

    def backward(
        self,
        model: DeepGCN,
        features: Tensor,
        label: Tensor,
        loss: Loss,
        precision: Precision = FULL,
    ) -> Tensor:
        """Set the parameters' gradients to those of the batch's loss, and return the loss, ().

        Features are (B, N, 9); label is (B, N) int64, IGNORED for points without one; `loss` gives
        the part of the loss that comes from some of the blocks. A trial that runs out of memory is
        undone and repeated with half the size; MemoryError or RuntimeError: `size` is 1, or no
        trial is left.
        """
        while True:
            before = PassState(model) if self.trials and self.size > 1 else None
            model.zero_grad(set_to_none=True)
            value = None
            try:
                value = self._accumulate(model, features, label, loss, precision)
            except (MemoryError, RuntimeError) as error:
                if before is None or not is_out_of_memory(error):
                    raise
            # Outside of the handler, whose traceback keeps tensors alive.
            if before is None or not self.anywhere(value is None):
                assert value is not None
                self.trials = max(0, self.trials - 1)
                return value
            del value
            model.zero_grad(set_to_none=True)
            release_memory()
            before.restore(model)
            # Not half of these blocks: the processes may have one more or less, but halve alike.
            self.size = math.ceil(self.size / 2)
            self.on_smaller(self.size)

    def _accumulate(
        self, model: DeepGCN, features: Tensor, label: Tensor, loss: Loss, precision: Precision
    ) -> Tensor:
        values = []
        forward = model if self.forward is None or self.trials else self.forward
        for piece, its_label in zip(features.split(self.size), label.split(self.size), strict=True):
            with precision.matmuls():
                logits = forward(piece)  # (b, N, classes)
            value = loss(logits.flatten(0, 1), its_label.flatten())
            precision.backward(value)
            values.append(value.detach())
        return torch.stack(values).sum()


@dataclass
class Stepper:
    """Takes training steps."""

    model: DeepGCN  # on the device to train on
    optimizer: Optimizer
    recipe: Recipe
    accumulation: Accumulation
    precision: Precision = FULL
    processes: Processes = ALONE  # they take the same steps, each on its part of the batches
    sync_bn: bool = False  # batch norm uses the whole batch, not each process's part

    def steps(self, batches: Iterable[Batch], samples: int, epoch: int) -> Iterator[Step]:
        """Take one optimizer step on each batch and yield its figures.

        `samples` is the number of blocks trained on before the first batch. A loss that is not
        finite changes no weights; the caller has to handle it.
        """
        self.model.train()
        remaining = iter(batches)
        while True:
            asked = time.perf_counter()
            batch = next(remaining, None)
            if batch is None:
                return
            wait = time.perf_counter() - asked
            rates = self.recipe.schedule(samples, epoch)
            loss = self.step(batch, rates)
            samples += len(batch.blocks)
            yield Step(loss, rates.lr, batch, time.perf_counter() - asked, wait)

    def step(self, batch: Batch, rates: Rates) -> float:
        """Take one step and return the loss before it: the mean over all processes' points."""
        apply_rates(rates, self.model, self.optimizer)
        if self.sync_bn:
            self.processes.synchronize(self.model, batch)
        features, label = to_device(batch, self.model)
        labelled = self.processes.sum((label != IGNORED).sum())
        mean = mean_loss(self.recipe.loss, labelled)
        part = self.accumulation.backward(self.model, features, label, mean, self.precision)
        loss = self.processes.sum(part).item()
        if math.isfinite(loss):
            self.processes.exchange_gradients(self.model, batch)
            if self.recipe.clip is not None:
                self.precision.scaler.unscale_(self.optimizer)
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
            self.precision.step(self.optimizer)
        return loss


def mean_loss(loss: Loss, labelled: Tensor) -> Loss:
    """Return a loss that divides a summed one by the number of labelled points (at least 1)."""
    return lambda logits, label: loss(logits, label) / labelled.clamp(min=1)


def predict_batches(
    model: DeepGCN, batches: Iterable[Batch], blocks: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield label and predicted class of every point of each batch, both (B·N,) uint8.

    At most `blocks` go through the network at once; None: a batch.
    """
    model.eval()
    forward = graphed_evaluation(model)
    for batch in batches:
        with torch.inference_mode():
            features, _ = to_device(batch, model)
            pieces = features.split(blocks or len(features))
            predicted = torch.cat([forward(piece).argmax(dim=-1) for piece in pieces])
        yield batch.label.reshape(-1), predicted.flatten().to(torch.uint8).cpu().numpy()


def to_device(batch: Batch, model: DeepGCN) -> tuple[Tensor, Tensor]:
    """Return features (B, N, 9) float32 and label (B, N) int64 on the model's device."""
    device = next(model.parameters()).device
    # From pinned memory (`pinned`) the copies overlap with the GPU's pending work.
    features = torch.from_numpy(batch.features).to(device, non_blocking=True)
    return features, torch.from_numpy(batch.label).to(device, non_blocking=True).long()


def pinned(batch: Batch) -> Batch:
    """Return the batch in pinned memory, from which a GPU copies asynchronously."""
    features, label = (
        torch.from_numpy(array).pin_memory().numpy() for array in (batch.features, batch.label)
    )
    return dataclasses.replace(batch, features=features, label=label)


def prefetch(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int = 1
) -> Generator[Result, None, None]:
    """Yield `function(item)` for every item, in order, computed ahead by other threads.

    Items are taken lazily, a few ahead. NumPy and HDF5 release the interpreter lock for most of
    the work, so threads are enough. What `function` raises is raised here, in its item's turn.
    Close the generator (or use it up) to end the threads.
    """
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="deepgcn-data")
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) == threads + AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
