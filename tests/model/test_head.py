"""Activation checkpointing: the same step, from less memory."""

from __future__ import annotations

import dataclasses
import weakref

import pytest
import torch
from torch import Tensor, nn

from pipelines import kernels
from pipelines.config import ModelConfig
from pipelines.model.deepgcn import DeepGCN
from pipelines.model.head import segment_length

# Nearly every layer draws its ranks, and dropout acts: the repetition must do both the same way.
SMALL = ModelConfig(depth=7, width=8, k=3, epsilon=0.9, dropout=0.3, fusion_channels=16)
CONVS = ("edge", "mr", "sage", "sage-n", "gin", "GATConv")
NETWORKS = [
    *((arch, conv) for arch in ("plaingcn", "resgcn", "densegcn") for conv in CONVS),
    ("dgcnn", "edge"),
]


@dataclasses.dataclass
class Step:
    """What one step leaves."""

    logits: Tensor
    gradients: dict[str, Tensor]
    buffers: dict[str, Tensor]
    random: Tensor


def build(length: int, dtype: torch.dtype = torch.float64, **changes: object) -> DeepGCN:
    torch.manual_seed(0)
    model = DeepGCN(dataclasses.replace(SMALL, **changes)).to(dtype).train()
    model.checkpoint_layers = length
    return model


def step(length: int, dtype: torch.dtype = torch.float64, **changes: object) -> Step:
    model = build(length, dtype, **changes)
    torch.manual_seed(1)
    features = torch.rand(2, 40, 9, dtype=dtype)
    with kernels.use("reference"):
        logits = model(features)
    # Outside of `use`: the backward pass must remember which kernels the forward pass used.
    logits.square().mean().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return Step(logits.detach(), gradients, dict(model.named_buffers()), torch.get_rng_state())


@pytest.mark.parametrize("layout", ["paper", "torch"])
@pytest.mark.parametrize(("arch", "conv"), NETWORKS)
def test_a_step_is_the_same_with_and_without(arch: str, conv: str, layout: str) -> None:
    # SAGE divides by lengths that can be tiny; everything else agrees to the last digits.
    changes = {"arch": arch, "conv": conv, "layout": layout}
    whole = step(0, **changes)
    largest = max(gradient.abs().max().item() for gradient in whole.gradients.values())
    for length in (1, 3, 7):
        found = step(length, **changes)
        torch.testing.assert_close(found.logits, whole.logits, rtol=1e-10, atol=1e-10)
        assert found.gradients.keys() == whole.gradients.keys()
        for name, gradient in whole.gradients.items():
            difference = (found.gradients[name] - gradient).abs().max().item()
            assert difference < 1e-10 * largest, (name, length)
        for name, buffer in whole.buffers.items():
            torch.testing.assert_close(found.buffers[name], buffer, rtol=1e-10, atol=1e-10)
        assert torch.equal(found.random, whole.random)


def test_running_statistics_move_once_a_step() -> None:
    buffers = step(3).buffers
    counts = {name: n for name, n in buffers.items() if name.endswith("num_batches_tracked")}
    assert len(counts) == 7 + 3
    assert all(count.item() == 1 for count in counts.values())


def test_float32_differs_in_the_order_of_one_sum_only() -> None:
    torch.testing.assert_close(step(3, torch.float32).logits, step(0, torch.float32).logits)


def test_the_forward_pass_keeps_the_ends_of_segments_only() -> None:
    def alive(length: int) -> list[int]:
        model = build(length, arch="plaingcn")
        outputs = []

        def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG001
            outputs.append(weakref.ref(output))

        for layer in model.layers:
            layer.register_forward_hook(note)
        with kernels.use("reference"):
            logits = model(torch.rand(1, 40, 9, dtype=torch.float64))
        found = [number for number, output in enumerate(outputs) if output() is not None]
        assert logits.requires_grad
        return found

    assert alive(3) == [2, 5]
    assert alive(0) == [0, 1, 2, 3, 4, 5, 6]


def test_graphs_are_searched_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    searched = []
    search = kernels.knn

    def spy(x: Tensor, ranks: tuple[int, ...], bound: int | None = None) -> Tensor:
        searched.append(ranks)
        return search(x, ranks, bound)

    monkeypatch.setattr(kernels, "knn", spy)
    step(3)
    assert len(searched) == 7
    searched.clear()
    step(3, knn="fixed")
    assert len(searched) == 1


@pytest.mark.parametrize("arch", ["resgcn", "densegcn"])
def test_evaluation_of_a_deep_network_adds_up_the_same(arch: str) -> None:
    model = build(0, arch=arch, depth=70, width=2, dilation=False).eval()
    features = torch.rand(1, 12, 9, dtype=torch.float64)
    with kernels.use("reference"):
        whole = model(features)
        with torch.inference_mode():
            summed = model(features)
    torch.testing.assert_close(summed, whole.detach(), rtol=1e-9, atol=1e-9)
    assert not torch.equal(summed, whole)  # another order of additions: it was another way


def test_segments_are_about_the_root_of_the_depth() -> None:
    assert [segment_length(depth) for depth in (1, 2, 28, 152, 1001)] == [1, 1, 5, 12, 32]
