"""Triton programs of `cuda_near` that find the wanted ranks in lists of near points.

    order           sort 32-bit keys, which stand for distances; where a key near a wanted rank is
                    not alone, leave the row to the next
    order_exactly   sort the rows of a queue by distance and position

Lists as `cuda_near_lists` has them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .parts import LANES
from .select import INT32_MAX, exchange, order_bits, side

ONE = tl.constexpr(0x3FF0000000000000)  # the bits of 1.0
LAST = tl.constexpr(0x4000000000000000)  # of 2.0
FLIP = tl.constexpr(-0x80000000)  # makes unsigned numbers comparable as signed ones


@triton.jit
def reversed_bits(number, LOG: tl.constexpr):
    """Return numbers below 2^LOG with their bits in reverse order."""
    out = number * 0
    for bit in tl.static_range(LOG):
        out |= ((number >> bit) & 1) << (LOG - 1 - bit)
    return out


@triton.jit
def sort_slots(x, LOG: tl.constexpr, DIMS: tl.constexpr, DOUBLE: tl.constexpr):
    """Sort the columns of int64 (2^LOG, rows): the number of rank r comes to reversed_bits(r).

    As `cuda_select.sort_rows`, but the bit b of a rank is the position along the axis b. Most steps
    compare ranks that differ in a low bit: with the bits reversed these are numbers of the same
    thread, and half as many shuffles are needed.
    """
    cube = tl.reshape(x, [2] * DIMS)
    for stage in tl.static_range(1, LOG + 1):
        for step in tl.static_range(stage):
            cube = exchange(cube, stage - 1 - step, stage if stage < LOG else -1, DIMS, DOUBLE)
    return tl.reshape(cube, x.shape)


@triton.jit
def sort_keys(x, minus_one, LOG: tl.constexpr, DIMS: tl.constexpr, OWN: tl.constexpr):
    """Do what `sort_slots` does to int32, with fewer instructions.

    The first OWN axes are those along which a thread has both numbers. Along others a thread wants
    the smaller one of each pair throughout, or the larger one: then it turns its numbers over (~x),
    and takes the smaller ones as well.

    Args:
        minus_one: −1, which the compiler shall not know: ~x is x · (−1) − 1 then, on a unit that
            has nothing else to do.
    """
    cube = tl.reshape(x, [2] * DIMS)
    turned = tl.zeros([1] * DIMS, tl.int32)
    for stage in tl.static_range(1, LOG + 1):
        for step in tl.static_range(stage):
            new = turning(stage - 1 - step, stage if stage < LOG else -1, DIMS, OWN)
            cube = turn(cube, turned ^ new, minus_one)
            turned = new
            cube = take(cube, stage - 1 - step, stage, minus_one, DIMS, OWN)
    return tl.reshape(turn(cube, turned, minus_one), x.shape)


@triton.jit
def turning(axis: tl.constexpr, flip: tl.constexpr, DIMS: tl.constexpr, OWN: tl.constexpr):
    """Return 1 where numbers are to be turned over for an exchange: see `cuda_select.exchange`."""
    turned = tl.zeros([1] * DIMS, tl.int32)
    if axis >= OWN:
        turned = turned ^ side(axis, DIMS)
    if flip >= OWN:
        turned = turned ^ side(flip, DIMS)
    return turned


@triton.jit
def turn(cube, where, minus_one):
    """Return ~x where `where` is 1, x where it is 0."""
    change = where * minus_one
    return cube * (1 + 2 * change) + change


@triton.jit
def take(
    cube,
    axis: tl.constexpr,
    flip: tl.constexpr,
    minus_one,
    DIMS: tl.constexpr,
    OWN: tl.constexpr,
):
    """Exchange pairs along an axis, turned over as `turning` says."""
    other = (tl.sum(cube, axis, keep_dims=True) - cube).to(tl.int32)
    if axis >= OWN:
        return tl.minimum(cube, other * minus_one + minus_one)
    else:
        larger = side(axis, DIMS)
        if flip < OWN:
            larger = larger ^ side(flip, DIMS)
        return tl.where(larger == 1, tl.maximum(cube, other), tl.minimum(cube, other))


@triton.jit
def lengths(counts, row, exists):
    """Return the lengths of a row's four lists, added up: where each one ends."""
    counts += row * LANES
    first = tl.load(counts, mask=exists, other=0)
    second = first + tl.load(counts + 1, mask=exists, other=0)
    third = second + tl.load(counts + 2, mask=exists, other=0)
    return first, second, third, third + tl.load(counts + 3, mask=exists, other=0)


@triton.jit
def place_of(slot, first, second, third, longest):
    """Return where the number `slot` of a row's four lists, one after another, is in its memory."""
    at = tl.where(slot < first, slot, longest + slot - first)
    at = tl.where(slot < second, at, 2 * longest + slot - second)
    return tl.where(slot < third, at, 3 * longest + slot - third)


@triton.jit
def distance_in(pair):
    """Return the distance of list entries."""
    return (pair >> 32).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def short_keys(distance, exists, slot, LOG: tl.constexpr):
    """Return int32 keys (2^LOG, rows), and which rows (rows,) they don't stand for.

    A key is the distance, as a whole number of 32 − LOG bits between the row's smallest and largest
    one, above the slot. Keys are ordered as distances are, but for distances that became equal.
    """
    TOP: tl.constexpr = (1 << (32 - LOG)) - 2
    known = exists & (distance == distance)
    low = tl.min(tl.where(known, distance, float("inf")), 0)
    high = tl.max(tl.where(known, distance, float("-inf")), 0)
    span = high - low
    some = (span > 1e-30) & (span < 1e38)
    nan = tl.max((exists & (distance != distance)).to(tl.int32), 0) > 0
    low = tl.where(some, low, 0.0)[None, :]
    scale = tl.where(some, TOP / tl.where(some, span, 1.0), 0.0)[None, :]
    level = tl.minimum((tl.where(known, distance, low) - low) * scale, TOP)
    level = tl.minimum(tl.maximum(level.to(tl.int32), 0), TOP)
    key = ((level << LOG) | slot) ^ FLIP
    return tl.where(exists, key, INT32_MAX), nan | (some == 0)


@triton.jit
def keep_ranks(key, column, out, valid, k, LOG: tl.constexpr):
    """Store sorted keys (2^LOG, rows) at wanted ranks, and those before and after them.

    Args:
        column: (2^LOG,) int32, which column a rank belongs to, −1 none.
        out: (rows,) pointers to 3·k int32 each.
        valid: (rows,) which to store.
    """
    LAST_RANK: tl.constexpr = (1 << LOG) - 1
    rank = reversed_bits(tl.arange(0, 1 << LOG), LOG)
    at = tl.load(column + rank)
    follower = tl.load(column + rank + 1, mask=rank < LAST_RANK, other=-1)
    leader = tl.load(column + rank - 1, mask=rank > 0, other=-1)
    out = out[None, :]
    tl.store(out + at[:, None], key, mask=valid[None, :] & (at >= 0)[:, None])
    tl.store(out + (k + follower)[:, None], key, mask=valid[None, :] & (follower >= 0)[:, None])
    tl.store(out + (2 * k + leader)[:, None], key, mask=valid[None, :] & (leader >= 0)[:, None])


@triton.jit(do_not_specialize=["start", "minus_one"])
def order(
    lists,
    counts,
    column,
    kept,
    index,
    queue,
    waiting,
    total,
    rows,
    points,
    start,
    k,
    longest,
    minus_one,
    LOG: tl.constexpr,
    DIMS: tl.constexpr,
    OWN: tl.constexpr,
    K: tl.constexpr,
):
    """Sort the lists of rows by short keys and store the positions at the wanted ranks.

    A rank is certain if the keys beside it stand for other distances. Rows that are not certain
    join the queue.

    Args:
        lists, counts: as `near` and `redo` leave them, 2^LOG numbers of a row at most.
        column: as in `keep_ranks`.
        kept: (total, 3, k) int32, to write to.
        index: (B, N, k) int32: the rows from `start` on are written, `rows` of every block.
        queue: (total,) int32, and `waiting` (1,) int32: how many rows it has.
        minus_one, OWN: as in `sort_keys`.
    """
    ROWS: tl.constexpr = 1 << (DIMS - LOG)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < total
    first, second, third, count = lengths(counts, row, inside)
    lists += row * (LANES * longest)
    slot = tl.arange(0, 1 << LOG)[:, None]
    exists = slot < count[None, :]
    at = place_of(slot, first[None, :], second[None, :], third[None, :], longest)
    pair = tl.load(lists[None, :] + at, mask=exists, other=0)
    key, unsure = short_keys(distance_in(pair), exists, slot, LOG)
    key = sort_keys(key, minus_one, LOG, DIMS, OWN)
    kept += row * (3 * k)
    keep_ranks(key, column, kept, inside, k, LOG)
    tl.debug_barrier()  # all keys are written before any is read

    c = tl.arange(0, K)[:, None]
    valid = inside[None, :] & (c < k)
    own = tl.load(kept[None, :] + c, mask=valid, other=0)
    first_rank = tl.load(column)  # the column of rank 0, before which there is none
    before = tl.load(kept[None, :] + (k + c), mask=valid & (c != first_rank), other=0)
    after = tl.load(kept[None, :] + (2 * k + c), mask=valid, other=0)
    alike = ((own ^ before) >> LOG == 0) & (c != first_rank) | ((own ^ after) >> LOG == 0)
    unsure = inside & (unsure | (tl.max((alike & valid).to(tl.int32), 0) > 0))
    slot = (own ^ FLIP) & ((1 << LOG) - 1)
    at = place_of(slot, first[None, :], second[None, :], third[None, :], longest)
    position = tl.load(lists[None, :] + at, mask=valid, other=0).to(tl.int32)
    point = row // rows * points + start + row % rows
    tl.store(index + point[None, :] * k + c, position, mask=valid)
    place = tl.atomic_add(waiting + tl.zeros_like(row), 1, mask=unsure, sem="relaxed")
    tl.store(queue + place, row.to(tl.int32), mask=unsure)


@triton.jit
def sortable(pair, exists):
    """Return list entries as int64 that sort by distance, then position (20 bits); LAST for none.

    Read as float64 they are between 1 and 2, and LAST is 2.
    """
    bits = order_bits(distance_in(pair))
    key = ((bits.to(tl.int64) + 0x80000000) << 20) | (pair & 0xFFFFF) | ONE
    return tl.where(exists, key, LAST)


@triton.jit(do_not_specialize=["start"])
def order_exactly(
    lists,
    counts,
    column,
    index,
    queue,
    waiting,
    rows,
    points,
    start,
    k,
    longest,
    LOG: tl.constexpr,
    DIMS: tl.constexpr,
    DOUBLE: tl.constexpr,
):
    """Sort the lists of the queue's rows and store the positions at the wanted ranks.

    Arguments as for `order`; a program does 2^DIMS numbers at once.
    """
    ROWS: tl.constexpr = 1 << (DIMS - LOG)
    slot = tl.arange(0, 1 << LOG)[:, None]
    where = tl.load(column + reversed_bits(slot, LOG))
    end = tl.load(waiting)
    for begin in range(tl.program_id(0) * ROWS, end, tl.num_programs(0) * ROWS):
        number = begin + tl.arange(0, ROWS)
        row = tl.load(queue + number, mask=number < end, other=0).to(tl.int64)
        first, second, third, count = lengths(counts, row, number < end)
        exists = slot < count[None, :]
        at = place_of(slot, first[None, :], second[None, :], third[None, :], longest)
        own = lists + row * (LANES * longest)
        pair = tl.load(own[None, :] + at, mask=exists, other=0)
        key = sort_slots(sortable(pair, exists), LOG, DIMS, DOUBLE)
        point = row // rows * points + start + row % rows
        valid = (number < end)[None, :] & (where >= 0)
        tl.store(index + point[None, :] * k + where, (key & 0xFFFFF).to(tl.int32), mask=valid)
