"""Triton's k-NN against full sorts, on points whose distances float32 holds exactly.

On a GPU where there is one; else in Triton's interpreter, started by `test_cuda`.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pipelines.kernels import cuda, reference
from pipelines.kernels.ranks import RankTables
from tests.kernels.knn_search.test_knn import assert_same_sets, sorted_neighbors, whole_points

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

pytestmark = pytest.mark.skipif(
    cuda.why_not(DEVICE) is not None, reason="no GPU; test_cuda runs this in Triton's interpreter"
)


def find(x: Tensor, ranks: tuple[int, ...]) -> Tensor:
    return cuda.knn(x.to(DEVICE), ranks).cpu()


@pytest.fixture
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take apart rows as if they were too long for a program, and in several slabs."""
    from pipelines.kernels.knn_search import cuda as cuda_knn

    monkeypatch.setattr(cuda_knn, "CHUNK", 128)
    monkeypatch.setattr(cuda_knn, "SLAB", 5000)


@pytest.mark.parametrize(
    ("batch", "points", "channels", "ranks"),
    [
        (1, 1, 3, (0,)),
        (2, 2, 1, (0, 1)),
        (3, 37, 5, tuple(range(0, 36, 4))),
        (1, 130, 64, tuple(range(0, 24, 3))),
        (2, 45, 7, (0, 3, 4, 20, 44)),
        (1, 61, 9, tuple(range(61))),
    ],
)
def test_equals_a_full_sort(batch: int, points: int, channels: int, ranks: tuple[int, ...]) -> None:
    x = whole_points(batch, points, channels, seed=points)
    assert_same_sets(find(x, ranks), sorted_neighbors(x, ranks))


@pytest.mark.usefixtures("short_pieces")
def test_long_rows_are_done_in_pieces() -> None:
    x = whole_points(1, 150, 4, seed=1)[:, :90].repeat(1, 2, 1)  # every point twice
    x = x - x.mean(dim=1, keepdim=True)
    x = (x * 90).round()
    ranks = tuple(range(0, 24, 2))
    found = find(x, ranks)
    assert torch.equal(found.sort(dim=-1).values, reference.knn(x, ranks).sort(dim=-1).values)


@pytest.mark.usefixtures("short_pieces")
def test_equal_points_are_ordered_by_index_across_pieces() -> None:
    ranks = (0, 1, 5, 25)
    index = find(torch.ones(1, 270, 2), ranks)
    assert torch.equal(index.sort(dim=-1).values, torch.tensor(ranks).expand(1, 270, 4).int())


def test_drawn_ranks() -> None:
    x = whole_points(1, 100, 4, seed=2)
    ranks = tuple(sorted(np.random.default_rng(0).permutation(8 * 7)[:8].tolist()))
    assert_same_sets(find(x, ranks), sorted_neighbors(x, ranks))


@pytest.mark.usefixtures("short_pieces")
def test_ranks_in_a_table_that_changes() -> None:
    x = whole_points(2, 45, 7, seed=5)
    tables = RankTables([5, 24], 4, DEVICE)
    for ranks in ((0, 6, 12, 18), (0, 3, 4, 20)):
        tables.set([(0, 1, 2, 4), ranks])
        found = cuda.knn(x.to(DEVICE), tables.tables[1])
        assert torch.equal(found, cuda.knn(x.to(DEVICE), ranks, 24))
        assert_same_sets(found.cpu(), sorted_neighbors(x, ranks))


def test_a_table_begins_with_the_columns_of_its_ranks() -> None:
    from pipelines.kernels.knn_search import cuda as cuda_knn

    tables = RankTables([24], 4, DEVICE)
    tables.set([(0, 3, 4, 20)])
    column = tables.tables[0].column
    assert torch.equal(column[:32], cuda_knn.columns((0, 3, 4, 20), 32, DEVICE))
    assert (column[32:] == -1).all()


def test_a_shift_does_not_change_the_neighbors() -> None:
    x = whole_points(1, 60, 3, seed=3)
    ranks = tuple(range(0, 16, 2))
    moved = x + torch.tensor([1024.0, -2048.0, 512.0])
    assert_same_sets(find(moved, ranks), sorted_neighbors(x, ranks))


@pytest.mark.filterwarnings(
    "ignore:invalid value encountered:RuntimeWarning"
)  # NumPy, interpreting
def test_a_block_with_nan_stops_nothing_and_leaves_others_alone() -> None:
    x = whole_points(2, 50, 3, seed=4)
    expected = sorted_neighbors(x, tuple(range(6)))
    x[0, 7, 1] = float("nan")
    index = find(x, tuple(range(6)))
    assert torch.equal(index[0], torch.arange(6).expand(50, 6).int())  # all equal: by index
    assert_same_sets(index[1:], expected[1:])


def test_distances_of_all_magnitudes() -> None:
    """Far apart on a line, so that a threshold cannot be found by halving distances."""
    x = torch.cat([3.0 ** torch.arange(35.0), torch.zeros(35)]).view(1, 70, 1)
    # On the same device: the sum of numbers so far apart depends on their order.
    x = torch.cat([x, -x], dim=1).to(DEVICE)
    ranks = tuple(range(8))
    found = cuda.knn(x, ranks).sort(dim=-1).values
    assert torch.equal(found, reference.knn(x, ranks).sort(dim=-1).values)


def test_infinite_distances_come_before_nan_and_after_all_others() -> None:
    from pipelines.kernels.knn_search.cuda import select as cuda_select

    infinity = float("inf")
    values = torch.tensor([[1.0, infinity, 0.0, 0.0, -0.0, -3.5, -infinity, 1e-45]])
    values.view(torch.int32)[0, 3] = -1  # a NaN whose sign bit is set
    kept = torch.empty(1, 1, 32, dtype=torch.int64, device=DEVICE)
    cuda_select.narrow[(1, 1)](
        torch.zeros(1, 8, device=DEVICE),
        values.to(DEVICE),
        kept,
        8,
        1,
        1,
        8,
        ROOM=32,
        CHUNK=8,
        ROWS=1,
        PACKED=False,
    )
    order = (kept.flatten().sort().values[:8] & 0xFFFFFFFF).tolist()
    assert order == [6, 5, 2, 4, 7, 0, 1, 3]


def test_float64_and_far_ranks_are_left_to_eager() -> None:
    x = whole_points(1, 40, 3, seed=5).double() + 1e-9
    assert_same_sets(find(x, (0, 7, 39)), sorted_neighbors(x, (0, 7, 39)))
    from pipelines.kernels.knn_search import cuda as cuda_knn

    long = torch.arange(-4100.0, 4101.0).view(1, -1, 1)
    assert cuda_knn.MOST_ROOM < 5000
    found = find(long[:, ::2], (0, 4000))
    assert int(found[0, 0].max()) == 4000


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_full_precision_is_given_back(precision: str) -> None:
    from pipelines.kernels.knn_search.cuda import full_precision

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    a = torch.randn(4, 4, device=DEVICE)
    try:
        with (
            torch.autocast(DEVICE.type, dtype=torch.bfloat16),
            full_precision(DEVICE),
        ):
            assert torch.get_float32_matmul_precision() == "highest"
            assert (a @ a).dtype == torch.float32
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)
