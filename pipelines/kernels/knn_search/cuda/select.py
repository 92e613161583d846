"""Triton programs that find wanted ranks in rows of distances, exactly and without sorting them.

    narrow   search a threshold below which lie all of the `wanted` smallest distances of a row
             (or of a piece of it, CHUNK long) but no more than ROOM; keep what lies below
    pick     sort the ROOM that are left of a row and store those at the wanted ranks

Both work on integers, so their results depend on nothing but the distances. A distance travels with
its position as one int64, the distance's bits above: equal distances are ordered by position.
"""

from __future__ import annotations

import triton
import triton.language as tl

INT32_MAX = tl.constexpr(0x7FFFFFFF)
NAN_BITS = tl.constexpr(0x7FC00000)
EMPTY = tl.constexpr(0x7FFFFFFFFFFFFFFF)  # sorts behind every distance, NaN included


@triton.jit
def order_bits(distance):
    """Return int32 that is ordered as the float32 `distance`: −0 equals 0, NaN is the largest."""
    distance = tl.where(distance == 0, 0.0, distance)
    bits = distance.to(tl.int32, bitcast=True)
    bits = tl.where(distance != distance, NAN_BITS, bits)
    return bits ^ ((bits >> 31) & INT32_MAX)


@triton.jit
def distance_of(bits):
    """Return the float32 distance that has these order bits."""
    return (bits ^ ((bits >> 31) & INT32_MAX)).to(tl.float32, bitcast=True)


@triton.jit
def load_bits(source, squares, row, rows, at, width, valid, PACKED: tl.constexpr):
    """Load order bits and positions at the columns `at` of rows of products or of packed pairs.

    A product is x_i·x_j; the distance |x_j|² − 2 x_i·x_j ranks like |x_i − x_j|². Bits are
    INT32_MAX where there is nothing.
    """
    source += row[:, None] * width + at[None, :]
    if PACKED:
        pair = tl.load(source, mask=valid, other=EMPTY)
        bits = (pair >> 32).to(tl.int32)
        position = pair.to(tl.int32)
    else:
        squares += (row // rows)[:, None] * width + at[None, :]
        product = tl.load(source, mask=valid, other=0.0)
        square = tl.load(squares, mask=valid, other=0.0)
        bits = tl.where(valid, order_bits(square - 2.0 * product), INT32_MAX)
        position = tl.zeros_like(bits) + at[None, :]
    return bits, position


@triton.jit
def threshold(bits, exists, wanted, room):
    """Return, per row, t and how many bits are ≤ t: at least `wanted`, at most room but for ties.

    Invariant: fewer than `wanted` are ≤ low, `below`, and at least that many, `count`, are ≤ high.
    Guessing as if numbers grew like the square of the distance from low takes 4 to 7 rounds on the
    features of a scan in a ResGCN-28, halving the distances 7 to 10. After some guesses the bits
    are halved, at most 32 times, for distances that differ by magnitudes. low and high are int64,
    since their difference may not fit into 32 bits.
    """
    count = tl.sum(exists.to(tl.int32), 1)
    below = tl.zeros_like(count)
    low = tl.min(bits, 1).to(tl.int64) - 1
    high = tl.max(tl.where(exists, bits, -INT32_MAX - 1), 1).to(tl.int64)
    active = (count > room) & (high - low > 1)
    rounds = 0
    while tl.max(active.to(tl.int32), 0) > 0:
        middle = low + (high - low) // 2
        if rounds < 12:
            least, most = distance_of(low.to(tl.int32)), distance_of(high.to(tl.int32))
            share = (0.5 * (wanted + room) - below) / tl.maximum(count - below, 1)
            share = tl.sqrt(tl.minimum(tl.maximum(share, 0.0025), 0.9))
            middle = order_bits((1.0 - share) * least + share * most).to(tl.int64)
            middle = tl.minimum(tl.maximum(middle, low + 1), high - 1)
        rounds += 1
        found = tl.sum((bits <= middle.to(tl.int32)[:, None]).to(tl.int32), 1)
        low = tl.where(active & (found < wanted), middle, low)
        below = tl.where(active & (found < wanted), found, below)
        high = tl.where(active & (found >= wanted), middle, high)
        count = tl.where(active & (found >= wanted), found, count)
        active = (count > room) & (high - low > 1)
    return high.to(tl.int32), count


@triton.jit(do_not_specialize=["wanted"])
def narrow(
    source,
    squares,
    kept,
    width,
    total,
    rows,
    wanted,
    ROOM: tl.constexpr,
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
    PACKED: tl.constexpr,
):
    """Keep the `wanted` smallest of every piece of a row, and up to ROOM in all.

    Args:
        source: (total, width): products float32, or packed pairs int64.
        squares: (B, width) float32, |x_j|²; not read if PACKED.
        kept: (total, pieces, ROOM) int64, filled up with EMPTY.
        rows: how many rows of `source` belong to a block.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    piece = tl.program_id(1)
    at = piece * CHUNK + tl.arange(0, CHUNK)
    valid = (row < total)[:, None] & (at < width)[None, :]
    bits, position = load_bits(source, squares, row, rows, at, width, valid, PACKED)
    exists = bits < INT32_MAX
    high, count = threshold(bits, exists, wanted, ROOM)

    keep = (bits <= high[:, None]) & exists
    if tl.max(count, 0) > ROOM:  # more equal distances than there is room for: the first ones
        below = tl.sum((bits < high[:, None]).to(tl.int32), 1)
        equal = (bits == high[:, None]) & exists
        early = tl.cumsum(equal.to(tl.int32), 1) <= (ROOM - below)[:, None]
        keep = keep & (early | (bits < high[:, None]))
    slot = tl.cumsum(keep.to(tl.int32), 1) - 1
    pair = (bits.to(tl.int64) << 32) | position.to(tl.int64)
    kept += (row * tl.num_programs(1) + piece)[:, None] * ROOM
    tl.store(kept + slot, pair, mask=keep)
    free = tl.arange(0, ROOM)[None, :]
    nothing = tl.full([ROWS, ROOM], EMPTY, tl.int64)
    tl.store(kept + free, nothing, mask=(free >= count[:, None]) & (row < total)[:, None])


@triton.jit
def side(axis: tl.constexpr, DIMS: tl.constexpr):
    """Return the position, 0 or 1, along an axis of an array of shape [2] · DIMS."""
    return tl.reshape(tl.arange(0, 2), [1] * axis + [2] + [1] * (DIMS - axis - 1))


@triton.jit
def exchange(
    cube,
    axis: tl.constexpr,
    flip: tl.constexpr,
    DIMS: tl.constexpr,
    DOUBLE: tl.constexpr = False,
):
    """Order the pairs of numbers along an axis: one step of a bitonic network.

    The larger one comes to position 1; where the position along the axis `flip` is 1, to 0; −1 for
    no such axis. The other one of a pair is their sum less oneself (modulo 2^64): NumPy adds that
    up when Triton is interpreted, where `tl.sort` takes minutes.

    DOUBLE: compare the int64, positive and with the exponent of 1, as float64: one instruction
    instead of two, and not in the unit that all others wait for. On GPUs with fast float64.
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
def sort_rows(x, LOG: tl.constexpr, DIMS: tl.constexpr):
    """Sort the rows, 2^LOG long, of an int64 array of 2^DIMS numbers.

    Sorted runs of 2^stage alternate in direction until the last stage, LOG. The bit b of a rank is
    the position along the axis DIMS − 1 − b.

    Reference:
        Batcher, Sorting networks and their applications, AFIPS 1968.
    """
    cube = tl.reshape(x, [2] * DIMS)
    for stage in tl.static_range(1, LOG + 1):
        for step in tl.static_range(stage):
            cube = exchange(
                cube, DIMS - stage + step, DIMS - 1 - stage if stage < LOG else -1, DIMS
            )
    return tl.reshape(cube, x.shape)


@triton.jit(do_not_specialize=["start"])
def pick(
    kept,
    column,
    index,
    total,
    rows,
    points,
    start,
    k,
    LOG: tl.constexpr,
    DIMS: tl.constexpr,
):
    """Sort rows of `kept` (total, 2^LOG) and store the positions at the wanted ranks.

    A program does 2^DIMS numbers. `column` (2^LOG,) int32 tells which column of `index` (B, points,
    k) int32 a rank belongs to, −1 none. The kept rows are those from `start` on, `rows` of every
    block.
    """
    ROWS: tl.constexpr = 1 << (DIMS - LOG)
    ROOM: tl.constexpr = 1 << LOG
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    rank = tl.arange(0, ROOM)
    valid = (row < total)[:, None] & (rank >= 0)[None, :]
    pair = tl.load(kept + row[:, None] * ROOM + rank[None, :], mask=valid, other=EMPTY)
    pair = sort_rows(pair, LOG, DIMS)
    where = tl.load(column + rank)[None, :]
    point = row // rows * points + start + row % rows
    tl.store(index + point[:, None] * k + where, pair.to(tl.int32), mask=valid & (where >= 0))
