"""A k-NN that keeps distances out of memory, measured beside `pipelines.kernels.cuda_knn`.

The products of features are sums of bf16 products on tensor cores with the digits of float32. A
sample of distances gives each row a limit; what is nearer is listed while the products are made;
the lists are sorted. Rows whose limit was wrong are done again, exactly. `near_programs` has the
Triton programs. It takes the place of `cuda_knn` once a GPU has shown that it's right and faster.
"""

from __future__ import annotations

import math
import os

import torch
import triton
from torch import Tensor

from benchmarks import near_programs
from pipelines.kernels import cuda_knn
from pipelines.kernels.cuda_knn import full_precision, on

SAMPLES = (8, 4)  # one point in so many is sampled
FEWEST = 512  # points
MOST = 65536  # points: a sample is a row of a program
LISTS = 1 << 25  # numbers in all lists at once
SHORTEST, LONGEST = 256, 2048  # lists
DEVIATIONS = 3.0  # standard deviations of a list's length that it has room for both ways
TILE = (64, 64)  # rows and columns of distances that a program does at once
WARPS, STAGES = 4, 2
REDO_ROWS, REDO_CHUNK = 256, 512
SORTED_AT_ONCE = 512  # numbers of a program that sorts several short lists
SORT_PER_WARP = 1024


def knn(x: Tensor, ranks: tuple[int, ...]) -> Tensor:
    """Select the points of the given ranks; see `pipelines.kernels.knn`."""
    batch, points, _ = x.shape
    wanted = ranks[-1] + 1
    room, sample = plan(wanted)
    if x.dtype == torch.float64 or not FEWEST <= points <= MOST or room > LONGEST:
        return cuda_knn.knn(x, ranks)
    x = x.float().contiguous()
    index = torch.empty(batch, points, len(ranks), dtype=torch.int32, device=x.device)
    column = cuda_knn.columns(ranks, room, x.device)
    rows = min(points, max(TILE[0], LISTS // (batch * max(room, points // sample))))
    with on(x.device):
        search = Search(x, wanted, room, sample)
        for start in range(0, points, rows):
            search.run(start, min(rows, points - start), column, index)
    return index


def plan(wanted: int) -> tuple[int, int]:
    """Return how long lists are, and which share of the points is sampled, one in so many.

    By a limit from a sample of s nearer points a list's length varies with a standard deviation of
    about 1/√s of it: the shortest list that has room for DEVIATIONS of them both ways.
    """
    room = SHORTEST
    while room <= LONGEST:
        middle = math.sqrt(wanted * room)
        for sample in SAMPLES:
            deviation = math.sqrt((1 - 1 / sample) * sample / middle)
            if room > wanted and 0.5 * math.log(room / wanted) >= DEVIATIONS * deviation:
                return room, sample
        room *= 2
    return room, SAMPLES[-1]


def window(wanted: int, room: int, sampled: int, points: int) -> tuple[int, int]:
    """Return how many of a row's `sampled` distances shall be below its limit, at least and most.

    Midway, by their ratio, between what would be too few and too many of all points.
    """
    least = math.ceil(math.sqrt(wanted * room) * sampled / points)
    return least, least + max(1, least // 8)


def fast_float64(device: torch.device) -> bool:
    """Tell whether a GPU does float64 at half the speed of float32, as data centers' do."""
    if device.type != "cuda":
        return True
    return torch.cuda.get_device_capability(device) in ((8, 0), (9, 0), (10, 0))


class Search:
    """The features of some blocks, prepared; `run` does some rows of all blocks."""

    def __init__(self, x: Tensor, wanted: int, room: int, sample: int) -> None:
        batch, points, channels = x.shape
        self.x, self.wanted, self.room = x, wanted, room
        self.mean = x.mean(dim=1)
        width = max(16, triton.next_power_of_2(channels))
        self.width = width if width <= 64 else triton.cdiv(channels, 64) * 64
        shape = (3, batch, points, self.width)
        self.parts = torch.empty(shape, dtype=torch.bfloat16, device=x.device)
        self.squares = torch.empty(batch, points, device=x.device)
        near_programs.prepare[(triton.cdiv(points, 32), batch)](
            *(x, self.mean, self.parts, self.squares),
            *(points, channels, self.parts[0].numel()),
            C=self.width,
            ROWS=32,
        )
        self.sample = (x[:, ::sample] - self.mean[:, None]).transpose(1, 2)
        self.sample_squares = self.squares[:, ::sample].contiguous()

    def run(self, start: int, rows: int, column: Tensor, index: Tensor) -> None:
        """Store the neighbors of rows `start` to `start + rows` of every block into `index`."""
        limits = self.limits(start, rows)
        lists, counts = self.lists(limits, start)
        self.redo(lists, counts, start)
        self.choose(lists, counts, column, index, start)

    def limits(self, start: int, rows: int) -> Tensor:
        """Return (B, rows) float32: distances that about the wanted number of points are below."""
        batch, points, _ = self.x.shape
        width = self.sample.shape[2]
        own = self.x[:, start : start + rows] - self.mean[:, None]
        with full_precision(self.x.device):
            products = torch.bmm(own, self.sample)  # (B, rows, S)
        least, most = window(self.wanted, self.room, width, points)
        limits = torch.empty(batch, rows, device=self.x.device)
        chunk = max(16, triton.next_power_of_2(width))
        group = max(1, cuda_knn.TILE // chunk)
        total = batch * rows
        near_programs.limits[(triton.cdiv(total, group),)](
            *(products, self.sample_squares, limits),
            *(width, total, rows, least, most),
            CHUNK=chunk,
            ROWS=group,
            num_warps=min(16, max(2, group * chunk // cuda_knn.PER_WARP)),
        )
        return limits

    def lists(self, limits: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Return what is below the limits: lists (B, rows, room) int64 and how many, int32."""
        batch, rows = limits.shape
        points = self.x.shape[1]
        lists = torch.empty(batch, rows, self.room, dtype=torch.int64, device=self.x.device)
        counts = torch.empty(batch, rows, dtype=torch.int32, device=self.x.device)
        near_programs.near[(triton.cdiv(rows, TILE[0]), batch)](
            *(self.parts, self.squares, limits, lists, counts),
            *(points, start, rows, self.parts[0].numel(), self.room),
            C=self.width,
            ROWS=TILE[0],
            COLUMNS=TILE[1],
            STAGES=STAGES,
            PTX=os.environ.get("TRITON_INTERPRET") != "1",
            num_warps=WARPS,
        )
        return lists, counts

    def redo(self, lists: Tensor, counts: Tensor, start: int) -> None:
        """Make the lists exact that have too few points or more than there is room for."""
        rows, total = counts.shape[1], counts.numel()
        points, channels = self.x.shape[1:]
        programs = triton.cdiv(total, REDO_ROWS)
        scratch = torch.empty(programs, points, dtype=torch.int32, device=self.x.device)
        near_programs.redo[(programs,)](
            *(self.x, self.mean, self.squares, lists, counts, scratch),
            *(points, channels, start, rows, total, self.wanted, self.room),
            PART=16,
            CHUNK=REDO_CHUNK,
            ROWS=REDO_ROWS,
            num_warps=8,
        )

    def choose(
        self, lists: Tensor, counts: Tensor, column: Tensor, index: Tensor, start: int
    ) -> None:
        """Store the wanted ranks of the lists into `index` from row `start` on."""
        rows, total = counts.shape[1], counts.numel()
        _, points, k = index.shape
        group = max(1, SORTED_AT_ONCE // self.room)
        near_programs.choose[(triton.cdiv(total, group),)](
            *(lists, counts, column, index),
            *(total, rows, points, start, k),
            LOG=self.room.bit_length() - 1,
            DIMS=(group * self.room).bit_length() - 1,
            DOUBLE=fast_float64(lists.device),
            num_warps=max(1, self.room // SORT_PER_WARP),
        )
