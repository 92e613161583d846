"""k-NN on the CPU: distances are compared with a threshold while they are still in registers.

1. `arrange` sorts the points so that near ones are in the same panel of 16, and `pack` writes the
   panels in the order in which the tile loop reads them.
2. `thresholds` looks at a sample of N / 16 points and picks, for every row, a distance that lies
   beyond the last wanted rank almost surely, but not far beyond.
3. `pairs` skips two panels that are too far apart for the threshold of any of their points. For the
   others it computes x_i · x_j once for both i and j, and appends j to the candidates of i, and i
   to those of j, if the distance is within the threshold. No distance is stored elsewhere.
4. `select` picks the wanted ranks from each row's candidates. A row whose threshold was too tight
   (or so loose that its buffer overflowed, as among many equal points) is searched again among all
   points.

The result does not depend on the order, the sample or the number of threads.
"""

from __future__ import annotations

import itertools
import math
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.kernels import reference, threads
from pipelines.kernels.knn_search import Ranks, ranks_of

from .order import arrange, as_given
from .selection import select
from .tiles import PANEL, ROWS, pack, pairs, room_for, thresholds

SAMPLE_STEP = 16  # one point in so many is in the sample
SAMPLE_LEAST = 128
CANDIDATE_BYTES = 3 << 24  # of the candidates of a slab of rows
MOST_GROUPS = 32

Shared = tuple[Any, ...]


def knn(x: Tensor, ranks: Ranks, _bound: int | None = None) -> Tensor:
    """Select the points of the given ranks; see `pipelines.kernels.knn`."""
    if x.dtype != torch.float32:
        return reference.knn(x, ranks)
    batch, points, _ = x.shape
    x = (x - x.mean(dim=1, keepdim=True)).contiguous()
    index = torch.empty((batch, points, len(ranks)), dtype=torch.int32)
    wanted = np.array(ranks_of(ranks), dtype=np.int64)
    plan = _plan(points, int(wanted[-1]))
    for features, out in zip(x.numpy(), index.numpy(), strict=True):
        _search_block(features, wanted, plan, out)
    return index


@dataclass(frozen=True)
class _Plan:
    """How a block is searched."""

    sample: int  # points in the sample
    rank: int  # in the sample, of the distance that becomes a row's threshold; 0: no thresholds
    length: int  # of a row's candidate buffer
    slab: int  # panels of rows that are searched at a time


def _plan(points: int, last: int) -> _Plan:
    """Choose the threshold's rank in the sample.

    Of noise some 5 rows in 1,000 are searched again, of a scan hardly any: its sample, spread
    evenly over the order, varies less.
    """
    panels = -(-points // PANEL)
    sample = max(SAMPLE_LEAST, points // SAMPLE_STEP) // PANEL * PANEL
    mean = (last + 1) * sample / points
    rank = math.ceil(mean + 2.5 * math.sqrt(mean) + 1)
    length = points
    if points < 2 * SAMPLE_LEAST or rank > 0.75 * sample:
        rank = 0
    else:
        most = rank * points / sample * (1 + 4 / math.sqrt(rank))
        length = min(points, int(most) + 2 * PANEL)
    length += PANEL  # room for what a full vector writes past the end
    slab = max(1, CANDIDATE_BYTES // (length * 8 * PANEL))
    return _Plan(sample, rank, length, min(slab, panels))


def _search_block(x: np.ndarray, wanted: np.ndarray, plan: _Plan, out: np.ndarray) -> None:
    points = len(x)
    order = arrange(x) if plan.rank else as_given(points)
    packed, squares = _pack(x, order.points)
    sample = packed, squares
    if plan.rank:  # evenly over the order, so that it is spread as the points are
        sample = _pack(x, order.points[_sample(points, plan.sample)])
    threshold, floor = room_for(len(squares)), room_for(len(squares))
    shared: Shared = (packed, points, *sample, plan.rank, threshold, floor)
    threads.run(thresholds, shared, -(-len(squares) // ROWS))
    columns = np.zeros(len(squares), np.int32)
    columns[:points] = order.points
    near = columns, order.places, order.boxes, order.reach(threshold, squares)
    panels = len(squares) // PANEL
    for first in range(0, panels, plan.slab):
        last = min(first + plan.slab, panels)
        rows = (last - first) * PANEL
        found = _candidate_buffers(rows * plan.length), np.zeros(rows, np.int64), first
        for table in _rounds(first, last, panels):
            shared = (packed, squares, threshold, near, order.axes, *found, table)
            threads.run(pairs, shared, len(table))
        shared = (packed, squares, columns[:points], threshold, floor, *found, wanted, out)
        threads.run(select, shared, -(-rows // ROWS))


def _pack(x: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the chosen rows in panels, and their squared lengths."""
    rows = -(-len(chosen) // PANEL) * PANEL
    packed, squares = room_for(rows * x.shape[1]), room_for(rows)
    threads.run(pack, (x, chosen, packed, squares), -(-rows // ROWS))
    return packed, squares


_kept = threading.local()


def _candidate_buffers(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return room for the keys and columns of `size` candidates, reused from the last search.

    Fresh memory costs a page fault for every 4 KiB, a tenth of a search.
    """
    if getattr(_kept, "size", 0) < size:
        _kept.size = size
        _kept.buffers = np.empty(size, np.float32), np.empty(size, np.int32)
    keys, columns = _kept.buffers
    return keys[:size], columns[:size]


def _sample(points: int, size: int) -> np.ndarray:
    """Return `size` positions spread evenly, each shifted a little to avoid regular patterns."""
    edges = np.arange(size + 1) * points // size
    room = np.diff(edges)
    return edges[:-1] + (np.arange(size) * 2654435761 % 65536) * room // 65536


def _rounds(first: int, last: int, panels: int) -> list[np.ndarray]:
    """Return the tasks of `pairs` for a slab of panels, in rounds that must follow one another.

    Each group of the slab's panels is paired with each other (and itself) once, as in a tournament:
    the pairs of a round have no group in common, so no two threads append to the same buffer.
    Panels outside the slab come last: they are searched, but get no candidates.
    """
    groups = 2 * max(1, min(2 * torch.get_num_threads(), MOST_GROUPS // 2, (last - first) // 8))
    edges = [first + n * (last - first) // groups for n in range(groups + 1)]
    bounds = list(itertools.pairwise(edges))
    seats = list(range(groups))
    rounds = [[(*bound, *bound, 1) for bound in bounds]]
    for _ in range(groups - 1):
        tables = [sorted((seats[n], seats[-1 - n])) for n in range(groups // 2)]
        rounds.append([(*bounds[a], *bounds[b], 1) for a, b in tables])
        seats = [seats[0], seats[-1], *seats[1:-1]]
    for other in ((0, first), (last, panels)):
        if other[0] < other[1]:
            rounds.append([(*bound, *other, 0) for bound in bounds])
    return [np.array(table, dtype=np.int64) for table in rounds]
