"""The random state of a run: what seeds it, what a checkpoint has to hold of it.

Only PyTorch's generators carry state from one step to the next (initial weights, dropout,
stochastic dilation). The samplers of `pipelines.data.sampler` derive every draw from the seed, the
epoch and the block, so nothing of theirs needs saving.
"""

from __future__ import annotations

from typing import Any

import torch


def seed_everything(seed: int) -> None:
    """Seed PyTorch's generators on all devices."""
    torch.manual_seed(seed)


def rng_state() -> dict[str, Any]:
    """Return the state of PyTorch's generators: "cpu" a uint8 tensor, "cuda" a list of them."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def restore_rng_state(state: dict[str, Any]) -> None:
    """Put PyTorch's generators into a state that `rng_state` gave.

    A machine with other GPUs than the one that saved it restores those that both have.
    """
    torch.set_rng_state(state["cpu"])
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for device, saved in enumerate(state["cuda"][:count]):
        torch.cuda.set_rng_state(saved, device)
