"""Triton programs that find wanted ranks in rows of distances, exactly and without sorting them.

Two passes, both on integers, so that their results do not depend on how the work is split:

    narrow   one program for a row (or a piece of at most CHUNK of it): find a threshold below which
             lie all of the `wanted` smallest distances but no more than ROOM; keep what lies below
    pick     sort the ROOM that are left of a row and store those at the wanted ranks

A distance and its position travel as one int64, the distance's bits above, so that equal distances
are ordered by position. The threshold comes from the quantiles of a sample of the row: most rows
need one or two counts over all distances (1.3 on average on a ResGCN-28's features; bisecting the
bits of the distance would need 8).
"""

from __future__ import annotations

import triton
import triton.language as tl

from .cuda_tuning import tuned

INT32_MAX = tl.constexpr(0x7FFFFFFF)
EMPTY = tl.constexpr(0x7FFFFFFFFFFFFFFF)  # sorts behind every distance, NaN included
SAMPLE = tl.constexpr(512)


@triton.jit
def order_bits(distance):
    """Return int32 that is ordered as the float32 `distance`: −0 equals 0, NaN is the largest."""
    distance = tl.where(distance == 0, 0.0, distance)
    bits = distance.to(tl.int32, bitcast=True)
    bits = tl.where(distance != distance, 0x7FC00000, bits)
    return bits ^ ((bits >> 31) & INT32_MAX)


@triton.jit
def load_bits(source, squares, at, valid, PACKED: tl.constexpr):
    """Load order bits and positions at `at` of a row, which holds products or packed pairs.

    A product is x_i·x_j; the distance |x_j|² − 2 x_i·x_j ranks like |x_i − x_j|².
    """
    if PACKED:
        pair = tl.load(source + at, mask=valid, other=EMPTY)
        bits = (pair >> 32).to(tl.int32)
        position = pair.to(tl.int32)
    else:
        product = tl.load(source + at, mask=valid, other=0.0, eviction_policy="evict_first")
        square = tl.load(squares + at, mask=valid, other=0.0, eviction_policy="evict_last")
        bits = tl.where(valid, order_bits(square - 2.0 * product), INT32_MAX)
        position = at
    return bits, position


@triton.jit
def quantile(sample, aim, low, high):
    """Return a threshold in low < t ≤ high with about `aim` of the sample at or below it."""
    found = aim + aim  # not yet counted
    while (high - low > 1) & (tl.abs(found - aim) * 8 > aim):
        middle = low + (high - low) // 2
        found = tl.sum((sample <= middle.to(tl.int32)).to(tl.int32), 0)
        low = tl.where(found < aim, middle, low)
        high = tl.where(found < aim, high, middle)
    return high


@triton.jit
def threshold(bits, sample, low, high, count, sampled, wanted, ROOM: tl.constexpr):
    """Return t and how many bits are ≤ t: at least `wanted`, at most ROOM but for equal bits.

    Invariant: fewer than `wanted` are ≤ low, and at least that many, `count`, are ≤ high. low and
    high are int64, since their difference may not fit into 32 bits.
    """
    goal = (wanted + ROOM) // 2
    aim = goal.to(tl.float32) * sampled / count
    tries = 0
    while (count > ROOM) & (high - low > 1):
        middle = low + (high - low) // 2
        if tries < 4:
            whole = tl.minimum(tl.maximum(aim, 1.0), sampled.to(tl.float32)).to(tl.int32)
            guess = quantile(sample, whole, low, high)
            middle = tl.where(guess < high, guess, middle)
        found = tl.sum((bits <= middle.to(tl.int32)).to(tl.int32), 0)
        miss = goal.to(tl.float32) / tl.maximum(found, 1)
        aim *= tl.minimum(tl.maximum(miss, 0.25), 4.0)
        low = tl.where(found < wanted, middle, low)
        high = tl.where(found < wanted, high, middle)
        count = tl.where(found < wanted, count, found)
        tries += 1
    return high.to(tl.int32), count


@tuned(warps=(4, 8), key=("CHUNK", "ROOM", "PACKED"))
@triton.jit
def narrow(
    source,
    squares,
    kept,
    width,
    rows,
    wanted,
    ROOM: tl.constexpr,
    CHUNK: tl.constexpr,
    PACKED: tl.constexpr,
):
    """Keep the `wanted` smallest of every piece of a row, and up to ROOM in all.

    Args:
        source: (B·rows, width): products float32, or packed pairs int64.
        squares: (B, width) float32, |x_j|²; not read if PACKED.
        kept: (B·rows, pieces, ROOM) int64, filled up with EMPTY.
        rows: how many rows of `source` belong to a block.
    """
    row, piece = tl.program_id(0).to(tl.int64), tl.program_id(1)
    lane = tl.arange(0, CHUNK)
    at = piece * CHUNK + lane
    source += row * width
    squares += row // rows * width
    bits, position = load_bits(source, squares, at, at < width, PACKED)
    exists = bits < INT32_MAX
    count = tl.sum(exists.to(tl.int32), 0)
    least = tl.minimum(wanted, count)
    low = tl.min(bits, 0).to(tl.int64) - 1
    high = tl.max(tl.where(exists, bits, -INT32_MAX - 1), 0)
    # Loaded again from the cache: a tensor in registers has no slices.
    step: tl.constexpr = CHUNK // min(SAMPLE, CHUNK)
    some = piece * CHUNK + tl.arange(0, min(SAMPLE, CHUNK)) * step
    sample, _ = load_bits(source, squares, some, some < width, PACKED)
    sampled = tl.sum((sample < INT32_MAX).to(tl.int32), 0)
    high, count = threshold(bits, sample, low, high.to(tl.int64), count, sampled, least, ROOM)

    keep = (bits <= high) & exists
    if count > ROOM:  # more equal distances than there is room for: the first ones
        below = tl.sum((bits < high).to(tl.int32), 0)
        equal = (bits == high).to(tl.int32)
        keep = (bits < high) | ((bits == high) & (tl.cumsum(equal, 0) <= ROOM - below))
        count = ROOM
    kept += (row * tl.num_programs(1) + piece) * ROOM
    slot = tl.cumsum(keep.to(tl.int32), 0) - 1
    pair = (bits.to(tl.int64) << 32) | position.to(tl.int64)
    tl.store(kept + slot, pair, mask=keep)
    free = tl.arange(0, ROOM)
    tl.store(kept + free, tl.full([ROOM], EMPTY, tl.int64), mask=free >= count)


@tuned(warps=(1, 2, 4), key=("ROOM",))
@triton.jit
def pick(kept, column, index, k, ROOM: tl.constexpr):
    """Sort a row of `kept` (rows, ROOM) and store the positions of the wanted ranks.

    `column` (ROOM,) int32 tells which column of `index` (rows, k) int32 a rank belongs to, −1 none.
    """
    row = tl.program_id(0).to(tl.int64)
    rank = tl.arange(0, ROOM)
    pair = tl.sort(tl.load(kept + row * ROOM + rank))
    where = tl.load(column + rank)
    tl.store(index + row * k + where, pair.to(tl.int32), mask=where >= 0)
