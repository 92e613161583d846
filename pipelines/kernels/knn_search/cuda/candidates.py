"""Candidates of rows: steps 4 and 5 of `pipelines.kernels.knn_search.cuda`."""

from __future__ import annotations

import triton
import triton.language as tl

from .distances import (
    INT32_MAX,
    LANES,
    NAN_BITS,
    centred,
    distance_of,
    halves_of,
    lanes_of,
    load_parts,
    order_bits,
    rows_of,
    tile_distances,
)

FULL = tl.constexpr(1 << 24)  # the count of a buffer that had no room left


@triton.jit
def put(base, count, distance, threshold, column, PTX: tl.constexpr):
    """Append distance and column to the buffers at `base` if distance ≤ threshold; return counts.

    With PTX, one instruction sequence for each element: `tl.store` would first move all of them to
    threads of its own choice, through shared memory, which takes longer than all the rest.
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
            [base.to(tl.int64, bitcast=True), count, distance, threshold, column],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )
    else:
        keep = distance <= threshold
        pair = (distance.to(tl.int32, bitcast=True).to(tl.int64) << 32) | column.to(tl.int64)
        tl.store(base + count, pair, mask=keep)
        return count + keep.to(tl.int32)


@triton.jit
def append(base, count, pieces, threshold, column, PTX: tl.constexpr):
    """Append to each of (ROWS, LANES) buffers its distances (ROWS, LANES, M), one by one.

    `column` is that of a lane's first element; see `lanes_of`.
    """
    if pieces.shape[2] == 1:
        return put(base, count, tl.reshape(pieces, base.shape), threshold, column, PTX)
    else:
        first, second = halves_of(pieces)
        count = append(base, count, first, threshold, column, PTX)
        step: tl.constexpr = 1 if pieces.shape[2] == 2 else 2 * pieces.shape[2]
        return append(base, count, second, threshold, column + step, PTX)


@triton.jit(do_not_specialize=["start"])
def collect(
    parts, units, squares, thresholds, candidates, counts, queue, waiting,
    points, padded, start, rows, wanted, room, longest,
    C: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, STAGES: tl.constexpr,
    PTX: tl.constexpr,
):  # fmt: skip
    """Append the points within the thresholds of rows `start` to `start + rows` of every block.

    The queue gets the rows that have not from `wanted` to `room` candidates.
    """
    PART: tl.constexpr = C if C < 64 else 64
    M: tl.constexpr = COLUMNS // LANES
    block = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    first_point, own, unit, piece = rows_of(parts, units, points, padded, start, row, C, PART)
    others = parts + first_point * C + tl.arange(0, PART)[:, None]
    threshold = tl.load(thresholds + (block * rows + row) * 2, mask=inside, other=float("-inf"))
    lane = tl.arange(0, LANES)[None, :]
    place = (block * rows + row)[:, None] * LANES + lane
    base = candidates + place * longest
    count = tl.zeros([ROWS, LANES], tl.int32)
    tile = tl.arange(0, COLUMNS)
    a0, a1 = load_parts(own, piece)
    for first in tl.range(0, points, COLUMNS, num_stages=STAGES):
        distance = tile_distances(
            *(a0, a1, own, others, units + first_point, squares + first_point, unit),
            *(first + tile, piece, C, PART),
        )
        count = tl.where(count > longest - M, FULL, count)  # no room for a tile's
        within = tl.where(count == FULL, float("-inf"), threshold[:, None])
        count = append(base, count, lanes_of(distance), within, first + 2 * lane, PTX)
    tl.store(counts + place, count, mask=inside[:, None])
    found = tl.sum(count, 1)
    wrong = inside & ((found < wanted) | (found > room))
    slot = tl.atomic_add(waiting + tl.zeros_like(row), 1, mask=wrong, sem="relaxed")
    tl.store(queue + slot, (block * rows).to(tl.int32) + row, mask=wrong)


@triton.jit
def row_bits(
    x, mean, squares, scratch, block, row,
    points, padded, channels,
    PART: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
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
            other = centred(x, mean, at, block, exists, channel, channels)
            total += tl.sum(other * own[None, :], 1)
        square = tl.load(squares + block * padded + at, mask=exists, other=0.0)
        tl.store(scratch + at, order_bits(square - 2.0 * total), mask=exists)


@triton.jit
def count_up_to(scratch, bits, threshold, points, CHUNK: tl.constexpr, WHOLE: tl.constexpr):
    """Count the elements of `scratch` (N,) int32 ≤ threshold; if WHOLE, `bits` (CHUNK,) has all."""
    total = (bits <= threshold).to(tl.int32)
    if not WHOLE:
        for first in range(CHUNK, points, CHUNK):
            at = first + tl.arange(0, CHUNK)
            bits = tl.load(scratch + at, mask=at < points, other=INT32_MAX)
            total += (bits <= threshold).to(tl.int32)
    return tl.sum(total, 0)


@triton.jit
def store_nearest(scratch, out, wanted, points, CHUNK: tl.constexpr, WHOLE: tl.constexpr):
    """Store the `wanted` smallest of `scratch` at `out`; of equal ones those of first positions.

    The largest of them is found by bisection of its bits. WHOLE: `points` are at most CHUNK.
    """
    at = tl.arange(0, CHUNK)
    head = tl.load(scratch + at, mask=at < points, other=INT32_MAX)
    low = tl.full([], -0x80000000, tl.int64)  # fewer than wanted are ≤ low − 1
    high = tl.full([], NAN_BITS, tl.int64)
    while low < high:
        middle = low + (high - low) // 2
        enough = count_up_to(scratch, head, middle.to(tl.int32), points, CHUNK, WHOLE) >= wanted
        high = tl.where(enough, middle, high)
        low = tl.where(enough, low, middle + 1)
    threshold = high.to(tl.int32)
    below = count_up_to(scratch, head, threshold - 1, points, CHUNK, WHOLE)
    equal_left = wanted - tl.where(low > -0x80000000, below, 0)
    count = equal_left * 0
    for first in range(0, points, CHUNK):
        at = first + tl.arange(0, CHUNK)
        bits = tl.load(scratch + at, mask=at < points, other=INT32_MAX)
        equal = (bits == threshold).to(tl.int32)
        keep = (bits < threshold) | ((equal > 0) & (tl.cumsum(equal, 0) <= equal_left))
        slot = count + tl.cumsum(keep.to(tl.int32), 0) - 1
        distance = distance_of(bits).to(tl.int32, bitcast=True)
        tl.store(out + slot, (distance.to(tl.int64) << 32) | at.to(tl.int64), mask=keep)
        count += tl.sum(keep.to(tl.int32), 0)
        equal_left -= tl.sum(equal, 0)


@triton.jit(do_not_specialize=["start", "wanted"])
def redo(
    x, mean, squares, candidates, counts, queue, waiting, scratch,
    points, padded, channels, start, rows, wanted, longest,
    PART: tl.constexpr, CHUNK: tl.constexpr, LONG: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Replace the candidates of the queue's rows by their `wanted` nearest points.

    They begin in the first buffer and run on into the others, whose counts become 0. An instance
    takes every n-th row of the queue; a row's result does not depend on its place there. Distances
    of a row go to `scratch` (instances, N) int32: CHUNK are computed at a time and LONG read, which
    is all of them if WHOLE.
    """
    scratch += tl.program_id(0).to(tl.int64) * points
    lane = tl.arange(0, LANES)
    for number in range(tl.program_id(0), tl.load(waiting), tl.num_programs(0)):
        at = tl.load(queue + number).to(tl.int64)
        block = at // rows
        point = start + at % rows
        row_bits(x, mean, squares, scratch, block, point, points, padded, channels, PART, CHUNK)
        tl.debug_barrier()  # all of the row is written before any of it is read
        store_nearest(scratch, candidates + at * LANES * longest, wanted, points, LONG, WHOLE)
        tl.store(counts + at * LANES + lane, tl.where(lane == 0, wanted, 0))
        tl.debug_barrier()
