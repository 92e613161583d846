"""The compiled loops of `cpu_points`, over flat arrays with rows of whole vectors.

`sizes` is (N, C), `flags` (relu, moments). Each loop does one task of many: POINTS points of one
block, the last task of a block those that are left.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from pipelines.kernels.simd import (
    LANES,
    add,
    choose_beyond,
    choose_positive,
    fma,
    load,
    multiply,
    relu_of,
    splat,
    store,
    widen,
)
from pipelines.kernels.threads import fork

POINTS = 128  # of a task
STRIP = 4  # points whose sums stay in registers


@njit(nogil=True, error_model="numpy")
def reduce(x, direction, best, place, sums, sizes, flags, task):
    """Find the extreme of the task's points and which one it is, and add up values and squares.

    A channel whose `direction` is −1 is turned over on the way in, so that the largest is always
    wanted. Sums over a strip are formed in the array's type, those over strips in float64.
    """
    channels = sizes[1]
    relu, moments = flags
    first, start, last = _rows(sizes, task)
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
                at = 2 * kept + c
                store(sums, at, add(load(sums, at), widen(total)))
                at += channels
                store(sums, at, add(load(sums, at), widen(squares)))


@njit(nogil=True, error_model="numpy")
def spread(x, winner, g, g1, g2, dx, sizes, flags, task):
    """Send the gradients of the extremes and of both sums back to the task's points.

    A value e receives g1 + g2·e and, where it won, g of its block; nothing if relu cut it.
    """
    points, channels = sizes
    relu, moments = flags
    first, start, last = _rows(sizes, task)
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
def _rows(sizes, task):
    """Return the first row of the task's block, and its own first and last row."""
    points = sizes[0]
    parts = (points + POINTS - 1) // POINTS
    first = task // parts * points
    start = first + task % parts * POINTS
    return first, start, min(start + POINTS, first + points)


@njit(cache=True, nogil=True)
def reduce_all(shared, tasks, counter, team, threads):
    """Do all tasks of `reduce` on a team of threads."""
    fork(reduce, shared, tasks, counter, team, threads)


@njit(cache=True, nogil=True)
def spread_all(shared, tasks, counter, team, threads):
    """Do all tasks of `spread` on a team of threads."""
    fork(spread, shared, tasks, counter, team, threads)
