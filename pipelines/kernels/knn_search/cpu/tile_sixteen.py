"""A tile of 16 × 16 scalar products, eight rows at a time, with vectors of sixteen numbers."""

from __future__ import annotations

import numpy as np
from numba import njit

from pipelines.kernels.simd import fma, lowest_bit, mask_le, popcount, store
from pipelines.kernels.simd.wide import (
    compress,
    load_splat_wide,
    load_wide,
    splat_wide,
    transpose_wide,
)

from .panels import MINUS_TWO, PANEL, TILE, ZERO


@njit(forceinline=True)
def multiply(rows, a, columns, b, size, tile):
    """Write the scalar products of the panels rows[a : a + size] and columns[b : b + size]."""
    for first in range(0, PANEL, 8):
        p0 = splat_wide(ZERO)
        p1, p2, p3, p4, p5, p6, p7 = p0, p0, p0, p0, p0, p0, p0
        for c in range(0, size, PANEL):
            y = load_wide(columns, b + c)
            at = a + c + first
            p0 = fma(load_splat_wide(rows, at), y, p0)
            p1 = fma(load_splat_wide(rows, at + 1), y, p1)
            p2 = fma(load_splat_wide(rows, at + 2), y, p2)
            p3 = fma(load_splat_wide(rows, at + 3), y, p3)
            p4 = fma(load_splat_wide(rows, at + 4), y, p4)
            p5 = fma(load_splat_wide(rows, at + 5), y, p5)
            p6 = fma(load_splat_wide(rows, at + 6), y, p6)
            p7 = fma(load_splat_wide(rows, at + 7), y, p7)
        at = first * PANEL
        store(tile, at, p0)
        store(tile, at + PANEL, p1)
        store(tile, at + 2 * PANEL, p2)
        store(tile, at + 3 * PANEL, p3)
        store(tile, at + 4 * PANEL, p4)
        store(tile, at + 5 * PANEL, p5)
        store(tile, at + 6 * PANEL, p6)
        store(tile, at + 7 * PANEL, p7)


@njit(forceinline=True)
def turn(tile):
    """Write the first tile, transposed, into the second."""
    transpose_wide(tile, 0, TILE)


@njit(forceinline=True, error_model="numpy")
def append(tile, at, a, b, points, squares, limit, lists, counts, origin):
    """Append to the lists of panel a the points of panel b within their limits.

    tile[at …] holds the 16 × 16 scalar products. A full list keeps overwriting its end and keeps
    counting.
    """
    keys, columns = lists
    length = len(keys) // len(counts)
    minus_two = splat_wide(MINUS_TWO)
    here, numbers = load_wide(squares, b * PANEL), load_wide(points, b * PANEL)
    rows = 0
    for n in range(PANEL):
        key = fma(minus_two, load_wide(tile, at + n * PANEL), here)
        rows |= np.int64(mask_le(key, load_splat_wide(limit, a * PANEL + n)) != 0) << n
    while rows:
        n = lowest_bit(rows)
        rows &= rows - 1
        key = fma(minus_two, load_wide(tile, at + n * PANEL), here)
        mask = mask_le(key, load_splat_wide(limit, a * PANEL + n))
        row = (a - origin) * PANEL + n
        count = counts[np.uint64(row)]
        place = row * length + min(count, length - PANEL)
        store(keys, place, compress(key, mask))
        store(columns, place, compress(numbers, mask))
        counts[np.uint64(row)] = count + popcount(mask)
