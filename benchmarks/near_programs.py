"""Triton programs of `benchmarks.near`: neighbors found while distances are computed.

    prepare  centre the features; |x_j|²; every number as a sum of three bf16
    limits   a distance below which a row has about as many points as its list shall have
    near     distances a tile at a time, on tensor cores; what is below its row's limit joins the
             row's list, in order of position
    redo     the exact list of rows whose limit was too low or too high
    choose   sort the lists and store the points of the wanted ranks

A list holds int64: the bits of the distance |x_j|² − 2 x_i·x_j, a float32, above the position.
"""

from __future__ import annotations

import triton
import triton.language as tl

from pipelines.kernels.cuda_select import (
    INT32_MAX,
    NAN_BITS,
    distance_of,
    exchange,
    load_bits,
    order_bits,
    threshold,
)

NUMBER = tl.constexpr(8388608.0)  # 2^23: floats from here to twice that are whole numbers
BITS = tl.constexpr(0x4B000000)  # of NUMBER
ONE = tl.constexpr(0x3FF0000000000000)  # the bits of 1.0
LAST = tl.constexpr(0x4000000000000000)  # of 2.0


@triton.jit
def prepare(x, mean, parts, squares, points, channels, piece, C: tl.constexpr, ROWS: tl.constexpr):
    """Store x − mean as high, middle and low bf16 parts, and the squared norms.

    Args:
        x: (B, N, channels) float32.
        mean: (B, channels) float32.
        parts: (3, B, N, C) bf16, zeros beyond `channels`; `piece` numbers each.
        squares: (B, N) float32.
    """
    PART: tl.constexpr = C if C < 64 else 64
    block = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < points
    at = block * points + row
    total = tl.zeros([ROWS], tl.float32)
    for first in tl.static_range(0, C, PART):
        channel = first + tl.arange(0, PART)
        known = channel < channels
        value = tl.load(
            x + at[:, None] * channels + channel[None, :],
            mask=inside[:, None] & known[None, :],
            other=0.0,
        )
        value -= tl.load(mean + block * channels + channel, mask=known, other=0.0)[None, :]
        total += tl.sum(value * value, 1)
        out = parts + at[:, None] * C + channel[None, :]
        high = value.to(tl.bfloat16)
        rest = value - high.to(tl.float32)
        middle = rest.to(tl.bfloat16)
        tl.store(out, high, mask=inside[:, None])
        tl.store(out + piece, middle, mask=inside[:, None])
        tl.store(out + 2 * piece, (rest - middle.to(tl.float32)).to(tl.bfloat16), inside[:, None])
    tl.store(squares + at, total, mask=inside)


@triton.jit(do_not_specialize=["wanted", "room"])
def limits(
    products,
    squares,
    out,
    width,
    total,
    rows,
    wanted,
    room,
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Store, per row, a distance that `wanted` to `room` of a sample of points are below.

    Args:
        products: (total, width) float32: x_i·x_j with the points j of the sample.
        squares: (B, width) float32, |x_j|² of the sample.
        out: (total,) float32.
        rows: how many rows of `products` belong to a block.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    at = tl.arange(0, CHUNK)
    valid = (row < total)[:, None] & (at < width)[None, :]
    bits, _ = load_bits(products, squares, row, rows, at, width, valid, PACKED=False)
    high, _ = threshold(bits, bits < INT32_MAX, wanted, room)
    limit = tl.minimum(distance_of(high), 3e38)  # what `near` takes for no point is infinitely far
    tl.store(out + row, limit, mask=row < total)


@triton.jit
def product(a0, a1, a2, b0, b1, b2, total):
    """Add a·b to float32 `total`, of numbers in three bf16 parts; small products first.

    What is left out (the two smallest parts with each other, and with the middle ones) is 2⁻²⁴ of
    the product: as much as rounding it to float32.
    """
    total = tl.dot(a0, b2, total)
    total = tl.dot(a2, b0, total)
    total = tl.dot(a1, b1, total)
    total = tl.dot(a0, b1, total)
    total = tl.dot(a1, b0, total)
    return tl.dot(a0, b0, total)


@triton.jit
def put(base, slot, room, distance, limit, column, PTX: tl.constexpr):
    """Store distance and column at `slot` of the list at `base` where distance ≤ limit.

    `slot` is float32, NUMBER more than the slot: its bits are then the slot and BITS.
    PTX: in one instruction sequence for each number. `tl.store` would first move all of them to
    threads of its own choice, through shared memory: more work than all the rest.
    """
    if PTX:
        tl.inline_asm_elementwise(
            """{
            .reg .pred near, fits;
            .reg .b64 at;
            setp.le.f32 near, $4, $5;
            setp.lt.and.f32 fits, $2, $3, near;
            mad.wide.s32 at, $2, 8, $1;
            @fits st.global.v2.b32 [at], {$6, $4};
            mov.b32 $0, 0;
            }""",
            "=r,l,r,r,f,f,r",
            [base.to(tl.int64, bitcast=True) - 8 * BITS, slot, room, distance, limit, column],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )
    else:
        pair = (distance.to(tl.int32, bitcast=True).to(tl.int64) << 32) | column.to(tl.int64)
        keep = (distance <= limit) & (slot < room)
        tl.store(base + (slot.to(tl.int32, bitcast=True) - BITS), pair, mask=keep)


@triton.jit
def load_parts(parts, piece, mask, PTX: tl.constexpr):
    """Load the three parts of a tile of numbers; Triton's interpreter can't multiply bf16."""
    high = tl.load(parts, mask=mask, other=0.0)
    middle = tl.load(parts + piece, mask=mask, other=0.0)
    low = tl.load(parts + 2 * piece, mask=mask, other=0.0)
    if PTX:
        return high, middle, low
    else:
        return high.to(tl.float32), middle.to(tl.float32), low.to(tl.float32)


@triton.jit(do_not_specialize=["start"])
def near(
    parts,
    squares,
    limits,
    lists,
    counts,
    points,
    start,
    rows,
    piece,
    room,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STAGES: tl.constexpr,
    PTX: tl.constexpr,
):
    """List the points nearer than the limits of rows `start` to `start + rows` of every block.

    Args:
        parts: (3, B, N, C) bf16, and `squares` (B, N), of `prepare`.
        limits: (B, rows) float32.
        lists: (B, rows, room) int64.
        counts: (B, rows) int32: how many points are below the limit; `room` of them at most are in
            the list.
    """
    PART: tl.constexpr = C if C < 64 else 64
    block = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    part = tl.arange(0, PART)
    parts += block * points * C
    own = parts + (start + row)[:, None] * C + part[None, :]
    limit = tl.load(limits + block * rows + row, mask=inside, other=float("-inf"))
    base = lists + (block * rows + row) * room
    tile = tl.arange(0, COLUMNS)
    earlier = (tile[:, None] < tile[None, :]).to(tl.float16)
    count = tl.full([ROWS], NUMBER, tl.float32)
    most = room.to(tl.float32) + NUMBER
    a0, a1, a2 = load_parts(own, piece, inside[:, None], PTX)
    for first in tl.range(0, points, COLUMNS, num_stages=STAGES):
        column = first + tile
        exists = column < points
        other = parts + column[None, :] * C + part[:, None]
        # Loaded before the products, so that it's there when they are.
        square = tl.load(squares + block * points + column, mask=exists, other=float("inf"))
        total = tl.zeros([ROWS, COLUMNS], tl.float32)
        if C == PART:
            b0, b1, b2 = load_parts(other, piece, exists[None, :], PTX)
            total = product(a0, a1, a2, b0, b1, b2, total)
        else:
            for channel in range(0, C, PART):
                a0, a1, a2 = load_parts(own + channel, piece, inside[:, None], PTX)
                b0, b1, b2 = load_parts(other + channel, piece, exists[None, :], PTX)
                total = product(a0, a1, a2, b0, b1, b2, total)
        distance = square[None, :] - 2.0 * total
        keep = tl.where(distance <= limit[:, None], 1.0, 0.0)
        # Counting by a product with a triangle of ones leaves every number with its thread.
        slot = tl.dot(keep.to(tl.float16), earlier) + count[:, None]
        put(base[:, None], slot, most, distance, limit[:, None], column[None, :], PTX)
        count += tl.sum(keep, 1)
    tl.store(counts + block * rows + row, (count - NUMBER).to(tl.int32), mask=inside)


@triton.jit
def row_bits(
    x, mean, squares, scratch, block, row, points, channels, PART: tl.constexpr, CHUNK: tl.constexpr
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
        square = tl.load(squares + block * points + at, mask=exists, other=0.0)
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
    scratch,
    points,
    channels,
    start,
    rows,
    total,
    wanted,
    room,
    PART: tl.constexpr,
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Make the list of each row exact that has fewer than `wanted` points or more than `room`.

    Args:
        x: (B, N, channels) float32, and `mean` (B, channels), as `prepare` got them.
        lists: (total, room) int64, and `counts` (total,) int32, as `near` left them; `rows` of
            them belong to a block, from its point `start` on.
        scratch: (programs, N) int32, for a program to write to.
    """
    first = tl.program_id(0) * ROWS
    scratch += tl.program_id(0).to(tl.int64) * points
    row = first + tl.arange(0, ROWS)
    count = tl.load(counts + row, mask=row < total, other=wanted)
    if tl.sum(((count < wanted) | (count > room)).to(tl.int32), 0) > 0:
        for number in range(first, tl.minimum(first + ROWS, total)):
            at = tl.zeros([], tl.int64) + number
            found = tl.load(counts + at)
            if (found < wanted) | (found > room):
                block = at // rows
                point = start + at % rows
                row_bits(x, mean, squares, scratch, block, point, points, channels, PART, CHUNK)
                tl.debug_barrier()  # all of the row is written before any of it is read
                list_nearest(scratch, lists + at * room, wanted, points, CHUNK)
                tl.store(counts + at, wanted)
                tl.debug_barrier()


@triton.jit
def reversed_bits(number, LOG: tl.constexpr):
    """Return numbers below 2^LOG with their bits in reverse order."""
    out = number * 0
    for bit in tl.static_range(LOG):
        out |= ((number >> bit) & 1) << (LOG - 1 - bit)
    return out


@triton.jit
def sort_slots(x, LOG: tl.constexpr, DIMS: tl.constexpr, DOUBLE: tl.constexpr):
    """Sort the columns of (2^LOG, rows): the number of rank r comes to reversed_bits(r).

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
def sortable(pair, exists):
    """Return list entries as int64 that sort by distance, then position (20 bits); LAST for none.

    Read as float64 they are between 1 and 2, and LAST is 2.
    """
    bits = order_bits((pair >> 32).to(tl.int32).to(tl.float32, bitcast=True))
    key = ((bits.to(tl.int64) + 0x80000000) << 20) | (pair & 0xFFFFF) | ONE
    return tl.where(exists, key, LAST)


@triton.jit(do_not_specialize=["start"])
def choose(
    lists,
    counts,
    column,
    index,
    total,
    rows,
    points,
    start,
    k,
    LOG: tl.constexpr,
    DIMS: tl.constexpr,
    DOUBLE: tl.constexpr,
):
    """Sort lists (total, 2^LOG) and store the positions at the wanted ranks.

    A program does 2^DIMS numbers; `column` and `index` as in `cuda_select.pick`.
    """
    ROWS: tl.constexpr = 1 << (DIMS - LOG)
    ROOM: tl.constexpr = 1 << LOG
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    count = tl.load(counts + row, mask=row < total, other=0)
    slot = tl.arange(0, ROOM)
    exists = slot[:, None] < count[None, :]
    pair = tl.load(lists + row[None, :] * ROOM + slot[:, None], mask=exists, other=0)
    key = sort_slots(sortable(pair, exists), LOG, DIMS, DOUBLE)
    where = tl.load(column + reversed_bits(slot, LOG))[:, None]
    point = row // rows * points + start + row % rows
    valid = (row < total)[None, :] & (where >= 0)
    tl.store(index + point[None, :] * k + where, (key & 0xFFFFF).to(tl.int32), mask=valid)
