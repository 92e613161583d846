"""Select the points of the wanted ranks among each row's candidates.

Candidates are counted in bins of equal width; only bins with a wanted rank are opened. In a small
bin the candidates before each are counted, a large one is sorted. A candidate is a key (the
distance) and a column; to sort by both, they go into one integer: the bits of the distance, mapped
so that they order like it, above the column's.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from pipelines.kernels.simd import (
    LANES,
    choose_beyond,
    count_before,
    float_bits,
    fma,
    load,
    lowest_bit,
    mask_equal,
    maximum,
    minimum,
    splat,
    store,
    truncate,
)
from pipelines.kernels.threads import parallel

from .tiles import INFINITY, LARGEST, PANEL, ROWS, ZERO, row_keys

BIN = 2  # candidates in a bin, on average
LANE_INDICES = np.arange(LANES, dtype=np.float32)
LEAST_SPAN = np.float32(1e-30)
ZERO_INT = np.int32(0)
NEVER = 1 << 40
LOW_BITS = np.uint64(0xFFFFFFFF)
SIGN = np.uint32(0x80000000)
ALL_ONES = np.uint32(0xFFFFFFFF)


@parallel
def select(packed, squares, order, threshold, floor, candidates, counts, origin, wanted, out, task):
    """Write the points of the wanted ranks to the task's rows of `out` (N, k) int32.

    `order` (N,) int32 says which point is at each place of `packed`, so which row of `out`.
    """
    keys, columns = candidates
    length = len(keys) // len(counts)
    room = _room(length, len(wanted))
    whole, room_for_whole = np.empty(0, np.float32), room  # made when a row needs them
    first = origin * PANEL
    last = min(first + len(counts), len(out))
    for row in range(first + task * ROWS, min(first + (task + 1) * ROWS, last)):
        count = counts[row - first]
        if wanted[-1] < count <= length - PANEL:
            values, points, start, needed = keys, columns, (row - first) * length, room
            highest = threshold[row]
            if highest == LARGEST:  # all points are candidates
                highest = _highest(values, start, count)
            # Points nearer than the sampled ones lie further apart; none is nearer than the row.
            lowest = max(np.float32(2) * floor[row] - highest, -squares[row])
        else:
            if not len(whole):
                whole = np.empty(len(squares) + PANEL, np.float32)
                room_for_whole = _room(len(squares), len(wanted))
            row_keys(packed, squares, row, whole)
            if not _finite(whole, len(order)):
                _choose_by_sorting(whole, order, wanted, out[order[row]])
                continue
            # One call of `_choose` for both cases: a second would be compiled again.
            values, points, start, needed = whole, order, 0, room_for_whole
            count = len(order)
            lowest, highest = -squares[row], _highest(values, start, count)
        ends = lowest, highest
        _choose(values, points, start, count, ends, wanted, needed, out[order[row]])


# Loops of our own, where NumPy's functions and sort would take seconds more to compile.
@njit(nogil=True)
def _highest(keys, start, count):
    highest = keys[start]
    for n in range(start, start + count):
        highest = max(highest, keys[n])
    return highest


@njit(nogil=True)
def _finite(keys, count):
    finite = True
    for n in range(count):
        finite &= abs(keys[n]) <= LARGEST  # NaN is not
    return finite


@njit(nogil=True)
def _sort(values, count):
    """Sort the first `count` integers by comparing ever nearer ones (Shell's sort)."""
    gap = 1
    while 3 * gap < count:
        gap = 3 * gap + 1
    while gap:
        for n in range(gap, count):
            value, place = values[n], n
            while place >= gap and values[place - gap] > value:
                values[place] = values[place - gap]
                place -= gap
            values[place] = value
        gap //= 3


@njit(nogil=True)
def _room(length, wanted):
    """Return what the selection from `length` candidates needs."""
    scratch = np.empty((4, length + PANEL), np.int32)
    most = length + 2 * LANES  # a vector may begin at the last
    opened = np.empty(most, np.float32), np.empty(most, np.int32)
    return scratch, opened, np.empty((3, wanted), np.int64), np.empty(length, np.uint64)


@njit(nogil=True)
def _choose(keys, columns, start, count, ends, wanted, room, out):
    """Write the points of the wanted ranks among `count` candidates, whose keys are finite."""
    scratch, opened, places, ranked = room
    number = _bin(keys, start, count, ends[0], ends[1], scratch)
    _open_bins(scratch[1], scratch[2], number, wanted, places)
    _collect(keys, columns, start, count, scratch, opened)
    _pick(opened, places, ranked, out)


@njit(nogil=True)
def _bin(keys, start, count, lowest, highest, scratch):
    """Give each candidate one of count / BIN equal bins, and count them; return how many bins."""
    bins, sizes = scratch[0], scratch[1]
    number = count // BIN + 1
    span = highest - lowest
    scale = np.float32(number) / span if LEAST_SPAN < span < INFINITY else ZERO
    base = lowest if scale > ZERO else highest
    low, high = splat(ZERO), splat(np.float32(number - 1))
    factor, shift = splat(scale), splat(-base * scale)
    for n in range(0, count, LANES):
        place = fma(load(keys, start + n), factor, shift)
        store(bins, n, truncate(maximum(minimum(place, high), low)))
    sizes[:number] = 0
    for n in range(count):
        sizes[np.uint32(bins[n])] += 1
    return number


@njit(nogil=True)
def _open_bins(sizes, open_, number, wanted, places):
    """Store where the points of each bin with a wanted rank will begin; −1 for the other bins.

    `places` gets, for each wanted rank, where its bin begins, the bin's size, and the rank in it.
    """
    end, begin, n = 0, 0, 0
    rank = wanted[0]
    for slot in range(number):
        size = sizes[slot]
        end += size
        open_[slot] = -1
        if rank < end:
            open_[slot] = begin
            while rank < end:
                places[0, n], places[1, n], places[2, n] = begin, size, rank + size - end
                n += 1
                rank = wanted[n] if n < len(wanted) else NEVER
            begin += size


@njit(nogil=True)
def _collect(keys, columns, start, count, scratch, opened):
    """Copy the candidates of the open bins, one bin after the other."""
    bins, _, open_, members = scratch
    distances, points = opened
    collected = 0
    for n in range(count):
        members[np.uint32(collected)] = n
        collected += open_[np.uint32(bins[n])] >= 0
    for m in range(collected):
        place = members[m]
        slot = np.uint32(bins[place])
        target = open_[slot]
        open_[slot] = target + 1
        distances[target] = keys[start + place]
        points[target] = columns[start + place]


@njit(nogil=True)
def _pick(opened, places, order, out):
    """Write the points of the wanted ranks, from the bins that they are in."""
    distances, points = opened
    ordered = -1  # where the bin begins that `order` holds
    for n in range(len(out)):
        begin, size, rank = places[0, n], places[1, n], places[2, n]
        if size <= LANES:
            out[n] = points[begin + _of_rank(distances, points, begin, size, rank)]
        elif size <= 2 * LANES:
            out[n] = points[begin + _of_rank_in_two(distances, points, begin, size, rank)]
        else:
            if begin != ordered:
                for m in range(size):
                    order[m] = _ordered(distances[begin + m], points[begin + m])
                _sort(order, size)
                ordered = begin
            out[n] = np.int32(order[rank] & LOW_BITS)


@njit(forceinline=True)
def _of_rank(distances, points, begin, size, rank):
    """Return which of a bin's at most 8 points has `rank` others before it, without a branch."""
    near, columns = _inside(distances, points, begin, size)
    return lowest_bit(mask_equal(count_before(near, columns, near, columns, splat(ZERO_INT)), rank))


@njit(forceinline=True)
def _of_rank_in_two(distances, points, begin, size, rank):
    """Return the same of at most 16 points."""
    near, columns = _inside(distances, points, begin, size)
    far, others = _inside(distances, points, begin + LANES, size - LANES)
    before = count_before(near, columns, near, columns, splat(ZERO_INT))
    before = count_before(near, columns, far, others, before)
    behind = count_before(far, others, near, columns, splat(ZERO_INT))
    behind = count_before(far, others, far, others, behind)
    return lowest_bit(mask_equal(before, rank) | mask_equal(behind, rank) << LANES)


@njit(forceinline=True)
def _inside(distances, points, begin, size):
    """Return 8 distances from `begin` on, infinite beyond `size`, and their points."""
    lanes, end = load(LANE_INDICES, 0), splat(np.float32(size))
    near = choose_beyond(end, lanes, load(distances, begin), splat(INFINITY))
    return near, load(points, begin)


@njit(nogil=True)
def _choose_by_sorting(keys, order, wanted, out):
    """Sort all points by their keys, of which some are infinite or NaN; NaN comes last."""
    ranked = np.empty(len(order), np.uint64)
    for place in range(len(order)):
        ranked[place] = _ordered(keys[place], order[place])
        if np.isnan(keys[place]):
            ranked[place] |= ~LOW_BITS
    _sort(ranked, len(ranked))
    for n in range(len(wanted)):
        out[n] = np.int32(ranked[wanted[n]] & LOW_BITS)


@njit(nogil=True)
def _ordered(key, column):
    """Return an integer that orders like (key, column)."""
    bits = float_bits(key)
    bits ^= ALL_ONES if bits & SIGN else SIGN
    return np.uint64(bits) << np.uint64(32) | np.uint64(column)
