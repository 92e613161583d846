"""Blocks: 1 m × 1 m columns of a room over its full height, and what the network sees of them.

Reference:
    The PointNet protocol for S3DIS (Qi et al., CVPR 2017), which DeepGCNs uses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .grid import CELL, Grid

BLOCK_SIZE = 1.0  # m
MIN_POINTS = 100  # a block with fewer is dropped


@dataclass(frozen=True)
class Block:
    """One column of a room.

    Attributes:
        corner: its minimum x and y, metres, relative to the room's minimum.
        slices: (start, stop) pairs into the room's sorted arrays.
        count: its points.
    """

    corner: tuple[float, float]
    slices: tuple[tuple[int, int], ...]
    count: int


def room_blocks(grid: Grid, *, stride: float, min_points: int = MIN_POINTS) -> list[Block]:
    """Return a room's blocks of at least `min_points` points, x-major.

    Args:
        grid: the room's cells.
        stride: metres between blocks: 0.5 (overlapping, training) or 1.0 (disjoint; every point
            lies in exactly one block).
        min_points: blocks with fewer points are left out; empty ones always are.
    """
    step = round(stride / CELL)
    if step not in (1, 2) or step * CELL != stride:
        raise ValueError(f"stride {stride}: expected 0.5 or 1.0")
    last_x, last_y = (grid.nx - 1, grid.ny - 1) if step == 1 else (grid.nx, grid.ny)
    iy = np.arange(0, last_y, step)
    blocks: list[Block] = []
    for ix in range(0, last_x, step):
        # A block is the cells (ix, iy) … (ix + 1, iy + 1), as far as they exist. A large ground is
        # empty in most places, so only those with points are looked at one by one.
        first = np.arange(ix, min(ix + 2, grid.nx))[:, None] * grid.ny
        starts, stops = grid.offsets[first + iy], grid.offsets[first + np.minimum(iy + 2, grid.ny)]
        counts = (stops - starts).sum(axis=0)
        for place in np.flatnonzero(counts >= max(1, min_points)):
            pairs = zip(starts[:, place].tolist(), stops[:, place].tolist(), strict=True)
            slices = tuple((start, stop) for start, stop in pairs if stop > start)
            corner = (ix * CELL, int(iy[place]) * CELL)
            blocks.append(Block(corner, slices, int(counts[place])))
    return blocks


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


def cover(count: int, num_points: int, rng: np.random.Generator) -> np.ndarray:
    """Draw so often that every point is drawn, (ceil(count / num_points), num_points) int64.

    The points are dealt out in random order; the last draw is filled up at random.
    """
    draws = -(-count // num_points)
    missing = draws * num_points - count
    dealt = np.concatenate([rng.permutation(count), rng.integers(0, count, missing)])
    return dealt.reshape(draws, num_points)


def block_features(
    pos: np.ndarray,
    color: np.ndarray,
    corner: tuple[float, float],
    extent: np.ndarray,
    *,
    layout: str = "paper",
) -> np.ndarray:
    """Return the network's input for points of one block, (n, 9) float32.

    Args:
        pos: (n, 3) metres, relative to the room's minimum.
        color: (n, 3), uint8 or float from 0 to 1.
        corner: the block's minimum x and y, metres, in the frame of `pos`.
        extent: (3,) the room's maximum in the frame of `pos`, metres.
        layout: "paper", or "torch" for channels 0:3 centred on their mean and scaled into
            [−1, 1], as PyG's NormalizeScale does in the PyTorch release.

    Channels: x and y from the block's middle and z from the floor | r, g, b from 0 to 1 |
    position divided by the room's extent.
    """
    features = np.empty((len(pos), 9), dtype=np.float32)
    middle = np.array([corner[0] + BLOCK_SIZE / 2, corner[1] + BLOCK_SIZE / 2, 0.0], np.float32)
    features[:, 0:3] = pos - middle
    if layout == "torch":
        features[:, 0:3] -= features[:, 0:3].mean(axis=0)
        features[:, 0:3] *= 0.999999 / max(float(np.abs(features[:, 0:3]).max()), 1e-12)
    features[:, 3:6] = color / np.float32(255) if color.dtype == np.uint8 else color
    features[:, 6:9] = pos / np.maximum(np.asarray(extent, np.float32), 1e-6)
    return features
