"""Seed what a training draws, and save and restore random state.

Initial weights follow from the seed; what a training step draws (dropout, stochastic dilation)
follows from the seed and the step; a block's points, in `pipelines.data.sampler`, from the seed,
the epoch and the block. So any process may draw its part at any time, and a resumed run draws what
it would have drawn. A checkpoint also holds the state of PyTorch's generators.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pipelines.model.deepgcn import DeepGCN

DROPOUT, DILATION = 0, 1  # what a stream of random numbers is for


def seed_step(model: DeepGCN, seed: int, step: int, rank: int) -> None:
    """Seed what one training step draws.

    Dropout differs between the ranks of a training, as their points do. Stochastic dilation is one
    draw for the whole batch: the same in all ranks, and in a single process.
    """
    torch.manual_seed(_mix(seed, step, DROPOUT, rank))
    if model.generator is None:
        model.generator = torch.Generator()
    model.generator.manual_seed(_mix(seed, step, DILATION))


def _mix(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def rng_state() -> dict[str, Any]:
    """Return the state of PyTorch's generators: "cpu" a uint8 tensor, "cuda" a list of them."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def restore_rng_state(state: dict[str, Any]) -> None:
    """Restore what `rng_state` returned, on the GPUs that this and the saving machine have."""
    torch.set_rng_state(state["cpu"])
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for device, saved in enumerate(state["cuda"][:count]):
        torch.cuda.set_rng_state(saved, device)


class PassState:
    """What a forward pass changes: running statistics and random generators."""

    def __init__(self, model: DeepGCN) -> None:
        self.buffers = [buffer.clone() for buffer in model.buffers()]
        self.rng = rng_state()
        self.generator = None if model.generator is None else model.generator.get_state()

    def restore(self, model: DeepGCN) -> None:
        """Restore all of it."""
        for buffer, before in zip(model.buffers(), self.buffers, strict=True):
            buffer.copy_(before)
        restore_rng_state(self.rng)
        if model.generator is not None and self.generator is not None:
            model.generator.set_state(self.generator)
