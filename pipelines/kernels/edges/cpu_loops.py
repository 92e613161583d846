"""The compiled loops of `cpu_edges`, over flat arrays with rows of whole vectors.

`sizes` is (N, C, k), `flags` (there is a u, relu, moments). Row i of the B·N points belongs to the
block that begins at i − i mod N, and `index` counts from there. Each loop does one task of many: a
range of points where it writes to these, a block and a range of channels where it writes to their
neighbours. So a sum never depends on the number of threads.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from pipelines.kernels.simd import (
    LANES,
    add,
    choose_beyond,
    choose_equal,
    choose_positive,
    fma,
    load,
    load_positions,
    multiply,
    relu_of,
    splat,
    store,
    widen,
)
from pipelines.kernels.threads import fork

POINTS = 256  # of a task that writes to its own points
CHANNELS = 16  # of a task that writes to neighbours: a cache line of float32


@njit(nogil=True, error_model="numpy")
def reduce(u, v, index, direction, extreme, winner, sums, sizes, flags, task):
    """Find the extreme edge of the task's points, and add up all their edges and squares.

    A channel whose `direction` is −1 is turned over on the way in and out, so that the largest is
    always wanted. The sums over k are formed in the arrays' type, those over points in float64.
    """
    points, channels, k = sizes
    has_u, relu, moments = flags
    zero = v.dtype.type(0)
    part = task * 2 * channels
    for i in range(task * POINTS, min((task + 1) * POINTS, len(v) // channels)):
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
                at = part + c
                store(sums, at, add(load(sums, at), widen(total)))
                at += channels
                store(sums, at, add(load(sums, at), widen(squares)))


@njit(nogil=True, error_model="numpy")
def spread(u, v, index, winner, g, g1, g2, du, dv, sizes, flags, task):
    """Send the gradients of the extremes and of both sums back along the edges of one block.

    An edge value e receives g1 + g2·e and, where it won, g of its point; nothing if relu cut it.
    """
    points, channels, k = sizes
    _, relu, _ = flags
    start, first, last = _rows_and_channels(sizes, task)
    zero = v.dtype.type(0)
    for i in range(start, start + points):
        for c in range(first, last, LANES):
            at = i * channels + c
            own, top, place = load(u, at), load(g, at), load_positions(winner, at)
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


@njit(nogil=True, error_model="numpy")
def spread_winners(u, v, index, winner, g, du, dv, sizes, flags, task):
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


@njit(nogil=True, error_model="numpy")
def gather_sum(x, index, total, sizes, task):
    """Add up the neighbours of the task's points."""
    points, channels, k = sizes
    for i in range(task * POINTS, min((task + 1) * POINTS, len(x) // channels)):
        block = i - i % points
        for c in range(0, channels, LANES):
            value = splat(x.dtype.type(0))
            for n in range(k):
                value = add(value, load(x, (block + index[i * k + n]) * channels + c))
            store(total, i * channels + c, value)


@njit(nogil=True, error_model="numpy")
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


@njit(cache=True, nogil=True)
def reduce_all(shared, tasks, counter, team, threads):
    """Do all tasks of `reduce` on a team of threads."""
    fork(reduce, shared, tasks, counter, team, threads)


@njit(cache=True, nogil=True)
def spread_all(shared, tasks, counter, team, threads):
    """Do all tasks of `spread` on a team of threads."""
    fork(spread, shared, tasks, counter, team, threads)


@njit(cache=True, nogil=True)
def spread_winners_all(shared, tasks, counter, team, threads):
    """Do all tasks of `spread_winners` on a team of threads."""
    fork(spread_winners, shared, tasks, counter, team, threads)


@njit(cache=True, nogil=True)
def gather_sum_all(shared, tasks, counter, team, threads):
    """Do all tasks of `gather_sum` on a team of threads."""
    fork(gather_sum, shared, tasks, counter, team, threads)


@njit(cache=True, nogil=True)
def scatter_sum_all(shared, tasks, counter, team, threads):
    """Do all tasks of `scatter_sum` on a team of threads."""
    fork(scatter_sum, shared, tasks, counter, team, threads)
