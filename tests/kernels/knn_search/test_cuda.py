"""Triton's k-NN against full sorts, on points whose distances float32 holds exactly.

On a GPU if there is one; else in Triton's interpreter, started by `test_cuda`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from pipelines import kernels
from pipelines.kernels import reference
from pipelines.kernels.knn_search import LONGEST, RankTables
from tests.kernels.knn_search.test_knn import assert_same, sorted_neighbors, whole_points

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

pytestmark = pytest.mark.skipif(
    kernels.why_not_triton(DEVICE) is not None,
    reason="no GPU; test_cuda runs this in Triton's interpreter",
)


@pytest.fixture(autouse=True)
def triton() -> Iterator[None]:
    with kernels.use("cuda"):
        yield


def find(x: Tensor, ranks: tuple[int, ...]) -> Tensor:
    return kernels.knn(x.to(DEVICE), ranks).cpu()


def use_small_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use short buffers, small tiles and several slabs for few points, as for many."""
    from pipelines.kernels.knn_search import cuda as search

    small = {
        **{"SAMPLE": 16, "SAMPLE_ROWS": 64, "TILE": (64, 32), "SHORTEST": 16, "COUNTED": 5},
        **{"UNCOUNTED_ROOM": 32, "SLAB": 4096, "REDO_CHUNK": 64, "REDO_LONG": 128},
        **{"REDO_INSTANCES": 3, "EXACT_INSTANCES": 2, "SORTED_AT_ONCE": 1024},
    }
    for name, value in small.items():
        monkeypatch.setattr(search, name, value)


@pytest.fixture(autouse=True)
def few_points(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_constants(monkeypatch)


@pytest.mark.parametrize(
    ("batch", "points", "channels", "ranks"),
    [
        (1, 1, 3, (0,)),
        (2, 2, 1, (0, 1)),
        (3, 37, 5, tuple(range(0, 20, 4))),
        (1, 150, 64, tuple(range(0, 24, 3))),
        (2, 50, 7, (0, 3, 4, 20, 44)),
        (1, 120, 100, tuple(range(9))),
    ],
)
def test_equals_a_full_sort(batch: int, points: int, channels: int, ranks: tuple[int, ...]) -> None:
    x = whole_points(batch, points, channels, seed=points)
    assert_same(find(x, ranks), sorted_neighbors(x, ranks))


def test_drawn_ranks_in_a_table_that_changes() -> None:
    x = whole_points(1, 31, 7, seed=5)
    tables = RankTables([5, 24], 4, DEVICE)
    for ranks in ((0, 6, 12, 18), (0, 3, 4, 20)):
        tables.set([(0, 1, 2, 4), ranks])
        found = kernels.knn(x.to(DEVICE), tables.tables[1])
        assert torch.equal(found, kernels.knn(x.to(DEVICE), ranks, 24))
        assert_same(found.cpu(), sorted_neighbors(x, ranks))


def test_a_table_holds_the_columns_of_its_ranks() -> None:
    from pipelines.kernels.knn_search.cuda import columns

    tables = RankTables([24], 4, DEVICE)
    tables.set([(0, 3, 4, 20)])
    assert torch.equal(tables.tables[0].column, columns((0, 3, 4, 20), DEVICE))


def test_float64_and_far_ranks_are_left_to_the_reference() -> None:
    x = whole_points(1, 40, 3, seed=5).double() + 1e-9
    assert_same(find(x, (0, 7, 39)), sorted_neighbors(x, (0, 7, 39)))
    line = torch.arange(-4100.0, 4101.0, 2).view(1, -1, 1)
    assert int(find(line, (0, 4000))[0, 0].max()) == 4000


def test_distances_have_the_digits_of_float32() -> None:
    x = torch.randn(1, 130, 64, generator=torch.Generator().manual_seed(0)) + 3.0
    ranks = tuple(range(0, 36, 3))
    truth = reference.knn(x.double(), ranks).sort(dim=-1).values
    found = find(x, ranks).sort(dim=-1).values
    wrong = (found != truth).any(dim=-1).sum()
    assert wrong <= (reference.knn(x, ranks).sort(dim=-1).values != truth).any(dim=-1).sum() + 2


def test_equal_points_are_ordered_by_index() -> None:
    """No threshold is right where all distances are equal: every row is redone."""
    ranks = (0, 1, 5, 25)
    index = find(torch.ones(1, 40, 2), ranks)
    assert torch.equal(index.sort(dim=-1).values, torch.tensor(ranks).expand(1, 40, 4).int())


def test_every_point_many_times() -> None:
    x = whole_points(1, 30, 3, seed=2).repeat(1, 5, 1)
    ranks = tuple(range(0, 20, 2))
    assert_same(find(x, ranks), sorted_neighbors(x, ranks))


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # NumPy's, interpreting
def test_distances_of_all_magnitudes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each point has its own power of two, so that small ones do not vanish beside large ones."""
    from pipelines.kernels.knn_search import cuda as search

    monkeypatch.setattr(search, "REDO_LONG", 64)  # rows that are redone are not held whole
    x = torch.cat([3.0 ** torch.arange(25.0), torch.zeros(5)]).view(1, 30, 1)
    x = torch.cat([x, -x], dim=1)
    ranks = tuple(range(8))
    # On the same device: the sum of numbers so far apart depends on their order.
    expected = reference.knn(x.to(DEVICE), ranks).cpu().sort(dim=-1).values
    assert torch.equal(find(x, ranks).sort(dim=-1).values, expected)


def test_a_sample_that_tells_nothing() -> None:
    """Every sampled point is far off, so that all thresholds are too high."""
    near_by = whole_points(1, 36, 3, seed=3)
    far = whole_points(1, 36, 3, seed=4) * 64
    x = torch.stack([far, near_by], dim=2).flatten(1, 2)
    ranks = tuple(range(0, 10))
    assert_same(find(x, ranks), sorted_neighbors(x, ranks))


@pytest.mark.filterwarnings(  # NumPy's, interpreting
    "ignore:invalid value encountered:RuntimeWarning",
    "ignore:All-NaN slice encountered:RuntimeWarning",
    "ignore:overflow encountered:RuntimeWarning",
)
def test_a_block_with_nan_stops_nothing_and_leaves_others_alone() -> None:
    x = whole_points(2, 34, 3, seed=4)
    expected = sorted_neighbors(x, tuple(range(6)))
    x[0, 7, 1] = float("nan")
    index = find(x, tuple(range(6)))
    assert torch.equal(index[0], torch.arange(6).expand(34, 6).int())  # all equal: by index
    assert_same(index[1:], expected[1:])


def test_more_room_for_farther_ranks() -> None:
    from pipelines.kernels.knn_search import cuda as search

    plans = [search.plan_search(wanted, 4096) for wanted in range(1, 400)]
    counted = [plan.room for plan in plans if plan.counted]
    assert counted == sorted(counted)
    assert all(plan.room > plan.wanted for plan in plans)
    assert search.plan_search(100_000, 65536).room > LONGEST
