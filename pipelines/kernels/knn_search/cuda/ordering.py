"""The wanted ranks among candidates: step 6 of `pipelines.kernels.knn_search.cuda`.

Rows are sorted by bitonic networks (Batcher, Sorting networks and their applications, AFIPS 1968)
on an array of shape [2, 2, …], whose axes are the bits of an element's rank.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .distances import INT32_MAX, LANES, order_bits

ONE = tl.constexpr(0x3FF0000000000000)  # the bits of 1.0
LAST = tl.constexpr(0x4000000000000000)  # of 2.0
FLIP = tl.constexpr(-0x80000000)  # makes unsigned integers comparable as signed ones


@triton.jit
def side(axis: tl.constexpr, DIMS: tl.constexpr):
    """Return the position, 0 or 1, along an axis of an array of shape [2] · DIMS."""
    return tl.reshape(tl.arange(0, 2), [1] * axis + [2] + [1] * (DIMS - axis - 1))


@triton.jit
def exchange(
    cube, axis: tl.constexpr, flip: tl.constexpr, DIMS: tl.constexpr, DOUBLE: tl.constexpr
):
    """Order the pairs of elements along an axis: one step of a bitonic network.

    The larger one comes to position 1, or to 0 where the position along the axis `flip` is 1 (−1:
    no such axis). The other element of a pair is their sum less one's own (modulo 2^64), which is
    fast in Triton's interpreter, where `tl.sort` takes minutes.

    DOUBLE: compare the int64, positive and with the exponent of 1, as float64: one instruction
    instead of two, and in a unit that is free. For GPUs with fast float64.
    """
    other = tl.sum(cube, axis, keep_dims=True) - cube
    larger = side(axis, DIMS)
    if flip >= 0:
        larger = larger ^ side(flip, DIMS)
    if DOUBLE:
        greater = cube.to(tl.float64, bitcast=True) > other.to(tl.float64, bitcast=True)
    else:
        greater = cube > other
    return tl.where(greater != (larger == 1), other, cube)


@triton.jit
def reversed_bits(number, LOG: tl.constexpr):
    """Return integers below 2^LOG with their bits in reverse order."""
    out = number * 0
    for bit in tl.static_range(LOG):
        out |= ((number >> bit) & 1) << (LOG - 1 - bit)
    return out


@triton.jit
def sort_slots(x, LOG: tl.constexpr, DIMS: tl.constexpr, DOUBLE: tl.constexpr):
    """Sort the columns of int64 (2^LOG, rows): the element of rank r comes to reversed_bits(r).

    Sorted runs of 2^stage alternate in direction until the last stage. Bit b of a rank is the
    position along axis b: most steps compare ranks that differ in a low bit, and with the bits
    reversed these are elements of the same thread, so half as many shuffles are needed.
    """
    cube = tl.reshape(x, [2] * DIMS)
    for stage in tl.static_range(1, LOG + 1):
        for step in tl.static_range(stage):
            cube = exchange(cube, stage - 1 - step, stage if stage < LOG else -1, DIMS, DOUBLE)
    return tl.reshape(cube, x.shape)


@triton.jit
def sort_keys(x, minus_one, LOG: tl.constexpr, DIMS: tl.constexpr, OWN: tl.constexpr):
    """Do what `sort_slots` does to int32, with fewer instructions.

    Along the first OWN axes a thread has both elements of a pair. Along the others it keeps the
    smaller one of each pair, or the larger one: then it inverts its elements (~x), and keeps the
    smaller ones as well. `minus_one` is −1 at run time, unknown to the compiler: so ~x is computed
    as x · (−1) − 1, in a unit that is free.
    """
    cube = tl.reshape(x, [2] * DIMS)
    inverted = tl.zeros([1] * DIMS, tl.int32)
    for stage in tl.static_range(1, LOG + 1):
        for step in tl.static_range(stage):
            new = inversion(stage - 1 - step, stage if stage < LOG else -1, DIMS, OWN)
            cube = invert(cube, inverted ^ new, minus_one)
            inverted = new
            cube = take(cube, stage - 1 - step, stage, minus_one, DIMS, OWN)
    return tl.reshape(invert(cube, inverted, minus_one), x.shape)


@triton.jit
def inversion(axis: tl.constexpr, flip: tl.constexpr, DIMS: tl.constexpr, OWN: tl.constexpr):
    """Return 1 where elements are to be inverted for an exchange; see `exchange`."""
    inverted = tl.zeros([1] * DIMS, tl.int32)
    if axis >= OWN:
        inverted = inverted ^ side(axis, DIMS)
    if flip >= OWN:
        inverted = inverted ^ side(flip, DIMS)
    return inverted


@triton.jit
def invert(cube, where, minus_one):
    """Return ~x where `where` is 1, x where it is 0."""
    change = where * minus_one
    return cube * (1 + 2 * change) + change


@triton.jit
def take(
    cube, axis: tl.constexpr, flip: tl.constexpr, minus_one, DIMS: tl.constexpr, OWN: tl.constexpr
):
    """Exchange pairs along an axis, inverted as `inversion` says."""
    other = (tl.sum(cube, axis, keep_dims=True) - cube).to(tl.int32)
    if axis >= OWN:
        return tl.minimum(cube, other * minus_one + minus_one)
    else:
        larger = side(axis, DIMS)
        if flip < OWN:
            larger = larger ^ side(flip, DIMS)
        return tl.where(larger == 1, tl.maximum(cube, other), tl.minimum(cube, other))


@triton.jit
def buffer_ends(counts, row, exists):
    """Return where each of a row's four buffers ends, if they are joined."""
    counts += row * LANES
    first = tl.load(counts, mask=exists, other=0)
    second = first + tl.load(counts + 1, mask=exists, other=0)
    third = second + tl.load(counts + 2, mask=exists, other=0)
    return first, second, third, third + tl.load(counts + 3, mask=exists, other=0)


@triton.jit
def place_of(slot, first, second, third, longest):
    """Return the offset of candidate `slot` of a row, whose four buffers are counted as one."""
    at = tl.where(slot < first, slot, longest + slot - first)
    at = tl.where(slot < second, at, 2 * longest + slot - second)
    return tl.where(slot < third, at, 3 * longest + slot - third)


@triton.jit
def distance_in(pair):
    """Return the distance of candidates."""
    return (pair >> 32).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def short_keys(distance, exists, slot, LOG: tl.constexpr):
    """Return int32 keys (2^LOG, rows), and which rows (rows,) they don't stand for.

    A key is the distance, scaled to an integer of 32 − LOG bits between the row's smallest and
    largest one, above the slot. Its order is that of the distances, except where they became equal.
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
    """Store the sorted keys (2^LOG, rows) of the wanted ranks, and those before and after them.

    `out` (rows,) are pointers to 3·k int32 each, `valid` (rows,) which of them to store to.
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
    candidates, counts, column, kept, index, queue, waiting,
    total, rows, points, start, k, longest, minus_one,
    LOG: tl.constexpr, DIMS: tl.constexpr, OWN: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Sort the candidates of rows by short keys and store the positions at the wanted ranks.

    A rank is decided if the keys beside it stand for other distances. Rows with an undecided rank
    join the queue. An instance sorts 2^DIMS candidates, 2^LOG of a row at most. `kept` (total, 3,
    k) int32 is written to; `minus_one` and OWN are as in `sort_keys`.
    """
    ROWS: tl.constexpr = 1 << (DIMS - LOG)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < total
    first, second, third, count = buffer_ends(counts, row, inside)
    candidates += row * (LANES * longest)
    slot = tl.arange(0, 1 << LOG)[:, None]
    exists = slot < count[None, :]
    at = place_of(slot, first[None, :], second[None, :], third[None, :], longest)
    pair = tl.load(candidates[None, :] + at, mask=exists, other=0)
    key, undecided = short_keys(distance_in(pair), exists, slot, LOG)
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
    undecided = inside & (undecided | (tl.max((alike & valid).to(tl.int32), 0) > 0))
    slot = (own ^ FLIP) & ((1 << LOG) - 1)
    at = place_of(slot, first[None, :], second[None, :], third[None, :], longest)
    position = tl.load(candidates[None, :] + at, mask=valid, other=0).to(tl.int32)
    point = row // rows * points + start + row % rows
    tl.store(index + point[None, :] * k + c, position, mask=valid)
    place = tl.atomic_add(waiting + tl.zeros_like(row), 1, mask=undecided, sem="relaxed")
    tl.store(queue + place, row.to(tl.int32), mask=undecided)


@triton.jit
def sortable(pair, exists):
    """Return candidates as int64 that sort by distance, then position (20 bits); LAST for none.

    Read as float64 they are between 1 and 2, and LAST is 2.
    """
    bits = order_bits(distance_in(pair))
    key = ((bits.to(tl.int64) + 0x80000000) << 20) | (pair & 0xFFFFF) | ONE
    return tl.where(exists, key, LAST)


@triton.jit(do_not_specialize=["start"])
def order_exactly(
    candidates, counts, column, index, queue, waiting,
    rows, points, start, k, longest,
    LOG: tl.constexpr, DIMS: tl.constexpr, DOUBLE: tl.constexpr,
):  # fmt: skip
    """Sort the candidates of the queue's rows and store the positions at the wanted ranks."""
    ROWS: tl.constexpr = 1 << (DIMS - LOG)
    slot = tl.arange(0, 1 << LOG)[:, None]
    where = tl.load(column + reversed_bits(slot, LOG))
    end = tl.load(waiting)
    for begin in range(tl.program_id(0) * ROWS, end, tl.num_programs(0) * ROWS):
        number = begin + tl.arange(0, ROWS)
        row = tl.load(queue + number, mask=number < end, other=0).to(tl.int64)
        first, second, third, count = buffer_ends(counts, row, number < end)
        exists = slot < count[None, :]
        at = place_of(slot, first[None, :], second[None, :], third[None, :], longest)
        own = candidates + row * (LANES * longest)
        pair = tl.load(own[None, :] + at, mask=exists, other=0)
        key = sort_slots(sortable(pair, exists), LOG, DIMS, DOUBLE)
        point = row // rows * points + start + row % rows
        valid = (number < end)[None, :] & (where >= 0)
        tl.store(index + point[None, :] * k + where, (key & 0xFFFFF).to(tl.int32), mask=valid)
