"""The points of the wanted ranks, from each row's candidates.

A candidate is a key (the distance) and a column. To order by distance, then by column, both go into
one integer: the bits of the distance, mapped so that they order like it, above the column's.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .cpu_tiles import INFINITY, PANEL, ROWS, ZERO, row_keys
from .simd import LANES, float_bits, fma, load, maximum, minimum, splat, store, truncate
from .team import fork

BIN = 2  # candidates in a bin, on average
LEAST_SPAN = np.float32(1e-30)
NEVER = 1 << 40
SMALL = 48  # a segment of at most this length is sorted by insertion
LOW_BITS = np.uint64(0xFFFFFFFF)
SIGN = np.uint32(0x80000000)
ALL_ONES = np.uint32(0xFFFFFFFF)


@njit(nogil=True, error_model="numpy")
def select(packed, squares, limit, floor, lists, counts, origin, wanted, out, task):
    """Write the points of the wanted ranks to the task's rows of `out` (N, k) int32."""
    keys, columns = lists
    length = len(keys) // len(counts)
    scratch = np.empty((4, length + PANEL), np.int32)
    segment, spare = np.empty(length, np.uint64), np.empty(SMALL, np.uint64)
    first = origin * PANEL
    last = min(first + len(counts), len(out))
    for row in range(first + task * ROWS, min(first + (task + 1) * ROWS, last)):
        count = counts[row - first]
        if wanted[-1] < count <= length - PANEL:
            start = (row - first) * length
            _bin(keys, start, count, floor[row], limit[row], scratch)
            _pick(keys, columns, start, count, scratch, wanted, segment, spare, out, row)
        else:
            _select_unlimited(packed, squares, row, wanted, out)


@njit(nogil=True)
def _bin(keys, start, count, floor, limit, scratch):
    """Give each candidate one of count / 4 equal bins of distance, and count them."""
    bins, sizes = scratch[0], scratch[1]
    number = count // BIN + 1
    span = limit - floor
    scale = np.float32(number) / span if LEAST_SPAN < span < INFINITY else ZERO
    base = floor if scale > ZERO else limit
    low, high = splat(ZERO), splat(np.float32(number - 1))
    factor, shift = splat(scale), splat(-base * scale)
    for n in range(0, count, LANES):
        place = fma(load(keys, start + n), factor, shift)
        store(bins, n, truncate(maximum(minimum(place, high), low)))
    sizes[:number] = 0
    for n in range(count):
        sizes[np.uint32(bins[n])] += 1


@njit(nogil=True)
def _pick(keys, columns, start, count, scratch, wanted, segment, spare, out, row):
    """Sort the bins that hold a wanted rank, and write the columns of those ranks."""
    bins, sizes, open_, members = scratch
    _open_bins(sizes, open_, count // BIN + 1, wanted)
    collected = 0
    for n in range(count):
        members[np.uint32(collected)] = n
        collected += open_[np.uint32(bins[n])] >= 0
    for m in range(collected):
        place = members[m]
        slot = np.uint32(bins[place])
        target = open_[slot]
        open_[slot] = target + 1
        segment[target] = _ordered(keys[start + place], columns[start + place])
    end, before, slot = 0, 0, 0
    size = 0
    for n in range(len(wanted)):
        rank = wanted[n]
        while rank >= before + size:
            before += size
            size = sizes[slot]
            slot += 1
            if open_[slot - 1] >= 0:
                _sort(segment, end, end + size, spare)
                end += size
        out[row, n] = np.int32(segment[end - size + rank - before] & LOW_BITS)


@njit(nogil=True)
def _open_bins(sizes, open_, number, wanted):
    """Say where in the segment each bin with a wanted rank begins; -1 for the others."""
    end, begin, n = 0, 0, 0
    rank = wanted[0]
    for slot in range(number):
        size = sizes[slot]
        end += size
        open_[slot] = -1
        if rank < end:
            open_[slot] = begin
            begin += size
            while rank < end:
                n += 1
                rank = wanted[n] if n < len(wanted) else NEVER


@njit(nogil=True)
def _sort(keys, start, end, spare):
    """Sort distinct keys; few of them by counting, for each, the smaller ones: no branches."""
    if end - start > SMALL:
        keys[start:end].sort()
        return
    for n in range(start, end):
        spare[n - start] = keys[n]
    for n in range(end - start):
        key = spare[n]
        rank = start
        for m in range(end - start):
            rank += spare[m] < key
        keys[rank] = key


@njit(nogil=True)
def _select_unlimited(packed, squares, row, wanted, out):
    """Sort all points by their distance from one row; NaN comes last."""
    keys = np.empty(len(squares), np.float32)
    row_keys(packed, squares, row, keys)
    order = np.empty(len(out), np.uint64)
    for column in range(len(out)):
        order[column] = _ordered(keys[column], column)
        if np.isnan(keys[column]):
            order[column] |= ~LOW_BITS
    order.sort()
    for n in range(len(wanted)):
        out[row, n] = np.int32(order[wanted[n]] & LOW_BITS)


@njit(nogil=True)
def _ordered(key, column):
    """Return an integer that orders like (key, column)."""
    bits = float_bits(key)
    bits ^= ALL_ONES if bits & SIGN else SIGN
    return np.uint64(bits) << np.uint64(32) | np.uint64(column)


@njit(cache=True, nogil=True)
def select_all(shared, tasks, counter, team, threads):
    """Do all tasks of `select` on a team of threads."""
    fork(select, shared, tasks, counter, team, threads)
