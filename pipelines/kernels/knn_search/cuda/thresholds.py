"""Thresholds of rows: steps 2 and 3 of `pipelines.kernels.knn_search.cuda`."""

from __future__ import annotations

import triton
import triton.language as tl

from .distances import LANES, halves_of, lanes_of, load_parts, product, rows_of, tile_distances


@triton.jit
def narrowed(distance, wanted, low, high, below, count, EDGE: tl.constexpr):
    """Return a guess within the bracket [low, high], and how many distances are within it.

    Of the distances (ROWS, SAMPLE), `below` are within low and `count` within high. The guess
    assumes that their number grows like the square of the distance from low; it keeps EDGE off the
    ends of the bracket.
    """
    fraction = tl.sqrt(tl.maximum(wanted - below, 0.0) / tl.maximum(count - below, 1.0))
    middle = low + tl.minimum(tl.maximum(fraction, EDGE), 1 - EDGE) * (high - low)
    return middle, tl.sum((distance <= middle[:, None]).to(tl.int32), 1).to(tl.float32)


@triton.jit
def cut(wanted, middle, found, low, high, below, count):
    """Return the bracket of the threshold for `wanted`, given that `found` are within `middle`."""
    few = (found < wanted) & (middle > low)
    many = (found >= wanted) & (middle < high)
    low, below = tl.where(few, middle, low), tl.where(few, found, below)
    return low, tl.where(many, middle, high), below, tl.where(many, found, count)


@triton.jit
def between(wanted, low, high, below, count):
    """Return the threshold that about `wanted` are within, interpolated in its bracket."""
    fraction = (wanted - below) / tl.maximum(count - below, 1.0)
    # Padding is infinitely far, and never within a threshold.
    return tl.minimum(low + tl.minimum(tl.maximum(fraction, 0.0), 1.0) * (high - low), 3e38)


@triton.jit
def sampled(distance, wanted, more, ROUNDS: tl.constexpr, BOTH: tl.constexpr):
    """Return thresholds that about `wanted` and `more` of each row of (ROWS, SAMPLE) are within.

    ROUNDS guesses of each threshold narrow the brackets of both. Not BOTH: the second is the first.
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
    first = between(wanted, low, high, below, count)
    return first, between(more, low2, high2, below2, count2) if BOTH else first


@triton.jit
def sample_thresholds(
    parts, units, squares, out,
    points, padded, start, rows, wanted, more,
    C: tl.constexpr, ROWS: tl.constexpr, SAMPLE: tl.constexpr, ROUNDS: tl.constexpr,
    BOTH: tl.constexpr,
):  # fmt: skip
    """Store thresholds that about `wanted` and, if BOTH, `more` of SAMPLE points are within.

    The sample is spread evenly over a block's positions. `wanted` and `more` are float32, `out`
    holds the thresholds of rows `start` to `start + rows`.
    """
    PART: tl.constexpr = C if C < 16 else 16
    block = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    column = (tl.arange(0, SAMPLE).to(tl.int64) * points // SAMPLE).to(tl.int32)
    first_point, own, unit, piece = rows_of(parts, units, points, padded, start, row, C, PART)
    other = parts + (first_point + column)[None, :] * C + tl.arange(0, PART)[:, None]
    total = tl.zeros([ROWS, SAMPLE], tl.float32)
    for channel in range(0, C, PART):
        a0, a1 = load_parts(own + channel, piece)
        b0, b1 = load_parts(other + channel, piece)
        total = product(a0, a1, b0, b1, total)
    square = tl.load(squares + first_point + column)
    other_unit = tl.load(units + first_point + column)
    distance = square[None, :] + (total * unit[:, None]) * other_unit[None, :]
    out += (block * rows + row) * 2
    low, high = sampled(distance, wanted, more, ROUNDS, BOTH)
    tl.store(out, low, mask=inside)
    tl.store(out + 1, high, mask=inside)


@triton.jit
def tally(counts, distance, scale, offset, PTX: tl.constexpr):
    """Count a distance in one of the eight fields of 8 bits that `counts`, int64, consists of.

    Its field is scale · distance + offset, rounded: 0 for smaller ones; beyond 7 none is counted.
    """
    if PTX:
        # Adding and subtracting 2^23 rounds a level. Added to 2^20 it stands in the last bits as
        # 8 · level, by which a 1 is shifted to its field, or out of the word.
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
    """Count all distances (ROWS, LANES, M) in `counts` (ROWS, LANES); see `tally`."""
    if pieces.shape[2] == 1:
        return tally(counts, tl.reshape(pieces, counts.shape), scale, offset, PTX)
    else:
        first, second = halves_of(pieces)
        counts = tally_all(counts, first, scale, offset, PTX)
        return tally_all(counts, second, scale, offset, PTX)


@triton.jit
def interpolated(even, odd, low, step, wanted):
    """Return, per row, a threshold that rarely fewer than `wanted` points are within, and few more.

    `even` and `odd` (ROWS, LANES) int64 have fields of 16 bits: how many distances are in the
    levels 0, 2, 4, 6 and 1, 3, 5, 7. Level i ends at low + i · step, (ROWS,) float32.
    """
    before = tl.zeros_like(low)  # points within the level's begin
    threshold = low + 7 * step
    done = before > 0
    for level in tl.static_range(8):
        word = (odd if level % 2 else even) >> (16 * (level // 2))
        upto = before + tl.sum((word & 0xFFFF).to(tl.int32), 1).to(tl.float32)
        # Within a level points are spread evenly but for chance: 2.5 standard deviations of it.
        goal = wanted + 1.0 + 1.25 * tl.sqrt(upto - before)
        fraction = (goal - before) / tl.maximum(upto - before, 1.0)
        here = low + (level - 1 + tl.maximum(fraction, 0.0)) * step
        threshold = tl.where(done | (upto < goal), threshold, here)
        done = done | (upto >= goal)
        before = upto
    return threshold


@triton.jit(do_not_specialize=["start", "wanted"])
def count_within(
    parts, units, squares, thresholds,
    points, padded, start, rows, wanted,
    C: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, STAGES: tl.constexpr,
    PTX: tl.constexpr,
):  # fmt: skip
    """Store, per row, a threshold that a few more than `wanted` of all points are within.

    It lies between the two of `sample_thresholds`, and replaces the first.
    """
    PART: tl.constexpr = C if C < 64 else 64
    FIELDS: tl.constexpr = 0x00FF00FF00FF00FF
    block = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    first_point, own, unit, piece = rows_of(parts, units, points, padded, start, row, C, PART)
    others = parts + first_point * C + tl.arange(0, PART)[:, None]
    thresholds += (block * rows + row) * 2
    low = tl.load(thresholds, mask=inside, other=0.0)
    high = tl.load(thresholds + 1, mask=inside, other=0.0)
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
    threshold = interpolated(even, odd, low, step, wanted)
    tl.store(thresholds, tl.minimum(threshold, 3e38), mask=inside)
