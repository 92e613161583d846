"""EdgeConv and MRConv reductions in Triton: one pass over the edges each way, no edge stored.

The forward pass saves the winning neighbour's position for each point and channel, the backward
pass recomputes the edge values. The gradient of a source point is added up by one kernel instance,
over the edges that leave it, in the order of their targets: always the same bits, without float
atomics.

A kernel instance computes ROWS points (or one source of edges) for BLOCK of the C channels. Row i
of the B·N points belongs to the block that begins at i − i mod N, and `index` counts from there; an
index outside the block gives NaN and reads no foreign memory: a check that raises would stop the
GPU in every layer.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import EdgeOps
from . import point_reduce as point_reduce

ELEMENTS = 1024  # of a kernel instance's array of points (or edges) and channels
MOST_BLOCK = 64  # channels of an instance
WARPS = 4
EDGES = 4  # that an instance of `spread_to_sources` adds up at a time
SOURCE_WARPS = 1  # of such an instance
SUMMED = 16  # rows that an instance of `sum_rows` adds up at a time
LONG = 1 << 31  # elements of an array that 32 bits cannot count
MOST_EDGES = 1 << 30  # so that their numbers are int32


def neighbor_sum(x: Tensor, index: Tensor) -> Tensor:
    """Return Σ_j x_j; see `pipelines.kernels.neighbor_sum`."""
    return _NeighborSum.apply(x.contiguous(), index.contiguous())


def _forward(
    u: Tensor | None, v: Tensor, index: Tensor, sign: Tensor, *, relu: bool, moments: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute `EdgeOps.forward`."""
    v, index = v.contiguous(), index.contiguous()
    own = v if u is None else u.contiguous()
    batch, points, channels = v.shape
    k = index.shape[-1]
    block, rows, grid = _shape(v)
    extreme = torch.empty_like(v)
    winner = torch.empty_like(v, dtype=torch.uint8 if k <= 256 else torch.int32)
    kept = (grid[0], 2, channels) if moments else (0, 2, channels)
    sums = torch.empty(kept, dtype=torch.float64, device=v.device)
    # `torch.where` would copy two values to the GPU and wait: no CUDA graph could capture that.
    direction = (sign < 0).to(v.dtype) * -2 + 1
    with torch.cuda.device_of(v):
        reduce[grid](
            *(own, v, index, direction, extreme, winner, sums),
            *(batch * points, points, channels, k),
            **{"HAS_U": u is not None, "RELU": relu, "MOMENTS": moments},
            ROWS=rows,
            **_constants(v, block),
            num_warps=WARPS,
        )
    first, second = sums.sum(dim=0)
    return extreme, winner, first, second


def _backward(
    u: Tensor | None,
    v: Tensor | None,
    index: Tensor,
    winner: Tensor,
    grads: tuple[Tensor, ...],
    *,
    relu: bool,
    moments: bool,
) -> tuple[Tensor, Tensor]:
    """Compute `EdgeOps.backward`."""
    g, index = grads[0].contiguous(), index.contiguous()
    linear = g, g
    if moments:
        exact = torch.float64 if g.dtype == torch.float64 else torch.float32
        linear = grads[1].to(exact).contiguous(), (2 * grads[2]).to(exact).contiguous()
    v = g if v is None else v.contiguous()
    flags = {"HAS_U": u is not None, "RELU": relu, "MOMENTS": moments}
    u = v if u is None else u.contiguous()
    batch, points, channels = g.shape
    k = index.shape[-1]
    block, rows, grid = _shape(g)
    order, begin = reverse(index)
    du, dv = torch.empty_like(g) if relu or moments else g, torch.empty_like(g)
    with torch.cuda.device_of(g):
        if relu or moments:
            spread_to_targets[grid](
                *(u, v, index, winner, g, *linear, du, batch * points, points, channels, k),
                **flags,
                ROWS=rows,
                **_constants(g, block),
                num_warps=WARPS,
            )
        spread_to_sources[(batch * points, grid[1])](
            *(u, v, order, begin, winner, g, *linear, dv, channels, k),
            **flags,
            INTEGER=tl.uint64 if max(order.numel(), g.numel()) >= LONG else tl.uint32,
            EDGES=EDGES,
            **_constants(g, block),
            num_warps=SOURCE_WARPS,
        )
    return du, dv


def reverse(index: Tensor) -> tuple[Tensor, Tensor]:
    """Sort edges by their sources: the compressed sparse rows of the transposed graph.

    An index outside 0 … N − 1 counts as the nearest one inside.

    Returns:
        order (B·N·k,), the edges, numbered as in `index`, source by source and by their numbers;
        begin (B·N + 1,), where each source's edges begin in `order`. Both int32.

    Raises:
        ValueError: there are 2³⁰ edges or more.
    """
    batch, points, _ = index.shape
    if index.numel() >= MOST_EDGES:
        raise ValueError(
            f"found {index.numel()} edges in a batch, expected fewer than {MOST_EDGES}"
        )
    source, order = sources(index.clamp(0, points - 1)).sort(stable=True)
    each = torch.arange(batch * points + 1, dtype=torch.int32, device=index.device)
    return order.int(), torch.searchsorted(source, each, out_int32=True)


def sources(index: Tensor) -> Tensor:
    """Return each edge's source among the B·N points of the batch, (B·N·k,)."""
    batch, points, _ = index.shape
    first = torch.arange(0, batch * points, points, dtype=torch.int32, device=index.device)
    return (index + first.view(-1, 1, 1)).view(-1)


def edge_ops(_: Tensor) -> EdgeOps:
    """Return `edge_reduce` outside autograd; see `pipelines.kernels.edge_ops`."""
    return EDGE_OPS


EDGE_OPS = EdgeOps(_forward, _backward)


class _NeighborSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        x, index = args
        ctx.save_for_backward(index)
        edges = index.numel()
        begin = torch.arange(0, edges + 1, index.shape[-1], dtype=torch.int32, device=x.device)
        return _sum_rows(x, sources(index), begin, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        (index,) = ctx.saved_tensors
        order, begin = reverse(index)
        return _sum_rows(grads[0].contiguous(), order, begin, index.shape[-1]), None


def _sum_rows(x: Tensor, edges: Tensor, begin: Tensor, k: int) -> Tensor:
    """Return, for each point, the sum of rows e // k of x (B, N, C) over its `edges` e."""
    batch, points, channels = x.shape
    block, _, _ = _shape(x)
    out = torch.empty_like(x)
    with torch.cuda.device_of(x):
        sum_rows[(batch * points, triton.cdiv(channels, block))](
            *(x, edges, begin, out, batch * points, channels, k),
            EDGES=SUMMED,
            **_constants(x, block),
            num_warps=WARPS // 2,
        )
    return out


def _shape(x: Tensor) -> tuple[int, int, tuple[int, int]]:
    """Return an instance's channels and points, and the grid that covers x (B, N, C)."""
    batch, points, channels = x.shape
    block = min(MOST_BLOCK, triton.next_power_of_2(channels))
    rows = ELEMENTS // block
    return block, rows, (triton.cdiv(batch * points, rows), triton.cdiv(channels, block))


def _constants(x: Tensor, block: int) -> dict[str, Any]:
    """Return what all kernels over arrays like x (B, N, C) are compiled for.

    WIDE is how many channels a thread loads side by side: 16 bytes. Otherwise the bytes of `winner`
    would decide, and the threads of a warp would load floats that are 64 bytes apart.
    """
    return {
        "BLOCK": block,
        "WIDE": min(block, 16 // x.element_size()),
        "FLOAT": tl.float64 if x.dtype == torch.float64 else tl.float32,
        "enable_fp_fusion": True,
    }


@triton.jit
def channels_of(BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """Return the channels of a kernel instance (BLOCK,); see `_constants`."""
    return tl.max_contiguous(tl.program_id(1) * BLOCK + tl.arange(0, BLOCK), WIDE)


@triton.jit
def relu_of(e):
    """Return max(e, 0), and NaN for NaN."""
    return tl.where(e < 0, 0.0, e)


@triton.jit
def reduce(
    u, v, index, sign, extreme, winner, sums,
    total, points, channels, k,
    HAS_U: tl.constexpr, RELU: tl.constexpr, MOMENTS: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr, WIDE: tl.constexpr, FLOAT: tl.constexpr,
):  # fmt: skip
    """Find the extreme edge of each point, and its place; add up edges and squares.

    A channel whose `sign` is −1 is negated on the way in and out, so that the largest is always
    wanted. Sums over k are formed in FLOAT, those over points in float64: `sums` has one row of
    (2, C) for each instance.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    c = channels_of(BLOCK, WIDE)
    exists = (row < total)[:, None] & (c < channels)[None, :]
    at = row[:, None] * channels + c[None, :]
    first = row - row % points
    way = tl.load(sign + c, mask=c < channels, other=1.0).to(FLOAT)[None, :]
    own = tl.zeros([ROWS, BLOCK], FLOAT)
    if HAS_U:
        own = tl.load(u + at, mask=exists, other=0.0).to(FLOAT)
    best = tl.full([ROWS, BLOCK], float("-inf"), FLOAT)
    place = tl.zeros([ROWS, BLOCK], tl.int32)
    added = tl.zeros([ROWS, BLOCK], FLOAT)
    squares = tl.zeros([ROWS, BLOCK], FLOAT)
    for n in range(k):
        j = tl.load(index + row * k + n, mask=row < total, other=-1)
        inside = exists & ((j >= 0) & (j < points))[:, None]
        source = (first + j)[:, None] * channels + c[None, :]
        e = own + tl.load(v + source, mask=inside, other=float("nan")).to(FLOAT)
        if RELU:
            e = relu_of(e)
        if MOMENTS:
            added += e
            squares += e * e
        e = e * way
        beyond = ((e <= best) == 0) & (best == best)  # larger, or the first NaN
        best = tl.where(beyond, e, best)
        place = tl.where(beyond, n, place)
    tl.store(extreme + at, (best * way).to(extreme.dtype.element_ty), mask=exists)
    tl.store(winner + at, place.to(winner.dtype.element_ty), mask=exists)
    if MOMENTS:
        part = sums + tl.program_id(0).to(tl.int64) * 2 * channels + c
        added = tl.where(exists, added, 0.0).to(tl.float64)
        squares = tl.where(exists, squares, 0.0).to(tl.float64)
        tl.store(part, tl.sum(added, 0), mask=c < channels)
        tl.store(part + channels, tl.sum(squares, 0), mask=c < channels)


@triton.jit
def edge_gradient(e, won, top, g1, g2, RELU: tl.constexpr, MOMENTS: tl.constexpr):
    """Return what an edge value e receives: g1 + g2·e, and `top` if it won; 0 if relu cut it."""
    d = tl.where(won, top, 0.0)
    if MOMENTS:
        d = d + (g1 + g2 * e)
    if RELU:
        d = tl.where(e > 0, d, 0.0)
    return d


@triton.jit
def spread_to_targets(
    u, v, index, winner, g, g1, g2, du,
    total, points, channels, k,
    HAS_U: tl.constexpr, RELU: tl.constexpr, MOMENTS: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr, WIDE: tl.constexpr, FLOAT: tl.constexpr,
):  # fmt: skip
    """Add up, for each point, the gradients of its own edges."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    c = channels_of(BLOCK, WIDE)
    exists = (row < total)[:, None] & (c < channels)[None, :]
    at = row[:, None] * channels + c[None, :]
    first = row - row % points
    top = tl.load(g + at, mask=exists, other=0.0).to(FLOAT)
    place = tl.load(winner + at, mask=exists, other=0).to(tl.int32)
    constant = tl.zeros([1, BLOCK], FLOAT)
    slope = tl.zeros([1, BLOCK], FLOAT)
    if MOMENTS:
        constant = tl.load(g1 + c, mask=c < channels, other=0.0)[None, :]
        slope = tl.load(g2 + c, mask=c < channels, other=0.0)[None, :]
    own = tl.zeros([ROWS, BLOCK], FLOAT)
    if HAS_U:
        own = tl.load(u + at, mask=exists, other=0.0).to(FLOAT)
    added = tl.zeros([ROWS, BLOCK], FLOAT)
    for n in range(k):
        j = tl.load(index + row * k + n, mask=row < total, other=-1)
        inside = exists & ((j >= 0) & (j < points))[:, None]
        source = (first + j)[:, None] * channels + c[None, :]
        e = own + tl.load(v + source, mask=inside, other=float("nan")).to(FLOAT)
        added += edge_gradient(e, place == n, top, constant, slope, RELU, MOMENTS)
    tl.store(du + at, added.to(du.dtype.element_ty), mask=exists)


@triton.jit
def spread_to_sources(
    u, v, order, begin, winner, g, g1, g2, dv,
    channels,
    K: tl.constexpr, HAS_U: tl.constexpr, RELU: tl.constexpr, MOMENTS: tl.constexpr,
    INTEGER: tl.constexpr, EDGES: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr,
    FLOAT: tl.constexpr,
):  # fmt: skip
    """Add up, for one source point, the gradients of the edges that leave it.

    Those edges are `order`[`begin`[j]] … `order`[`begin`[j + 1] − 1], numbered target · K + place.
    Without RELU an edge's gradient is linear in its value: the terms of v and the constant are
    added once for all edges. INTEGER, a type for the numbers of edges and of u's elements, is
    unsigned: dividing these by a power of 2 takes one instruction.
    """
    j = tl.program_id(0).to(tl.int64)
    c = channels_of(BLOCK, WIDE)
    within = c < channels
    constant = tl.zeros([1, BLOCK], FLOAT)
    slope = tl.zeros([1, BLOCK], FLOAT)
    other = tl.zeros([1, BLOCK], FLOAT)
    if MOMENTS:
        constant = tl.load(g1 + c, mask=within, other=0.0)[None, :]
        slope = tl.load(g2 + c, mask=within, other=0.0)[None, :]
    if RELU or MOMENTS:
        other = tl.load(v + j * channels + c, mask=within, other=0.0).to(FLOAT)[None, :]
    added = tl.zeros([EDGES, BLOCK], FLOAT)
    first = tl.load(begin + j)
    last = tl.load(begin + j + 1)
    place = first + tl.arange(0, EDGES)
    edge = tl.load(order + place, mask=place < last, other=0).to(INTEGER)
    for _ in range(first, last, EDGES):
        exists = (place < last)[:, None] & within[None, :]
        place += EDGES
        coming = tl.load(order + place, mask=place < last, other=0).to(INTEGER)  # meanwhile
        at = (edge // K * channels)[:, None] + c.to(INTEGER)[None, :]
        won = tl.load(winner + at, mask=exists, other=0).to(INTEGER) == (edge % K)[:, None]
        own = tl.zeros([EDGES, BLOCK], FLOAT)
        if HAS_U and (RELU or MOMENTS):
            own = tl.load(u + at, mask=exists, other=0.0).to(FLOAT)
        top = tl.load(g + at, mask=exists, other=0.0).to(FLOAT)
        if RELU:
            d = edge_gradient(other + own, won, top, constant, slope, RELU, MOMENTS)
            added += tl.where(exists, d, 0.0)
        else:
            added += slope * own + tl.where(won, top, 0.0)
        edge = coming
    result = tl.sum(added, 0)[None, :]
    if MOMENTS and not RELU:
        number = (last - first).to(FLOAT)
        result += number * (constant + slope * other)
    out = dv + j * channels + c
    tl.store(out[None, :], result.to(dv.dtype.element_ty), mask=within[None, :])


@triton.jit
def sum_rows(
    x,
    rows, begin, out, total, channels,
    K: tl.constexpr, EDGES: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr,
    FLOAT: tl.constexpr,
):  # fmt: skip
    """Add up in `out`[p] the rows `rows`[n] // K of x, `begin`[p] ≤ n < `begin`[p + 1]."""
    p = tl.program_id(0).to(tl.int64)
    c = channels_of(BLOCK, WIDE)
    added = tl.zeros([EDGES, BLOCK], FLOAT)
    last = tl.load(begin + p + 1)
    for start in range(tl.load(begin + p), last, EDGES):
        place = start + tl.arange(0, EDGES)
        row = tl.load(rows + place, mask=place < last, other=0)
        if K > 1:
            row = row // K
        row = row.to(tl.int64)
        wanted = (place < last)[:, None] & (c < channels)[None, :]
        inside = wanted & ((row >= 0) & (row < total))[:, None]
        value = tl.load(x + row[:, None] * channels + c[None, :], mask=inside, other=float("nan"))
        added += tl.where(wanted, value.to(FLOAT), 0.0)
    result = tl.sum(added, 0).to(out.dtype.element_ty)
    tl.store(out + p * channels + c, result, mask=c < channels)
