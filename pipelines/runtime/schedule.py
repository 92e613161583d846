"""Recipes: the learning rate and the batch-norm momentum of each step.

A rate is a function of how much has been seen, not of a counter inside a scheduler, so a resumed
run needs no more than its position.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer

HALVE_EVERY = 300_000  # samples; paper layout
LR_FLOOR = 1e-5
BN_MOMENTUM, BN_MOMENTUM_FLOOR = 0.5, 0.01  # 1 − decay, for a decay of 0.5 → 0.99
HALVE_EVERY_EPOCHS = 20  # torch layout
PYTORCH_BN_MOMENTUM = 0.1


@dataclass(frozen=True)
class Rates:
    """What a recipe sets before a step: the learning rate and PyTorch's batch-norm momentum."""

    lr: float
    bn_momentum: float


Schedule = Callable[[int, int], Rates]  # (samples seen before this step, epoch from 0) → Rates


def recipe_schedule(recipe: str, layout: str, lr: float) -> Schedule:
    """Return the schedule of a recipe that starts from the learning rate `lr`.

    "paper" is the published recipe, which is another one for each of the two releases.
    """
    assert recipe == "paper", recipe
    return paper_schedule(lr) if layout == "paper" else torch_schedule(lr)


def paper_schedule(lr: float) -> Schedule:
    """Return the schedule of the TensorFlow release, which the published numbers come from.

    Both rates halve every 300,000 samples: the learning rate down to 1e-5, the complement of the
    batch-norm decay from 0.5 down to 0.01 (PyTorch's momentum is that complement).

    A sample is a block fed to the network. The release multiplies its step counter by the batch
    size of one GPU, 8, while its two GPUs take 16 blocks a step; as their batches overlap by one
    half, 8 is also the number of blocks that a step sees anew. Here batches never overlap, so every
    block of a batch counts: 300,000 samples are 18,750 steps of 16 blocks.

    Reference:
        Li et al., DeepGCNs, ICCV 2019, section 4; the release's `train.py` and `tf_util.py`.
    """

    def rates(samples: int, epoch: int) -> Rates:  # noqa: ARG001
        halved = 0.5 ** (samples // HALVE_EVERY)
        return Rates(
            lr=max(lr * halved, min(lr, LR_FLOOR)),
            bn_momentum=max(BN_MOMENTUM * halved, BN_MOMENTUM_FLOOR),
        )

    return rates


def torch_schedule(lr: float) -> Schedule:
    """Return the schedule of the PyTorch release: ×0.5 every 20 epochs, momentum 0.1 throughout."""

    def rates(samples: int, epoch: int) -> Rates:  # noqa: ARG001
        return Rates(lr * 0.5 ** (epoch // HALVE_EVERY_EPOCHS), PYTORCH_BN_MOMENTUM)

    return rates


def apply_rates(rates: Rates, model: nn.Module, optimizer: Optimizer) -> None:
    """Set the optimizer's learning rate and the momentum of every batch norm in `model`."""
    for group in optimizer.param_groups:
        group["lr"] = rates.lr
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = rates.bn_momentum
