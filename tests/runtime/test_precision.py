"""Products in 16 bits: what they change, and what they must not."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipelines import kernels
from pipelines.config import ModelConfig, TrainConfig
from pipelines.errors import ConfigError
from pipelines.kernels import reference
from pipelines.model.deepgcn import DeepGCN
from pipelines.runtime.precision import Precision
from pipelines.train import train
from tests.tiny_store import write_tiny_store
from tests.tiny_training import AtStep, run_as

CPU = torch.device("cpu")
SMALL = ModelConfig(depth=4, width=16, k=5, fusion_channels=32, dropout=0.0, epsilon=0.0)


def agreement(found: Tensor, expected: Tensor) -> float:
    """The share of the expected neighbours that were found."""
    same = (found.unsqueeze(-1) == expected.unsqueeze(-2)).any(-1)
    return same.float().mean().item()


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Tensor]]:
    """The neighbours of every layer of every forward pass, in turn."""
    found: list[Tensor] = []
    search = reference.knn

    def knn(x: Tensor, ranks: tuple[int, ...], _bound: int | None) -> Tensor:
        assert x.dtype == torch.float32
        assert not torch.is_autocast_enabled("cpu")
        found.append(search(x, ranks))
        return found[-1]

    monkeypatch.setattr(reference, "knn", knn)
    with kernels.use("reference"):
        yield found


def test_bf16_changes_the_products_alone(chosen: list[Tensor]) -> None:
    torch.manual_seed(0)
    model = DeepGCN(SMALL).train()
    features = torch.rand(2, 256, 9)
    exact = model(features)
    with Precision("bf16", CPU).matmuls():
        short = model(features)
    assert short.dtype == torch.float32
    assert not torch.equal(short, exact)
    # The first search is among the coordinates themselves. One layer on, bf16 products of 8 bits
    # have moved the features by up to 1/256; further on, other neighbours add to that, without a
    # bound on the logits (docs/benchmarks.md has what that comes to on real scans).
    agreements = [agreement(chosen[4 + n], chosen[n]) for n in range(4)]
    assert agreements[0] == 1
    assert 0.95 < agreements[1] < 1


def test_bf16_on_the_same_graph_is_as_close_as_8_bits_are() -> None:
    torch.manual_seed(0)
    model = DeepGCN(dataclasses.replace(SMALL, knn="fixed")).train()
    features = torch.rand(2, 256, 9)
    with kernels.use("reference"):
        exact = model(features)
        with Precision("bf16", CPU).matmuls():
            short = model(features)
    assert 1e-4 < (short - exact).norm() / exact.norm() < 4 * 2**-8 * SMALL.depth


def test_gradients_and_weights_stay_float32() -> None:
    model = DeepGCN(SMALL).train()
    with kernels.use("reference"):
        with Precision("bf16", CPU).matmuls():
            logits = model(torch.rand(2, 64, 9))
        logits.square().mean().backward()
    assert {value.grad.dtype for value in model.parameters()} == {torch.float32}  # type: ignore[union-attr]


def test_precision_32_is_no_autocast() -> None:
    model = DeepGCN(SMALL).eval()
    features = torch.rand(1, 64, 9)
    with kernels.use("reference"), Precision("32", CPU).matmuls():
        assert not torch.is_autocast_enabled("cpu")
        assert model.double()(features.double()).dtype == torch.float64


def test_a_training_in_bf16_learns_and_goes_on(tmp_path: Path) -> None:
    store = write_tiny_store(tmp_path / "data")
    model = dataclasses.replace(SMALL, depth=3, layout="torch")
    config = TrainConfig(
        model=model,
        data=store.path,
        runs=tmp_path / "runs",
        epochs=4,
        batch_size=4,
        num_points=64,
        device="cpu",
        threads=1,
        precision="bf16",
    )
    with kernels.use("reference"):
        listener = AtStep()
        whole = run_as(config, "whole", listener)
        assert "matmul precision bf16" in listener.said[0]
        stopped = run_as(config, "stopped", epochs=2)
        train(dataclasses.replace(stopped.config, epochs=4), resume=stopped.path)
        losses, again = (
            [r["loss"] for r in run.metrics() if r["event"] == "step"] for run in (whole, stopped)
        )
        assert losses == again
        full = run_as(config, "full", precision="32", max_steps=1)
    assert sum(losses[-5:]) < 0.3 * sum(losses[:5])
    first = full.metrics()[0]["loss"]
    assert losses[0] != first
    assert losses[0] == pytest.approx(first, rel=0.05)


def test_tf32_is_for_products_and_their_gradients_alone() -> None:
    seen: list[str] = []
    weight = torch.ones((), requires_grad=True)
    weight.register_hook(lambda grad: seen.append(torch.get_float32_matmul_precision()))  # noqa: ARG005
    precision = Precision("tf32", torch.device("cuda"))
    with precision.matmuls():
        seen.append(torch.get_float32_matmul_precision())
        loss = weight * 2
    assert torch.get_float32_matmul_precision() == "highest"
    precision.backward(loss)
    assert seen == ["high", "high"]
    assert torch.get_float32_matmul_precision() == "highest"
    with pytest.raises(
        ConfigError, match=r"--precision tf32: found the device cpu, expected an NV"
    ):
        Precision("tf32", CPU)


def test_16_needs_a_gpu() -> None:
    with pytest.raises(ConfigError, match=r"--precision 16: found the device cpu, expected a GPU"):
        Precision("16", CPU)
    with pytest.raises(ConfigError, match=r"--precision: found the unknown precision 'fp16'"):
        TrainConfig(precision="fp16")
