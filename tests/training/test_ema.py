"""The average of the weights against its formula, and what training sees of it: nothing."""

from __future__ import annotations

import copy

import pytest
import torch

from pipelines import kernels
from pipelines.config import ModelConfig
from pipelines.model.deepgcn import DeepGCN
from pipelines.training.ema import DECAY, WeightAverage, decay_after

CONFIG = ModelConfig(depth=3, width=4, k=3, fusion_channels=8)


def test_decay_rises_from_little_to_its_limit() -> None:
    assert decay_after(1) == 2 / 11
    assert decay_after(90) == 0.91
    assert decay_after(8990) == pytest.approx(DECAY)
    assert decay_after(10**6) == DECAY


def test_the_average_is_the_weighted_sum_of_all_weights() -> None:
    torch.manual_seed(0)
    model = DeepGCN(CONFIG)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    average = WeightAverage(model)
    history = [copy.deepcopy(model.state_dict())]
    with kernels.use("reference"):
        for step in range(1, 6):
            optimizer.zero_grad()
            model.train()(torch.rand(2, 16, 9)).square().mean().backward()
            optimizer.step()
            average.update(model, step)
            history.append(copy.deepcopy(model.state_dict()))
    # The share of each step's weights in the end: what came in, times all the decays after it.
    shares = [1.0, *(1 - decay_after(step) for step in range(1, 6))]
    for step in range(1, 6):
        shares[:step] = [share * decay_after(step) for share in shares[:step]]
    assert sum(shares) == pytest.approx(1)
    for name, found in average.model.state_dict().items():
        values = [state[name] for state in history]
        if found.is_floating_point():
            expected = sum(s * v.double() for s, v in zip(shares, values, strict=True))
            torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(found, values[-1]), name
    moved = history[-1]["fusion.norm.running_var"]
    assert not torch.equal(average.model.state_dict()["fusion.norm.running_var"], moved)


def test_the_average_has_its_own_weights_and_no_gradient() -> None:
    torch.manual_seed(0)
    model = DeepGCN(CONFIG)
    random = torch.get_rng_state()
    average = WeightAverage(model)
    assert torch.equal(torch.get_rng_state(), random), "a run with it begins like one without"
    own = {value.data_ptr() for value in model.state_dict().values()}
    assert not own & {value.data_ptr() for value in average.model.state_dict().values()}
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
    before = copy.deepcopy(model.state_dict())
    average.update(model, 1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
