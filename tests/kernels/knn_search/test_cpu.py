"""What only the compiled k-NN has: thresholds, slabs, threads, rows that are searched again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from pipelines.kernels import threads
from pipelines.kernels.knn_search import cpu
from pipelines.kernels.knn_search.cpu.tiles import PANEL
from tests.kernels.knn_search.test_knn import assert_same, sorted_neighbors, whole_points


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def one_thread(x: torch.Tensor, ranks: tuple[int, ...]) -> torch.Tensor:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return cpu.knn(x, ranks)
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_bits_do_not_depend_on_threads_or_repetition() -> None:
    x = torch.randn(2, 1500, 33, generator=torch.Generator().manual_seed(0))
    ranks = tuple(range(0, 16 * 9, 9))
    expected = one_thread(x, ranks)
    for _ in range(5):
        assert torch.equal(cpu.knn(x, ranks), expected)


def test_slabs_of_rows_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x = whole_points(1, 1100, 5, seed=0)
    ranks = tuple(range(0, 16 * 5, 5))
    whole = cpu.knn(x, ranks)
    monkeypatch.setattr(cpu, "CANDIDATE_BYTES", 1 << 20)
    assert cpu._plan(1100, ranks[-1]).slab < -(-1100 // PANEL)
    assert torch.equal(cpu.knn(x, ranks), whole)
    assert_same(whole, sorted_neighbors(x, ranks))


def test_a_misleading_sample_only_costs_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample of one point's copies sets thresholds that are far too tight or too loose."""
    x = whole_points(1, 1000, 4, seed=6)
    ranks = tuple(range(0, 64, 4))
    for chosen in (np.zeros(128, np.int64), np.arange(128)):
        monkeypatch.setattr(cpu, "_sample", lambda *_, chosen=chosen: chosen)
        assert_same(cpu.knn(x, ranks), sorted_neighbors(x, ranks))


@pytest.mark.parametrize("copies", [1, 3, 7, 11, 30])
@pytest.mark.parametrize("step", [1, 6, 27])
def test_bins_of_any_size_give_the_wanted_ranks(copies: int, step: int) -> None:
    """Bins of up to 8, up to 16 and more points are searched in different ways."""
    x = whole_points(1, 1000 // copies, 3, seed=copies, span=40).repeat(1, copies, 1)
    x = x[:, torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(1))]
    ranks = tuple(range(0, 16 * step, step))
    assert_same(cpu.knn(x, ranks), sorted_neighbors(x, ranks))


def test_every_pair_of_panels_meets_once() -> None:
    for first, last, panels in ((0, 256, 256), (0, 1, 1), (0, 7, 7), (40, 77, 131), (3, 50, 50)):
        met = np.zeros((panels, panels), np.int64)
        for table in cpu._rounds(first, last, panels):
            written: set[int] = set()
            for a0, a1, b0, b1, both in table:
                rows = set(range(a0, a1)) | (set(range(b0, b1)) if both else set())
                assert not rows & written, "two tasks of a round write to one buffer"
                written |= rows
                met[a0:a1, b0:b1] += 1
                if both and a0 != b0:
                    met[b0:b1, a0:a1] += 1
        assert (met[first:last] == 1).all()


def test_infinite_and_huge_features_stop_nothing() -> None:
    x = torch.randn(1, 700, 3, generator=torch.Generator().manual_seed(1))
    x[0, 5] = float("inf")
    x[0, 6:9] = 3e38
    index = cpu.knn(x, tuple(range(16)))
    assert int(index.min()) >= 0
    assert int(index.max()) < 700


def test_neighbors_agree_with_float64_about_as_well_as_float32_allows() -> None:
    """Near-ties aside: of the farthest wanted points, the excess distance is rounding."""
    x = torch.randn(1, 2000, 64, generator=torch.Generator().manual_seed(2))
    ranks = tuple(range(0, 16 * 8, 8))
    x64 = x[0].double()
    distance = torch.cdist(x64, x64, compute_mode="donot_use_mm_for_euclid_dist").square()
    expected = distance.sort(dim=-1).values[:, list(ranks)]
    found = distance.gather(1, cpu.knn(x, ranks)[0].long()).sort(dim=-1).values
    assert float((found - expected).abs().max()) < 64 * torch.finfo(torch.float32).eps * 64


def test_float16_goes_to_eager() -> None:
    x = whole_points(1, 50, 3, seed=9).to(torch.bfloat16)
    assert_same(cpu.knn(x, (0, 1, 2)), sorted_neighbors(x, (0, 1, 2)))


def test_a_pool_does_the_same_without_openmp(monkeypatch: pytest.MonkeyPatch) -> None:
    x = whole_points(1, 600, 3, seed=7)
    expected = cpu.knn(x, (0, 5, 10))
    monkeypatch.setattr(threads, "gomp_parallel", lambda: 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(cpu.knn(x, (0, 5, 10)), expected)
