"""The transposed graph on a GPU: edges in the order of their sources, by counting, in Triton.

Sorting by a key would move every edge four times. Here a part is the edges of one source in one of
a few segments of a block's edges, on average about one edge. Parts are counted (`count`), a running
sum of the counts tells where each begins, and edges go to their parts (`place`). Integer atomics
count in any order, so a part's edges lie in any order until they are put in that of their numbers
(`settle`): the result is the same every time.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pipelines.kernels.knn_search.cuda import on
from pipelines.kernels.knn_search.cuda.select import INT32_MAX

LOG_SEGMENTS = 4  # of a block's edges: more make parts shorter, and more of them
TILE = 512  # edges of a program
WARPS = 4
MOST_EDGES = 1 << 30  # so that numbers of edges and parts are int32


def reverse(index: Tensor) -> tuple[Tensor, Tensor]:
    """Sort edges by their sources: the compressed sparse rows of the transposed graph.

    An index outside 0 … N − 1 counts as the nearest one inside.

    Args:
        index: (B, N, k) int32.

    Returns:
        order (B·N·k,), the edges, numbered as in `index`, source by source and by their numbers;
        begin (B·N + 1,), where each source's edges begin in `order`; a view with strides. Both
        int32, or int64 beyond 2³¹ edges.
    """
    index = index.contiguous()
    if index.numel() >= MOST_EDGES:
        return reverse_by_sorting(index)
    parts = _Parts(index)
    order, begin = parts.count()
    settled = parts.settle(parts.place(order, begin), begin, order)
    return settled, begin[:: parts.segments]


def reverse_by_sorting(index: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same as `reverse` by a stable sort: slower, for any number of edges."""
    batch, points, _ = index.shape
    number = number_type(index)
    arrived, order = torch.sort(sources(index.clamp(0, points - 1)), stable=True)
    each = torch.arange(batch * points + 1, dtype=arrived.dtype, device=index.device)
    begin = torch.searchsorted(arrived, each, out_int32=number == torch.int32)
    return order.to(number), begin


def sources(index: Tensor) -> Tensor:
    """Return each edge's source among the B·N points of the batch, (B·N·k,)."""
    batch, points, _ = index.shape
    number = number_type(index)
    first = torch.arange(0, batch * points, points, dtype=number, device=index.device)
    return (index.to(number) + first.view(-1, 1, 1)).view(-1)


def number_type(index: Tensor) -> torch.dtype:
    """Return the type that can number the edges of `index`."""
    return torch.int32 if index.numel() < 1 << 31 else torch.int64


class _Parts:
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
        """Return each edge's place in its part (B·N·k,); where parts begin (parts + 1,)."""
        counts = torch.zeros(self.number + 1, dtype=torch.int32, device=self.index.device)
        places = torch.empty(self.index.numel(), dtype=torch.int32, device=self.index.device)
        with on(self.index.device):
            count[self.grid](self.index, counts, places, *self.sizes, TILE, num_warps=WARPS)
        return places, counts.cumsum(0, dtype=torch.int32)

    def place(self, places: Tensor, begin: Tensor) -> Tensor:
        """Return the edges part by part (B·N·k,)."""
        order = torch.empty_like(places)
        with on(self.index.device):
            place[self.grid](self.index, begin, places, order, *self.sizes, TILE, num_warps=WARPS)
        return order

    def settle(self, order: Tensor, begin: Tensor, out: Tensor) -> Tensor:
        """Store the edges into `out` part by part, each in the order of their numbers."""
        with on(self.index.device):
            settle[self.grid](self.index, begin, order, out, *self.sizes, TILE, num_warps=WARPS)
        return out


@triton.jit
def part_of(index, block, edge, exists, points, edges, segments, shift):
    """Return the parts of a block's edges."""
    j = tl.load(index + block * edges + edge, mask=exists, other=0)
    j = tl.minimum(tl.maximum(j, 0), points - 1)  # whatever it is, no foreign memory is touched
    return (block * points + j) * segments + (edge >> shift)


@triton.jit(do_not_specialize=["segments", "shift", "tiles"])
def count(index, counts, places, points, edges, segments, shift, tiles, TILE: tl.constexpr):
    """Count each part p in `counts`[p + 1], and store how many of it were counted before an edge.

    `counts` begins as zeros; `places` is (B, edges).
    """
    block = tl.program_id(0) // tiles
    edge = tl.program_id(0) % tiles * TILE + tl.arange(0, TILE)
    exists = edge < edges
    part = part_of(index, block, edge, exists, points, edges, segments, shift)
    before = tl.atomic_add(counts + 1 + part, 1, mask=exists, sem="relaxed")
    tl.store(places + block * edges + edge, before, mask=exists)


@triton.jit(do_not_specialize=["segments", "shift", "tiles"])
def place(index, begin, places, order, points, edges, segments, shift, tiles, TILE: tl.constexpr):
    """Store each edge's number at its place of its part."""
    block = tl.program_id(0) // tiles
    edge = tl.program_id(0) % tiles * TILE + tl.arange(0, TILE)
    exists = edge < edges
    part = part_of(index, block, edge, exists, points, edges, segments, shift)
    at = tl.load(begin + part, mask=exists, other=0)
    at += tl.load(places + block * edges + edge, mask=exists, other=0)
    tl.store(order + at, block * edges + edge, mask=exists)


@triton.jit(do_not_specialize=["segments", "shift", "tiles"])
def settle(index, begin, order, out, points, edges, segments, shift, tiles, TILE: tl.constexpr):
    """Copy `order`, each part in increasing order: an edge's place is how many are smaller.

    Clamped indices keep a block's edges within its own positions, so positions tell the block.
    """
    block = tl.program_id(0) // tiles
    at = tl.program_id(0) % tiles * TILE + tl.arange(0, TILE)
    exists = at < edges
    number = tl.load(order + block * edges + at, mask=exists, other=0)
    edge = tl.where(exists, number - block * edges, 0)
    part = part_of(index, block, edge, exists, points, edges, segments, shift)
    first = tl.load(begin + part, mask=exists, other=0)
    length = tl.load(begin + part + 1, mask=exists, other=0) - first
    length = tl.where(length > 1, length, 0)  # nothing to compare with
    smaller = tl.zeros([TILE], tl.int32)
    for n in range(tl.max(length, 0)):
        one = tl.load(order + first + n, mask=n < length, other=INT32_MAX)
        smaller += (one < number).to(tl.int32)
    tl.store(out + first + smaller, number, mask=exists)
