"""A tile of 16 × 16 scalar products, four rows at a time, with vectors of eight numbers."""

from __future__ import annotations

import numpy as np
from numba import njit

from pipelines.kernels.simd import (
    LANES,
    PLACES,
    any_le,
    compress_places,
    fma,
    load,
    load_splat,
    lowest_bit,
    mask_le,
    permute,
    popcount,
    splat,
    store,
    transpose,
)

from .panels import MINUS_TWO, PANEL, TILE, ZERO


@njit(forceinline=True)
def multiply(rows, a, columns, b, size, tile):
    """Write the scalar products of the panels rows[a : a + size] and columns[b : b + size]."""
    for first in range(0, PANEL, 4):
        p0 = splat(ZERO)
        q0, p1, q1, p2, q2, p3, q3 = p0, p0, p0, p0, p0, p0, p0
        for c in range(0, size, PANEL):
            left, right = load(columns, b + c), load(columns, b + c + LANES)
            x = load_splat(rows, a + c + first)
            p0, q0 = fma(x, left, p0), fma(x, right, q0)
            x = load_splat(rows, a + c + first + 1)
            p1, q1 = fma(x, left, p1), fma(x, right, q1)
            x = load_splat(rows, a + c + first + 2)
            p2, q2 = fma(x, left, p2), fma(x, right, q2)
            x = load_splat(rows, a + c + first + 3)
            p3, q3 = fma(x, left, p3), fma(x, right, q3)
        at = first * PANEL
        _store_row(tile, at, p0, q0)
        _store_row(tile, at + PANEL, p1, q1)
        _store_row(tile, at + 2 * PANEL, p2, q2)
        _store_row(tile, at + 3 * PANEL, p3, q3)


@njit(forceinline=True)
def _store_row(tile, start, p, q):
    store(tile, start, p)
    store(tile, start + LANES, q)


@njit(forceinline=True)
def turn(tile):
    """Write the first tile, transposed, into the second."""
    for r in range(0, PANEL, 4):
        for c in range(0, PANEL, 4):
            transpose(tile, r * PANEL + c, TILE + c * PANEL + r, PANEL)


@njit(forceinline=True, error_model="numpy")
def append(tile, at, a, b, points, squares, limit, lists, counts, origin):
    """Append to the lists of panel a the points of panel b within their limits.

    tile[at …] holds the 16 × 16 scalar products. A full list keeps overwriting its end and keeps
    counting.
    """
    keys, columns = lists
    length = len(keys) // len(counts)
    minus_two = splat(MINUS_TWO)
    left, right = load(squares, b * PANEL), load(squares, b * PANEL + LANES)
    left_points, right_points = load(points, b * PANEL), load(points, b * PANEL + LANES)
    rows = 0
    for n in range(PANEL):
        bound = load_splat(limit, a * PANEL + n)
        near = fma(minus_two, load(tile, at + n * PANEL), left)
        far = fma(minus_two, load(tile, at + n * PANEL + LANES), right)
        rows |= any_le(near, far, bound) << n
    while rows:
        n = lowest_bit(rows)
        rows &= rows - 1
        bound = load_splat(limit, a * PANEL + n)
        near = fma(minus_two, load(tile, at + n * PANEL), left)
        far = fma(minus_two, load(tile, at + n * PANEL + LANES), right)
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
