"""Each part of a recipe, against tables and formulas worked out apart from it."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipelines import kernels
from pipelines.config import LAYOUTS, ModelConfig, TrainConfig, recipes
from pipelines.model.deepgcn import DeepGCN
from pipelines.training.recipe import (
    CLIP,
    LOSSES,
    SCHEDULES,
    Rates,
    apply_rates,
    average_weights,
    build_optimizer,
    choose_recipe,
    cross_entropy,
    start_average,
)
from pipelines.training.steps import mean_loss

CONFIG = ModelConfig(depth=3, width=4, k=3, fusion_channels=8)


def schedule(*parts: str, layout: str = "paper", lr: float = 1e-3) -> Callable[[int, int], Rates]:
    """The schedule of a training of 1,000 samples."""
    model = dataclasses.replace(CONFIG, layout=layout)
    return choose_recipe(TrainConfig(model=model, extra=parts, lr=lr), 1000).schedule


def test_each_name_of_the_command_line_has_its_function() -> None:
    assert {*LOSSES} == {*recipes.LOSSES}
    assert {*SCHEDULES} == {*recipes.SCHEDULES, *LAYOUTS}


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
    rates = schedule()
    assert rates(samples, 0) == rates(samples, 77) == Rates(lr, momentum)


@pytest.mark.parametrize(
    ("epoch", "lr"),
    [(0, 1e-3), (19, 1e-3), (20, 5e-4), (39, 5e-4), (40, 2.5e-4), (60, 1.25e-4), (99, 6.25e-5)],
)
def test_torch_layout_follows_the_epochs(epoch: int, lr: float) -> None:
    rates = schedule(layout="torch")
    assert rates(0, epoch) == rates(5_000_000, epoch) == Rates(lr, 0.1)


def test_a_learning_rate_below_the_floor_is_kept() -> None:
    assert schedule(lr=1e-6)(3_000_000, 0).lr == 1e-6


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
    rates = schedule("cosine", lr=1e-2)
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


def test_sgd_takes_nesterovs_steps() -> None:
    model = DeepGCN(CONFIG)
    optimizer = build_optimizer(model, ("sgd",), 0.1)
    weight = model.classifier.weight
    expected, velocity = weight.detach().double().clone(), torch.zeros(weight.shape).double()
    for seed in range(3):
        gradient = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
        for parameter in model.parameters():
            parameter.grad = None
        weight.grad = gradient.clone()
        optimizer.step()
        # Sutskever et al., 2013, in the form where the gradient is taken at the weights.
        decayed = gradient.double() + 1e-4 * expected
        velocity = 0.9 * velocity + decayed
        expected = expected - 0.1 * (decayed + 0.9 * velocity)
    torch.testing.assert_close(weight.detach().double(), expected, rtol=1e-5, atol=1e-6)


def test_each_recipe_has_its_optimizer() -> None:
    model = DeepGCN(CONFIG)
    kinds = {parts: type(build_optimizer(model, parts, 1e-3)) for parts in ((), ("adamw",))}
    assert kinds == {(): torch.optim.Adam, ("adamw",): torch.optim.AdamW}


def test_points_without_a_class_are_not_learned() -> None:
    logits = torch.randn(5, 13, dtype=torch.float64, requires_grad=True)
    label = torch.tensor([3, 255, 0, 255, 12])
    loss = mean_loss(cross_entropy, torch.tensor(3))(logits, label)
    loss.backward()
    known = [0, 2, 4]
    expected = -torch.log_softmax(logits, dim=1)[known, label[known]].mean()
    torch.testing.assert_close(loss, expected)
    assert logits.grad is not None
    assert logits.grad.abs().sum(dim=1).gt(0).tolist() == [True, False, True, False, True]


def test_a_batch_without_labels_changes_nothing() -> None:
    logits = torch.randn(2, 13, requires_grad=True)
    loss = mean_loss(cross_entropy, torch.tensor(0))(logits, torch.tensor([255, 255]))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_smoothing_mixes_in_every_class() -> None:
    logits = torch.randn(6, 13, dtype=torch.float64)
    label = torch.tensor([0, 5, 255, 12, 3, 255])
    known = label != 255
    log = torch.log_softmax(logits[known], dim=1)
    target = 0.8 * F.one_hot(label[known], 13) + 0.2 / 13
    loss = choose_recipe(TrainConfig(extra=("cosine", "smoothing")), 1).loss
    torch.testing.assert_close(loss(logits, label), -(target * log).sum())
    assert choose_recipe(TrainConfig(extra=("cosine",)), 1).loss is cross_entropy


def test_clipping_is_a_part() -> None:
    assert choose_recipe(TrainConfig(), 1).clip is None
    assert choose_recipe(TrainConfig(extra=("clip",)), 1).clip == CLIP


def test_an_average_goes_on_where_it_was() -> None:
    torch.manual_seed(0)
    model = DeepGCN(CONFIG)
    whole = average_weights(model)
    for _ in range(3):
        whole.update_parameters(model)
    again = average_weights(model)
    again.module.load_state_dict(whole.module.state_dict())
    start_average(again, 3)
    with torch.no_grad():
        model.classifier.bias += 1
    for average in (whole, again):
        average.update_parameters(model)
    assert torch.equal(whole.module.classifier.bias, again.module.classifier.bias)


def decay(step: int) -> float:
    return min(0.999, (1 + step) / (10 + step))


@pytest.mark.parametrize("step", [1, 90, 8990, 10**6])
def test_the_average_forgets_ever_more_slowly(step: int) -> None:
    model = nn.Linear(1, 1, dtype=torch.float64)
    average = start_average(average_weights(model), step - 1)  # type: ignore[arg-type]
    nn.init.zeros_(model.weight)
    nn.init.ones_(average.module.weight)
    average.update_parameters(model)
    assert average.module.weight.item() == pytest.approx(decay(step))


def test_the_average_is_the_weighted_sum_of_all_weights() -> None:
    torch.manual_seed(0)
    model = DeepGCN(CONFIG)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    average = average_weights(model)
    history = [copy.deepcopy(model.state_dict())]
    with kernels.use("reference"):
        for _ in range(5):
            optimizer.zero_grad()
            model.train()(torch.rand(2, 16, 9)).square().mean().backward()
            optimizer.step()
            average.update_parameters(model)
            history.append(copy.deepcopy(model.state_dict()))
    # The share of each step's weights in the end: what came in, times all the decays after it.
    shares = [1.0, *(1 - decay(step) for step in range(1, 6))]
    for step in range(1, 6):
        shares[:step] = [share * decay(step) for share in shares[:step]]
    assert sum(shares) == pytest.approx(1)
    for name, found in average.module.state_dict().items():
        values = [state[name] for state in history]
        if found.is_floating_point():
            expected = sum(s * v.double() for s, v in zip(shares, values, strict=True))
            torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(found, values[-1]), name
    moved = history[-1]["fusion.norm.running_var"]
    assert not torch.equal(average.module.state_dict()["fusion.norm.running_var"], moved)


def test_the_average_has_its_own_weights_and_no_gradient() -> None:
    torch.manual_seed(0)
    model = DeepGCN(CONFIG)
    random = torch.get_rng_state()
    average = average_weights(model)
    assert torch.equal(torch.get_rng_state(), random), "a run with it begins like one without"
    own = {value.data_ptr() for value in model.state_dict().values()}
    assert not own & {value.data_ptr() for value in average.module.state_dict().values()}
    assert not any(parameter.requires_grad for parameter in average.module.parameters())
    before = copy.deepcopy(model.state_dict())
    average.update_parameters(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
