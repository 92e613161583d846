"""Edge reductions against explicit edges written out in NumPy, gradients against differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipelines import kernels

BACKENDS = ("reference", "cpu")


def case(
    batch: int, points: int, channels: int, k: int, seed: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return u, v, index and signs of both kinds; every point is its own neighbour."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(batch, points, channels, generator=generator, dtype=dtype)
    v = torch.randn(batch, points, channels, generator=generator, dtype=dtype)
    index = torch.randint(0, points, (batch, points, k), generator=generator, dtype=torch.int32)
    index[..., 0] = torch.arange(points, dtype=torch.int32)
    sign = torch.randn(channels, generator=generator, dtype=dtype)
    return u, v, index, sign


def by_hand(
    u: Tensor, v: Tensor, index: Tensor, sign: Tensor, *, relu: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return extreme, Σe and Σe², one edge at a time."""
    batch, points, channels = v.shape
    extreme = np.empty((batch, points, channels))
    first, second = np.zeros(channels), np.zeros(channels)
    for b in range(batch):
        for i in range(points):
            edges = np.array([(u[b, i] + v[b, j]).numpy() for j in index[b, i].tolist()])
            edges = np.maximum(edges, 0) if relu else edges
            extreme[b, i] = np.where(sign.numpy() < 0, edges.min(axis=0), edges.max(axis=0))
            first += edges.sum(axis=0)
            second += np.square(edges).sum(axis=0)
    return extreme, first, second


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    ("batch", "points", "channels", "k"), [(1, 1, 1, 1), (2, 37, 5, 4), (1, 130, 24, 16)]
)
def test_equals_every_edge_by_hand(
    backend: str, relu: bool, batch: int, points: int, channels: int, k: int
) -> None:
    u, v, index, sign = case(batch, points, channels, k, seed=points)
    with kernels.use(backend):
        found = kernels.edge_reduce(u, v, index, sign, relu=relu, moments=True)
        alone = kernels.edge_reduce(u, v, index, sign, relu=relu, moments=False)
    for mine, expected in zip(found, by_hand(u, v, index, sign, relu=relu), strict=True):
        assert mine is not None
        np.testing.assert_allclose(mine.numpy(), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(alone[0], found[0])
    assert alone[1:] == (None, None)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("moments", [False, True])
def test_gradients(backend: str, relu: bool, moments: bool) -> None:
    u, v, index, sign = case(2, 7, 3, 4, seed=3)
    u.requires_grad_()
    v.requires_grad_()

    def reduce(u: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        found = kernels.edge_reduce(u, v, index, sign, relu=relu, moments=moments)
        return tuple(each for each in found if each is not None)

    with kernels.use(backend):
        assert torch.autograd.gradcheck(reduce, (u, v))


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_max_and_sum(backend: str) -> None:
    _, x, index, _ = case(2, 9, 5, 3, seed=4)
    x.requires_grad_()
    with kernels.use(backend):
        assert torch.autograd.gradcheck(lambda x: kernels.neighbor_max(x, index), (x,))
        assert torch.autograd.gradcheck(lambda x: kernels.neighbor_sum(x, index), (x,))
        rows = x.detach()[torch.arange(2)[:, None, None], index.long()]
        torch.testing.assert_close(kernels.neighbor_max(x, index), rows.max(dim=2).values)
        torch.testing.assert_close(kernels.neighbor_sum(x, index), rows.sum(dim=2))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_tie_sends_its_gradient_to_one_edge(backend: str) -> None:
    """Equal neighbours: the gradient arrives whole, wherever it goes."""
    v = torch.ones(1, 4, 2, dtype=torch.float64, requires_grad=True)
    u = torch.zeros(1, 4, 2, dtype=torch.float64, requires_grad=True)
    index = torch.tensor([[[0, 1, 2]] * 4], dtype=torch.int32)
    sign = torch.tensor([1.0, -1.0], dtype=torch.float64)
    with kernels.use(backend):
        extreme, _, _ = kernels.edge_reduce(u, v, index, sign, relu=False, moments=False)
        extreme.sum().backward()
    assert v.grad is not None
    assert u.grad is not None
    assert v.grad.sum(dim=1).tolist() == [[4.0, 4.0]]
    assert set(v.grad.flatten().tolist()) <= {0.0, 4.0}
    assert u.grad.tolist() == [[[1.0, 1.0]] * 4]


def test_a_zero_scale_takes_the_largest() -> None:
    u, v, index, _ = case(1, 20, 8, 5, seed=5)
    sign = torch.zeros(8, dtype=torch.float64)
    for backend in BACKENDS:
        with kernels.use(backend):
            found = kernels.edge_reduce(u, v, index, sign, relu=False, moments=False)[0]
        np.testing.assert_allclose(found, by_hand(u, v, index, sign, relu=False)[0])


@given(
    batch=st.integers(1, 3),
    points=st.integers(1, 300),
    channels=st.integers(1, 40),
    k=st.integers(1, 20),
    relu=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_float32_agrees_with_eager(
    batch: int, points: int, channels: int, k: int, relu: bool, seed: int
) -> None:
    u, v, index, sign = case(batch, points, channels, k, seed, torch.float32)
    results = []
    for backend in BACKENDS:
        left, right = u.clone().requires_grad_(), v.clone().requires_grad_()
        with kernels.use(backend):
            extreme, first, second = kernels.edge_reduce(
                left, right, index, sign, relu=relu, moments=True
            )
            assert first is not None
            assert second is not None
            (extreme.double().square().mean() + (first + second).sum() / index.numel()).backward()
        results.append((extreme.detach(), first.detach(), second.detach(), left.grad, right.grad))
    for mine, expected in zip(*results, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5)


def test_bits_do_not_depend_on_threads() -> None:
    u, v, index, sign = case(3, 700, 19, 9, seed=8, dtype=torch.float32)
    found = []
    before = torch.get_num_threads()
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        left, right = u.clone().requires_grad_(), v.clone().requires_grad_()
        with kernels.use("cpu"):
            extreme, first, second = kernels.edge_reduce(
                left, right, index, sign, relu=True, moments=True
            )
            assert first is not None
            assert second is not None
            (extreme.sum() + (first * second).sum()).backward()
        found.append((extreme, first, second, left.grad, right.grad))
    torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("place", [-1, 5])
def test_an_index_outside_the_block_is_refused(place: int) -> None:
    u, v, index, sign = case(1, 5, 4, 2, seed=0)
    index[0, 3, 1] = place
    with pytest.raises(IndexError, match="expected 0 to 4"):
        kernels.edge_reduce(u, v, index, sign, relu=False, moments=False)


def test_arrays_that_are_not_contiguous() -> None:
    u, v, index, sign = case(2, 30, 6, 4, seed=9)
    expected = by_hand(u, v, index, sign, relu=True)[0]
    turned = (each.transpose(0, 1).contiguous().transpose(0, 1) for each in (u, v, index))
    with kernels.use("cpu"):
        found = kernels.edge_reduce(*turned, sign, relu=True, moments=False)[0]
    np.testing.assert_allclose(found, expected)
