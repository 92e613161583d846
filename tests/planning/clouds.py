"""Made clouds of points whose densities and sizes are known: a room, an object, open ground."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipelines.data.statistics import Statistics, measure_room, merge
from pipelines.data.store import Room, make_room

CLASSES = ("floor", "rest")


def sheet(density: float, x: float, y: float, seed: int = 0) -> np.ndarray:
    """Points at random on a horizontal rectangle."""
    rng = np.random.default_rng(seed)
    count = round(density * x * y)
    return np.column_stack([rng.random((count, 2)) * (x, y), rng.normal(0, 0.003, count)])


def box(density: float, x: float = 6.0, y: float = 5.0, z: float = 2.6) -> np.ndarray:
    """Points on the six sides of a box."""
    parts = []
    for side in (0, 1):
        parts += [
            sheet(density, x, y, side) + np.array([0, 0, z * side]),
            sheet(density, x, z, side + 2)[:, [0, 2, 1]] + np.array([0, y * side, 0]),
            sheet(density, y, z, side + 4)[:, [2, 0, 1]] + np.array([x * side, 0, 0]),
        ]
    return np.concatenate(parts)


def ground(density: float = 20.0, side: float = 100.0) -> np.ndarray:
    """Points of open ground with poles."""
    poles = sheet(40 * density, 0.3, 12)[:, [0, 2, 1]] + np.array([side / 2, side / 2, 0])
    return np.concatenate([sheet(density, side, side), poles])


def as_room(pos: np.ndarray, label: np.ndarray | None = None, *, colored: bool = True) -> Room:
    """Return points as a room, with colours at random or none; the lowest ones are floor."""
    rng = np.random.default_rng(0)
    color = rng.integers(1, 255, (len(pos), 3)) if colored else np.full((len(pos), 3), 128)
    if label is None:
        label = (pos[:, 2] > 0.1).astype(np.uint8)
    return make_room(1, "a", pos, color.astype(np.uint8), label)


def statistics_of(rooms: Sequence[Room]) -> Statistics:
    """Return the statistics of rooms together."""
    return merge([measure_room(room, len(CLASSES)) for room in rooms])
