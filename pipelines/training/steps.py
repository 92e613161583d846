"""One pass over batches: training steps, and predictions for validation."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from pipelines.config import TrainConfig
from pipelines.data.sampler import Batch
from pipelines.data.store import IGNORED
from pipelines.errors import RunError
from pipelines.model.deepgcn import DeepGCN
from pipelines.model.head import segment_length
from pipelines.runtime.precision import FULL, Precision
from pipelines.training.cuda_graphs import in_evaluation

from .accumulation import Accumulation, is_out_of_memory
from .distributed import ALONE, Processes
from .schedule import Rates, Schedule, apply_rates

SMOOTHING = 0.2  # label smoothing of the modern recipe, as PointNeXt has it
CLIP = 10.0  # largest norm of a gradient in the modern recipe
WEIGHT_DECAY = 1e-2  # of AdamW
SGD_MOMENTUM, SGD_WEIGHT_DECAY = 0.9, 1e-4  # as DGCNN's PyTorch release has them


@dataclass(frozen=True)
class Step:
    """What one training step did.

    Attributes:
        loss: mean cross-entropy over the batch's points, before the step.
        lr: the learning rate of the step.
        batch: what it was made of.
        seconds: from asking for the batch to the end of the step.
        wait: of these, the seconds spent waiting for the batch.
    """

    loss: float
    lr: float
    batch: Batch
    seconds: float
    wait: float


@dataclass
class Pace:
    """How fast steps were, added up; the first step, which warms up, counts only if alone."""

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


def build_optimizer(model: DeepGCN, parts: Sequence[str], lr: float) -> Optimizer:
    """Return the recipe's optimizer: Adam as published, AdamW, or SGD with Nesterov's momentum.

    `fused`: all of a step in one pass over the weights, on the CPU in a quarter of the time.
    """
    if "sgd" in parts:
        return torch.optim.SGD(
            model.parameters(),
            lr=lr,
            momentum=SGD_MOMENTUM,
            weight_decay=SGD_WEIGHT_DECAY,
            nesterov=True,
            fused=True,
        )
    if "adamw" in parts:
        return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=WEIGHT_DECAY, fused=True)
    return torch.optim.Adam(model.parameters(), lr=lr, fused=True)


def train_steps(
    model: DeepGCN,
    optimizer: Optimizer,
    batches: Iterable[Batch],
    schedule: Schedule,
    *,
    samples: int,
    epoch: int,
    parts: Sequence[str] = (),
    accumulation: Accumulation | None = None,
    precision: Precision = FULL,
    processes: Processes = ALONE,
    sync_bn: bool = False,
) -> Iterator[Step]:
    """Train on the batches, one optimizer step each, and yield what each step did.

    A loss that is not finite changes no weights; it is yielded like any other, for the caller to
    decide.

    Args:
        model: on the device to train on; put into training mode.
        optimizer: of the model's parameters.
        batches: in the order to train on.
        schedule: gives the rates of each step.
        samples: blocks trained on before the first of these batches.
        epoch: the epoch that they belong to, from 0.
        parts: of the recipe; "smoothing" and "clip" matter here.
        accumulation: how many blocks go through the network at once; None: the whole batch.
        precision: of the dense products.
        processes: who takes the same steps, each on its share of the batches.
        sync_bn: whether batch norm counts the whole batch instead of each process's share.
    """
    model.train()
    remaining = iter(batches)
    while True:
        asked = time.perf_counter()
        batch = next(remaining, None)
        if batch is None:
            return
        wait = time.perf_counter() - asked
        rates = schedule(samples, epoch)
        if sync_bn:
            processes.synchronize(model, batch)
        loss = train_step(model, optimizer, batch, rates, parts, accumulation, precision, processes)
        samples += len(batch.blocks)
        yield Step(loss, rates.lr, batch, time.perf_counter() - asked, wait)


def train_step(
    model: DeepGCN,
    optimizer: Optimizer,
    batch: Batch,
    rates: Rates,
    parts: Sequence[str] = (),
    accumulation: Accumulation | None = None,
    precision: Precision = FULL,
    processes: Processes = ALONE,
) -> float:
    """Take one step and return the loss before it; leave the weights if the loss is not finite.

    The loss is the mean over the labelled points of the whole batch, whatever share of them each
    process has.
    """
    apply_rates(rates, model, optimizer)
    features, label = to_device(batch, model)
    smoothing = SMOOTHING if "smoothing" in parts else 0.0
    labelled = processes.sum((label != IGNORED).sum())
    loss = partial(labelled_cross_entropy, smoothing=smoothing, labelled=labelled)
    accumulation = accumulation or Accumulation(len(features))
    share = accumulation.backward(model, features, label, loss, precision)
    value = processes.sum(share).item()
    if math.isfinite(value):
        processes.exchange(model, batch)
        if "clip" in parts:
            precision.unscale(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        precision.step(optimizer)
    return value


def labelled_cross_entropy(
    logits: Tensor, label: Tensor, smoothing: float = 0.0, labelled: Tensor | None = None
) -> Tensor:
    """Return the mean cross-entropy over the points whose label is not IGNORED; 0 without any.

    Shapes: logits (n, C), label (n,) int64. `labelled` is the number to divide by, where these are
    only a share of the points.
    """
    total = F.cross_entropy(
        logits, label, ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing
    )
    if labelled is None:
        labelled = (label != IGNORED).sum()
    return total / labelled.clamp(min=1)


def predict_batches(
    model: DeepGCN, batches: Iterable[Batch], blocks: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield label and predicted class of every point of each batch, both (B·N,) uint8.

    At most `blocks` go through the network at once; None: a batch.
    """
    model.eval()
    forward = in_evaluation(model)
    for batch in batches:
        with torch.inference_mode():
            features, _ = to_device(batch, model)
            pieces = features.split(blocks or len(features))
            predicted = torch.cat([forward(piece).argmax(dim=-1) for piece in pieces])
        yield batch.label.reshape(-1), predicted.flatten().to(torch.uint8).cpu().numpy()


def to_device(batch: Batch, model: DeepGCN) -> tuple[Tensor, Tensor]:
    """Return features (B, N, 9) float32 and label (B, N) int64 on the model's device."""
    device = next(model.parameters()).device
    # From pinned memory (`pinned`) the copies overlap with what the GPU still has to do.
    features = torch.from_numpy(batch.features).to(device, non_blocking=True)
    return features, torch.from_numpy(batch.label).to(device, non_blocking=True).long()


def pinned(batch: Batch) -> Batch:
    """Return the batch in memory that a GPU can copy from by itself."""
    features, label = (
        torch.from_numpy(array).pin_memory().numpy() for array in (batch.features, batch.label)
    )
    return dataclasses.replace(batch, features=features, label=label)


@contextmanager
def explain_out_of_memory(config: TrainConfig) -> Iterator[None]:
    """Turn running out of memory into a RunError that names what to change.

    Raises:
        RunError: the GPU's or the computer's memory did not suffice.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise _out_of_memory(config) from error


def _out_of_memory(config: TrainConfig) -> RunError:
    model = config.model
    return RunError(
        f"out of memory with batches of {config.batch_size} blocks of {config.num_points} points "
        f"({model.arch}-{model.depth}, C {model.width}, k {model.k}).\n"
        f"Start a new run with one or more of {', '.join(smaller_options(config))}."
    )


def smaller_options(config: TrainConfig) -> list[str]:
    """Return options that need less memory than `config`'s, the mildest first."""
    model, points = config.model, config.num_points // 2
    found = []
    if not config.checkpoint_layers and model.depth > 2:
        found.append(f"--checkpoint-layers {segment_length(model.depth)}")
    micro = config.micro_batch or config.local_batch
    if micro > 1 and not config.sync_bn:
        found.append(f"--micro-batch {micro // 2}")
    if config.batch_size > 1:
        found.append(f"--batch-size {config.batch_size // 2}")
    if model.k > 1:
        found.append(f"-k {model.k // 2}")
    if model.k * max(model.dilations()) <= points:
        found.append(f"--num-points {points}")
    if model.width > 1:
        found.append(f"--width {model.width // 2}")
    return found or ["a smaller --depth"]
