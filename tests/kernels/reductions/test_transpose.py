"""Triton's transposed graph against a stable sort.

On a GPU if there is one; else in Triton's interpreter, started by `test_cuda`.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipelines.kernels import cuda

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

pytestmark = pytest.mark.skipif(
    cuda.why_not(DEVICE) is not None, reason="no GPU; test_cuda runs this in Triton's interpreter"
)


def random_index(batch: int, points: int, k: int, sources: int) -> Tensor:
    """Return (B, N, k) int32 of edges that leave only the first `sources` points."""
    generator = torch.Generator().manual_seed(points + k)
    index = torch.randint(0, sources, (batch, points, k), generator=generator)
    return index.int().to(DEVICE)


def sorted_edges(index: Tensor) -> tuple[Tensor, Tensor]:
    """Return order and begin by PyTorch's sort, of indices inside their blocks."""
    batch, points, _ = index.shape
    first = points * torch.arange(batch, device=index.device).view(-1, 1, 1)
    source = (index + first).flatten()
    begin = torch.zeros(batch * points + 1, dtype=torch.int64, device=index.device)
    begin[1:] = torch.bincount(source, minlength=batch * points).cumsum(0)
    return source.sort(stable=True).indices, begin


@pytest.mark.parametrize(
    ("batch", "points", "k", "sources"),
    [
        (1, 1, 1, 1),
        (3, 37, 1, 37),
        (3, 37, 5, 30),  # some points without an edge
        (2, 300, 9, 1),  # every edge leaves the same point
        (2, 129, 16, 3),
        (1, 64, 40, 64),
        (1, 7, 3, 7),
    ],
)
def test_equals_a_stable_sort(batch: int, points: int, k: int, sources: int) -> None:
    from pipelines.kernels.reductions import transpose

    index = random_index(batch, points, k, sources)
    expected = sorted_edges(index)
    for one, other in zip(transpose.reverse(index), expected, strict=True):
        assert one.dtype == torch.int32
        assert torch.equal(one.long(), other)


def test_bins_are_put_in_order_however_they_were_filled() -> None:
    """The interpreter counts edges one after another; a GPU does in any order."""
    from pipelines.kernels.reductions import transpose

    index = random_index(2, 90, 16, 5)
    bins = transpose._Bins(index)
    places, begin = bins.count()
    order = bins.place(places, begin)
    settled = bins.settle(order, begin, torch.empty_like(order))
    assert torch.equal(settled.long(), sorted_edges(index)[0])
    assert bins.segments > 8
    for first, last in zip(begin[:-1].tolist(), begin[1:].tolist(), strict=True):
        order[first:last] = order[first:last].flip(0)
    assert not torch.equal(order, settled)
    assert torch.equal(bins.settle(order, begin, torch.empty_like(order)), settled)


def test_the_same_bits_every_time() -> None:
    from pipelines.kernels.reductions import transpose

    index = random_index(2, 2000 if DEVICE.type == "cuda" else 50, 16, 20)
    first, *others = (transpose.reverse(index) for _ in range(3))
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_foreign_indices_count_as_the_nearest_and_touch_no_foreign_memory() -> None:
    from pipelines.kernels.reductions import cuda as cuda_edges
    from pipelines.kernels.reductions import transpose

    index = random_index(2, 33, 4, 33)
    index[0, 3, 1], index[1, 5, 0], index[1, 32, 3] = -1, 33, 2**31 - 1
    index[1, 0, 0] = -(2**31)
    expected = sorted_edges(index.clamp(0, 32))
    for one, other in zip(transpose.reverse(index), expected, strict=True):
        assert torch.equal(one.long(), other)
    v = torch.ones(2, 33, 3, device=DEVICE, requires_grad=True)
    sign = torch.ones(3, device=DEVICE)
    out, _, _ = cuda_edges.edge_reduce(None, v, index, sign, relu=False, moments=True)
    out.nansum().backward()
    assert v.grad is not None
    assert v.grad.shape == v.shape


def test_other_sizes_of_the_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.kernels.reductions import transpose

    index = random_index(2, 70, 6, 11)
    expected = sorted_edges(index)
    for name, value in (("LOG_SEGMENTS", 0), ("LOG_SEGMENTS", 2), ("TILE", 128)):
        with monkeypatch.context() as patch:
            patch.setattr(transpose, name, value)
            for one, other in zip(transpose.reverse(index), expected, strict=True):
                assert torch.equal(one.long(), other)


def test_too_many_edges_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.kernels.reductions import transpose

    monkeypatch.setattr(transpose, "MOST_EDGES", 60)
    with pytest.raises(ValueError, match="found 60 edges in a batch, expected fewer than"):
        transpose.reverse(random_index(2, 10, 3, 4))
