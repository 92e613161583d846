"""Turn a recipe's parts into an optimizer, a loss, a schedule and a weight average.

A loss or a schedule is a function here, and its name an entry of `config.recipes`: LOSSES has
"smoothing" for `smoothing_loss`, SCHEDULES "cosine" for `cosine_schedule`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel

from pipelines.config import TrainConfig
from pipelines.config.recipes import LOSSES, SCHEDULES
from pipelines.data.store import IGNORED
from pipelines.model.deepgcn import DeepGCN

SMOOTHING = 0.2  # label smoothing, as PointNeXt has it
CLIP = 10.0  # largest norm of a gradient with the part "clip"
HALVE_EVERY = 300_000  # samples; paper layout
LR_FLOOR = 1e-5
BN_MOMENTUM, BN_MOMENTUM_FLOOR = 0.5, 0.01  # 1 − decay, for a decay of 0.5 → 0.99
HALVE_EVERY_EPOCHS = 20  # torch layout
PYTORCH_BN_MOMENTUM = 0.1
WARM_UP = 0.02  # of all samples, over which the cosine schedule's rate rises
EMA_DECAY = 0.999

TensorList = tuple[Tensor, ...] | list[Tensor]


def build_optimizer(model: DeepGCN, parts: Sequence[str], lr: float) -> Optimizer:
    """Return the optimizer of a recipe's parts, or Adam as published.

    `fused`: all of a step in one pass over the weights, on the CPU in a quarter of the time.
    """
    weights = model.parameters()
    if "sgd" in parts:  # as DGCNN's PyTorch release has it
        return SGD(weights, lr=lr, momentum=0.9, weight_decay=1e-4, nesterov=True, fused=True)
    if "adamw" in parts:
        return AdamW(weights, lr=lr, weight_decay=1e-2, fused=True)
    return Adam(weights, lr=lr, fused=True)


# logits (n, classes), label (n,) int64 → sum over the points whose label is not IGNORED, ()
Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Return the summed cross-entropy of the labelled points."""
    return F.cross_entropy(logits, label, ignore_index=IGNORED, reduction="sum")


def smoothing_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Return the summed cross-entropy of the labelled points, with label smoothing."""
    return F.cross_entropy(
        logits, label, ignore_index=IGNORED, reduction="sum", label_smoothing=SMOOTHING
    )


def choose_loss(parts: Sequence[str]) -> Loss:
    """Return the loss of a recipe's parts, or cross-entropy as published."""
    losses: dict[str, Loss] = {name: globals()[f"{name}_loss"] for name in LOSSES}
    return next((losses[part] for part in parts if part in losses), cross_entropy)


@dataclass(frozen=True)
class Rates:
    """The learning rate and PyTorch's batch-norm momentum of a step."""

    lr: float
    bn_momentum: float


# (samples seen before this step, epoch from 0) → Rates. A function of how much has been seen, not
# a counter inside a scheduler: a resumed run needs no more than its position.
Schedule = Callable[[int, int], Rates]


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


def paper_schedule(lr: float, total: int) -> Schedule:  # noqa: ARG001
    """Return the schedule of the TensorFlow release, which the published numbers come from.

    The learning rate and PyTorch's batch-norm momentum (1 − the release's decay) halve every
    300,000 samples: the rate down to 1e-5, the momentum from 0.5 down to 0.01.

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


def torch_schedule(lr: float, total: int) -> Schedule:  # noqa: ARG001
    """Return the schedule of the PyTorch release: ×0.5 every 20 epochs, momentum 0.1 throughout."""

    def rates(samples: int, epoch: int) -> Rates:  # noqa: ARG001
        return Rates(lr * 0.5 ** (epoch // HALVE_EVERY_EPOCHS), PYTORCH_BN_MOMENTUM)

    return rates


def choose_schedule(parts: Sequence[str], layout: str, lr: float, total: int) -> Schedule:
    """Return the schedule of a recipe's parts, or the published one of the layout.

    It starts from the learning rate `lr`; the whole training has `total` samples.
    """
    name = next((part for part in parts if part in SCHEDULES), layout)
    schedule: Schedule = globals()[f"{name}_schedule"](lr, total)
    return schedule


@dataclass(frozen=True)
class Recipe:
    """What the steps of a training follow."""

    schedule: Schedule
    loss: Loss = cross_entropy
    clip: float | None = None  # the largest norm of a gradient; None: any


def choose_recipe(config: TrainConfig, total: int) -> Recipe:
    """Return the recipe of a training of `total` samples."""
    schedule = choose_schedule(config.parts, config.model.layout, config.first_lr, total)
    clip = CLIP if "clip" in config.parts else None
    return Recipe(schedule, choose_loss(config.parts), clip)


def apply_rates(rates: Rates, model: nn.Module, optimizer: Optimizer) -> None:
    """Set the optimizer's learning rate and the momentum of every batch norm in `model`."""
    for group in optimizer.param_groups:
        group["lr"] = rates.lr
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = rates.bn_momentum


def average_weights(model: DeepGCN) -> AveragedModel:
    """Return a moving average of a network's weights, which is validated and saved instead.

        average ← d·average + (1 − d)·weights,   d = min(0.999, (1 + t) / (10 + t)) after step t

    The average forgets slowly late in a training and fast at its beginning, where it covers about
    the last ninth of the steps, so short trainings need no other decay. The running statistics of
    batch norm are averaged like the weights, over the same steps; counts are copied.

    Reference:
        Polyak & Juditsky, Acceleration of stochastic approximation by averaging, 1992; the decay
        and its beginning as in TensorFlow's ExponentialMovingAverage.
    """
    average = AveragedModel(model, multi_avg_fn=_average, use_buffers=True)
    return start_average(average, step=0)


def start_average(average: AveragedModel, step: int) -> AveragedModel:
    """Let an average go on after `step` steps."""
    average.n_averaged.fill_(step + 1)  # at 0 PyTorch would drop the initial weights
    return average.requires_grad_(False)


def ema_decay(step: int) -> float:
    """Return the weight that the average keeps when the weights after step `step` come in."""
    return min(EMA_DECAY, (1 + step) / (10 + step))


@torch.no_grad()
def _average(averages: TensorList, weights: TensorList, step: Tensor | int) -> None:
    """Update averages of one dtype and device with the weights after a step."""
    if averages[0].is_floating_point():
        torch._foreach_lerp_(averages, weights, 1 - ema_decay(int(step)))
    else:
        torch._foreach_copy_(averages, weights)
