"""Tiles of 16 × 16 scalar products, one panel with another, and what is done with them.

The sum over the channels runs in order with fused multiply-adds, so x_i · x_j has the same bits
from either side and in every function below, whether vectors hold eight numbers
(`cpu_tile_eight`) or sixteen (`cpu_tile_sixteen`).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from pipelines.kernels.simd import (
    LANES,
    fma,
    load,
    load_splat,
    mask_le,
    maximum,
    minimum,
    popcount,
    splat,
    store,
)
from pipelines.kernels.simd import wide as simd_wide
from pipelines.kernels.threads import fork

from . import tile_eight as cpu_tile_eight
from . import tile_sixteen as cpu_tile_sixteen
from .panels import INFINITY, LARGEST, MINUS_ONE, MINUS_TWO, PANEL, ROWS, TILE, ZERO, room_for

STRIP = 16  # panels that stay in the cache while the rows go by
_tile = cpu_tile_sixteen if simd_wide.in_one_register() else cpu_tile_eight
multiply, turn, append = _tile.multiply, _tile.turn, _tile.append
_room_for = njit(nogil=True)(room_for)


@njit(nogil=True, error_model="numpy")
def limits(packed, points, sample, sample_squares, rank, limit, floor, task):
    """Set each row's limit, and the distance where its bins begin, from the sampled points.

    `rank` 0 means that every point is to be a candidate.
    """
    size = len(sample_squares)
    tile = _room_for(TILE)
    keys, scratch = np.empty(PANEL * size, np.float32), np.empty(3 * LANES, np.float32)
    share = 0.5
    for row in range(task * ROWS, min((task + 1) * ROWS, len(limit)), PANEL):
        if rank:
            _sample_keys(packed, row // PANEL, sample, sample_squares, tile, keys)
        for n in range(row, row + PANEL):
            if n >= points:
                limit[n] = -INFINITY
            elif not rank:
                limit[n], floor[n] = LARGEST, -INFINITY
            else:
                part = keys[(n - row) * size :]
                first, second, last = _ends(part, size, scratch)
                limit[n] = _quantile(part, size, rank, first, last, share)
                floor[n] = second
                if first < limit[n] < last:
                    share = (limit[n] - first) / (last - first)


@njit(nogil=True, error_model="numpy")
def _sample_keys(packed, panel, sample, squares, tile, keys):
    """Write the distances of a panel's rows from the sampled points, one row after the other."""
    size, width = len(sample) // len(squares) * PANEL, len(squares)
    minus_two = splat(MINUS_TWO)
    for b in range(0, width, PANEL):
        multiply(packed, panel * size, sample, b // PANEL * size, size, tile)
        for n in range(PANEL):
            for half in range(0, PANEL, LANES):
                key = fma(minus_two, load(tile, n * PANEL + half), load(squares, b + half))
                store(keys, n * width + b + half, key)


@njit(nogil=True)
def _ends(keys, size, scratch):
    """Return the smallest, second smallest and largest key; NaN and infinity are left out."""
    lowest, low, high = splat(INFINITY), splat(INFINITY), splat(-INFINITY)
    for n in range(0, size, LANES):
        key = load(keys, n)
        low = minimum(low, maximum(key, lowest))
        lowest = minimum(key, lowest)
        high = maximum(minimum(splat(LARGEST), key), high)
    store(scratch, 0, lowest)
    store(scratch, LANES, low)
    store(scratch, 2 * LANES, high)
    first, second, last = INFINITY, INFINITY, -INFINITY
    for n in range(2 * LANES):
        second = min(second, max(first, scratch[n]))
        first = min(first, scratch[n])
    for n in range(2 * LANES, 3 * LANES):
        last = max(last, scratch[n])
    return first, second, last


@njit(nogil=True)
def _quantile(keys, size, rank, first, last, share):
    """Return a number that at least `rank` keys, and few more, don't exceed, if there are as many.

    The first guess is `share` of the way from the first to the last key: what the row before came
    to. Steps away from it double until the number is bracketed; then the bracket is halved.
    """
    below, above = float(first), float(last)
    guess = below + share * (above - below)
    step = 0.125 * (guess - below)
    for _ in range(32):
        count = _count(keys, size, np.float32(guess))
        if rank <= count <= rank + (rank >> 4):
            above = guess
            break
        if count < rank:
            below = guess
            step = abs(step)
        else:
            above = guess
            step = -abs(step)
        guess += step
        step *= 2
        if not below < guess < above:
            guess = 0.5 * (below + above)
            step *= 0.0625
    return np.float32(above)


@njit(forceinline=True)
def _count(keys, size, bound):
    """Return how many of the keys are at most `bound`."""
    count = 0
    for n in range(0, size, LANES):
        count += popcount(mask_le(load(keys, n), splat(bound)))
    return count


@njit(nogil=True, error_model="numpy")
def pairs(packed, squares, limit, order, axes, lists, counts, origin, table, task):
    """Append candidates to the rows of panels a0 … a1 from panels b0 … b1 and, if `both`, back.

    `table[task]` is (a0, a1, b0, b1, both). `order` is (points, places, boxes, reach) of
    `cpu_order`, which rules out pairs of panels. `lists` is (keys, points), the same number of each
    for every row from panel `origin` on. Where the two ranges are the same, each pair of panels is
    met once, and the tiles on the diagonal serve their rows only.
    """
    a0, a1, b0, b1, both = table[task]
    points, places, boxes, reach = order
    tile = _room_for(2 * TILE)
    size = len(packed) // len(squares) * PANEL
    triangle = both and a0 == b0
    for strip in range(b0, b1, STRIP):
        for a in range(a0, a1):
            for b in range(max(strip, a) if triangle else strip, min(strip + STRIP, b1)):
                there = rows_within(places, boxes, reach, axes, a, b)
                back = rows_within(places, boxes, reach, axes, b, a) if both and a != b else 0
                if not there | back:
                    continue
                multiply(packed, a * size, packed, b * size, size, tile)
                if there:
                    append(tile, 0, a, b, points, squares, limit, lists, counts, origin)
                if back:
                    turn(tile)
                    append(tile, TILE, b, a, points, squares, limit, lists, counts, origin)


@njit(forceinline=True)
def rows_within(places, boxes, reach, axes, a, b):
    """Return, as 16 bits, which rows of panel a may have a neighbour within reach in panel b."""
    minus_one, nothing = splat(MINUS_ONE), splat(ZERO)
    near, far = nothing, nothing
    for axis in range(axes):
        low = load_splat(boxes, 2 * b * axes + axis)
        high = load_splat(boxes, (2 * b + 1) * axes + axis)
        place = load(places, (a * axes + axis) * PANEL)
        gap = maximum(maximum(fma(minus_one, place, low), fma(minus_one, high, place)), nothing)
        near = fma(gap, gap, near)
        place = load(places, (a * axes + axis) * PANEL + LANES)
        gap = maximum(maximum(fma(minus_one, place, low), fma(minus_one, high, place)), nothing)
        far = fma(gap, gap, far)
    left = mask_le(near, load(reach, a * PANEL))
    return left | mask_le(far, load(reach, a * PANEL + LANES)) << LANES


@njit(nogil=True)
def row_keys(packed, squares, row, keys):
    """Write the keys |x_j|² − 2 x_i·x_j of one row, with the bits that `pairs` sees."""
    channels = len(packed) // len(squares)
    start = row // PANEL * channels * PANEL + row % PANEL
    minus_two = splat(MINUS_TWO)
    for b in range(0, len(squares), PANEL):
        p = splat(ZERO)
        q = p
        for c in range(0, channels * PANEL, PANEL):
            x = load_splat(packed, start + c)
            p = fma(x, load(packed, b * channels + c), p)
            q = fma(x, load(packed, b * channels + c + LANES), q)
        store(keys, b, fma(minus_two, p, load(squares, b)))
        store(keys, b + LANES, fma(minus_two, q, load(squares, b + LANES)))


@njit(cache=True, nogil=True)
def limits_all(shared, tasks, counter, team, threads):
    """Do all tasks of `limits` on a team of threads."""
    fork(limits, shared, tasks, counter, team, threads)


@njit(cache=True, nogil=True)
def pairs_all(shared, tasks, counter, team, threads):
    """Do all tasks of `pairs` on a team of threads."""
    fork(pairs, shared, tasks, counter, team, threads)
