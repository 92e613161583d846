"""Triton's edge operations against `reference`, values and gradients, and as parts of a network.

On a GPU if there is one; else in Triton's interpreter, started by `test_cuda`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipelines import kernels
from pipelines.config import ModelConfig
from pipelines.kernels import reference
from pipelines.model.deepgcn import DeepGCN
from tests.kernels.knn_search.test_cuda import use_small_constants

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

pytestmark = pytest.mark.skipif(
    kernels.why_not_triton(DEVICE) is not None,
    reason="no GPU; test_cuda runs this in Triton's interpreter",
)


@pytest.fixture(autouse=True)
def triton() -> Iterator[None]:
    with kernels.use("cuda"):
        yield


def random_edges(
    batch: int, points: int, channels: int, k: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return u, v, index and sign (both signs); some points have no edge that leaves them."""
    generator = torch.Generator().manual_seed(points * channels + k)
    u, v = torch.randn(2, batch, points, channels, generator=generator, dtype=dtype)
    index = torch.randint(0, max(1, points - 2), (batch, points, k), generator=generator)
    sign = torch.randn(channels, generator=generator, dtype=dtype)
    return u.to(DEVICE), v.to(DEVICE), index.int().to(DEVICE), sign.to(DEVICE)


def results(module: Any, arrays: tuple[Tensor, ...], flags: dict[str, bool]) -> list[Tensor]:
    """Return the values, and the gradients of a weighted sum of all of them."""
    u, v = (x.clone().requires_grad_() for x in arrays[:2])
    values = [x for x in module.edge_reduce(u, v, *arrays[2:], **flags) if x is not None]
    generator = torch.Generator().manual_seed(9)
    loss = torch.zeros((), dtype=torch.float64, device=DEVICE)
    for x in values:
        weight = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(DEVICE)
        loss = loss + (weight * x).sum()
    loss.backward()
    return [x.detach() for x in (*values, u.grad, v.grad)]


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("moments", [False, True])
@pytest.mark.parametrize(
    ("batch", "points", "channels", "k", "dtype"),
    [
        (1, 1, 1, 1, torch.float64),
        (2, 33, 5, 4, torch.float64),
        (1, 9, 70, 9, torch.float64),  # more channels than a kernel instance's
        (2, 33, 8, 5, torch.float32),
    ],
)
def test_edge_reduce_equals_eager(
    batch: int, points: int, channels: int, k: int, dtype: torch.dtype, relu: bool, moments: bool
) -> None:
    arrays = random_edges(batch, points, channels, k, dtype)
    flags = {"relu": relu, "moments": moments}
    exact = 1e-12 if dtype == torch.float64 else 3e-5
    found, expected = results(kernels, arrays, flags), results(reference, arrays, flags)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=exact, atol=exact)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(("name", "value"), [("LONG", 1), ("EDGES", 16), ("SOURCE_WARPS", 4)])
def test_other_sizes_of_the_constants(
    name: str, value: int, relu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.kernels.reductions import cuda as cuda_edges

    arrays = random_edges(2, 24, 9, 5, torch.float64)
    flags = {"relu": relu, "moments": True}
    expected = results(reference, arrays, flags)
    monkeypatch.setattr(cuda_edges, name, value)
    for mine, theirs in zip(results(kernels, arrays, flags), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("operation", ["neighbor_max", "neighbor_sum"])
@pytest.mark.parametrize(("points", "channels", "k"), [(1, 3, 1), (40, 66, 3), (20, 4, 20)])
def test_neighbor_operations_equal_eager(
    operation: str, points: int, channels: int, k: int
) -> None:
    _, x, index, _ = random_edges(2, points, channels, k, torch.float64)
    index[0] = 0  # every edge of a block leaves the same point: more than are added up at a time
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    found = []
    for module in (kernels, reference):
        mine = x.clone().requires_grad_()
        y = getattr(module, operation)(mine, index)
        (weight.to(DEVICE) * y).sum().backward()
        assert mine.grad is not None
        found.append((y.detach(), mine.grad))
    for one, other in zip(*found, strict=True):
        if operation == "neighbor_max" and one is found[0][1] and k > 1:
            # A tie between equal neighbours may send its gradient to any of them: block 0 has one.
            one, other = one.sum(dim=1), other.sum(dim=1)
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_gradients_are_those_of_differences() -> None:
    u, v, index, sign = random_edges(1, 4, 2, 3, torch.float64)
    u, v = u.requires_grad_(), v.requires_grad_()
    for relu in (False, True):

        def reduced(u: Tensor, v: Tensor, relu: bool = relu) -> tuple[Tensor, ...]:
            return kernels.edge_reduce(u, v, index, sign, relu=relu, moments=True)  # type: ignore[return-value]

        assert torch.autograd.gradcheck(reduced, (u, v), fast_mode=True)
    assert torch.autograd.gradcheck(lambda x: kernels.neighbor_sum(x, index), (v,), fast_mode=True)
    assert torch.autograd.gradcheck(lambda x: kernels.neighbor_max(x, index), (v,), fast_mode=True)


def test_the_sums_alone_have_gradients() -> None:
    """The gradient of a sum of sums is one number, expanded: it lies nowhere else in memory."""
    arrays = random_edges(1, 7, 3, 2, torch.float64)
    found = []
    for module in (kernels, reference):
        u, v = (x.clone().requires_grad_() for x in arrays[:2])
        _, total, squares = module.edge_reduce(u, v, *arrays[2:], relu=False, moments=True)
        (total.sum() + squares.sum()).backward()
        found.append((u.grad, v.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_a_hand_computed_point() -> None:
    """Point 0 has the edges 1 + 5 and 1 − 4; channel 1 wants the smallest."""
    u = torch.tensor([[[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]], device=DEVICE, requires_grad=True)
    v = torch.tensor([[[0.0, 0.0], [5.0, 5.0], [-4.0, -4.0]]], device=DEVICE, requires_grad=True)
    index = torch.tensor([[[1, 2], [0, 0], [0, 0]]], dtype=torch.int32, device=DEVICE)
    sign = torch.tensor([2.0, -0.5], device=DEVICE)
    extreme, total, squares = kernels.edge_reduce(u, v, index, sign, relu=False, moments=True)
    assert total is not None
    assert squares is not None
    assert extreme[0, 0].tolist() == [6.0, -3.0]
    assert total.tolist() == [3.0, 3.0]
    assert squares.tolist() == [45.0, 45.0]
    assert total.dtype == squares.dtype == torch.float64
    extreme[0, 0].sum().backward()
    assert v.grad is not None
    assert v.grad[0].tolist() == [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]


def test_nan_and_foreign_indices_give_nan_in_their_own_points_only() -> None:
    u, v, index, sign = random_edges(2, 12, 3, 2, torch.float32)
    index[:] = 1
    v[0, 4, 1] = float("nan")
    index[0, 3, 1] = 4
    index[1, 5, 0] = 12  # beyond the block, and at the end of memory
    index[0, 6, 0] = -1
    extreme, _, _ = kernels.edge_reduce(u, v, index, sign, relu=True, moments=True)
    expected = torch.zeros(2, 12, 3, dtype=torch.bool)
    expected[0, 3, 1] = expected[1, 5] = expected[0, 6] = True
    assert torch.equal(extreme.isnan().cpu(), expected)


def test_half_precision_is_added_up_in_float32() -> None:
    _, x, _, _ = random_edges(1, 40, 4, 1, torch.float32)
    x = x.abs().half()
    index = torch.arange(40, dtype=torch.int32, device=DEVICE).expand(1, 40, 40)
    y = kernels.neighbor_sum(x, index)
    assert y.dtype == torch.float16
    expected = x.double().sum(dim=1, keepdim=True).expand(1, 40, 4)
    torch.testing.assert_close(y.double(), expected, rtol=1.01 * 2.0**-11, atol=0)


def test_the_same_bits_every_time() -> None:
    arrays = random_edges(1, 64, 6, 8, torch.float32)
    flags = {"relu": True, "moments": True}
    for one, other in zip(
        results(kernels, arrays, flags), results(kernels, arrays, flags), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("batch", "points", "k"), [(1, 1, 1), (3, 37, 5), (2, 129, 16)])
def test_edges_are_sorted_by_source_and_number(batch: int, points: int, k: int) -> None:
    """Foreign indices count as the nearest one."""
    from pipelines.kernels.reductions.cuda import reverse

    _, _, index, _ = random_edges(batch, points, 1, k, torch.float32)
    index[0, 0, 0], index[-1, -1, -1] = -(2**31), 2**31 - 1
    source = index.clamp(0, points - 1).cpu().numpy() + points * np.arange(batch)[:, None, None]
    order, begin = (found.cpu().numpy() for found in reverse(index))
    assert order.dtype == begin.dtype == np.int32
    expected = sorted(range(source.size), key=lambda edge: (source.flat[edge], edge))
    assert order.tolist() == expected
    counts = np.bincount(source.ravel(), minlength=batch * points)
    assert begin.tolist() == [0, *np.cumsum(counts)]


def test_foreign_indices_touch_no_foreign_memory_on_the_way_back() -> None:
    _, v, index, sign = random_edges(2, 33, 3, 4, torch.float32)
    index[0, 3, 1], index[1, 5, 0], index[1, 32, 3] = -1, 33, 2**31 - 1
    v.requires_grad_()
    extreme, *_ = kernels.edge_reduce(torch.zeros_like(v), v, index, sign, relu=False, moments=True)
    extreme.nansum().backward()
    assert v.grad is not None
    assert v.grad.shape == v.shape


def test_too_many_edges_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.kernels.reductions import cuda as cuda_edges

    monkeypatch.setattr(cuda_edges, "MOST_EDGES", 60)
    with pytest.raises(ValueError, match="found 60 edges in a batch, expected fewer than"):
        cuda_edges.reverse(torch.zeros(2, 10, 3, dtype=torch.int32, device=DEVICE))


@pytest.mark.parametrize(
    ("arch", "conv", "layout", "dtype"),
    [
        ("resgcn", "edge", "paper", torch.float64),
        ("resgcn", "edge", "torch", torch.float32),
        ("densegcn", "edge", "torch", torch.float64),
        ("resgcn", "mr", "torch", torch.float64),
        ("plaingcn", "gin", "paper", torch.float64),
    ],
)
def test_a_network_equals_the_eager_one(
    arch: str, conv: str, layout: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small_constants(monkeypatch)
    config = ModelConfig.published(
        arch, 3, conv=conv, k=3, width=4, layout=layout, fusion_channels=8, dropout=0.0, epsilon=0.0
    )
    torch.manual_seed(0)
    model = DeepGCN(config).to(DEVICE, dtype)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            torch.nn.init.normal_(module.weight)  # both signs
    features = torch.rand(2, 24, config.in_channels, dtype=dtype).to(DEVICE)
    exact = step_of(model.double(), features.double(), "reference")
    assert len(exact) > 10
    if dtype == torch.float64:
        mine = step_of(model, features, "cuda")
        torch.testing.assert_close(mine, exact, rtol=1e-8, atol=1e-8)
        return
    # Rounding can be magnified to any size on its way through a network: to no other by Triton.
    errors = []
    for name in ("cuda", "reference"):
        found = step_of(model.float(), features, name)
        pairs = zip(found, exact, strict=True)
        errors.append(max(float((one - other).abs().max()) for one, other in pairs))
    largest = max(float(gradient.abs().max()) for gradient in exact)
    assert errors[0] < 2 * errors[1] + 1e-5 * largest


def step_of(model: DeepGCN, features: Tensor, name: str) -> list[Tensor]:
    """Return the logits of a training step, and all gradients, with an implementation."""
    with kernels.use(name):
        assert kernels.implementation(features) == name
        model.zero_grad()
        logits = model.train()(features)
        (logits.square().sum() + logits.sum()).backward()
    gradients = [x.grad.clone() for x in model.parameters() if x.grad is not None]
    return [logits.detach(), *gradients]
