"""k-NN in Triton that keeps distances out of memory.

The products of features are sums of fp16 products on tensor cores with the digits of float32. A
sample of distances tells about where a row's limit is, counting tells exactly; what is nearer is
listed; the lists are sorted. Computing distances twice takes less time than storing them. Rows
whose limit was wrong are done again, exactly. `cuda_near_parts`, `_limits`, `_lists` and `_order`
have the Triton programs.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from pipelines.kernels.knn_search import cuda as cuda_knn
from pipelines.kernels.ranks import Ranks, bound_of

from . import candidates as cuda_near_lists
from . import on
from . import ordering as cuda_near_order
from . import parts as cuda_near_parts
from . import thresholds as cuda_near_limits

OLDEST = (8, 0)  # compute capability: older tensor cores get other programs from Triton
SAMPLE = 512  # points
FEWEST = 1024  # points
MOST = 65536  # points
LISTS = 1 << 26  # numbers in all lists at once, 8 bytes each
SHORTEST, LONGEST = 128, 2048  # numbers of a row
COUNTED = 60  # wanted points; for fewer the sample alone gives the limit
UNCOUNTED_ROOM = 256
DEVIATIONS = 3.0  # standard deviations of a limit from the sample that are counted both ways
UNEVEN = 16  # numbers that a list may have more than its share by chance, of short ones
SPARE = 8  # so many points more than are wanted have room, and one in 16 of them
PREPARED = 32  # points of a program of `prepare`
LIMIT_ROWS, LIMIT_PER_WARP = 32, 128  # rows of a program of `limits`; a warp's share of the sample
ROUNDS = 4  # guesses of either limit, which narrow the other one as well
TILE = (64, 128)  # rows and columns of distances that a program of `near` does at once
WARPS, STAGES = 4, 3
COUNT_STAGES = 2  # of `count`, which is slower with more
REDO_CHUNK, REDO_LONG = 512, 4096
REDO_PROGRAMS, REDO_NUMBERS = 1056, 1 << 23
SORTED_AT_ONCE = 256  # numbers of a program that sorts several short lists
KEYS_PER_WARP = 1024
EXACT_PROGRAMS, EXACT_PER_WARP = 4224, 1024  # programs: where points come twice all rows are


def knn(x: Tensor, ranks: Ranks, bound: int | None = None) -> Tensor:
    """Select the points of the given ranks; see `pipelines.kernels.knn`."""
    points = x.shape[1]
    way = plan(bound_of(ranks, bound, points), points)
    if not fits(x) or way.room > LONGEST:
        return cuda_knn.knn(x, ranks, bound)
    index = torch.empty(*x.shape[:2], len(ranks), dtype=torch.int32, device=x.device)
    with on(x.device):
        search = Search(x.float().contiguous(), way)
        column = cuda_knn.column_of(ranks, way.room, x.device)
        for number, start in enumerate(range(0, points, search.rows)):
            search.run(number, start, min(search.rows, points - start), column, index)
    return index


def fits(x: Tensor) -> bool:
    """Tell whether this search is for features such as x."""
    if x.dtype == torch.float64 or not FEWEST <= x.shape[1] <= MOST:
        return False
    return x.device.type != "cuda" or torch.cuda.get_device_capability(x.device) >= OLDEST


@dataclass(frozen=True)
class Plan:
    """How a search finds the `wanted` nearest points of a row.

    Attributes:
        wanted: how many ranks there are up to the largest one.
        bracket: numbers of points: between the distances that so many points are below, by the
            sample, the limit is sought; if not `counted`, the first one is the limit.
        counted: whether points are counted before they are listed.
        room: for how many points of a row there is room; a power of two.
    """

    wanted: int
    bracket: tuple[float, float]
    counted: bool
    room: int


def plan(wanted: int, points: int) -> Plan:
    """Return how to find the `wanted` nearest of so many points.

    By a limit that s points of the sample are below, the number of points below it varies with a
    standard deviation of about 1/√s of it. For few points there is room for all that may be below
    it; more are counted first, so that hardly more are listed, and sorted, than are wanted.
    """
    share = min(1.0, SAMPLE / points)
    if wanted < COUNTED:
        return Plan(wanted, (math.sqrt(wanted * UNCOUNTED_ROOM),) * 2, False, UNCOUNTED_ROOM)
    factor = math.exp(max(0.1, DEVIATIONS * math.sqrt((1 - share) / (share * wanted))))
    bracket = wanted / factor, min(wanted * factor, points - 1)
    room = triton.next_power_of_2(wanted + wanted // 16 + SPARE)
    return Plan(wanted, bracket, True, max(SHORTEST, room))


def fast_float64(device: torch.device) -> bool:
    """Tell whether a GPU does float64 at half the speed of float32, as data centers' do."""
    if device.type != "cuda":
        return True
    return torch.cuda.get_device_capability(device) in ((8, 0), (9, 0), (10, 0))


class Search:
    """The features of some blocks, prepared; `run` does some rows of all blocks."""

    def __init__(self, x: Tensor, plan: Plan) -> None:
        batch, points, channels = x.shape
        self.x, self.plan = x, plan
        # A list has more than its fourth of a row's by chance, and room for what a tile can add.
        self.longest = plan.room * 3 // 8 + UNEVEN + TILE[1] // 4
        most = max(TILE[0], LISTS // (batch * 4 * self.longest))
        runs = triton.cdiv(points, most)
        self.rows = triton.cdiv(points, runs * TILE[0]) * TILE[0]  # of a run: all about the same
        width = max(16, triton.next_power_of_2(channels))
        self.width = width if width <= 64 else triton.cdiv(channels, 64) * 64
        self.mean = x.mean(dim=1)
        self.padded = triton.cdiv(points, TILE[1]) * TILE[1]
        shape = (2, batch, self.padded, self.width)
        self.parts = torch.empty(shape, dtype=torch.float16, device=x.device)
        self.units, self.squares = torch.empty(2, batch, self.padded, device=x.device)
        self.tiles = {
            "C": self.width,
            "ROWS": TILE[0],
            "COLUMNS": TILE[1],
            "PTX": os.environ.get("TRITON_INTERPRET") != "1",
            "num_warps": WARPS,
        }
        # Two queues for each run.
        self.waiting = torch.zeros(runs, 2, 1, dtype=torch.int32, device=x.device)
        cuda_near_parts.prepare[(self.padded // PREPARED, batch)](
            *(x, self.mean, self.parts, self.units, self.squares),
            *(points, self.padded, channels),
            C=self.width,
            ROWS=PREPARED,
        )

    def run(self, number: int, start: int, rows: int, column: Tensor, index: Tensor) -> None:
        """Store the neighbors of rows `start` to `start + rows` of every block into `index`."""
        wrong, unsure = self.waiting[number]
        limits = self.limits(start, rows)
        lists, counts, queue = self.lists(limits, start, wrong)
        self.redo(lists, counts, queue, start, wrong)
        self.order(lists, counts, queue, column, index, start, unsure)

    def limits(self, start: int, rows: int) -> Tensor:
        """Return (B, rows, 2) float32, first those that hardly fewer than wanted are below."""
        batch, points, _ = self.x.shape
        plan = self.plan
        limits = torch.empty(batch, rows, 2, device=self.x.device)
        arrays = self.parts, self.units, self.squares, limits
        cuda_near_limits.limits[(triton.cdiv(rows, LIMIT_ROWS), batch)](
            *arrays,
            *(points, self.padded, start, rows),
            *(each * SAMPLE / points for each in plan.bracket),
            C=self.width,
            ROWS=LIMIT_ROWS,
            SAMPLE=SAMPLE,
            ROUNDS=ROUNDS if plan.counted else 2 * ROUNDS,
            BOTH=plan.counted,
            num_warps=max(1, SAMPLE // LIMIT_PER_WARP),
        )
        if plan.counted:
            cuda_near_limits.count[(triton.cdiv(rows, TILE[0]), batch)](
                *arrays,
                *(points, self.padded, start, rows, plan.wanted),
                **self.tiles,
                STAGES=COUNT_STAGES,
            )
        return limits

    def lists(self, limits: Tensor, start: int, wrong: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what is below the limits: the lists, their lengths and the queue of wrong rows.

        As `cuda_near_lists.near` has them; `wrong` counts the queue.
        """
        batch, rows, _ = limits.shape
        device = limits.device
        lists = torch.empty(batch, rows, 4, self.longest, dtype=torch.int64, device=device)
        counts = torch.empty(batch, rows, 4, dtype=torch.int32, device=device)
        queue = torch.empty(batch * rows, dtype=torch.int32, device=device)
        cuda_near_lists.near[(triton.cdiv(rows, TILE[0]), batch)](
            *(self.parts, self.units, self.squares, limits, lists, counts, queue, wrong),
            *(self.x.shape[1], self.padded, start, rows),
            *(self.plan.wanted, self.plan.room, self.longest),
            **self.tiles,
            STAGES=STAGES,
        )
        return lists, counts, queue

    def redo(self, lists: Tensor, counts: Tensor, queue: Tensor, start: int, wrong: Tensor) -> None:
        """Make the lists of the queue's rows exact."""
        points, channels = self.x.shape[1:]
        programs = max(1, min(REDO_PROGRAMS, REDO_NUMBERS // points))
        scratch = torch.empty(programs, points, dtype=torch.int32, device=self.x.device)
        cuda_near_lists.redo[(programs,)](
            *(self.x, self.mean, self.squares, lists, counts, queue, wrong, scratch),
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
        lists: Tensor,
        counts: Tensor,
        queue: Tensor,
        column: Tensor,
        index: Tensor,
        start: int,
        unsure: Tensor,
    ) -> None:
        """Store the wanted ranks of the lists into `index` from row `start` on."""
        batch, rows, _ = counts.shape
        _, points, k = index.shape
        total, room = batch * rows, self.plan.room
        group = max(1, SORTED_AT_ONCE // room)
        kept = torch.empty(total, 3, k, dtype=torch.int32, device=index.device)
        shape = {"LOG": room.bit_length() - 1, "DIMS": (group * room).bit_length() - 1}
        warps = max(1, group * room // KEYS_PER_WARP)
        cuda_near_order.order[(triton.cdiv(total, group),)](
            *(lists, counts, column, kept, index, queue, unsure),
            *(total, rows, points, start, k, self.longest, -1),
            **shape,
            OWN=max(0, shape["DIMS"] - 4 - warps.bit_length()),  # 32 threads a warp: five axes
            K=triton.next_power_of_2(k),
            num_warps=warps,
        )
        cuda_near_order.order_exactly[(min(EXACT_PROGRAMS, triton.cdiv(total, group)),)](
            *(lists, counts, column, index, queue, unsure),
            *(rows, points, start, k, self.longest),
            **shape,
            DOUBLE=fast_float64(index.device),
            num_warps=max(1, group * room // EXACT_PER_WARP),
        )
