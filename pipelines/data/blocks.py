"""Blocks: square columns of a room over its full height, and the network's input from them.

A room's points are sorted by cells of 0.5 m. A block of n × n cells is n contiguous slices of the
sorted arrays, one for each column of cells. Published blocks are 1 m × 1 m.

Reference:
    The PointNet protocol for S3DIS (Qi et al., CVPR 2017), which DeepGCNs uses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from pipelines.config import BLOCK_SIZE

MIN_POINTS = 100  # a block with fewer is dropped
CELL = 0.5  # m
CHUNK = 1 << 20  # points assigned to cells at a time, to bound memory
TOLERANCE = 1e-4  # m; a smaller excess of an extent does not add a block position


@dataclass(frozen=True)
class Grid:
    """Cells of 0.5 m, x-major: the sorted points of (ix, iy) begin at offsets[ix·ny + iy]."""

    nx: int  # cells along x
    ny: int  # cells along y
    offsets: np.ndarray  # (nx·ny + 1,) int64


@dataclass(frozen=True)
class Block:
    """One column of a room."""

    corner: tuple[float, float]  # its minimum x and y, m, from the room's minimum
    slices: tuple[tuple[int, int], ...]  # (start, stop) pairs into the room's sorted arrays
    count: int  # points
    size: float = BLOCK_SIZE  # its side, m


def positions(extent: float, stride: float) -> int:
    """Return the number of block positions along an axis of `extent` metres.

    Reference:
        The PointNet protocol: ceil((extent − 1) / stride) + 1, and at least 1. Measured
        coordinates carry rounding, so an excess below TOLERANCE does not count.
    """
    return max(1, math.ceil((extent - 1.0 - TOLERANCE) / stride) + 1)


def cells_of(pos: np.ndarray) -> tuple[np.ndarray, Grid]:
    """Return the cell ix·ny + iy of points (N, 3), metres from their minimum corner, and the grid.

    N ≥ 1, see `check_ground`. Along an axis there is one more cell than block positions of stride
    0.5; the last cell also takes the points beyond it.
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
    return cells, Grid(nx, ny, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))


def grid_sort(pos: np.ndarray) -> tuple[np.ndarray, Grid]:
    """Return the order (N,) int64 of points (N, 3) by cell, stable within a cell, and the grid.

    See `cells_of`.
    """
    cells, grid = cells_of(pos)
    return np.argsort(cells, kind="stable").astype(np.int64, copy=False), grid


def overlapping(size: float) -> float:
    """Return the stride of training blocks, m: half a block, rounded down to cells, at least one.

    >>> overlapping(1.0), overlapping(1.5), overlapping(4.0)
    (0.5, 0.5, 2.0)
    """
    return max(1, int(size / CELL) // 2) * CELL


def trained_blocks(steps: int, epoch: float, batch: int) -> float:
    """Return how many blocks so many steps train on: an epoch's last batch has what is left of it.

    >>> trained_blocks(24, epoch=11, batch=16), trained_blocks(5, epoch=40, batch=16)
    (264, 72)
    """
    whole, rest = divmod(steps, math.ceil(epoch / batch))
    return whole * epoch + rest * batch


def room_blocks(
    grid: Grid, *, size: float = BLOCK_SIZE, stride: float, min_points: int = MIN_POINTS
) -> list[Block]:
    """Return a room's blocks of at least `min_points` points, and at least one, x-major.

    `size` is their side and `stride` what lies between their corners, whole cells in metres: less
    than `size` overlaps them (training), `size` makes them disjoint, so that every point lies in
    exactly one. The last ones along an axis may reach beyond the room.
    """
    wide, step = round(size / CELL), round(stride / CELL)
    if wide * CELL != size or step * CELL != stride or not 1 <= step <= wide:
        raise ValueError(f"blocks of {size} m at stride {stride}: expected multiples of {CELL}")
    # The last block is the first that reaches the last cell.
    xs, ys = (range(0, max(1, cells - wide + step), step) for cells in (grid.nx, grid.ny))
    iy = np.array(ys)
    blocks: list[Block] = []
    for ix in xs:
        # A block is the cells (ix, iy) … (ix + wide − 1, iy + wide − 1), as far as they exist. Most
        # blocks of a large ground are empty, so only those with points get a Python object.
        first = np.arange(ix, min(ix + wide, grid.nx))[:, None] * grid.ny
        beyond = np.minimum(iy + wide, grid.ny)
        starts, stops = grid.offsets[first + iy], grid.offsets[first + beyond]
        counts = (stops - starts).sum(axis=0)
        for at in np.flatnonzero(counts >= max(1, min_points)):
            pairs = zip(starts[:, at].tolist(), stops[:, at].tolist(), strict=True)
            slices = tuple((start, stop) for start, stop in pairs if stop > start)
            corner = (ix * CELL, int(iy[at]) * CELL)
            blocks.append(Block(corner, slices, int(counts[at]), size))
    return blocks


def behind(block: Block, count: int) -> Block:
    """Return the block of points that `count` others come before."""
    slices = tuple((start + count, stop + count) for start, stop in block.slices)
    return replace(block, slices=slices)


def block_points(block: Block) -> np.ndarray:
    """Return the indices (count,) int64 of a block's points in the room's sorted arrays."""
    return np.concatenate([np.arange(start, stop) for start, stop in block.slices])


def draw(count: int, num_points: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `num_points` of `count` points, (num_points,) int64.

    Without repetition if there are enough; otherwise every point once and the rest at random.
    """
    if count >= num_points:
        return rng.choice(count, num_points, replace=False)
    more = rng.integers(0, count, num_points - count)
    return rng.permutation(np.concatenate([np.arange(count), more]))


def thin(pos: np.ndarray, voxel: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Choose a random point of each voxel, a cube of side `voxel` metres, of points (n, 3).

    Returns:
        the chosen points (m,) int64, in the order of their voxels, and which of them is each
        point's, (n,) int64.

    >>> line = np.array([[0.1, 0, 0], [0.9, 0, 0], [0.2, 0, 0]])
    >>> chosen, own = thin(line, 0.5, np.random.default_rng(0))
    >>> int(chosen[0]) in (0, 2), int(chosen[1]), own.tolist()
    (True, 1, [0, 1, 0])
    """
    cells = np.floor(pos / voxel).astype(np.int64)
    cells -= cells.min(axis=0)
    _, sizes_y, sizes_z = (cells.max(axis=0) + 1).tolist()
    keys = (cells[:, 0] * sizes_y + cells[:, 1]) * sizes_z + cells[:, 2]
    voxels, own = np.unique(keys, return_inverse=True)
    chosen = np.empty(len(voxels), np.int64)
    order = rng.permutation(len(pos))
    chosen[own[order]] = order  # the last of each voxel, in random order, stays
    return chosen, own.reshape(-1)


def distinct(pos: np.ndarray) -> np.ndarray:
    """Return the index of one point of each place in `pos` (n, 3)."""
    key = pos.astype(np.float64) @ (1.0, math.sqrt(2), math.pi)  # sorted much faster than rows
    return np.unique(key, return_index=True)[1]


def cover(count: int, num_points: int, rng: np.random.Generator) -> np.ndarray:
    """Draw until every point is drawn, (ceil(count / num_points), num_points) int64.

    All points come once in random order; random ones fill up the last draw.
    """
    draws = -(-count // num_points)
    missing = draws * num_points - count
    drawn = np.concatenate([rng.permutation(count), rng.integers(0, count, missing)])
    return drawn.reshape(draws, num_points)


def block_features(
    pos: np.ndarray,
    color: np.ndarray,
    corner: tuple[float, float],
    extent: np.ndarray,
    *,
    layout: str = "paper",
    size: float = BLOCK_SIZE,
) -> np.ndarray:
    """Return the network's input for points of one block, (n, 9) float32.

    Args:
        pos: (n, 3) metres, relative to the room's minimum.
        color: (n, 3), uint8 or float from 0 to 1.
        corner: the block's minimum x and y, metres, in the frame of `pos`.
        extent: (3,) the room's maximum in the frame of `pos`, metres.
        layout: "paper", or "torch" for channels 0:3 centred on their mean and scaled into
            [−1, 1], as PyG's NormalizeScale does in the PyTorch release.
        size: the block's side, metres.

    Channels: x and y from the block's middle and z from the floor | r, g, b from 0 to 1 |
    position divided by the room's extent.
    """
    features = np.empty((len(pos), 9), dtype=np.float32)
    middle = np.array([corner[0] + size / 2, corner[1] + size / 2, 0.0], np.float32)
    features[:, 0:3] = pos - middle
    if layout == "torch":
        features[:, 0:3] -= features[:, 0:3].mean(axis=0)
        features[:, 0:3] *= 0.999999 / max(float(np.abs(features[:, 0:3]).max()), 1e-12)
    features[:, 3:6] = color / np.float32(255) if color.dtype == np.uint8 else color
    features[:, 6:9] = pos / np.maximum(np.asarray(extent, np.float32), 1e-6)
    return features
