"""Pass a batch through the network in micro-batches: less memory at once, the same gradient.

The loss is the mean over the labelled points of the whole batch, however they are spread over the
micro-batches. Batch-norm statistics, the ranks of stochastic dilation and dropout are each
micro-batch's own. So the size shapes the result, is part of the run's configuration, and stays the
same on resume.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines.config import TrainConfig
from pipelines.errors import RunError
from pipelines.model.deepgcn import DeepGCN
from pipelines.model.head import segment_length
from pipelines.runtime.memory import is_out_of_memory, release_memory
from pipelines.runtime.precision import FULL, Precision
from pipelines.runtime.seeding import PassState

from .recipe import Loss

TRIALS = 2  # the second step is the first with the optimizer's state in memory


@dataclass
class Accumulation:
    """Adds up the gradients of a batch's micro-batches."""

    size: int  # blocks of a micro-batch
    trials: int = 0  # coming steps that may find out that `size` is too large, and halve it
    on_smaller: Callable[[int], None] = lambda _: None  # called with the size that was halved
    # Whether something holds in any of the processes, so that all halve when one has to.
    anywhere: Callable[[bool], bool] = bool
    # Makes the passes when no trials are left, such as a `GraphedModel`; None: the network.
    forward: Callable[[Tensor], Tensor] | None = None

    def backward(
        self,
        model: DeepGCN,
        features: Tensor,
        label: Tensor,
        loss: Loss,
        precision: Precision = FULL,
    ) -> Tensor:
        """Leave the gradient of the batch's loss in the parameters, and return the loss, ().

        Features are (B, N, 9); label is (B, N) int64, IGNORED for points without one; `loss` gives
        what some of the blocks add to the loss. A trial that runs out of memory is undone and
        repeated with half the size; MemoryError or RuntimeError is raised if nothing is left to
        halve.
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
            # Outside of the handler, whose traceback keeps the tensors that were too many alive.
            if before is None or not self.anywhere(value is None):
                assert value is not None
                self.trials = max(0, self.trials - 1)
                return value
            del value
            model.zero_grad(set_to_none=True)
            release_memory()
            before.restore(model)
            self.size = math.ceil(min(self.size, len(features)) / 2)
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
            f"out of memory with batches of {config.batch_size} blocks of {config.num_points} "
            f"points ({model.arch}-{model.depth}, C {model.width}, k {model.k}).\n"
            f"Start a new run with one or more of {', '.join(smaller_options(config))}."
        ) from error


def smaller_options(config: TrainConfig) -> list[str]:
    """Return options that need less memory than `config`'s, the mildest first."""
    model, points = config.model, config.num_points // 2
    micro = config.micro_batch or config.local_batch
    options = {
        f"--checkpoint-layers {segment_length(model.depth)}": (
            not config.checkpoint_layers and model.depth > 2
        ),
        f"--micro-batch {micro // 2}": micro > 1 and not config.sync_bn,
        f"--batch-size {config.batch_size // 2}": config.batch_size > 1,
        f"-k {model.k // 2}": model.k > 1,
        f"--num-points {points}": model.k * max(model.dilations()) <= points,
        f"--width {model.width // 2}": model.width > 1,
    }
    return [option for option, fits in options.items() if fits] or ["a smaller --depth"]
