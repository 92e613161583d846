"""The network against tests/golden: written-out, edge-by-edge arithmetic in float64."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pipelines import kernels
from pipelines.config import ModelConfig
from pipelines.model.deepgcn import DeepGCN
from tests.golden import make

RELATIVE = 1e-9


@pytest.fixture(params=["reference", "cpu"])
def backend(request: pytest.FixtureRequest) -> Any:
    with kernels.use(request.param):
        yield request.param


def load(name: str) -> tuple[DeepGCN, Tensor, Tensor, dict[str, Tensor]]:
    """Return the network of a case, its features and labels, and what is expected."""
    settings = dataclasses.asdict(make.CASES[name])
    sizes = {"fusion_channels": make.FUSION, "num_classes": make.CLASSES}
    model = DeepGCN(ModelConfig(**settings, **sizes, epsilon=0.0, dropout=0.0)).double()
    state, features, label = make.draw(name)
    missing = model.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    assert all(key.endswith("num_batches_tracked") for key in missing.missing_keys)
    stored = np.load(make.FOLDER / f"{name}.npz")
    return model, features, label, {key: torch.from_numpy(stored[key]) for key in stored.files}


def assert_close(found: Tensor, wanted: Tensor) -> None:
    """Assert that the largest difference is within RELATIVE of the largest expected value."""
    difference = (found.detach() - wanted).abs().max()
    assert difference <= RELATIVE * wanted.abs().max(), f"{difference / wanted.abs().max()}"


@pytest.mark.parametrize("name", make.CASES)
@pytest.mark.usefixtures("backend")
def test_evaluation(name: str) -> None:
    model, features, _, expected = load(name)
    with torch.no_grad():
        assert_close(model.eval()(features), expected["eval_logits"])


@pytest.mark.parametrize("length", [0, 2], ids=["whole", "checkpointed"])
@pytest.mark.parametrize("name", make.CASES)
@pytest.mark.usefixtures("backend")
def test_training_step(name: str, length: int) -> None:
    model, features, label, expected = load(name)
    model.train().checkpoint_layers = length
    logits = model(features)
    assert_close(logits, expected["train_logits"])
    loss = F.cross_entropy(logits.flatten(0, 1), label.flatten())
    assert_close(loss, expected["train_loss"])
    loss.backward()
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    norms = {key: p.grad.norm() for key, p in parameters.items() if p.grad is not None}
    assert {f"grad_norm/{key}" for key in norms} == {key for key in expected if "norm/" in key}
    largest = max(norms.values())
    for key, norm in norms.items():
        wanted = expected[f"grad_norm/{key}"]
        # A bias in front of a batch norm has gradient zero: what is left is rounding.
        assert abs(norm - wanted) <= RELATIVE * max(wanted, 1e-4 * largest), key
    for key, wanted in expected.items():
        kind, _, tensor = key.partition("/")
        if kind == "grad":
            assert_close(parameters[tensor].grad, wanted)
        if kind == "after_step":
            assert_close(buffers[tensor], wanted)


def test_batch_norm_scales_have_both_signs() -> None:
    for name in make.CASES:
        scale = load(name)[0].fusion.norm.weight
        assert (scale < 0).any()
        assert (scale > 0).any()


def test_the_script_makes_what_is_stored() -> None:
    _, _, _, expected = load("res-edge-torch")
    found = make.compute("res-edge-torch")
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-9, atol=1e-12)
