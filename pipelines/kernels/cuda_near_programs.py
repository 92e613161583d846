"""Triton programs of `cuda_near`: neighbors found while distances are computed.

    prepare  centre the features; |x_j|²; every number, scaled, as a sum of two fp16
    limits   a distance below which a row has about as many points as its lists shall have
    near     distances a tile at a time, on tensor cores; what is below its row's limit joins one of
             the row's four lists
    redo     the exact lists of rows whose limit was too low or too high

`product` is shared by those that multiply. A list holds int64: the bits of the distance
|x_j|² − 2 x_i·x_j, a float32, above the position. `cuda_near_order` has the programs that sort.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .cuda_select import INT32_MAX, NAN_BITS, distance_of, order_bits

LANES = tl.constexpr(4)  # lists of a row: as many threads hold the row's distances of a tile
FULL = tl.constexpr(1 << 24)  # the length of a list that had no room left


@triton.jit
def scale_of(largest):
    """Return the power of two that brings `largest` into [2¹⁴, 2¹⁵), fp16 ending at 2¹⁶; and 1/it.

    Of numbers smaller than 2⁻¹¹², NaN and ∞ it is that of the next number that has one.
    """
    exponent = (largest.to(tl.int32, bitcast=True) >> 23) & 0xFF
    exponent = tl.minimum(tl.maximum(exponent, 15), 254)
    scale = ((268 - exponent) << 23).to(tl.float32, bitcast=True)
    return scale, ((exponent - 14) << 23).to(tl.float32, bitcast=True)


@triton.jit
def centred(x, mean, at, block, row_exists, channel, channels):
    """Load x − mean at rows `at` and some channels, zero beyond."""
    known = channel < channels
    value = tl.load(
        x + at[:, None] * channels + channel[None, :],
        mask=row_exists[:, None] & known[None, :],
        other=0.0,
    )
    return value - tl.load(mean + block * channels + channel, mask=known, other=0.0)[None, :]


@triton.jit
def prepare(
    x, mean, parts, units, squares, points, padded, channels, C: tl.constexpr, ROWS: tl.constexpr
):
    """Store x − mean as high and low fp16 parts, their unit, and the squared norms.

    N is filled up to M, `padded`, a multiple of ROWS, with points that are infinitely far.

    Args:
        x: (B, N, channels) float32.
        mean: (B, channels) float32.
        parts: (2, B, M, C) fp16, zeros beyond `channels`. A point's own parts added up, times its
            unit, are x − mean to 22 bits.
        units: (B, M) float32, powers of two.
        squares: (B, M) float32.
    """
    PART: tl.constexpr = C if C < 64 else 64
    block = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < points
    at = block * points + row
    to = block * padded + row
    piece = tl.num_programs(1).to(tl.int64) * padded * C
    total = tl.zeros([ROWS], tl.float32)
    largest = tl.zeros([ROWS], tl.float32)
    for first in tl.static_range(0, C, PART):
        value = centred(x, mean, at, block, inside, first + tl.arange(0, PART), channels)
        total += tl.sum(value * value, 1)
        largest = tl.maximum(largest, tl.max(tl.abs(value), 1))
    scale, unit = scale_of(largest)
    for first in tl.static_range(0, C, PART):
        channel = first + tl.arange(0, PART)
        value = centred(x, mean, at, block, inside, channel, channels) * scale[:, None]
        high = value.to(tl.float16)
        low = (value - high.to(tl.float32)).to(tl.float16)
        high, low = tl.where(inside[:, None], high, 0.0), tl.where(inside[:, None], low, 0.0)
        out = parts + to[:, None] * C + channel[None, :]
        tl.store(out, high)
        tl.store(out + piece, low)
    tl.store(units + to, unit)
    tl.store(squares + to, tl.where(inside, total, float("inf")))


@triton.jit
def product(a0, a1, b0, b1, total):
    """Add a·b to float32 `total`, of numbers in two fp16 parts; small products first.

    What is left out, the low parts with each other, is 2⁻²² of a product at most.
    """
    total = tl.dot(a1, b0, total)
    total = tl.dot(a0, b1, total)
    return tl.dot(a0, b0, total)


@triton.jit
def load_parts(parts, piece):
    """Load both parts of a tile of numbers."""
    return tl.load(parts), tl.load(parts + piece)


@triton.jit
def limits(
    parts,
    units,
    squares,
    out,
    points,
    padded,
    start,
    rows,
    wanted,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    SAMPLE: tl.constexpr,
    ROUNDS: tl.constexpr,
):
    """Store, per row, a distance that about `wanted` of SAMPLE of a block's points are below.

    The sample is spread evenly over the block's positions. The bracket of the limit, [low, high]
    with `below` and `count` points not beyond its ends, is narrowed ROUNDS times, as if numbers
    grew like the square of the distance from low, and interpolated once.

    Args:
        parts, units, squares: as `prepare` stores them.
        out: (B, rows) float32, for the rows from `start` on.
        wanted: float32.
    """
    PART: tl.constexpr = C if C < 16 else 16
    block = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    column = (tl.arange(0, SAMPLE).to(tl.int64) * points // SAMPLE).to(tl.int32)
    part = tl.arange(0, PART)
    first_point = block * padded
    point = first_point + tl.minimum(start + row, points - 1)
    piece = tl.num_programs(1).to(tl.int64) * padded * C
    own = parts + point[:, None] * C + part[None, :]
    other = parts + (first_point + column)[None, :] * C + part[:, None]
    total = tl.zeros([ROWS, SAMPLE], tl.float32)
    for channel in range(0, C, PART):
        a0, a1 = load_parts(own + channel, piece)
        b0, b1 = load_parts(other + channel, piece)
        total = product(a0, a1, b0, b1, total)
    unit = -2.0 * tl.load(units + point)
    square = tl.load(squares + first_point + column)
    other_unit = tl.load(units + first_point + column)
    distance = square[None, :] + (total * unit[:, None]) * other_unit[None, :]

    low, high = tl.min(distance, 1), tl.max(distance, 1)
    below = tl.zeros([ROWS], tl.float32)
    count = below + SAMPLE
    for _ in range(ROUNDS):
        share = tl.sqrt((wanted - below) / tl.maximum(count - below, 1.0))
        middle = low + tl.minimum(tl.maximum(share, 0.03), 0.97) * (high - low)
        found = tl.sum((distance <= middle[:, None]).to(tl.int32), 1).to(tl.float32)
        few = found < wanted
        low, below = tl.where(few, middle, low), tl.where(few, found, below)
        high, count = tl.where(few, high, middle), tl.where(few, count, found)
    share = (wanted - below) / tl.maximum(count - below, 1.0)
    limit = low + tl.minimum(tl.maximum(share, 0.0), 1.0) * (high - low)
    # What fills up the points is infinitely far, and never within a limit.
    tl.store(out + block * rows + row, tl.minimum(limit, 3e38), mask=inside)


@triton.jit
def put(base, count, distance, limit, column, PTX: tl.constexpr):
    """Append distance and column to the lists at `base` where distance ≤ limit; return the counts.

    PTX: in one instruction sequence for each number. `tl.store` would first move all of them to
    threads of its own choice, through shared memory: more work than all the rest.
    """
    if PTX:
        return tl.inline_asm_elementwise(
            """{
            .reg .pred near;
            .reg .b64 at;
            setp.le.f32 near, $3, $4;
            mad.wide.s32 at, $2, 8, $1;
            @near st.global.v2.b32 [at], {$5, $3};
            mov.b32 $0, $2;
            @near add.s32 $0, $0, 1;
            }""",
            "=&r,l,r,f,f,r",
            [base.to(tl.int64, bitcast=True), count, distance, limit, column],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )
    else:
        keep = distance <= limit
        pair = (distance.to(tl.int32, bitcast=True).to(tl.int64) << 32) | column.to(tl.int64)
        tl.store(base + count, pair, mask=keep)
        return count + keep.to(tl.int32)


@triton.jit
def append(base, count, distance, limit, column, M: tl.constexpr, PTX: tl.constexpr):
    """Append to each of (ROWS, LANES) lists its M distances (ROWS, LANES, M), one by one.

    The columns of number i are `column` + 8·(i // 2) + i % 2: those of a thread, where tensor cores
    leave results. Halved again and again: no number leaves its thread.
    """
    if M == 1:
        return put(base, count, tl.reshape(distance, base.shape), limit, column, PTX)
    else:
        HALF: tl.constexpr = M // 2
        halves = tl.reshape(distance, [base.shape[0], LANES, 2, HALF])
        first, second = tl.split(tl.permute(halves, (0, 1, 3, 2)))
        count = append(base, count, first, limit, column, HALF, PTX)
        step: tl.constexpr = 1 if M == 2 else 4 * HALF
        return append(base, count, second, limit, column + step, HALF, PTX)


@triton.jit(do_not_specialize=["start"])
def near(
    parts,
    units,
    squares,
    limits,
    lists,
    counts,
    queue,
    waiting,
    points,
    padded,
    start,
    rows,
    wanted,
    room,
    longest,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STAGES: tl.constexpr,
    PTX: tl.constexpr,
):
    """List the points nearer than the limits of rows `start` to `start + rows` of every block.

    Args:
        parts, units, squares: as `prepare` stores them; M is a multiple of COLUMNS.
        limits: (B, rows) float32.
        lists: (B, rows, LANES, longest) int64.
        counts: (B, rows, LANES) int32: the lengths of the lists.
        queue: (B·rows,) int32, and `waiting` (1,) int32: the rows that have not `wanted` to `room`
            points in their lists, in any order, and how many they are.
    """
    PART: tl.constexpr = C if C < 64 else 64
    M: tl.constexpr = COLUMNS // LANES
    block = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    part = tl.arange(0, PART)
    first_point = block * padded
    point = first_point + tl.minimum(start + row, points - 1)
    piece = tl.num_programs(1).to(tl.int64) * padded * C
    own = parts + point[:, None] * C + part[None, :]
    others = parts + first_point * C + part[:, None]
    limit = tl.load(limits + block * rows + row, mask=inside, other=float("-inf"))[:, None]
    unit = -2.0 * tl.load(units + point)
    lane = tl.arange(0, LANES)[None, :]
    place = (block * rows + row)[:, None] * LANES + lane
    base = lists + place * longest
    count = tl.zeros([ROWS, LANES], tl.int32)
    tile = tl.arange(0, COLUMNS)
    a0, a1 = load_parts(own, piece)
    for first in tl.range(0, points, COLUMNS, num_stages=STAGES):
        column = first + tile
        # Loaded before the products, so that they are there when those are.
        square = tl.load(squares + first_point + column)
        other_unit = tl.load(units + first_point + column)
        other = others + column[None, :] * C
        total = tl.zeros([ROWS, COLUMNS], tl.float32)
        if C == PART:
            b0, b1 = load_parts(other, piece)
            total = product(a0, a1, b0, b1, total)
        else:
            for channel in range(0, C, PART):
                a0, a1 = load_parts(own + channel, piece)
                b0, b1 = load_parts(other + channel, piece)
                total = product(a0, a1, b0, b1, total)
        distance = square[None, :] + (total * unit[:, None]) * other_unit[None, :]
        pieces = tl.reshape(distance, [ROWS, COLUMNS // 8, LANES, 2])
        pieces = tl.reshape(tl.permute(pieces, (0, 2, 1, 3)), [ROWS, LANES, M])
        count = tl.where(count > longest - M, FULL, count)  # no room for a tile's
        near_by = tl.where(count == FULL, float("-inf"), limit)
        count = append(base, count, pieces, near_by, first + 2 * lane, M, PTX)
    tl.store(counts + place, count, mask=inside[:, None])
    found = tl.sum(count, 1)
    wrong = inside & ((found < wanted) | (found > room))
    slot = tl.atomic_add(waiting + tl.zeros_like(row), 1, mask=wrong, sem="relaxed")
    tl.store(queue + slot, (block * rows).to(tl.int32) + row, mask=wrong)


@triton.jit
def row_bits(
    x,
    mean,
    squares,
    scratch,
    block,
    row,
    points,
    padded,
    channels,
    PART: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Store the order bits of all distances of a row into `scratch` (N,) int32."""
    x += block * points * channels
    for first in range(0, points, CHUNK):
        at = first + tl.arange(0, CHUNK)
        exists = at < points
        total = tl.zeros([CHUNK], tl.float32)
        for begin in range(0, channels, PART):
            channel = begin + tl.arange(0, PART)
            known = channel < channels
            middle = tl.load(mean + block * channels + channel, mask=known, other=0.0)
            own = tl.load(x + row * channels + channel, mask=known, other=0.0) - middle
            other = tl.load(
                x + at[:, None] * channels + channel[None, :],
                mask=exists[:, None] & known[None, :],
                other=0.0,
            )
            total += tl.sum((other - middle[None, :]) * own[None, :], 1)
        square = tl.load(squares + block * padded + at, mask=exists, other=0.0)
        tl.store(scratch + at, order_bits(square - 2.0 * total), mask=exists)


@triton.jit
def count_up_to(scratch, limit, points, CHUNK: tl.constexpr):
    """Return how many of `scratch` (N,) int32 are ≤ limit."""
    total = tl.zeros([CHUNK], tl.int32)
    for first in range(0, points, CHUNK):
        at = first + tl.arange(0, CHUNK)
        bits = tl.load(scratch + at, mask=at < points, other=INT32_MAX)
        total += (bits <= limit).to(tl.int32)
    return tl.sum(total, 0)


@triton.jit
def list_nearest(scratch, out, wanted, points, CHUNK: tl.constexpr):
    """Store the `wanted` smallest of `scratch` at `out`; of equal ones those of first positions."""
    low = tl.full([], -0x80000000, tl.int64)  # fewer than wanted are ≤ low − 1
    high = tl.full([], NAN_BITS, tl.int64)
    while low < high:
        middle = low + (high - low) // 2
        enough = count_up_to(scratch, middle.to(tl.int32), points, CHUNK) >= wanted
        high = tl.where(enough, middle, high)
        low = tl.where(enough, low, middle + 1)
    limit = high.to(tl.int32)
    equal_left = wanted - tl.where(
        low > -0x80000000, count_up_to(scratch, limit - 1, points, CHUNK), 0
    )
    count = equal_left * 0
    for first in range(0, points, CHUNK):
        at = first + tl.arange(0, CHUNK)
        bits = tl.load(scratch + at, mask=at < points, other=INT32_MAX)
        equal = (bits == limit).to(tl.int32)
        keep = (bits < limit) | ((equal > 0) & (tl.cumsum(equal, 0) <= equal_left))
        slot = count + tl.cumsum(keep.to(tl.int32), 0) - 1
        distance = distance_of(bits).to(tl.int32, bitcast=True)
        tl.store(out + slot, (distance.to(tl.int64) << 32) | at.to(tl.int64), mask=keep)
        count += tl.sum(keep.to(tl.int32), 0)
        equal_left -= tl.sum(equal, 0)


@triton.jit(do_not_specialize=["start", "wanted"])
def redo(
    x,
    mean,
    squares,
    lists,
    counts,
    queue,
    waiting,
    scratch,
    points,
    padded,
    channels,
    start,
    rows,
    wanted,
    longest,
    PART: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Make the lists of the queue's rows exact: the `wanted` nearest, one list after another.

    A program does every so many-th row of the queue; what comes of a row is the same in any order.

    Args:
        x: (B, N, channels) float32, and `mean` (B, channels), as `prepare` got them.
        lists, counts, queue, waiting: as `near` left them; the first list's length is `wanted`
            then, though it goes on into the others' memory, and theirs 0.
        scratch: (programs, N) int32, for a program to write to.
    """
    scratch += tl.program_id(0).to(tl.int64) * points
    lane = tl.arange(0, LANES)
    for number in range(tl.program_id(0), tl.load(waiting), tl.num_programs(0)):
        at = tl.load(queue + number).to(tl.int64)
        block = at // rows
        point = start + at % rows
        row_bits(x, mean, squares, scratch, block, point, points, padded, channels, PART, CHUNK)
        tl.debug_barrier()  # all of the row is written before any of it is read
        list_nearest(scratch, lists + at * LANES * longest, wanted, points, CHUNK)
        tl.store(counts + at * LANES + lane, tl.where(lane == 0, wanted, 0))
        tl.debug_barrier()
