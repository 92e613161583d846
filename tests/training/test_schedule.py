"""The published schedules, against tables computed by hand."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from pipelines.training.schedule import Rates, apply_rates, recipe_schedule


@pytest.mark.parametrize(
    ("samples", "lr", "momentum"),
    [
        (0, 1e-3, 0.5),
        (299_999, 1e-3, 0.5),
        (300_000, 5e-4, 0.25),
        (599_999, 5e-4, 0.25),
        (600_000, 2.5e-4, 0.125),
        (900_000, 1.25e-4, 0.0625),
        (1_200_000, 6.25e-5, 0.03125),
        (1_500_000, 3.125e-5, 0.015625),
        (1_800_000, 1.5625e-5, 0.01),  # decay 0.9921875 is clipped to 0.99
        (2_100_000, 1e-5, 0.01),  # 7.8125e-6 is below the floor
        (9_000_000, 1e-5, 0.01),
    ],
)
def test_paper_layout_follows_the_samples(samples: int, lr: float, momentum: float) -> None:
    rates = recipe_schedule((), "paper", 1e-3, 1)
    assert rates(samples, 0) == rates(samples, 77) == Rates(lr, momentum)


@pytest.mark.parametrize(
    ("epoch", "lr"),
    [(0, 1e-3), (19, 1e-3), (20, 5e-4), (39, 5e-4), (40, 2.5e-4), (60, 1.25e-4), (99, 6.25e-5)],
)
def test_torch_layout_follows_the_epochs(epoch: int, lr: float) -> None:
    rates = recipe_schedule((), "torch", 1e-3, 1)
    assert rates(0, epoch) == rates(5_000_000, epoch) == Rates(lr, 0.1)


def test_a_learning_rate_below_the_floor_is_kept() -> None:
    assert recipe_schedule((), "paper", 1e-6, 1)(3_000_000, 0).lr == 1e-6


def test_rates_reach_the_optimizer_and_every_batch_norm() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Sequential(nn.BatchNorm1d(2)))
    optimizer = torch.optim.Adam(model.parameters(), lr=1.0)
    apply_rates(Rates(lr=0.25, bn_momentum=0.5), model, optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25]
    model.train()
    model[1](torch.tensor([[2.0, 4.0], [4.0, 8.0]]))
    assert model[1].running_mean.tolist() == [1.5, 3.0]  # 0.5 · 0 + 0.5 · (3, 6)
    assert model[2][0].momentum == 0.5


def test_cosine_rises_to_the_rate_and_falls_to_nothing() -> None:
    rates = recipe_schedule(("cosine",), "paper", 1e-2, 1000)
    lr = [rates(samples, 0).lr for samples in range(1000)]
    top = lr.index(max(lr))
    assert top == 20, "two percent of the samples warm up"
    assert max(lr) == pytest.approx(1e-2)
    assert all(a < b for a, b in itertools.pairwise(lr[: top + 1]))
    assert all(a > b for a, b in itertools.pairwise(lr[top:]))
    assert lr[510] == pytest.approx(1e-2 / 2, rel=1e-3), "half way down after half of the rest"
    assert rates(1000, 0).lr == pytest.approx(0, abs=1e-9)
    assert rates(2000, 0).lr == pytest.approx(0, abs=1e-9)
    assert {rates(samples, 0).bn_momentum for samples in (0, 500, 999)} == {0.1}
