"""How scans of rooms differ: which part of a room they show, how it is turned and coloured."""

from __future__ import annotations

import numpy as np

from .laser import Points
from .plans import Size

LEAST = 0.15  # of a room's points that a part of it has
EXPOSURE = (0.28, 0.62)  # mean brightness that a camera aims at
WARM = (0.06, 0.07)  # logarithm of red's excess and blue's lack in the light of lamps: mean, spread


def vary(points: Points, size: Size, rng: np.random.Generator) -> Points:
    """Keep a part of some rooms, turn half of them, and change the colours of all.

    `points` are in the frame of a room of `size`, sorted by object; so is what is returned. A
    turned room keeps its middle.
    """
    kept = _part(points.pos, size, rng)
    pos, color, owner = (values[kept] for values in points)
    if rng.random() < 0.5:
        turn = rng.uniform(0, 2 * np.pi)
        cos, sin = np.cos(turn), np.sin(turn)
        middle = np.array((size[0] / 2, size[1] / 2, 0.0))
        pos = (pos - middle) @ ((cos, sin, 0), (-sin, cos, 0), (0, 0, 1)) + middle
    return Points(pos, _recolor(color, rng), owner)


def _part(pos: np.ndarray, size: Size, rng: np.random.Generator) -> np.ndarray:
    """Return which points (n,) of a room are in the part that is scanned."""
    kept = np.ones(len(pos), bool)
    form = rng.choice(("whole", "box", "low", "both"), p=(0.62, 0.14, 0.14, 0.1))
    if form in ("box", "both"):
        span = rng.uniform(0.35, 0.9, 2) * size[:2]
        low = rng.uniform(0, 1, 2) * (size[:2] - span)
        kept &= ((pos[:, :2] > low) & (pos[:, :2] < low + span)).all(axis=1)
    if form in ("low", "both"):
        kept &= pos[:, 2] < rng.uniform(0.9, 2.2)
    return kept if kept.mean() > LEAST else np.ones(len(pos), bool)


def _recolor(color: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the colours (n, 3) uint8 of a camera's exposure, white balance and saturation."""
    value = (color / np.float32(255)) ** np.float32(rng.uniform(0.75, 1.3))
    grey = value.mean(axis=1, keepdims=True)
    value = grey + np.float32(rng.uniform(0.5, 1.25)) * (value - grey)
    cast = rng.normal(*WARM) * np.array((1.0, 0.1, -1.0)) + rng.normal(0, 0.035, 3)
    gain = rng.uniform(*EXPOSURE) / max(float(grey.mean()), 0.05) * np.exp(cast)
    return np.clip(np.rint(255 * value * gain.astype(np.float32)), 0, 255).astype(np.uint8)
