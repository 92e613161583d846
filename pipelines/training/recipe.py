"""Turn a recipe's parts into an optimizer, a loss, a schedule and a weight average.

A loss or a schedule is a function here, with an entry in LOSSES or SCHEDULES; `config.recipes` has
the names too, for the command line.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel

from pipelines.config import TrainConfig
from pipelines.data.store import IGNORED
from pipelines.model.deepgcn import DeepGCN

SMOOTHING = 0.2  # label smoothing, as in PointNeXt
CLIP = 10.0  # largest norm of a gradient with the part "clip"
HALVE_EVERY = 300_000  # samples; paper layout
LR_FLOOR = 1e-5
BN_MOMENTUM, BN_MOMENTUM_FLOOR = 0.5, 0.01  # 1 − decay, for a decay of 0.5 → 0.99
HALVE_EVERY_EPOCHS = 20  # torch layout
PYTORCH_BN_MOMENTUM = 0.1
WARM_UP = 0.02  # of all samples, over which the rate of cosine and warm-up rises
EMA_DECAY = 0.999


def build_optimizer(model: DeepGCN, parts: Sequence[str], lr: float) -> Optimizer:
    """Return the optimizer of a recipe's parts, or Adam as published.

    `fused` takes a step in one pass over the weights, on the CPU in a quarter of the time.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if "sgd" in parts:  # as in DGCNN's PyTorch release
        return SGD(weights, lr=lr, momentum=0.9, weight_decay=1e-4, nesterov=True, fused=True)
    if "adamw" in parts:
        return AdamW(weights, lr=lr, weight_decay=1e-2, fused=True)
    return Adam(weights, lr=lr, fused=True)


# logits (n, classes), label (n,) int64 → sum over the points whose label is not IGNORED, ()
Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, label: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the summed cross-entropy of the labelled points, as published without smoothing."""
    return F.cross_entropy(
        logits, label, ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing
    )


LOSSES: dict[str, Loss] = {"smoothing": partial(cross_entropy, smoothing=SMOOTHING)}


@dataclass(frozen=True)
class Rates:
    """The learning rate and PyTorch's batch-norm momentum of a step."""

    lr: float
    bn_momentum: float


def cosine_schedule(lr: float, total: int, samples: int, epoch: int) -> Rates:  # noqa: ARG001
    """Return rates that rise to `lr` and fall to 0 over `total` samples as a cosine does.

    Reference:
        Loshchilov & Hutter, SGDR, ICLR 2017, equation 5 (one period), after a linear warm-up.
    """
    warm = max(1, round(WARM_UP * total))
    if samples < warm:
        return Rates(lr * (samples + 1) / (warm + 1), PYTORCH_BN_MOMENTUM)
    done = min(1.0, (samples - warm) / max(1, total - warm))
    return Rates(lr * (1 + math.cos(math.pi * done)) / 2, PYTORCH_BN_MOMENTUM)


def warm_up_schedule(lr: float, total: int, samples: int, epoch: int) -> Rates:  # noqa: ARG001
    """Return rates that rise to `lr` over the first samples and stay: gentle to given weights."""
    warm = max(1, round(WARM_UP * total))
    return Rates(lr * min(1.0, (samples + 1) / (warm + 1)), PYTORCH_BN_MOMENTUM)


def paper_schedule(lr: float, total: int, samples: int, epoch: int) -> Rates:  # noqa: ARG001
    """Return the rates of the TensorFlow release, which the published numbers come from.

    The learning rate and PyTorch's batch-norm momentum (1 − the release's decay) halve every
    300,000 samples: the rate down to 1e-5, the momentum from 0.5 down to 0.01.

    A sample is a block fed to the network. The release multiplies its step counter by the batch
    size of one GPU, 8, while its two GPUs take 16 blocks a step; as their batches overlap by one
    half, 8 is also the number of new blocks in a step. Here batches never overlap, so every block
    of a batch counts: 300,000 samples are 18,750 steps of 16 blocks.

    Reference:
        Li et al., DeepGCNs, ICCV 2019, section 4; the release's `train.py` and `tf_util.py`.
    """
    halved = 0.5 ** (samples // HALVE_EVERY)
    momentum = max(BN_MOMENTUM * halved, BN_MOMENTUM_FLOOR)
    return Rates(max(lr * halved, min(lr, LR_FLOOR)), momentum)


def torch_schedule(lr: float, total: int, samples: int, epoch: int) -> Rates:  # noqa: ARG001
    """Return the rates of the PyTorch release: ×0.5 every 20 epochs, momentum 0.1 throughout."""
    return Rates(lr * 0.5 ** (epoch // HALVE_EVERY_EPOCHS), PYTORCH_BN_MOMENTUM)


# (first learning rate, samples of the training, samples before the step, epoch from 0) → Rates. A
# function of the samples so far, not a scheduler with a counter, so a resumed run needs only its
# position. "paper" and "torch" are the published schedules of the layouts.
SCHEDULES: dict[str, Callable[[float, int, int, int], Rates]] = {
    "cosine": cosine_schedule,
    "warm-up": warm_up_schedule,
    "paper": paper_schedule,
    "torch": torch_schedule,
}


@dataclass(frozen=True)
class Recipe:
    """How the steps of a training are taken."""

    schedule: Callable[[int, int], Rates]  # (samples before the step, epoch) → Rates
    loss: Loss = cross_entropy
    clip: float | None = None  # the largest norm of a gradient; None: any


def choose_recipe(config: TrainConfig, total: int) -> Recipe:
    """Return the recipe of a training of `total` samples: as published, but for its parts."""
    loss = next((LOSSES[part] for part in config.parts if part in LOSSES), cross_entropy)
    schedule = next((part for part in config.parts if part in SCHEDULES), config.model.layout)
    rates = partial(SCHEDULES[schedule], config.first_lr, total)
    return Recipe(rates, loss, CLIP if "clip" in config.parts else None)


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
    """Make an average continue after `step` steps."""
    average.n_averaged.fill_(step + 1)  # at 0 PyTorch would drop the initial weights
    return average.requires_grad_(False)


class Halfway:
    """The network halfway between the start of a training and where it is.

        w = (start + trained) / 2

    of all weights and running statistics. It keeps more of what the start knows of other places
    than the trained network does, and gains nearly as much.

    Reference:
        Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022 (WiSE-FT, α = 0.5).
    """

    def __init__(self, start: DeepGCN) -> None:
        self.model = copy.deepcopy(start).requires_grad_(False)
        self.start = {name: value.clone() for name, value in self.model.state_dict().items()}

    @torch.no_grad()
    def update(self, trained: DeepGCN) -> DeepGCN:
        """Set the network halfway from the start to `trained`, and return it."""
        own = self.model.state_dict()
        for name, value in trained.state_dict().items():
            half = torch.lerp(self.start[name], value, 0.5) if value.is_floating_point() else value
            own[name].copy_(half)
        return self.model


@torch.no_grad()
def _average(averages: Any, weights: Any, step: Tensor | int) -> None:
    """Update averages of one dtype and device with the weights after a step."""
    if averages[0].is_floating_point():
        decay = min(EMA_DECAY, (1 + int(step)) / (10 + int(step)))
        torch._foreach_lerp_(averages, weights, 1 - decay)
    else:
        torch._foreach_copy_(averages, weights)
