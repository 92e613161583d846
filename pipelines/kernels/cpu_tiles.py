"""Tiles of 4 × 16 scalar products in registers, and what is done with them before they go.

A panel holds 16 points as (channel, 16) numbers; a tile multiplies a quarter of one panel with
another. The sum over the channels runs in order with fused multiply-adds, so x_i · x_j has the same
bits from either side and in every function below.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .simd import (
    PLACES,
    any_le,
    compress_places,
    fma,
    load,
    load_splat,
    lowest_bit,
    mask_le,
    maximum,
    minimum,
    permute,
    popcount,
    splat,
    store,
    transpose,
)
from .team import fork

PANEL = 16
HALF = 8  # a vector
TILE = PANEL * PANEL
ROWS = 256  # of a task
STRIP = 16  # panels that stay in the cache while the rows go by

ZERO = np.float32(0)
MINUS_ONE, MINUS_TWO = np.float32(-1), np.float32(-2)
INFINITY = np.float32(np.inf)
LARGEST = np.finfo(np.float32).max


@njit(nogil=True, error_model="numpy")
def pack(x, chosen, packed, squares, task):
    """Write the rows `chosen` of x (N, C) in panels, and their squared lengths.

    The last panel is filled up with points at infinity.
    """
    channels = x.shape[1]
    for place in range(task * ROWS, min((task + 1) * ROWS, len(squares))):
        start = place // PANEL * channels * PANEL + place % PANEL
        total = 0.0
        for c in range(channels):
            value = x[chosen[place], c] if place < len(chosen) else ZERO
            packed[start + c * PANEL] = value
            total += np.float64(value) * np.float64(value)
        squares[place] = total if place < len(chosen) else INFINITY


@njit(forceinline=True)
def _products(rows, a, columns, b, channels):
    """Return the 4 × 16 scalar products of rows[a …] with the panel columns[b …]."""
    p0 = splat(ZERO)
    q0, p1, q1, p2, q2, p3, q3 = p0, p0, p0, p0, p0, p0, p0
    for c in range(0, channels * PANEL, PANEL):
        left, right = load(columns, b + c), load(columns, b + c + HALF)
        x = load_splat(rows, a + c)
        p0, q0 = fma(x, left, p0), fma(x, right, q0)
        x = load_splat(rows, a + c + 1)
        p1, q1 = fma(x, left, p1), fma(x, right, q1)
        x = load_splat(rows, a + c + 2)
        p2, q2 = fma(x, left, p2), fma(x, right, q2)
        x = load_splat(rows, a + c + 3)
        p3, q3 = fma(x, left, p3), fma(x, right, q3)
    return p0, q0, p1, q1, p2, q2, p3, q3


@njit(forceinline=True)
def _store_row(tile, start, p, q):
    store(tile, start, p)
    store(tile, start + HALF, q)


@njit(forceinline=True)
def _store_keys(keys, start, left, right, p, q):
    minus_two = splat(MINUS_TWO)
    store(keys, start, fma(minus_two, p, left))
    store(keys, start + HALF, fma(minus_two, q, right))


@njit(nogil=True, error_model="numpy")
def limits(packed, points, sample, sample_squares, rank, limit, floor, task):
    """Set each row's limit, and the distance where its bins begin, from the sampled points.

    `rank` 0 means that every point is to be a candidate.
    """
    size = len(sample_squares)
    channels = len(sample) // size
    keys, scratch = np.empty(4 * size, np.float32), np.empty(3 * HALF, np.float32)
    share = 0.5
    for row in range(task * ROWS, min((task + 1) * ROWS, len(limit)), 4):
        if rank:
            _sample_keys(packed, row, channels, sample, sample_squares, keys)
        for n in range(row, row + 4):
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
def _sample_keys(packed, row, channels, sample, squares, keys):
    """Write the distances of four rows from the sampled points, one row after the other."""
    start = row // PANEL * channels * PANEL + row % PANEL
    width = len(squares)
    for b in range(0, width, PANEL):
        p0, q0, p1, q1, p2, q2, p3, q3 = _products(packed, start, sample, b * channels, channels)
        left, right = load(squares, b), load(squares, b + HALF)
        _store_keys(keys, b, left, right, p0, q0)
        _store_keys(keys, width + b, left, right, p1, q1)
        _store_keys(keys, 2 * width + b, left, right, p2, q2)
        _store_keys(keys, 3 * width + b, left, right, p3, q3)


@njit(nogil=True)
def _ends(keys, size, scratch):
    """Return the smallest, second smallest and largest key; NaN and infinity are left out."""
    lowest, low, high = splat(INFINITY), splat(INFINITY), splat(-INFINITY)
    for n in range(0, size, HALF):
        key = load(keys, n)
        low = minimum(low, maximum(key, lowest))
        lowest = minimum(key, lowest)
        high = maximum(minimum(splat(LARGEST), key), high)
    store(scratch, 0, lowest)
    store(scratch, HALF, low)
    store(scratch, 2 * HALF, high)
    first, second, last = INFINITY, INFINITY, -INFINITY
    for n in range(2 * HALF):
        second = min(second, max(first, scratch[n]))
        first = min(first, scratch[n])
    for n in range(2 * HALF, 3 * HALF):
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
    for n in range(0, size, HALF):
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
    tile = np.empty(2 * TILE, np.float32)
    channels = len(packed) // len(squares)
    size = channels * PANEL
    triangle = both and a0 == b0
    for strip in range(b0, b1, STRIP):
        for a in range(a0, a1):
            for b in range(max(strip, a) if triangle else strip, min(strip + STRIP, b1)):
                there = rows_within(places, boxes, reach, axes, a, b)
                back = rows_within(places, boxes, reach, axes, b, a) if both and a != b else 0
                if not there | back:
                    continue
                for quarter in range(0, PANEL, 4):
                    p0, q0, p1, q1, p2, q2, p3, q3 = _products(
                        packed, a * size + quarter, packed, b * size, channels
                    )
                    at = quarter * PANEL
                    _store_row(tile, at, p0, q0)
                    _store_row(tile, at + PANEL, p1, q1)
                    _store_row(tile, at + 2 * PANEL, p2, q2)
                    _store_row(tile, at + 3 * PANEL, p3, q3)
                if there:
                    _scan(tile, 0, a, b, points, squares, limit, lists, counts, origin)
                if back:
                    for r in range(0, PANEL, 4):
                        for c in range(0, PANEL, 4):
                            transpose(tile, r * PANEL + c, TILE + c * PANEL + r, PANEL)
                    _scan(tile, TILE, b, a, points, squares, limit, lists, counts, origin)


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
        place = load(places, (a * axes + axis) * PANEL + HALF)
        gap = maximum(maximum(fma(minus_one, place, low), fma(minus_one, high, place)), nothing)
        far = fma(gap, gap, far)
    left = mask_le(near, load(reach, a * PANEL))
    return left | mask_le(far, load(reach, a * PANEL + HALF)) << HALF


@njit(forceinline=True, error_model="numpy")
def _scan(tile, at, a, b, points, squares, limit, lists, counts, origin):
    """Append to the lists of panel a the points of panel b within their limits.

    tile[at …] holds the 16 × 16 scalar products. A full list keeps overwriting its end and keeps
    counting.
    """
    keys, columns = lists
    length = len(keys) // len(counts)
    minus_two = splat(MINUS_TWO)
    left, right = load(squares, b * PANEL), load(squares, b * PANEL + HALF)
    left_points, right_points = load(points, b * PANEL), load(points, b * PANEL + HALF)
    rows = 0
    for n in range(PANEL):
        bound = load_splat(limit, a * PANEL + n)
        near = fma(minus_two, load(tile, at + n * PANEL), left)
        far = fma(minus_two, load(tile, at + n * PANEL + HALF), right)
        rows |= any_le(near, far, bound) << n
    while rows:
        n = lowest_bit(rows)
        rows &= rows - 1
        bound = load_splat(limit, a * PANEL + n)
        near = fma(minus_two, load(tile, at + n * PANEL), left)
        far = fma(minus_two, load(tile, at + n * PANEL + HALF), right)
        row = (a - origin) * PANEL + n
        count = counts[np.uint64(row)]
        place = row * length + min(count, length - PANEL)
        mask = mask_le(near, bound)
        order = compress_places(mask, PLACES)
        store(keys, place, permute(near, order))
        store(columns, place, permute(left_points, order))
        place += popcount(mask)
        count += popcount(mask)
        mask = mask_le(far, bound)
        order = compress_places(mask, PLACES)
        store(keys, place, permute(far, order))
        store(columns, place, permute(right_points, order))
        counts[np.uint64(row)] = count + popcount(mask)


@njit(nogil=True)
def row_keys(packed, squares, row, keys):
    """Write the keys |x_j|² − 2 x_i·x_j of one row, with the bits that `pairs` sees."""
    channels = len(packed) // len(squares)
    start = row // PANEL * channels * PANEL + row % PANEL
    for b in range(0, len(squares), PANEL):
        p = splat(ZERO)
        q = p
        for c in range(0, channels * PANEL, PANEL):
            x = load_splat(packed, start + c)
            p = fma(x, load(packed, b * channels + c), p)
            q = fma(x, load(packed, b * channels + c + HALF), q)
        _store_keys(keys, b, load(squares, b), load(squares, b + HALF), p, q)


@njit(cache=True, nogil=True)
def pack_all(shared, tasks, counter, team, threads):
    """Do all tasks of `pack` on a team of threads."""
    fork(pack, shared, tasks, counter, team, threads)


@njit(cache=True, nogil=True)
def limits_all(shared, tasks, counter, team, threads):
    """Do all tasks of `limits` on a team of threads."""
    fork(limits, shared, tasks, counter, team, threads)


@njit(cache=True, nogil=True)
def pairs_all(shared, tasks, counter, team, threads):
    """Do all tasks of `pairs` on a team of threads."""
    fork(pairs, shared, tasks, counter, team, threads)
