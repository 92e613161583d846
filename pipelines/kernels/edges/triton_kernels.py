"""The Triton programs of `cuda_edges`: passes over edges that store no edge.

A program does ROWS points (or one source of edges) for BLOCK of the C channels. Row i of the B·N
points belongs to the block that begins at i − i mod N, and `index` counts from there; an index
outside the block gives NaN, never foreign memory. Each sum has one fixed order: no float atomics.

WIDE is how many channels a thread takes side by side. Without it the bytes of `winner` would
decide: 16, and a warp's threads would load floats 64 bytes apart instead of side by side.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def channels_of(BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """Return the channels of a program (BLOCK,)."""
    return tl.max_contiguous(tl.program_id(1) * BLOCK + tl.arange(0, BLOCK), WIDE)


@triton.jit
def relu_of(e):
    """Return max(e, 0), and NaN for NaN."""
    return tl.where(e < 0, 0.0, e)


@triton.jit
def reduce(
    u,
    v,
    index,
    sign,
    extreme,
    winner,
    sums,
    total,
    points,
    channels,
    k,
    HAS_U: tl.constexpr,
    RELU: tl.constexpr,
    MOMENTS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDE: tl.constexpr,
    FLOAT: tl.constexpr,
):
    """Find the extreme edge of each point, and its place; add up edges and squares.

    Where `sign` is −1 a channel is turned over on the way in and out, so that the largest is always
    wanted. Sums over k are formed in FLOAT, those over points in float64: `sums` has one row of
    (2, C) per program.
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
    """Return what an edge value e receives: g1 + g2·e, and `top` where it won; 0 if relu cut it."""
    d = tl.where(won, top, 0.0)
    if MOMENTS:
        d = d + (g1 + g2 * e)
    if RELU:
        d = tl.where(e > 0, d, 0.0)
    return d


@triton.jit
def spread_to_targets(
    u,
    v,
    index,
    winner,
    g,
    g1,
    g2,
    du,
    total,
    points,
    channels,
    k,
    HAS_U: tl.constexpr,
    RELU: tl.constexpr,
    MOMENTS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDE: tl.constexpr,
    FLOAT: tl.constexpr,
):
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
    u,
    v,
    order,
    begin,
    step,
    winner,
    g,
    g1,
    g2,
    dv,
    channels,
    K: tl.constexpr,
    HAS_U: tl.constexpr,
    RELU: tl.constexpr,
    MOMENTS: tl.constexpr,
    WINNER_FIRST: tl.constexpr,
    NUMBER: tl.constexpr,
    EDGES: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDE: tl.constexpr,
    FLOAT: tl.constexpr,
):
    """Add up, for one source point, the gradients of the edges that leave it.

    Those edges are `order`[`begin`[j·step]] … `order`[`begin`[(j + 1)·step] − 1], numbered
    target · K + place. Without RELU an edge's gradient is linear in its value: v and what is
    constant are added once for all. WINNER_FIRST: wait for the winners, then load gradients only
    where they are wanted. NUMBER, a type for the numbers of edges and of u's elements, is unsigned,
    as dividing those by a power of 2 takes one instruction.
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
    first = tl.load(begin + j * step)
    last = tl.load(begin + (j + 1) * step)
    place = first + tl.arange(0, EDGES)
    edge = tl.load(order + place, mask=place < last, other=0).to(NUMBER)
    for _ in range(first, last, EDGES):
        exists = (place < last)[:, None] & within[None, :]
        place += EDGES
        coming = tl.load(order + place, mask=place < last, other=0).to(NUMBER)  # meanwhile
        at = (edge // K * channels)[:, None] + c.to(NUMBER)[None, :]
        won = tl.load(winner + at, mask=exists, other=0).to(NUMBER) == (edge % K)[:, None]
        own = tl.zeros([EDGES, BLOCK], FLOAT)
        if HAS_U and (RELU or MOMENTS):
            own = tl.load(u + at, mask=exists, other=0.0).to(FLOAT)
        wanted = exists
        if WINNER_FIRST:
            wanted = exists & won
        top = tl.load(g + at, mask=wanted, other=0.0).to(FLOAT)
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
    rows,
    begin,
    step,
    out,
    total,
    channels,
    K: tl.constexpr,
    EDGES: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDE: tl.constexpr,
    FLOAT: tl.constexpr,
):
    """Add up rows of x into row p of `out`.

    They are `rows`[`begin`[p·step]] // K … `rows`[`begin`[(p + 1)·step] − 1] // K.
    """
    p = tl.program_id(0).to(tl.int64)
    c = channels_of(BLOCK, WIDE)
    added = tl.zeros([EDGES, BLOCK], FLOAT)
    last = tl.load(begin + (p + 1) * step)
    for start in range(tl.load(begin + p * step), last, EDGES):
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
