"""A moving average of a network's weights over the steps, which is validated and saved instead.

    average ← d·average + (1 − d)·weights,   d = min(DECAY, (1 + t) / (10 + t)) after step t

The average forgets slowly once training has gone on for long and fast at its beginning, where it
covers about the last ninth of the steps, so short trainings need no other decay.

The running statistics of batch norm are averaged like the weights: they are moments of activations
that the averaged weights come closest to when both cover the same steps. Counts are copied.

Reference:
    Polyak & Juditsky, Acceleration of stochastic approximation by averaging, 1992; the decay and
    its beginning as in TensorFlow's ExponentialMovingAverage.
"""

from __future__ import annotations

import copy

import torch

from pipelines.model.deepgcn import DeepGCN

DECAY = 0.999


class WeightAverage:
    """The average of a network's weights.

    Args:
        model: the network as it is before the first step.

    Attributes:
        model: a network that has the averaged weights and is never trained itself.
    """

    def __init__(self, model: DeepGCN) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)

    @torch.no_grad()
    def update(self, model: DeepGCN, step: int) -> None:
        """Take in the weights that `model` has after step `step`, from 1."""
        share = 1 - decay_after(step)
        weights = model.state_dict()
        for name, average in self.model.state_dict().items():
            if average.is_floating_point():
                average.lerp_(weights[name], share)
            else:
                average.copy_(weights[name])


def decay_after(step: int) -> float:
    """Return the share of the average that stays when the weights after step `step` come in."""
    return min(DECAY, (1 + step) / (10 + step))
