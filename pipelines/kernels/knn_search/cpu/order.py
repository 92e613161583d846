"""Order points so that near ones share a panel, to rule out pairs of panels.

The features of a scan vary along few directions. If the points are sorted into panels by these,
most pairs of panels have no neighbours in each other, and their bounding boxes show it: two points
are at least as far apart as their projections to orthogonal directions. Bounds for the rounding of
projections and keys are added, so that no pair with a neighbour is ruled out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numba import njit

from pipelines.kernels import threads
from pipelines.kernels.simd import LANES, fma, load, load_splat, splat, store
from pipelines.kernels.threads import parallel

from .tiles import PANEL, ROWS, ZERO

AXES = 4
TURNS = 2  # of the subspace iteration
LEAST_PANELS = 16  # of a segment that is halved for several threads
SAMPLE = 256  # points that the axes are found from
UNIT = 2.0**-24  # the rounding of a float32, relative
TINY = 1e-36  # more than values too small for a float32 can add up to


@dataclass(frozen=True)
class Order:
    """The points of a block, in panels of near ones."""

    points: np.ndarray  # (N,) int64; the point at each place
    places: np.ndarray  # (N / 16, axes, 16) float32, flat; the projections, in panels
    boxes: np.ndarray  # (N / 16, 2, axes) float32, flat; the bounds of each panel, lower ones first
    channels: int  # of the features
    axes: int  # of the projections; with 0 nothing is ruled out

    def reach(self, threshold: np.ndarray, squares: np.ndarray) -> np.ndarray:
        """Return the squared distance of projections beyond which no key is within the threshold.

        A key is |x_j|² − 2 x_i·x_j in float32, `threshold` one for each row, `squares` |x_i|².
        Rows beyond the last point have no reach.
        """
        points = len(self.points)
        reach = np.full(len(squares), -1, np.float32)
        longest = float(squares[:points].max()) * (1 + UNIT)
        if self.axes == 0 or not math.isfinite(longest):
            reach[:points] = np.inf
            return reach
        error = 4 * (self.channels + 8) * UNIT * longest + TINY
        blur = 2.1 * math.sqrt(self.axes) * (self.channels + 8) * UNIT * math.sqrt(longest)
        square = np.maximum(threshold[:points].astype(np.float64) + squares[:points] + error, 0)
        with np.errstate(over="ignore"):  # too far for a float32 is infinitely far
            reach[:points] = (np.sqrt(square) * (1 + 1e-6) + blur) ** 2 * (1 + 1e-5)
        return reach


def as_given(points: int) -> Order:
    """Return the points in their own order, without projections: nothing is ruled out."""
    nothing = np.empty(0, np.float32)
    return Order(np.arange(points), nothing, nothing, 0, 0)


def arrange(x: np.ndarray) -> Order:
    """Return an order of the points x (N, C) float32; their own if a value is not finite."""
    with np.errstate(all="ignore"):
        basis = _axes(x)
    axes, panels = min(AXES, x.shape[1]), -(-len(x) // PANEL)
    projected = np.empty((len(x), LANES), np.float32)
    shared = (x.reshape(-1), basis.reshape(-1), projected.reshape(-1))
    threads.run(project, shared, -(-len(x) // ROWS))
    if not np.isfinite(projected).all():
        return as_given(len(x))
    projected = projected[:, :axes]
    points = np.arange(len(x))
    _split(projected, points, panels)
    places = np.empty(panels * axes * PANEL, np.float32)
    boxes = np.empty(panels * 2 * axes, np.float32)
    threads.run(box, (projected, points, places, boxes), -(-panels // PANEL))
    return Order(points, places, boxes, x.shape[1], axes)


def _axes(x: np.ndarray) -> np.ndarray:
    """Return orthogonal unit vectors along which x (N, C) varies most, (C, 8) float32.

    Columns beyond AXES, or C, are 0. They are found by a few turns of subspace iteration on a
    sample: their quality changes how many panels are ruled out, not the result.
    """
    channels = x.shape[1]
    basis = np.zeros((channels, LANES), np.float32)
    if channels <= AXES:
        np.fill_diagonal(basis, 1)
        return basis
    sample = np.ascontiguousarray(x[:: max(1, len(x) // SAMPLE)])
    spread = np.einsum("nc,nc->c", sample, sample)
    basis[np.argsort(spread)[-AXES:], np.arange(AXES)] = 1
    for _ in range(TURNS):
        turned = sample.T @ (sample @ basis[:, :AXES])
        basis[:, :AXES] = np.linalg.qr(turned.astype(np.float64))[0]
    return basis


@parallel
def project(x, basis, projected, task):
    """Write the projections of a task's points x (N, C) to `basis` (C, 8), both flat."""
    channels, points = len(basis) // LANES, len(projected) // LANES
    for n in range(task * ROWS, min((task + 1) * ROWS, points), 2):
        m = min(n + 1, points - 1)
        first, second = splat(ZERO), splat(ZERO)
        for c in range(channels):
            vector = load(basis, c * LANES)
            first = fma(load_splat(x, n * channels + c), vector, first)
            second = fma(load_splat(x, m * channels + c), vector, second)
        store(projected, n * LANES, first)
        store(projected, m * LANES, second)


def _split(projected: np.ndarray, points: np.ndarray, panels: int) -> None:
    """Sort points into panels: halve along the longest axis, recursively, as a k-d tree does."""
    segments, whole = [(0, panels)], False
    while not whole:
        whole = len(segments) >= 4 * torch.get_num_threads() or segments[0][1] <= LEAST_PANELS
        table = np.array(segments, dtype=np.int64)
        threads.run(split, (projected, points, table, whole), len(table))
        halves = [(low, (low + high) // 2, high) for low, high in segments]
        segments = [half for a, b, c in halves for half in ((a, b), (b, c))]


@parallel
def split(projected, points, table, whole, task):
    """Halve a segment of panels of `points`, once or, if `whole`, down to single panels."""
    first, last = table[task]
    keys = np.empty((last - first) * PANEL, np.float32)
    waiting = np.empty((64, 2), np.int64)
    waiting[0, 0], waiting[0, 1] = first, last
    size = 1
    while size:
        size -= 1
        low, high = waiting[size]
        if high - low < 2:
            continue
        middle = (low + high) // 2
        part = points[low * PANEL : high * PANEL]
        axis = _longest_axis(projected, part)
        for n in range(len(part)):
            keys[n] = projected[part[n], axis]
        _halve(keys, part, (middle - low) * PANEL)
        if whole:
            waiting[size, 0], waiting[size, 1] = low, middle
            waiting[size + 1, 0], waiting[size + 1, 1] = middle, high
            size += 2


@njit(nogil=True)
def _longest_axis(projected, part):
    longest, found = ZERO, 0
    for axis in range(projected.shape[1]):
        low = high = projected[part[0], axis]
        for point in part:
            value = projected[point, axis]
            low, high = min(low, value), max(high, value)
        if high - low > longest:
            longest, found = high - low, axis
    return found


@njit(nogil=True)
def _halve(keys, part, middle):
    """Bring the `middle` smallest keys, with their points, before the others (Hoare)."""
    low, high = 0, len(part) - 1
    while low < high:
        pivot = _median(keys[low], keys[(low + high) // 2], keys[high])
        i, j = low, high
        while i <= j:
            while keys[i] < pivot:
                i += 1
            while keys[j] > pivot:
                j -= 1
            if i <= j:
                keys[i], keys[j] = keys[j], keys[i]
                part[i], part[j] = part[j], part[i]
                i += 1
                j -= 1
        if middle <= j:
            high = j
        elif middle >= i:
            low = i
        else:
            return


@njit(forceinline=True)
def _median(a, b, c):
    return max(min(a, b), min(max(a, b), c))


@parallel
def box(projected, points, places, boxes, task):
    """Write the projections of 16 panels in panels, and the bounds of each panel."""
    axes = projected.shape[1]
    for panel in range(task * PANEL, min((task + 1) * PANEL, len(boxes) // (2 * axes))):
        for axis in range(axes):
            low = high = projected[points[panel * PANEL], axis]
            for n in range(PANEL):
                point = points[min(panel * PANEL + n, len(points) - 1)]
                value = projected[point, axis]
                places[(panel * axes + axis) * PANEL + n] = value
                low, high = min(low, value), max(high, value)
            boxes[2 * panel * axes + axis] = low
            boxes[(2 * panel + 1) * axes + axis] = high
