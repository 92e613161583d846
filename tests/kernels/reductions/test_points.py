"""Reduction over points against values written out in NumPy, gradients against differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipelines import kernels

BACKENDS = (
    "reference",
    "cpu",
    "cuda",
)  # cuda's is made of PyTorch's operations, which run here too


def case(
    batch: int, points: int, channels: int, seed: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Return x and signs of both kinds."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, points, channels, generator=generator, dtype=dtype)
    return x, torch.randn(channels, generator=generator, dtype=dtype)


def by_hand(x: Tensor, sign: Tensor, *, relu: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return extreme, Σe and Σe² of all points at once."""
    e = np.maximum(x.numpy(), 0) if relu else x.numpy()
    extreme = np.where(sign.numpy() < 0, e.min(axis=1), e.max(axis=1))
    return extreme, e.sum(axis=(0, 1)), np.square(e).sum(axis=(0, 1))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    ("batch", "points", "channels"), [(1, 1, 1), (2, 37, 5), (1, 128, 16), (3, 301, 24)]
)
def test_equals_numpy(backend: str, relu: bool, batch: int, points: int, channels: int) -> None:
    x, sign = case(batch, points, channels, seed=points)
    with kernels.use(backend):
        found = kernels.point_reduce(x, sign, relu=relu, moments=True)
        alone = kernels.point_reduce(x, sign, relu=relu, moments=False)
    for mine, expected in zip(found, by_hand(x, sign, relu=relu), strict=True):
        assert mine is not None
        np.testing.assert_allclose(mine.numpy(), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(alone[0], found[0])
    assert alone[1:] == (None, None)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("moments", [False, True])
def test_gradients(backend: str, relu: bool, moments: bool) -> None:
    x, sign = case(2, 7, 3, seed=3)
    x.requires_grad_()

    def reduce(x: Tensor) -> tuple[Tensor, ...]:
        found = kernels.point_reduce(x, sign, relu=relu, moments=moments)
        return tuple(each for each in found if each is not None)

    with kernels.use(backend):
        assert torch.autograd.gradcheck(reduce, (x,))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_tie_sends_its_gradient_to_one_point(backend: str) -> None:
    """Repeated points, as sparse blocks have them."""
    x = torch.ones(2, 300, 2, dtype=torch.float64, requires_grad=True)
    sign = torch.tensor([1.0, -1.0], dtype=torch.float64)
    with kernels.use(backend):
        kernels.point_reduce(x, sign, relu=False, moments=False)[0].sum().backward()
    assert x.grad is not None
    assert x.grad.sum(dim=1).tolist() == [[1.0, 1.0]] * 2
    assert set(x.grad.flatten().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_is_not_lost(backend: str) -> None:
    x, sign = case(1, 200, 8, seed=6)
    x[0, 150, 3] = torch.nan
    with kernels.use(backend):
        extreme, first, _ = kernels.point_reduce(x, sign, relu=True, moments=True)
    assert first is not None
    assert torch.isnan(extreme[0]).tolist() == [n == 3 for n in range(8)]
    assert torch.isnan(first).tolist() == [n == 3 for n in range(8)]


@given(
    batch=st.integers(1, 3),
    points=st.integers(1, 300),
    channels=st.integers(1, 40),
    relu=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_float32_agrees_with_eager(
    batch: int, points: int, channels: int, relu: bool, seed: int
) -> None:
    x, sign = case(batch, points, channels, seed, torch.float32)
    results = []
    for backend in BACKENDS:
        own = x.clone().requires_grad_()
        with kernels.use(backend):
            extreme, first, second = kernels.point_reduce(own, sign, relu=relu, moments=True)
            assert first is not None
            assert second is not None
            (extreme.double().square().mean() + (first + second).sum() / points).backward()
        results.append((extreme.detach(), first.detach(), second.detach(), own.grad))
    for mine, *others in zip(*results, strict=True):
        for other in others:
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_variance_far_from_zero(backend: str) -> None:
    """A mean of 1,000 and a spread of 1: float32 squares alone would lose half of the digits."""
    x, sign = case(1, 4000, 8, seed=7, dtype=torch.float32)
    x = x + 1000
    with kernels.use(backend):
        _, first, second = kernels.point_reduce(x, sign, relu=False, moments=True)
    assert first is not None
    assert second is not None
    var = second / 4000 - (first / 4000).square()
    torch.testing.assert_close(var, x.double().var(dim=(0, 1), correction=0), rtol=5e-2, atol=0)


def test_bits_do_not_depend_on_threads() -> None:
    x, sign = case(3, 700, 19, seed=8, dtype=torch.float32)
    found = []
    before = torch.get_num_threads()
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        own = x.clone().requires_grad_()
        with kernels.use("cpu"):
            extreme, first, second = kernels.point_reduce(own, sign, relu=True, moments=True)
            assert first is not None
            assert second is not None
            (extreme.sum() + (first * second).sum()).backward()
        found.append((extreme, first, second, own.grad))
    torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
