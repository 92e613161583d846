"""k-NN against a full stable sort, on points whose distances float32 holds exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipelines import kernels


@pytest.fixture(params=["reference", "cpu"])
def backend(request: pytest.FixtureRequest) -> Any:
    with kernels.use(request.param):
        yield request.param


def whole_points(batch: int, points: int, channels: int, seed: int, span: int = 4) -> Tensor:
    """Return points on a lattice around a mean of exactly zero: every step is exact in float32."""
    rng = np.random.default_rng(seed)
    half = rng.integers(-span, span + 1, (batch, points // 2, channels))
    middle = np.zeros((batch, points % 2, channels), dtype=np.int64)
    x = np.concatenate([half, -half, middle], axis=1)
    return torch.from_numpy(rng.permuted(x, axis=1).astype(np.float32))


def sorted_neighbors(x: Tensor, ranks: tuple[int, ...]) -> np.ndarray:
    """Return the points of the given ranks by (distance, index), from differences in float64."""
    x64 = x.double().numpy()
    out = np.empty((*x.shape[:2], len(ranks)), dtype=np.int64)
    for block, points in enumerate(x64):
        for i, point in enumerate(points):
            distance = np.square(points - point).sum(axis=1)
            out[block, i] = np.lexsort((np.arange(len(points)), distance))[list(ranks)]
    return out


def assert_same(found: Tensor, expected: np.ndarray) -> None:
    assert found.dtype == torch.int32
    np.testing.assert_array_equal(found.numpy(), expected, "a column for each rank")


def permuted_rows(x: Tensor, seed: int) -> Tensor:
    order = torch.from_numpy(np.random.default_rng(seed).permutation(x.shape[1]))
    return x[:, order]


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    ("batch", "points", "channels", "ranks"),
    [
        (1, 1, 3, (0,)),
        (2, 2, 1, (0, 1)),
        (3, 37, 5, tuple(range(0, 36, 4))),
        (2, 256, 3, tuple(range(16))),
        (1, 500, 9, tuple(range(0, 16 * 27, 27))),
        (2, 640, 7, (0, 3, 4, 90, 91, 300, 638, 639)),
        (1, 900, 6, tuple(range(16))),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_a_full_sort(
    batch: int,
    points: int,
    channels: int,
    ranks: tuple[int, ...],
    dtype: torch.dtype,
) -> None:
    x = whole_points(batch, points, channels, seed=points).to(dtype)
    assert_same(kernels.knn(x, ranks), sorted_neighbors(x, ranks))


@pytest.mark.usefixtures("backend")
def test_all_ranks_are_a_permutation_of_the_points() -> None:
    x = whole_points(1, 70, 3, seed=5)
    index = kernels.knn(x, tuple(range(70)))
    assert torch.equal(index.sort(dim=-1).values, torch.arange(70).expand(1, 70, 70).int())


@pytest.mark.usefixtures("backend")
def test_equal_points_are_ordered_by_index() -> None:
    ranks = (0, 1, 5, 299)
    index = kernels.knn(torch.ones(2, 700, 4), ranks)
    assert torch.equal(index.sort(dim=-1).values, torch.tensor(ranks).expand(2, 700, 4).int())


@pytest.mark.usefixtures("backend")
def test_repeated_points_are_ordered_by_index() -> None:
    few = whole_points(1, 100, 9, seed=1, span=50)
    x = few.repeat(1, 9, 1)
    ranks = tuple(range(0, 16 * 10, 10))
    assert_same(kernels.knn(x, ranks), sorted_neighbors(x, ranks))


@pytest.mark.usefixtures("backend")
def test_drawn_ranks() -> None:
    x = whole_points(2, 800, 4, seed=2)
    ranks = tuple(sorted(np.random.default_rng(0).permutation(16 * 27)[:16].tolist()))
    assert_same(kernels.knn(x, ranks), sorted_neighbors(x, ranks))


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("ranks", [(), (-1, 0), (0, 300), (5, 2), (0, 0)])
def test_ranks_that_do_not_exist_are_refused(ranks: tuple[int, ...]) -> None:
    with pytest.raises(IndexError, match=r"ranks: found .*, expected increasing ones in 0 to 299"):
        kernels.knn(torch.ones(1, 300, 3), ranks)


@pytest.mark.usefixtures("backend")
def test_a_shift_does_not_change_the_neighbors() -> None:
    x = whole_points(1, 300, 3, seed=3)
    moved = x + torch.tensor([1024.0, -2048.0, 512.0])
    ranks = tuple(range(0, 32, 2))
    assert_same(kernels.knn(moved, ranks), sorted_neighbors(x, ranks))


@pytest.mark.usefixtures("backend")
def test_a_block_with_nan_is_ordered_by_index_and_leaves_others_alone() -> None:
    """The mean is NaN, and so are all distances."""
    x = whole_points(2, 600, 3, seed=4)
    expected = sorted_neighbors(x, tuple(range(8)))
    x[0, 77] = float("nan")
    index = kernels.knn(x, tuple(range(8)))
    assert torch.equal(index[0].sort(dim=-1).values, torch.arange(8).expand(600, 8).int())
    assert_same(index[1:], expected[1:])


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    points=st.integers(1, 600),
    channels=st.integers(1, 20),
    seed=st.integers(0, 1 << 30),
    data=st.data(),
)
def test_any_shape_and_ranks(
    batch: int, points: int, channels: int, seed: int, data: st.DataObject
) -> None:
    ranks = data.draw(st.sets(st.integers(0, points - 1), min_size=1, max_size=20))
    x = whole_points(batch, points, channels, seed, span=3)
    wanted = tuple(sorted(ranks))
    with kernels.use("cpu"):
        assert_same(kernels.knn(x, wanted), sorted_neighbors(x, wanted))
