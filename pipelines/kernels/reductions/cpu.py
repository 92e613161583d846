"""Reductions over edges and over points on the CPU: one pass each way, no edge value stored.

The forward pass saves the position of each channel's winning neighbour (or point); the backward
pass recomputes the values. Tasks do not depend on the number of threads and are joined in order, so
neither does any bit of a result. Arrays are flat, with rows padded to whole vectors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from pipelines.kernels import reference, threads
from pipelines.kernels.simd import (
    LANES,
    add,
    choose_beyond,
    choose_equal,
    choose_positive,
    fma,
    load,
    multiply,
    positions,
    relu_of,
    splat,
    store,
    widen,
)
from pipelines.kernels.threads import parallel

from . import EdgeOps

FAST = (torch.float32, torch.float64)
EDGE_POINTS = 256  # of a task that writes to its own points
CHANNELS = 16  # of a task that writes to neighbours: a cache line of float32
POINTS = 128  # of a task of `point_reduce`
STRIP = 4  # points whose sums stay in registers


def neighbor_sum(x: Tensor, index: Tensor) -> Tensor:
    """Return Σ_j x_j; see `pipelines.kernels.neighbor_sum`."""
    if x.dtype not in FAST:
        return reference.neighbor_sum(x, index)
    _check_index(index, x.shape[1])
    return _NeighborSum.apply(_pad(x), index.contiguous())[..., : x.shape[-1]]


def edge_ops(x: Tensor) -> EdgeOps | None:
    """Return `edge_reduce` outside autograd; see `pipelines.kernels.edge_ops`."""
    return EDGE_OPS if x.dtype in FAST else None


def point_reduce(
    x: Tensor, sign: Tensor, *, relu: bool, moments: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Reduce x over the points; see `pipelines.kernels.point_reduce`."""
    if x.dtype not in FAST:
        return reference.point_reduce(x, sign, relu=relu, moments=moments)
    channels = x.shape[-1]
    direction = _pad(torch.where(sign < 0, -1.0, 1.0).to(x.dtype))
    extreme, first, second = _PointReduce.apply(_pad(x), direction, bool(relu), bool(moments))
    extreme = extreme[..., :channels]
    return (extreme, first[:channels], second[:channels]) if moments else (extreme, None, None)


def _forward(
    u: Tensor | None, v: Tensor, index: Tensor, sign: Tensor, *, relu: bool, moments: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute `EdgeOps.forward`."""
    _check_index(index, v.shape[1])
    channels = v.shape[-1]
    u, v = None if u is None else _pad(u), _pad(v)
    batch, points, padded = v.shape
    direction = _pad(torch.where(sign < 0, -1.0, 1.0).to(v.dtype))
    winner = torch.empty(v.shape, dtype=torch.uint8 if index.shape[-1] <= 256 else torch.int32)
    extreme = torch.empty_like(v)
    tasks = -(-batch * points // EDGE_POINTS)
    sums = torch.zeros(tasks, 2, padded if moments else 0, dtype=torch.float64)
    arrays = _flat(v if u is None else u, v, index.contiguous(), direction, extreme, winner, sums)
    flags = u is not None, relu, moments
    threads.run(edges_forward, (*arrays, _sizes(v, index), flags), tasks)
    first, second = sums[..., :channels].sum(dim=0)
    return extreme[..., :channels], winner, first, second


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
    channels = grads[0].shape[-1]
    g = _pad(grads[0])
    du, dv = torch.empty_like(g), torch.zeros_like(g)
    flags = u is not None, relu, moments
    v = g if v is None else _pad(v)
    u = v if u is None else _pad(u)
    arrays = _flat(u, v, index.contiguous(), winner, g)
    shared = *_flat(du, dv), _sizes(g, index), flags
    if moments:
        linear = _flat(*(_pad(each.to(g.dtype)) for each in (grads[1], 2 * grads[2])))
        threads.run(edges_backward, (*arrays, *linear, *shared), _channel_tasks(g))
    else:
        threads.run(winners_backward, (*arrays, *shared), _channel_tasks(g))
    return du[..., :channels], dv[..., :channels]


EDGE_OPS = EdgeOps(_forward, _backward)


class _NeighborSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        x, index = args
        ctx.save_for_backward(index)
        first = torch.arange(len(x), dtype=index.dtype).view(-1, 1, 1) * x.shape[1]
        return F.embedding_bag((index + first).flatten(0, 1), x.flatten(0, 1), mode="sum").view_as(
            x
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        (index,) = ctx.saved_tensors
        g = grads[0].contiguous()
        total = torch.zeros_like(g)
        threads.run(scatter_sum, (*_flat(g, index, total), _sizes(g, index)), _channel_tasks(g))
        return total, None


class _PointReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        x, direction, relu, moments = args
        batch, points, channels = x.shape
        parts = -(-points // POINTS)
        best = x.new_empty(batch, parts, channels)
        place = torch.empty(batch, parts, channels, dtype=torch.int32)
        sums = torch.zeros(batch * parts, 2, channels if moments else 0, dtype=torch.float64)
        ctx.flags = flags = relu, moments
        arrays = _flat(x, direction, best, place, sums)
        threads.run(points_forward, (*arrays, (points, channels), flags), batch * parts)
        extreme, part = best.max(dim=1)  # (B, C)
        winner = place.gather(1, part.unsqueeze(1)).squeeze(1)
        first, second = sums.sum(dim=0)
        if not moments:
            ctx.mark_non_differentiable(first, second)
        ctx.save_for_backward(x, winner)
        return extreme * direction, first, second

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        x, winner = ctx.saved_tensors
        batch, points, channels = x.shape
        relu, moments = ctx.flags
        g = grads[0].contiguous()
        first, second = grads[1:] if moments else (g.new_zeros(channels),) * 2
        linear = _flat(first.to(x.dtype), 2 * second.to(x.dtype))
        dx = torch.empty_like(x)
        shared = (*_flat(x, winner, g), *linear, *_flat(dx), (points, channels), (relu, moments))
        threads.run(points_backward, shared, batch * -(-points // POINTS))
        return dx, None, None, None


def _pad(x: Tensor) -> Tensor:
    """Return x contiguous, its last dimension padded with zeros to whole vectors."""
    missing = -x.shape[-1] % LANES
    return F.pad(x, (0, missing)) if missing else x.contiguous()


def _check_index(index: Tensor, points: int) -> None:
    """Raise IndexError unless all of `index` lies in 0 … points − 1: the loops don't check."""
    low, high = torch.aminmax(index)
    if low < 0 or high >= points:
        raise IndexError(f"neighbour index: found {low} to {high}, expected 0 to {points - 1}")


def _flat(*tensors: Tensor) -> tuple[np.ndarray, ...]:
    """Return contiguous tensors as flat arrays that share their memory."""
    return tuple(tensor.detach().view(-1).numpy() for tensor in tensors)


def _sizes(x: Tensor, index: Tensor) -> tuple[int, int, int]:
    return x.shape[1], x.shape[2], index.shape[-1]


def _channel_tasks(x: Tensor) -> int:
    return x.shape[0] * -(-x.shape[-1] // CHANNELS)


# The compiled loops. `sizes` is (N, C, k) or (N, C), `flags` (u is given, relu, moments) or (relu,
# moments). Row i of the B·N points is in the block that begins at i − i mod N; `index` counts from
# there. A task is a range of points, or of a block's channels where it writes to neighbours.


@parallel
def edges_forward(u, v, index, direction, extreme, winner, sums, sizes, flags, task):
    """Find the extreme edge of the task's points, and add up all their edges and squares.

    A channel whose `direction` is −1 is negated on the way in and out, so that the largest is
    always wanted. The sums over k are formed in the arrays' type, those over points in float64.
    """
    points, channels, k = sizes
    has_u, relu, moments = flags
    zero = v.dtype.type(0)
    for i in range(task * EDGE_POINTS, min((task + 1) * EDGE_POINTS, len(v) // channels)):
        block = i - i % points
        for c in range(0, channels, LANES):
            own = load(u, i * channels + c) if has_u else splat(zero)
            way = load(direction, c)
            best = splat(v.dtype.type(-np.inf))
            place = splat(np.int32(0))
            total, squares = splat(zero), splat(zero)
            for n in range(k):
                e = add(own, load(v, (block + index[i * k + n]) * channels + c))
                if relu:
                    e = relu_of(e)
                if moments:
                    total = add(total, e)
                    squares = fma(e, e, squares)
                e = multiply(e, way)
                place = choose_beyond(e, best, splat(np.int32(n)), place)
                best = choose_beyond(e, best, e, best)
            store(extreme, i * channels + c, multiply(best, way))
            store(winner, i * channels + c, place)
            if moments:
                _add_to(sums, task * 2 * channels + c, total)
                _add_to(sums, (task * 2 + 1) * channels + c, squares)


@njit(forceinline=True)
def _add_to(sums, at, vector):
    store(sums, at, add(load(sums, at), widen(vector)))


@parallel
def edges_backward(u, v, index, winner, g, g1, g2, du, dv, sizes, flags, task):
    """Send the gradients of the extremes and of both sums back along the edges of one block.

    An edge value e receives g1 + g2·e and, if it won, g of its point; nothing if relu cut it.
    """
    points, channels, k = sizes
    relu = flags[1]
    start, first, last = _rows_and_channels(sizes, task)
    zero = v.dtype.type(0)
    for i in range(start, start + points):
        for c in range(first, last, LANES):
            at = i * channels + c
            own, top, place = load(u, at), load(g, at), positions(load(winner, at))
            constant, slope = load(g1, c), load(g2, c)
            total = splat(zero)
            for n in range(k):
                source = (start + index[i * k + n]) * channels + c
                e = add(own, load(v, source))
                d = fma(slope, e, constant)
                d = add(d, choose_equal(place, splat(np.int32(n)), top))
                if relu:
                    d = choose_positive(e, d)
                total = add(total, d)
                store(dv, source, add(load(dv, source), d))
            store(du, at, total)


@parallel
def winners_backward(u, v, index, winner, g, du, dv, sizes, flags, task):
    """Send the gradients of the extremes back to the two ends of the edges that won."""
    points, channels, k = sizes
    has_u, relu, _ = flags
    start, first, last = _rows_and_channels(sizes, task)
    for i in range(start, start + points):
        for c in range(first, last):
            at = i * channels + c
            source = (start + index[i * k + winner[at]]) * channels + c
            d = g[at]
            if relu and not (u[at] if has_u else 0 * d) + v[source] > 0:
                d *= 0
            du[at] = d
            dv[source] += d


@parallel
def scatter_sum(g, index, total, sizes, task):
    """Add each row of g to the rows of its neighbours."""
    points, channels, k = sizes
    start, first, last = _rows_and_channels(sizes, task)
    for i in range(start, start + points):
        for c in range(first, last, LANES):
            value = load(g, i * channels + c)
            for n in range(k):
                source = (start + index[i * k + n]) * channels + c
                store(total, source, add(load(total, source), value))


@njit(nogil=True, error_model="numpy")
def _rows_and_channels(sizes, task):
    """Return the first row of the task's block and its range of channels."""
    points, channels, _ = sizes
    parts = (channels + CHANNELS - 1) // CHANNELS
    first = task % parts * CHANNELS
    return task // parts * points, first, min(first + CHANNELS, channels)


@parallel
def points_forward(x, direction, best, place, sums, sizes, flags, task):
    """Find the extreme of the task's points and which one it is, and add up values and squares.

    A channel whose `direction` is −1 is negated on the way in, so that the largest is always
    wanted. Sums over a strip are formed in the array's type, those over strips in float64.
    """
    channels = sizes[1]
    relu, moments = flags
    first, start, last = _rows_of_block(sizes, task)
    kept = task * channels
    for c in range(0, channels, LANES):
        store(best, kept + c, splat(x.dtype.type(-np.inf)))
        store(place, kept + c, splat(np.int32(start - first)))
    for row in range(start, last, STRIP):
        for c in range(0, channels, LANES):
            way = load(direction, c)
            top, where = load(best, kept + c), load(place, kept + c)
            total = splat(x.dtype.type(0))
            squares = total
            for i in range(row, min(row + STRIP, last)):
                e = load(x, i * channels + c)
                if relu:
                    e = relu_of(e)
                if moments:
                    total = add(total, e)
                    squares = fma(e, e, squares)
                e = multiply(e, way)
                where = choose_beyond(e, top, splat(np.int32(i - first)), where)
                top = choose_beyond(e, top, e, top)
            store(best, kept + c, top)
            store(place, kept + c, where)
            if moments:
                _add_to(sums, 2 * kept + c, total)
                _add_to(sums, 2 * kept + channels + c, squares)


@parallel
def points_backward(x, winner, g, g1, g2, dx, sizes, flags, task):
    """Send the gradients of the extremes and of both sums back to the task's points.

    A value e receives g1 + g2·e and, if it won, g of its block; nothing if relu cut it.
    """
    points, channels = sizes
    relu, moments = flags
    first, start, last = _rows_of_block(sizes, task)
    for i in range(start, last):
        for at in range(i * channels, (i + 1) * channels, LANES):
            d = splat(x.dtype.type(0))
            if moments:
                c = at - i * channels
                e = load(x, at)
                d = fma(load(g2, c), e, load(g1, c))
                if relu:
                    d = choose_positive(e, d)
            store(dx, at, d)
    won = first // points * channels
    for c in range(channels):
        i = first + winner[won + c]
        if start <= i < last and (not relu or x[i * channels + c] > 0):
            dx[i * channels + c] += g[won + c]


@njit(nogil=True, error_model="numpy")
def _rows_of_block(sizes, task):
    """Return the first row of the task's block, and its own first and last row."""
    points = sizes[0]
    parts = (points + POINTS - 1) // POINTS
    first = task // parts * points
    start = first + task % parts * POINTS
    return first, start, min(start + POINTS, first + points)
