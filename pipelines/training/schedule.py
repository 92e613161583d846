"""Recipes: the learning rate and the batch-norm momentum of each step.

A rate is a function of how much has been seen, not of a counter inside a scheduler, so a resumed
run needs no more than its position.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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
WARM_UP = 0.02  # of all samples, over which the cosine schedule's rate rises


def recipe_schedule(parts: Sequence[str], layout: str, lr: float, total: int) -> Schedule:
    """Return the schedule of a recipe that starts from the learning rate `lr`.

    Without the part "cosine" it is the published recipe, which is another one for each of the two
    releases. `total` is the number of samples of the whole training.
    """
    if "cosine" in parts:
        return cosine_schedule(lr, total)
    return paper_schedule(lr) if layout == "paper" else torch_schedule(lr)


def cosine_schedule(lr: float, total: int) -> Schedule:
    """Return a schedule that rises to `lr` and falls to 0 over `total` samples as a cosine does.

    Reference:
        Loshchilov & Hutter, SGDR, ICLR 2017, equation 5 (one period), after a linear warm-up.
    """
    warm = max(1, round(WARM_UP * total))

    def rates(samples: int, epoch: int) -> Rates:  # noqa: ARG001
        if samples < warm:
            return Rates(lr * (samples + 1) / (warm + 1), PYTORCH_BN_MOMENTUM)
        done = min(1.0, (samples - warm) / max(1, total - warm))
        return Rates(lr * (1 + math.cos(math.pi * done)) / 2, PYTORCH_BN_MOMENTUM)

    return rates


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
