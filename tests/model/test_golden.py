"""The network against golden tensors: float64 arithmetic of an independent implementation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipelines import kernels
from pipelines.model.deepgcn import DeepGCN
from pipelines.weights.published import TORCH, from_reference

NAMES = ("res-edge-5", "paper-res-edge-5", "dense-edge-4", "plain-mr-4")
ARCHS = {"res": "resgcn", "dense": "densegcn", "plain": "plaingcn"}
RELATIVE = 1e-9


@pytest.fixture(params=["reference", "cpu"])
def backend(request: pytest.FixtureRequest) -> Any:
    with kernels.use(request.param):
        yield request.param


Load = Callable[[str], tuple[DeepGCN, dict[str, np.ndarray], dict[str, Any]]]


@pytest.fixture
def load(golden_dir: Path) -> Load:
    def load(name: str) -> tuple[DeepGCN, dict[str, np.ndarray], dict[str, Any]]:
        tensors = dict(np.load(golden_dir / f"{name}.npz"))
        config = json.loads(str(tensors["config"]))
        state = {
            key.removeprefix("state/"): torch.from_numpy(value)
            for key, value in tensors.items()
            if key.startswith("state/")
        }
        model = from_reference(
            state,
            k=config["k"],
            conv=config["conv"],
            layout="paper" if config["norm_order"] == "conv-norm-act" else "torch",
            epsilon=config["epsilon"],
            dropout=config["dropout"],
            arch=ARCHS[config["block"]],
        )
        return model.double(), tensors, config

    return load


def features_of(tensors: dict[str, np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(tensors["input"]).double().transpose(1, 2)


def assert_close(found: torch.Tensor, expected: np.ndarray) -> None:
    """Assert that the largest difference is within RELATIVE of the largest expected value."""
    wanted = torch.from_numpy(np.asarray(expected))
    difference = (found.detach() - wanted).abs().max()
    assert difference <= RELATIVE * wanted.abs().max(), (
        f"relative {difference / wanted.abs().max()}"
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("backend")
def test_evaluation_logits(load: Load, name: str) -> None:
    model, tensors, _ = load(name)
    with torch.no_grad():
        assert_close(model(features_of(tensors)).transpose(1, 2), tensors["eval_logits"])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("backend")
def test_training_step(load: Load, name: str) -> None:
    model, tensors, config = load(name)
    model.train()
    logits = model(features_of(tensors)).transpose(1, 2)
    assert_close(logits, tensors["train_logits"])
    loss = F.cross_entropy(logits, torch.from_numpy(tensors["label"]))
    assert_close(loss, tensors["train_loss"])
    loss.backward()
    own = dict(model.named_parameters())
    names = TORCH.inverse(own, config["conv"])
    norms = [key for key in tensors if key.startswith("grad_norm/")]
    assert len(norms) == len(own)
    largest = max(float(tensors[key]) for key in norms)
    for key in norms:
        grad = own[names[key.removeprefix("grad_norm/")]].grad
        assert grad is not None
        expected = float(tensors[key])
        # A bias in front of a batch norm has gradient zero: what is left is rounding.
        assert abs(float(grad.norm()) - expected) <= RELATIVE * max(expected, 1e-4 * largest), key
    whole = next(key for key in tensors if key.startswith("grad/"))
    grad = own[names[whole.removeprefix("grad/")]].grad
    assert grad is not None
    assert_close(grad, tensors[whole].reshape(grad.shape))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("backend")
def test_running_statistics(load: Load, name: str) -> None:
    model, tensors, config = load(name)
    model.train()(features_of(tensors))
    own = dict(model.named_buffers())
    names = TORCH.inverse(own, config["conv"])
    keys = [key for key in tensors if key.startswith("after_step/")]
    assert keys
    for key in keys:
        found = own[names[key.removeprefix("after_step/")]]
        assert_close(found, tensors[key])


def test_weights_have_scales_of_both_signs(load: Load) -> None:
    model, _, _ = load("res-edge-5")
    scale = model.layers[1].mlp[0].norm.weight
    assert (scale < 0).any()
    assert (scale > 0).any()
