"""The 0.5 m cells that a room's points are sorted by.

A block of 1 m on a 0.5 m lattice is 2 × 2 cells, so the points of a block are two contiguous slices
of the sorted arrays, one for each column of cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.errors import DatasetError

CELL = 0.5  # m
CHUNK = 1 << 20  # points whose cells are worked out at a time, so that little memory is taken
LARGEST_GROUND = 4e6  # m²; its cells take 128 MB
TOLERANCE = 1e-4  # m; an extent that exceeds a block position by less does not open another one


@dataclass(frozen=True)
class Grid:
    """Cells of 0.5 m, x-major.

    Attributes:
        nx: cells along x.
        ny: cells along y.
        offsets: (nx·ny + 1,) int64; cell (ix, iy) holds the sorted points
            offsets[ix·ny + iy] … offsets[ix·ny + iy + 1].
    """

    nx: int
    ny: int
    offsets: np.ndarray


def positions(extent: float, stride: float) -> int:
    """Return the number of block positions along an axis of `extent` metres.

    Reference:
        The PointNet protocol: ceil((extent − 1) / stride) + 1, and at least 1. Measured
        coordinates carry rounding, so an excess below TOLERANCE does not count.
    """
    return max(1, math.ceil((extent - 1.0 - TOLERANCE) / stride) + 1)


def too_large(extent: Sequence[float] | np.ndarray) -> bool:
    """Return whether the ground of an `extent` (x, y, …), metres, has more cells than are held.

    A line has cells too: along an axis without extent there is one block.
    """
    return max(float(extent[0]), 1.0) * max(float(extent[1]), 1.0) > LARGEST_GROUND


def check_ground(where: object, extent: Sequence[float] | np.ndarray, advice: str) -> None:
    """Raise DatasetError, with where it was found and what to do, if points lie too far apart."""
    if too_large(extent):
        shown = " × ".join(f"{size:.3g}" for size in extent)
        raise DatasetError(
            f"{where}: found an extent of {shown}, expected metres, at most "
            f"{LARGEST_GROUND / 1e6:.0f} km² of ground.\n{advice}"
        )


def grid_sort(pos: np.ndarray) -> tuple[np.ndarray, Grid]:
    """Sort points by cell.

    Args:
        pos: (N, 3) float, metres, relative to their minimum corner; N ≥ 1. Their extent is not
            `too_large`.

    Returns:
        The order (N,) int64, stable within a cell, and the grid. There is one cell more along an
        axis than positions of stride 0.5; points beyond the last cell belong to it.
    """
    nx, ny = (positions(float(extent), CELL) + 1 for extent in (pos[:, 0].max(), pos[:, 1].max()))
    # 16-bit keys are sorted by radix, several times faster than by comparison.
    cells = np.empty(len(pos), np.uint16 if nx * ny <= 1 << 16 else np.int64)
    counts = np.zeros(nx * ny, np.int64)
    for start in range(0, len(pos), CHUNK):
        part = slice(start, start + CHUNK)
        cell_x = np.minimum((pos[part, 0] / CELL).astype(np.int64), nx - 1)
        cell_y = np.minimum((pos[part, 1] / CELL).astype(np.int64), ny - 1)
        cell = cell_x * ny + cell_y
        cells[part] = cell
        counts += np.bincount(cell, minlength=nx * ny)
    order = np.argsort(cells, kind="stable").astype(np.int64, copy=False)
    return order, Grid(nx, ny, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
