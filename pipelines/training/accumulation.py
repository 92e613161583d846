"""A batch in micro-batches: less memory at once, the same gradient added up.

The loss is the mean over the labelled points of the whole batch, however they are spread over the
micro-batches. What each micro-batch has of its own: batch-norm statistics, the ranks of stochastic
dilation and dropout. So the size shapes the result, is written into the run's configuration, and
stays the same on resume.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable

import torch
from torch import Tensor

from pipelines.model.deepgcn import DeepGCN
from pipelines.runtime.precision import FULL, Precision
from pipelines.runtime.seeding import restore_rng_state, rng_state

TRIALS = 2  # the second step is the first with the optimizer's state in memory
# logits (n, classes), label (n,) → their share of the batch's mean loss
Loss = Callable[[Tensor, Tensor], Tensor]


class Accumulation:
    """How many blocks go through the network at once.

    Attributes:
        size: blocks of a micro-batch.
        trials: steps to come that may still find out that `size` is too large, and halve it.
        on_smaller: called with the new size when it was halved.
        anywhere: whether a fact holds in any of the processes that take the step together, so that
            all halve when one has to.
        forward: makes the passes through the network when there are no trials any more, such as
            `recorded.Recorder`; None: the network itself.
    """

    def __init__(
        self,
        size: int,
        trials: int = 0,
        on_smaller: Callable[[int], None] = lambda _: None,
        anywhere: Callable[[bool], bool] = bool,
        forward: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.size, self.trials, self.on_smaller, self.anywhere = size, trials, on_smaller, anywhere
        self.forward = forward

    def backward(
        self,
        model: DeepGCN,
        features: Tensor,
        label: Tensor,
        loss: Loss,
        precision: Precision = FULL,
    ) -> Tensor:
        """Leave the gradient of the batch's loss in the parameters, and return the loss, ().

        Running out of memory in a trial is repeated with half the size, as if it had not been.

        Args:
            model: its parameters' gradients are replaced.
            features: (B, N, 9).
            label: (B, N) int64, IGNORED where there is none.
            loss: gives what some of the blocks add to the loss.
            precision: of the dense products.

        Raises:
            MemoryError, RuntimeError: memory ran out and there is nothing left to halve.
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
            if value is not None and (before is None or not self.anywhere(False)):
                self.trials = max(0, self.trials - 1)
                return value
            assert before is not None
            if value is None:
                self.anywhere(True)
            # Outside of the handler, whose traceback holds on to the tensors that were in the way.
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
            with precision.products():
                logits = forward(piece)  # (b, N, classes)
            value = loss(logits.flatten(0, 1), its_label.flatten())
            precision.backward(value)
            values.append(value.detach())
        return torch.stack(values).sum()


class PassState:
    """What a forward pass changes: running statistics and random generators."""

    def __init__(self, model: DeepGCN) -> None:
        self.buffers = [buffer.clone() for buffer in model.buffers()]
        self.rng = rng_state()
        self.draws = None if model.draws is None else model.draws.get_state()

    def restore(self, model: DeepGCN) -> None:
        """Put all of it back."""
        for buffer, before in zip(model.buffers(), self.buffers, strict=True):
            buffer.copy_(before)
        restore_rng_state(self.rng)
        if model.draws is not None and self.draws is not None:
            model.draws.set_state(self.draws)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the GPU's or the computer's memory did not suffice."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    signs = ("DefaultCPUAllocator", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)


def release_memory() -> None:
    """Give what nothing refers to any more back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
