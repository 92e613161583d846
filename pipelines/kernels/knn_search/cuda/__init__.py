"""k-NN in Triton: distances are compared with thresholds as they are computed, never stored.

1. `prepare` centres the features and splits each value into a sum of two fp16, so that tensor cores
   give scalar products with the digits of float32.
2. `sample_thresholds` computes each row's distances to 512 of the points, and from them estimates
   the distance of the last of the `wanted` nearest points; if few are wanted, a larger one.
3. `count_within` is for more wanted points: it counts the points within eight distances between a
   lower and an upper estimate, and interpolates a threshold that few more than `wanted` are within.
4. `collect` computes all distances again (faster than storing them) and appends each point within
   its row's threshold to the row's candidates.
5. `redo` collects the nearest points of rows that got fewer than `wanted` or too many candidates.
6. `order` sorts a row's candidates by 32-bit keys and stores the points at the wanted ranks;
   `order_exactly` does so by distance and position where keys at a rank were equal.

Shapes, of B blocks with N points, padded to M, of which `rows` are searched at a time:
    parts       (2, B, M, C) fp16, the high and the low parts of the features; zeros as padding
    units       (B, M) float32, powers of two: a point's parts, added up, times its unit are its
                features to 22 bits
    squares     (B, M) float32, |x_j|²; infinite for padding. A distance is |x_j|² − 2 x_i·x_j
    thresholds  (B, rows, 2) float32
    candidates  (B, rows, LANES, longest) int64, the bits of the distance above the position. Four
                threads hold a row's distances of a tile; each has a buffer of its own (a lane)
    counts      (B, rows, LANES) int32, how many candidates are in each buffer
    queue       (B·rows,) int32, rows for a later step, in any order; `waiting` (1,) int32 is their
                number
    index       (B, N, k) int32, the result; `column` (room,) int32, or more: each rank's column in
                it, −1 if it is not searched for
"""

from __future__ import annotations

import functools
import math
import os
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from pipelines.kernels import reference
from pipelines.kernels.knn_search import LONGEST, Ranks, RankTable

from . import candidates, distances, ordering, thresholds

MOST_POINTS = 1 << 20  # as `order_exactly` has 20 bits for a position
MOST_FEATURES = 1 << 30  # of a block, so that their offsets fit 32 bits
SAMPLE = 512  # points
SLAB = 1 << 26  # candidates, 8 bytes each, of all rows that are searched at a time
SHORTEST = 128  # candidates of a row
COUNTED = 60  # wanted points; for fewer the sample alone gives the threshold
UNCOUNTED_ROOM = 256
DEVIATIONS = 3.0  # standard deviations of a sampled threshold that are counted both ways
UNEVEN = 16  # candidates that a buffer may have beyond its share by chance, of short ones
SPARE = 8  # room for points beyond the wanted ones, besides a sixteenth of those
PREPARED = 32  # points of an instance of `prepare`
SAMPLE_ROWS, SAMPLE_PER_WARP = 32, 128  # rows of an instance of `sample_thresholds`
ROUNDS = 4  # guesses of either threshold, which narrow the other one as well
TILE = (64, 128)  # rows and columns of distances that a kernel instance computes at a time
WARPS, STAGES = 4, 3
COUNT_STAGES = 2  # of `count_within`, which is slower with more
REDO_CHUNK, REDO_LONG = 512, 4096
REDO_INSTANCES, REDO_ELEMENTS = 1056, 1 << 23
SORTED_AT_ONCE = 256  # candidates of an instance that sorts several short rows
KEYS_PER_WARP = 1024
# GPUs of data centres, which have float64 at half the speed of float32.
FAST_FLOAT64 = ((8, 0), (9, 0), (10, 0))
EXACT_INSTANCES, EXACT_PER_WARP = 4224, 1024  # if points occur twice, all rows are sorted exactly


def knn(x: Tensor, ranks: Ranks, bound: int | None = None) -> Tensor:
    """Select the points of the given ranks; see `pipelines.kernels.knn`.

    float64 features, ranks beyond some 3,800 and blocks beyond 2^20 points are left to `reference`.
    """
    points = x.shape[1]
    bound = ranks.bound if isinstance(ranks, RankTable) else max(ranks[-1] + 1, bound or 0)
    plan = plan_search(min(bound, points), points)
    large = points > MOST_POINTS or x[0].numel() > MOST_FEATURES or plan.room > LONGEST
    if large or x.dtype == torch.float64:
        return reference.knn(x, ranks)
    index = torch.empty(*x.shape[:2], len(ranks), dtype=torch.int32, device=x.device)
    with torch.cuda.device_of(x):
        search = Search(x.float().contiguous(), plan)
        column = ranks.column if isinstance(ranks, RankTable) else columns(ranks, x.device)
        for number, start in enumerate(range(0, points, search.rows)):
            search.run(number, start, min(search.rows, points - start), column, index)
    return index


@functools.lru_cache(maxsize=256)
def columns(ranks: tuple[int, ...], device: torch.device) -> Tensor:
    """Return (LONGEST,) int32: each rank's column in the result; −1: not searched for."""
    column = torch.full((LONGEST,), -1, dtype=torch.int32)
    column[list(ranks)] = torch.arange(len(ranks), dtype=torch.int32)
    return column.to(device)


@dataclass(frozen=True)
class Plan:
    """How a search finds the `wanted` nearest points of a row.

    `bracket` has two numbers of points, and the threshold is between the distances within which the
    sample puts so many. If not `counted`, the threshold is the first of these distances.
    """

    wanted: int  # ranks up to the largest one
    bracket: tuple[float, float]
    counted: bool  # whether points are counted before they are collected
    room: int  # candidates of a row that there is room for; a power of two


def plan_search(wanted: int, points: int) -> Plan:
    """Return how to find the `wanted` nearest of `points` points.

    If s points of the sample are within a threshold, the number of all points within it has a
    standard deviation of about 1/√s of itself. For few points there is room for all of these; more
    are counted first, so that hardly more are collected, and sorted, than are wanted.
    """
    fraction = min(1.0, SAMPLE / points)
    if wanted < COUNTED:
        return Plan(wanted, (math.sqrt(wanted * UNCOUNTED_ROOM),) * 2, False, UNCOUNTED_ROOM)
    factor = math.exp(max(0.1, DEVIATIONS * math.sqrt((1 - fraction) / (fraction * wanted))))
    bracket = wanted / factor, min(wanted * factor, points - 1)
    room = triton.next_power_of_2(wanted + wanted // 16 + SPARE)
    return Plan(wanted, bracket, True, max(SHORTEST, room))


class Search:
    """The features of some blocks, prepared; `run` searches some rows of all blocks."""

    def __init__(self, x: Tensor, plan: Plan) -> None:
        batch, points, channels = x.shape
        self.x, self.plan = x, plan
        # Buffers of a row fill unevenly by chance, and need room for what a tile can add.
        self.longest = plan.room * 3 // 8 + UNEVEN + TILE[1] // 4
        most = max(TILE[0], SLAB // (batch * 4 * self.longest))
        runs = triton.cdiv(points, most)
        self.rows = triton.cdiv(points, runs * TILE[0]) * TILE[0]  # of a run: all about the same
        width = max(16, triton.next_power_of_2(channels))
        width = width if width <= 64 else triton.cdiv(channels, 64) * 64
        self.mean = x.mean(dim=1)
        self.padded = triton.cdiv(points, TILE[1]) * TILE[1]
        parts = torch.empty(2, batch, self.padded, width, dtype=torch.float16, device=x.device)
        units, squares = torch.empty(2, batch, self.padded, device=x.device)
        self.points = parts, units, squares
        self.tiles = {
            "C": width,
            "ROWS": TILE[0],
            "COLUMNS": TILE[1],
            "PTX": os.environ.get("TRITON_INTERPRET") != "1",
            "num_warps": WARPS,
        }
        self.waiting = torch.zeros(runs, 2, 1, dtype=torch.int32, device=x.device)  # of two queues
        distances.prepare[(self.padded // PREPARED, batch)](
            *(x, self.mean, *self.points, points, self.padded, channels), C=width, ROWS=PREPARED
        )

    def run(self, number: int, start: int, rows: int, column: Tensor, index: Tensor) -> None:
        """Store the neighbours of rows `start` to `start + rows` of every block into `index`."""
        wrong, undecided = self.waiting[number]
        found = self.collect(self.thresholds(start, rows), start, wrong)
        self.redo(*found, start, wrong)
        self.order(*found, column, index, start, undecided)

    def thresholds(self, start: int, rows: int) -> Tensor:
        """Return thresholds, of which the first of each row holds."""
        batch, points, _ = self.x.shape
        plan = self.plan
        out = torch.empty(batch, rows, 2, device=self.x.device)
        sizes = points, self.padded, start, rows
        thresholds.sample_thresholds[(triton.cdiv(rows, SAMPLE_ROWS), batch)](
            *(*self.points, out, *sizes, *(each * SAMPLE / points for each in plan.bracket)),
            C=self.tiles["C"],
            ROWS=SAMPLE_ROWS,
            SAMPLE=SAMPLE,
            ROUNDS=ROUNDS if plan.counted else 2 * ROUNDS,
            BOTH=plan.counted,
            num_warps=max(1, SAMPLE // SAMPLE_PER_WARP),
        )
        if plan.counted:
            thresholds.count_within[(triton.cdiv(rows, TILE[0]), batch)](
                *(*self.points, out, *sizes, plan.wanted), **self.tiles, STAGES=COUNT_STAGES
            )
        return out

    def collect(self, within: Tensor, start: int, wrong: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return candidates, counts and the queue of rows to redo, which `wrong` counts."""
        batch, rows, _ = within.shape
        device = within.device
        found = torch.empty(batch, rows, 4, self.longest, dtype=torch.int64, device=device)
        counts = torch.empty(batch, rows, 4, dtype=torch.int32, device=device)
        queue = torch.empty(batch * rows, dtype=torch.int32, device=device)
        candidates.collect[(triton.cdiv(rows, TILE[0]), batch)](
            *(*self.points, within, found, counts, queue, wrong),
            *(self.x.shape[1], self.padded, start, rows),
            *(self.plan.wanted, self.plan.room, self.longest),
            **self.tiles,
            STAGES=STAGES,
        )
        return found, counts, queue

    def redo(self, found: Tensor, counts: Tensor, queue: Tensor, start: int, wrong: Tensor) -> None:
        """Collect the nearest points of the queue's rows."""
        points, channels = self.x.shape[1:]
        instances = max(1, min(REDO_INSTANCES, REDO_ELEMENTS // points))
        scratch = torch.empty(instances, points, dtype=torch.int32, device=self.x.device)
        candidates.redo[(instances,)](
            *(self.x, self.mean, self.points[2], found, counts, queue, wrong, scratch),
            *(points, self.padded, channels, start, counts.shape[1]),
            *(self.plan.wanted, self.longest),
            PART=16,
            CHUNK=REDO_CHUNK,
            LONG=REDO_LONG,
            WHOLE=points <= REDO_LONG,
            num_warps=8,
        )

    def order(
        self,
        found: Tensor,
        counts: Tensor,
        queue: Tensor,
        column: Tensor,
        index: Tensor,
        start: int,
        undecided: Tensor,
    ) -> None:
        """Store the candidates of the wanted ranks into `index` from row `start` on."""
        batch, rows, _ = counts.shape
        _, points, k = index.shape
        total, room = batch * rows, self.plan.room
        group = max(1, SORTED_AT_ONCE // room)
        kept = torch.empty(total, 3, k, dtype=torch.int32, device=index.device)
        log, dims = room.bit_length() - 1, (group * room).bit_length() - 1
        warps = max(1, group * room // KEYS_PER_WARP)
        ordering.order[(triton.cdiv(total, group),)](
            *(found, counts, column, kept, index, queue, undecided),
            *(total, rows, points, start, k, self.longest, -1),
            LOG=log,
            DIMS=dims,
            OWN=max(0, dims - 4 - warps.bit_length()),  # 32 threads a warp: five axes
            K=triton.next_power_of_2(k),
            num_warps=warps,
        )
        ordering.order_exactly[(min(EXACT_INSTANCES, triton.cdiv(total, group)),)](
            *(found, counts, column, index, queue, undecided),
            *(rows, points, start, k, self.longest),
            LOG=log,
            DIMS=dims,
            DOUBLE=not index.is_cuda
            or torch.cuda.get_device_capability(index.device) in FAST_FLOAT64,
            num_warps=max(1, group * room // EXACT_PER_WARP),
        )
