"""Triton programs of `cuda_near`: neighbors found while distances are computed.

    prepare  centre the features; |x_j|²; every number, scaled, as a sum of two fp16
    limits   two distances between which is, by a sample, the one that a wanted number of points of
             a row are below
    count    how many points are below eight distances between them; the limit by interpolation
    near     what is below its row's limit joins one of the row's four lists
    redo     the exact lists of rows whose limit was too low or too high

`count` and `near` make distances a tile at a time, on tensor cores. A list holds int64: the bits of
the distance |x_j|² − 2 x_i·x_j, a float32, above the position. `cuda_near_order` has the programs
that sort.
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
def narrowed(distance, wanted, low, high, below, count, EDGE: tl.constexpr):
    """Return a number within the bracket [low, high] of a limit, and how many distances are below.

    `below` and `count` of the distances (ROWS, SAMPLE) are not beyond the bracket's ends. The guess
    is as if numbers grew like the square of the distance from low; it keeps EDGE off the ends.
    """
    share = tl.sqrt(tl.maximum(wanted - below, 0.0) / tl.maximum(count - below, 1.0))
    middle = low + tl.minimum(tl.maximum(share, EDGE), 1 - EDGE) * (high - low)
    return middle, tl.sum((distance <= middle[:, None]).to(tl.int32), 1).to(tl.float32)


@triton.jit
def cut(wanted, middle, found, low, high, below, count):
    """Return the bracket of the limit that `wanted` are below, as `found` are not beyond middle."""
    few = (found < wanted) & (middle > low)
    many = (found >= wanted) & (middle < high)
    low, below = tl.where(few, middle, low), tl.where(few, found, below)
    return low, tl.where(many, middle, high), below, tl.where(many, found, count)


@triton.jit
def between(wanted, low, high, below, count):
    """Return the limit that about `wanted` are below, by interpolation within its bracket."""
    share = (wanted - below) / tl.maximum(count - below, 1.0)
    # What fills up the points is infinitely far, and never within a limit.
    return tl.minimum(low + tl.minimum(tl.maximum(share, 0.0), 1.0) * (high - low), 3e38)


@triton.jit
def sampled(distance, wanted, more, ROUNDS: tl.constexpr, BOTH: tl.constexpr):
    """Return distances that about `wanted` and `more` of each row of (ROWS, SAMPLE) are below.

    ROUNDS guesses narrow the brackets of either limit; each guess narrows both. The second one is
    the first if not BOTH.
    """
    low, high = tl.min(distance, 1), tl.max(distance, 1)
    below = tl.zeros([distance.shape[0]], tl.float32)
    count = below + distance.shape[1]
    low2, high2, below2, count2 = low, high, below, count
    for _ in range(ROUNDS):
        if BOTH:
            middle, found = narrowed(distance, more, low2, high2, below2, count2, 0.03)
            low2, high2, below2, count2 = cut(more, middle, found, low2, high2, below2, count2)
            low, high, below, count = cut(wanted, middle, found, low, high, below, count)
        middle, found = narrowed(distance, wanted, low, high, below, count, 0.03)
        low, high, below, count = cut(wanted, middle, found, low, high, below, count)
        if BOTH:
            low2, high2, below2, count2 = cut(more, middle, found, low2, high2, below2, count2)
    limit = between(wanted, low, high, below, count)
    return limit, between(more, low2, high2, below2, count2) if BOTH else limit


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
    more,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    SAMPLE: tl.constexpr,
    ROUNDS: tl.constexpr,
    BOTH: tl.constexpr,
):
    """Store, per row, distances that about `wanted`, and `more`, of SAMPLE of the points are below.

    The sample is spread evenly over a block's positions.

    Args:
        parts, units, squares: as `prepare` stores them.
        out: (B, rows, 2) float32, for the rows from `start` on.
        wanted, more: float32; `more` is used if BOTH.
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
    out += (block * rows + row) * 2
    low, high = sampled(distance, wanted, more, ROUNDS, BOTH)
    tl.store(out, low, mask=inside)
    tl.store(out + 1, high, mask=inside)


@triton.jit
def lanes_of(distance):
    """Return distances (ROWS, COLUMNS) as (ROWS, LANES, M): those that a thread holds side by side.

    Number i of lane t is column 8·(i // 2) + 2 t + i % 2: where tensor cores leave results.
    """
    ROWS: tl.constexpr = distance.shape[0]
    COLUMNS: tl.constexpr = distance.shape[1]
    pieces = tl.reshape(distance, [ROWS, COLUMNS // 8, LANES, 2])
    return tl.reshape(tl.permute(pieces, (0, 2, 1, 3)), [ROWS, LANES, COLUMNS // LANES])


@triton.jit
def halves_of(pieces):
    """Split (ROWS, LANES, M) into its first and second half; no number leaves its thread."""
    HALF: tl.constexpr = pieces.shape[2] // 2
    halves = tl.reshape(pieces, [pieces.shape[0], pieces.shape[1], 2, HALF])
    return tl.split(tl.permute(halves, (0, 1, 3, 2)))


@triton.jit
def tally(counts, distance, scale, offset, PTX: tl.constexpr):
    """Add 1 to the field of `counts`, of 8 bits in int64, that a distance belongs to.

    Field i is for distances of which scale · distance + offset is i when rounded, 0 for those
    below; those beyond 7 have none.
    """
    if PTX:
        return tl.inline_asm_elementwise(
            """{
            .reg .f32 level;
            .reg .b32 field;
            .reg .b64 one;
            fma.rn.f32 level, $2, $3, $4;
            max.f32 level, level, 0f00000000;
            add.f32 level, level, 0f4B000000;
            sub.f32 level, level, 0f4B000000;
            add.f32 level, level, 0f49800000;
            mov.b32 field, level;
            sub.s32 field, field, 0x49800000;
            mov.b64 one, 1;
            shl.b64 one, one, field;
            add.s64 $0, $1, one;
            }""",
            "=l,l,f,f,f",
            [counts, distance, scale, offset],
            dtype=tl.int64,
            is_pure=True,
            pack=1,
        )
    else:
        level = tl.minimum(tl.maximum(distance * scale + offset, 0.0), 8.0)
        field = tl.floor(level + 0.5).to(tl.int64)
        one = tl.full([1, 1], 1, tl.int64)
        return counts + tl.where(field < 8, one << (8 * tl.minimum(field, 7)), 0)


@triton.jit
def tally_all(counts, pieces, scale, offset, PTX: tl.constexpr):
    """Add all distances (ROWS, LANES, M) to `counts` (ROWS, LANES): see `tally`."""
    if pieces.shape[2] == 1:
        return tally(counts, tl.reshape(pieces, counts.shape), scale, offset, PTX)
    else:
        first, second = halves_of(pieces)
        counts = tally_all(counts, first, scale, offset, PTX)
        return tally_all(counts, second, scale, offset, PTX)


@triton.jit
def tile_distances(
    a0, a1, own, others, units, squares, unit, column, piece, C: tl.constexpr, PART: tl.constexpr
):
    """Return the distances (ROWS, COLUMNS) of rows to the points at `column`.

    a0 and a1 are the rows' parts if they have one piece of C channels, PART.
    """
    # Loaded before the products, so that they are there when those are.
    square = tl.load(squares + column)
    other_unit = tl.load(units + column)
    other = others + column[None, :] * C
    total = tl.zeros([a0.shape[0], column.shape[0]], tl.float32)
    if C == PART:
        b0, b1 = load_parts(other, piece)
        total = product(a0, a1, b0, b1, total)
    else:
        for channel in range(0, C, PART):
            a0, a1 = load_parts(own + channel, piece)
            b0, b1 = load_parts(other + channel, piece)
            total = product(a0, a1, b0, b1, total)
    return square[None, :] + (total * unit[:, None]) * other_unit[None, :]


@triton.jit
def interpolated(even, odd, low, step, wanted):
    """Return a limit that hardly fewer than `wanted` and few more points are below, per row.

    Args:
        even, odd: (ROWS, LANES) int64, fields of 16 bits: how many distances round to the levels 0,
            2, 4, 6, and 1, 3, 5, 7, where level i ends at low + i · step, (ROWS,) float32.
    """
    before = tl.zeros_like(low)  # numbers up to the level's begin
    limit = low + 7 * step
    done = before > 0
    for level in tl.static_range(8):
        word = (odd if level % 2 else even) >> (16 * (level // 2))
        upto = before + tl.sum((word & 0xFFFF).to(tl.int32), 1).to(tl.float32)
        # Within a level numbers are spread evenly but for chance: 2.5 standard deviations of that.
        goal = wanted + 1.0 + 1.25 * tl.sqrt(upto - before)
        share = (goal - before) / tl.maximum(upto - before, 1.0)
        here = low + (level - 1 + tl.maximum(share, 0.0)) * step
        limit = tl.where(done | (upto < goal), limit, here)
        done = done | (upto >= goal)
        before = upto
    return limit


@triton.jit(do_not_specialize=["start", "wanted"])
def count(
    parts,
    units,
    squares,
    bracket,
    out,
    points,
    padded,
    start,
    rows,
    wanted,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STAGES: tl.constexpr,
    PTX: tl.constexpr,
):
    """Store, per row, a distance that a few more than `wanted` of all points are below.

    Args:
        parts, units, squares: as `prepare` stores them; M is a multiple of COLUMNS.
        bracket: (B, rows, 2) float32, of `limits`; `out`, likewise, gets the limit in its first.
    """
    PART: tl.constexpr = C if C < 64 else 64
    FIELDS: tl.constexpr = 0x00FF00FF00FF00FF
    block = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    part = tl.arange(0, PART)
    first_point = block * padded
    point = first_point + tl.minimum(start + row, points - 1)
    piece = tl.num_programs(1).to(tl.int64) * padded * C
    own = parts + point[:, None] * C + part[None, :]
    others = parts + first_point * C + part[:, None]
    unit = -2.0 * tl.load(units + point)
    place = (block * rows + row) * 2
    low = tl.load(bracket + place, mask=inside, other=0.0)
    high = tl.load(bracket + place + 1, mask=inside, other=0.0)
    step = tl.maximum(high - low, 1e-30) / 7
    scale = 1 / step
    offset = 0.5 - low * scale
    even = tl.zeros([ROWS, LANES], tl.int64)
    odd = tl.zeros([ROWS, LANES], tl.int64)
    tile = tl.arange(0, COLUMNS)
    a0, a1 = load_parts(own, piece)
    for first in tl.range(0, points, COLUMNS, num_stages=STAGES):
        distance = tile_distances(
            *(a0, a1, own, others, units + first_point, squares + first_point, unit),
            *(first + tile, piece, C, PART),
        )
        counts = tl.zeros([ROWS, LANES], tl.int64)
        counts = tally_all(counts, lanes_of(distance), scale[:, None], offset[:, None], PTX)
        even += counts & FIELDS
        odd += (counts >> 8) & FIELDS
    limit = interpolated(even, odd, low, step, wanted)
    tl.store(out + place, tl.minimum(limit, 3e38), mask=inside)


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
def append(base, count, pieces, limit, column, PTX: tl.constexpr):
    """Append to each of (ROWS, LANES) lists its distances (ROWS, LANES, M), one by one.

    `column` is that of a lane's first number; see `lanes_of`.
    """
    if pieces.shape[2] == 1:
        return put(base, count, tl.reshape(pieces, base.shape), limit, column, PTX)
    else:
        first, second = halves_of(pieces)
        count = append(base, count, first, limit, column, PTX)
        step: tl.constexpr = 1 if pieces.shape[2] == 2 else 2 * pieces.shape[2]
        return append(base, count, second, limit, column + step, PTX)


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
        limits: (B, rows, 2) float32, of which the first counts.
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
    limit = tl.load(limits + (block * rows + row) * 2, mask=inside, other=float("-inf"))[:, None]
    unit = -2.0 * tl.load(units + point)
    lane = tl.arange(0, LANES)[None, :]
    place = (block * rows + row)[:, None] * LANES + lane
    base = lists + place * longest
    count = tl.zeros([ROWS, LANES], tl.int32)
    tile = tl.arange(0, COLUMNS)
    a0, a1 = load_parts(own, piece)
    for first in tl.range(0, points, COLUMNS, num_stages=STAGES):
        distance = tile_distances(
            *(a0, a1, own, others, units + first_point, squares + first_point, unit),
            *(first + tile, piece, C, PART),
        )
        count = tl.where(count > longest - M, FULL, count)  # no room for a tile's
        near_by = tl.where(count == FULL, float("-inf"), limit)
        count = append(base, count, lanes_of(distance), near_by, first + 2 * lane, PTX)
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
def count_up_to(scratch, bits, limit, points, CHUNK: tl.constexpr, WHOLE: tl.constexpr):
    """Return how many of `scratch` (N,) int32 are ≤ limit; if WHOLE, `bits` (CHUNK,) are all."""
    total = (bits <= limit).to(tl.int32)
    if not WHOLE:
        for first in range(CHUNK, points, CHUNK):
            at = first + tl.arange(0, CHUNK)
            bits = tl.load(scratch + at, mask=at < points, other=INT32_MAX)
            total += (bits <= limit).to(tl.int32)
    return tl.sum(total, 0)


@triton.jit
def list_nearest(scratch, out, wanted, points, CHUNK: tl.constexpr, WHOLE: tl.constexpr):
    """Store the `wanted` smallest of `scratch` at `out`; of equal ones those of first positions.

    WHOLE: `points` are not more than CHUNK.
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
    limit = high.to(tl.int32)
    below = count_up_to(scratch, head, limit - 1, points, CHUNK, WHOLE)
    equal_left = wanted - tl.where(low > -0x80000000, below, 0)
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
    LONG: tl.constexpr,
    WHOLE: tl.constexpr,
):
    """Make the lists of the queue's rows exact: the `wanted` nearest, one list after another.

    A program does every so many-th row of the queue; what comes of a row is the same in any order.

    Args:
        x: (B, N, channels) float32, and `mean` (B, channels), as `prepare` got them.
        lists, counts, queue, waiting: as `near` left them; the first list's length is `wanted`
            then, though it goes on into the others' memory, and theirs 0.
        scratch: (programs, N) int32, for a program to write to.
        CHUNK, LONG, WHOLE: of a row CHUNK distances are made at once and LONG read, WHOLE if that
            is all.
    """
    scratch += tl.program_id(0).to(tl.int64) * points
    lane = tl.arange(0, LANES)
    for number in range(tl.program_id(0), tl.load(waiting), tl.num_programs(0)):
        at = tl.load(queue + number).to(tl.int64)
        block = at // rows
        point = start + at % rows
        row_bits(x, mean, squares, scratch, block, point, points, padded, channels, PART, CHUNK)
        tl.debug_barrier()  # all of the row is written before any of it is read
        list_nearest(scratch, lists + at * LANES * longest, wanted, points, LONG, WHOLE)
        tl.store(counts + at * LANES + lane, tl.where(lane == 0, wanted, 0))
        tl.debug_barrier()
