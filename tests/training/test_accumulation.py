"""Micro-batches: the whole batch's gradient, and what happens when memory runs out."""

from __future__ import annotations

import math
import resource
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pipelines import kernels
from pipelines.config import ModelConfig
from pipelines.model.deepgcn import DeepGCN
from pipelines.runtime.memory import is_out_of_memory
from pipelines.training.recipe import cross_entropy
from pipelines.training.steps import (
    Accumulation,
    mean_loss,
)

CONFIG = ModelConfig(depth=3, width=4, k=3, fusion_channels=8, epsilon=0.5, dropout=0.3)
BLOCKS, POINTS = 5, 12


def build() -> DeepGCN:
    torch.manual_seed(0)
    return DeepGCN(CONFIG).double().train()


def batch() -> tuple[Tensor, Tensor]:
    """Blocks with 12, 7, 0, 12 and 1 labelled points."""
    generator = torch.Generator().manual_seed(1)
    features = torch.rand(BLOCKS, POINTS, 9, generator=generator, dtype=torch.float64)
    label = torch.randint(0, 13, (BLOCKS, POINTS), generator=generator)
    for block, labelled in enumerate((12, 7, 0, 12, 1)):
        label[block, labelled:] = 255
    return features, label


def take(model: DeepGCN, accumulation: Accumulation) -> float:
    features, label = batch()
    loss = mean_loss(cross_entropy, (label != 255).sum())
    with kernels.use("reference"):
        return accumulation.backward(model, features, label, loss).item()


def gradients(model: DeepGCN) -> list[Tensor]:
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
def test_gradients_add_up_to_the_mean_over_all_labelled_points(size: int) -> None:
    model = build().eval()  # running statistics, no draws: blocks don't see each other
    features, label = batch()
    with kernels.use("reference"):
        expected = F.cross_entropy(model(features).flatten(0, 1), label.flatten(), ignore_index=255)
    expected.backward()
    wanted = [gradient.clone() for gradient in gradients(model)]
    loss = take(model, Accumulation(size))
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    for found, gradient in zip(gradients(model), wanted, strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-10, atol=1e-12)


def test_each_micro_batch_has_batch_statistics_of_its_own() -> None:
    model = build()
    take(model, Accumulation(2))
    assert model.fusion.norm.num_batches_tracked.item() == 3
    other = build()
    take(other, Accumulation(BLOCKS))
    assert not torch.allclose(model.fusion.norm.running_mean, other.fusion.norm.running_mean)


def test_a_loss_that_is_not_finite_is_returned() -> None:
    model = build()
    with torch.no_grad():
        model.classifier.bias.fill_(float("nan"))
    assert math.isnan(take(model, Accumulation(2)))


def test_all_processes_halve_when_one_has_to() -> None:
    """One process has room, another has not; both take the step with the same size."""
    notified: list[bool] = []

    def anywhere(fact: bool) -> bool:
        notified.append(fact)
        return len(notified) == 1 or fact  # the other one ran out, the first time

    model, said = build(), []
    torch.manual_seed(3)
    accumulation = Accumulation(BLOCKS, trials=2, on_smaller=said.append, anywhere=anywhere)
    loss = take(model, accumulation)
    assert said == [3]
    assert notified == [False, False]
    fresh = build()
    torch.manual_seed(3)
    assert take(fresh, Accumulation(3)) == loss

    notified.clear()
    short = build()
    Shortage(short, 3, CPU)
    take(short, Accumulation(BLOCKS, trials=2, anywhere=anywhere))
    assert notified == [True, False]


def test_processes_halve_alike_whatever_their_blocks() -> None:
    """Of a batch of 5 blocks one process has 3, the other 2, and one of them has no room."""
    features, label = batch()
    loss = mean_loss(cross_entropy, (label != 255).sum())
    for blocks in (3, 2):
        answers, said = iter((True, False)), []
        model, own = build(), slice(0, blocks)
        accumulation = Accumulation(3, 2, said.append, lambda _, found=answers: next(found))
        with kernels.use("reference"):
            accumulation.backward(model, features[own], label[own], loss)
        assert said == [2], f"with {blocks} blocks"


class Shortage:
    """Memory that suffices for so many blocks, and runs out at the end of the forward pass."""

    def __init__(self, model: DeepGCN, blocks: int, message: str) -> None:
        self.forward, self.blocks, self.message = model.forward, blocks, message
        model.forward = self  # type: ignore[method-assign, assignment]

    def __call__(self, features: Tensor) -> Tensor:
        logits = self.forward(features)  # has moved statistics and drawn numbers by then
        if len(features) > self.blocks:
            raise RuntimeError(self.message)
        return logits


CPU = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"


@pytest.mark.parametrize(("fits", "expected"), [(4, [3]), (1, [3, 2, 1])])
def test_running_out_in_a_trial_is_as_if_it_had_not_been(fits: int, expected: list[int]) -> None:
    model, said = build(), []
    Shortage(model, fits, CPU)
    torch.manual_seed(3)
    accumulation = Accumulation(BLOCKS, trials=2, on_smaller=said.append)
    loss = take(model, accumulation)
    state = torch.get_rng_state()
    assert said == expected
    assert accumulation.size == expected[-1]

    fresh = build()
    torch.manual_seed(3)
    assert take(fresh, Accumulation(expected[-1])) == loss
    assert torch.equal(torch.get_rng_state(), state)
    for found, wanted in zip(gradients(model), gradients(fresh), strict=True):
        assert torch.equal(found, wanted)
    for found, wanted in zip(model.buffers(), fresh.buffers(), strict=True):
        assert torch.equal(found, wanted)


def test_only_trials_try_again_and_only_for_memory() -> None:
    model = build()
    accumulation = Accumulation(BLOCKS, trials=2)
    take(model, accumulation)
    take(model, accumulation)
    Shortage(model, 1, CPU)
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        take(model, accumulation)
    other = build()
    Shortage(other, 1, "something else is wrong")
    with pytest.raises(RuntimeError, match="something else"):
        take(other, Accumulation(BLOCKS, trials=2))
    smallest = build()
    Shortage(smallest, 0, CPU)
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        take(smallest, Accumulation(BLOCKS, trials=2))


def test_what_running_out_looks_like() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate"))
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert not is_out_of_memory(RuntimeError("The size of tensor a must match"))
    assert not is_out_of_memory(ValueError("DefaultCPUAllocator"))


REAL = """
import resource, sys, torch
from pipelines import kernels
from pipelines.config import ModelConfig
from pipelines.model.deepgcn import DeepGCN
from pipelines.training.steps import Accumulation
from pipelines.training.recipe import cross_entropy

torch.set_num_threads(1)
model = DeepGCN(ModelConfig(depth=3, width=16, k=4, fusion_channels=512)).train()
features, label = torch.rand(16, 1024, 9), torch.zeros(16, 1024, dtype=torch.long)
sizes = []
with kernels.use("reference"):
    Accumulation(1).backward(model, features[:1], label[:1], cross_entropy)
    pages = int(open("/proc/self/statm").read().split()[0])
    limit = pages * resource.getpagesize() + int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    accumulation = Accumulation(16, trials=2, on_smaller=sizes.append)
    loss = accumulation.backward(model, features, label, cross_entropy)
print(sizes, loss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space are Linux's")
def test_a_real_shortage_halves_until_it_fits() -> None:
    def sizes(room: int) -> str:
        command = [sys.executable, "-c", REAL, str(room)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout.split("]")[0].lstrip("[")

    assert sizes(4 << 30) == ""
    assert sizes(150 << 20).split(", ")[:2] == ["8", "4"]
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY  # theirs, not ours
