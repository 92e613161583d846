"""Blocks of a synthetic room as a network sees them: input for a benchmark that is like a scan."""

from __future__ import annotations

import numpy as np

from pipelines.data.blocks import block_features, block_points, draw, room_blocks
from pipelines.data.grid import grid_sort

from . import plan_building, scan_room

LEAST_DENSITY = 4000.0  # points per square metre


def room_features(batch: int, num_points: int) -> np.ndarray:
    """Return the features (batch, num_points, 9) float32 of blocks of one room, always the same.

    The blocks with most points come first, and again if there are fewer than `batch`. The room is
    scanned so densely that a block with walls has `num_points` points or more.
    """
    (plan,) = plan_building(areas=1, rooms=1, seed=0)
    objects = scan_room(plan, max(LEAST_DENSITY, num_points / 2))
    pos = np.concatenate([one.pos for one in objects])
    pos = (pos - pos.min(axis=0)).astype(np.float32)
    order, grid = grid_sort(pos)
    pos, color = pos[order], np.concatenate([one.color for one in objects])[order]
    blocks = sorted(room_blocks(grid, stride=1.0), key=lambda block: -block.count)
    rng, extent = np.random.default_rng(0), pos.max(axis=0)
    features = np.empty((batch, num_points, 9), np.float32)
    for number in range(batch):
        block = blocks[number % len(blocks)]
        points = block_points(block)[draw(block.count, num_points, rng)]
        features[number] = block_features(pos[points], color[points], block.corner, extent)
    return features
