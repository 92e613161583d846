"""The transposed graph on a GPU: edges in the order of their sources, by counting, in Triton.

Sorting by a key would move every edge four times. Here a bin holds the edges of one source in one
of a few segments of a block's edges, on average about one edge. `count` counts the bins, a
cumulative sum of the counts tells where each begins, and `place` moves edges to their bins. Integer
atomics count in any order, so the edges of a bin lie in any order until `settle` sorts them by
number: the result is the same every time.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pipelines.kernels.device import on

INT32_MAX = tl.constexpr(0x7FFFFFFF)
LOG_SEGMENTS = 4  # of a block's edges: more make shorter bins, and more of them
TILE = 512  # edges of a kernel instance
WARPS = 4
MOST_EDGES = 1 << 30  # so that numbers of edges and bins are int32


def reverse(index: Tensor) -> tuple[Tensor, Tensor]:
    """Sort edges by their sources: the compressed sparse rows of the transposed graph.

    An index outside 0 … N − 1 counts as the nearest one inside.

    Args:
        index: (B, N, k) int32.

    Returns:
        order (B·N·k,), the edges, numbered as in `index`, source by source and by their numbers;
        begin (B·N + 1,), where each source's edges begin in `order`; a view with strides. Both
        int32.

    Raises:
        ValueError: there are 2³⁰ edges or more.
    """
    index = index.contiguous()
    if index.numel() >= MOST_EDGES:
        raise ValueError(
            f"found {index.numel()} edges in a batch, expected fewer than {MOST_EDGES}"
        )
    bins = _Bins(index)
    order, begin = bins.count()
    settled = bins.settle(bins.place(order, begin), begin, order)
    return settled, begin[:: bins.segments]


def sources(index: Tensor) -> Tensor:
    """Return each edge's source among the B·N points of the batch, (B·N·k,)."""
    batch, points, _ = index.shape
    first = torch.arange(0, batch * points, points, dtype=torch.int32, device=index.device)
    return (index + first.view(-1, 1, 1)).view(-1)


class _Bins:
    """The edges of `index` (B, N, k) by source and segment; edge e is in segment e >> shift."""

    def __init__(self, index: Tensor) -> None:
        self.index = index
        batch, points, k = index.shape
        log = min(LOG_SEGMENTS, (k - 1).bit_length())
        edges = points * k
        self.shift = max(0, (edges - 1).bit_length() - log)
        self.segments = ((edges - 1) >> self.shift) + 1
        self.number = batch * points * self.segments
        tiles = triton.cdiv(edges, TILE)
        self.grid = (batch * tiles,)
        self.sizes = points, edges, self.segments, self.shift, tiles

    def count(self) -> tuple[Tensor, Tensor]:
        """Return each edge's place in its bin (B·N·k,); where bins begin (bins + 1,)."""
        counts = torch.zeros(self.number + 1, dtype=torch.int32, device=self.index.device)
        places = torch.empty(self.index.numel(), dtype=torch.int32, device=self.index.device)
        with on(self.index.device):
            count[self.grid](self.index, counts, places, *self.sizes, TILE, num_warps=WARPS)
        return places, counts.cumsum(0, dtype=torch.int32)

    def place(self, places: Tensor, begin: Tensor) -> Tensor:
        """Return the edges bin by bin (B·N·k,)."""
        order = torch.empty_like(places)
        with on(self.index.device):
            place[self.grid](self.index, begin, places, order, *self.sizes, TILE, num_warps=WARPS)
        return order

    def settle(self, order: Tensor, begin: Tensor, out: Tensor) -> Tensor:
        """Store the edges into `out` bin by bin, each in the order of their numbers."""
        with on(self.index.device):
            settle[self.grid](self.index, begin, order, out, *self.sizes, TILE, num_warps=WARPS)
        return out


@triton.jit
def bin_of(index, block, edge, exists, points, edges, segments, shift):
    """Return the bins of a block's edges."""
    j = tl.load(index + block * edges + edge, mask=exists, other=0)
    j = tl.minimum(tl.maximum(j, 0), points - 1)  # so that no foreign memory is touched
    return (block * points + j) * segments + (edge >> shift)


@triton.jit(do_not_specialize=["segments", "shift", "tiles"])
def count(index, counts, places, points, edges, segments, shift, tiles, TILE: tl.constexpr):
    """Count each bin p in `counts`[p + 1], and store how many of it were counted before an edge.

    `counts` begins as zeros; `places` is (B, edges).
    """
    block = tl.program_id(0) // tiles
    edge = tl.program_id(0) % tiles * TILE + tl.arange(0, TILE)
    exists = edge < edges
    bin_ = bin_of(index, block, edge, exists, points, edges, segments, shift)
    before = tl.atomic_add(counts + 1 + bin_, 1, mask=exists, sem="relaxed")
    tl.store(places + block * edges + edge, before, mask=exists)


@triton.jit(do_not_specialize=["segments", "shift", "tiles"])
def place(index, begin, places, order, points, edges, segments, shift, tiles, TILE: tl.constexpr):
    """Store each edge's number at its place of its bin."""
    block = tl.program_id(0) // tiles
    edge = tl.program_id(0) % tiles * TILE + tl.arange(0, TILE)
    exists = edge < edges
    bin_ = bin_of(index, block, edge, exists, points, edges, segments, shift)
    at = tl.load(begin + bin_, mask=exists, other=0)
    at += tl.load(places + block * edges + edge, mask=exists, other=0)
    tl.store(order + at, block * edges + edge, mask=exists)


@triton.jit(do_not_specialize=["segments", "shift", "tiles"])
def settle(index, begin, order, out, points, edges, segments, shift, tiles, TILE: tl.constexpr):
    """Copy `order`, each bin in increasing order: an edge's place is how many are smaller.

    Clamped indices keep a block's edges within its own positions, so positions tell the block.
    """
    block = tl.program_id(0) // tiles
    at = tl.program_id(0) % tiles * TILE + tl.arange(0, TILE)
    exists = at < edges
    number = tl.load(order + block * edges + at, mask=exists, other=0)
    edge = tl.where(exists, number - block * edges, 0)
    bin_ = bin_of(index, block, edge, exists, points, edges, segments, shift)
    first = tl.load(begin + bin_, mask=exists, other=0)
    length = tl.load(begin + bin_ + 1, mask=exists, other=0) - first
    length = tl.where(length > 1, length, 0)  # nothing to compare with
    smaller = tl.zeros([TILE], tl.int32)
    for n in range(tl.max(length, 0)):
        one = tl.load(order + first + n, mask=n < length, other=INT32_MAX)
        smaller += (one < number).to(tl.int32)
    tl.store(out + first + smaller, number, mask=exists)
