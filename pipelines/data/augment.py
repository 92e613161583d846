"""Augmentation of a block as if its whole room had been rotated, scaled or lit in another way.

Each augmentation is one function of the points and a random generator, and one entry of
AUGMENTATIONS, in whose order they are applied. Labels never change.

Reference:
    Qian et al., PointNeXt, NeurIPS 2022, table 5 (which parts help on S3DIS).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .blocks import BLOCK_SIZE

SCALE = (0.9, 1.1)
JITTER, MOST_JITTER = 0.005, 0.02  # m, along each axis: standard deviation and maximum
COLOR_DROP = 0.2  # probability
GREY = 0.5  # the colour of a scan without colour, here as in `predict`


@dataclass(frozen=True)
class BlockPoints:
    """Points of one block in the frame of its room."""

    pos: np.ndarray  # (n, 3) float32, m, from the room's minimum
    color: np.ndarray  # (n, 3) float32, 0 to 1
    center: np.ndarray  # (2,) x and y of the block's centre, m
    extent: np.ndarray  # (3,) the room's size, m

    @property
    def corner(self) -> tuple[float, float]:
        """The minimum x and y of an axis-aligned block with this centre."""
        x, y = (float(value) - BLOCK_SIZE / 2 for value in self.center)
        return x, y


def augment(block: BlockPoints, names: Sequence[str], rng: np.random.Generator) -> BlockPoints:
    """Apply the named AUGMENTATIONS.

    >>> pos, color = np.zeros((1, 3), np.float32), np.zeros((1, 3), np.float32)
    >>> room = BlockPoints(pos, color, center=np.array([0.5, 0.5]), extent=np.array([4.0, 3, 2.5]))
    >>> augment(room, ["scale"], np.random.default_rng(0)).extent.round(2)
    array([4.11, 3.08, 2.57])
    """
    for name, function in AUGMENTATIONS.items():
        if name in names:
            block = function(block, rng)
    return block


def rotate(block: BlockPoints, rng: np.random.Generator) -> BlockPoints:
    """Rotate the room about z by any angle; its extent becomes that of the rotated rectangle."""
    angle = rng.uniform(0, 2 * math.pi)
    cos, sin = math.cos(angle), math.sin(angle)
    turn = np.array([[cos, sin], [-sin, cos]], np.float32)  # for row vectors
    width, depth = float(block.extent[0]), float(block.extent[1])
    size = (abs(width * cos) + abs(depth * sin), abs(width * sin) + abs(depth * cos))
    before, after = np.array([width, depth]) / 2, np.array(size) / 2
    pos = block.pos.copy()
    pos[:, :2] = (pos[:, :2] - before.astype(np.float32)) @ turn + after.astype(np.float32)
    center = (block.center - before) @ turn + after
    return replace(block, pos=pos, center=center, extent=np.array([*size, block.extent[2]]))


def flip(block: BlockPoints, rng: np.random.Generator) -> BlockPoints:
    """Mirror x and y, each with probability 1/2."""
    pos, center = block.pos.copy(), np.array(block.center, np.float64)
    for axis in range(2):
        if rng.random() < 0.5:
            pos[:, axis] = np.float32(block.extent[axis]) - pos[:, axis]
            center[axis] = block.extent[axis] - center[axis]
    return replace(block, pos=pos, center=center)


def scale(block: BlockPoints, rng: np.random.Generator) -> BlockPoints:
    """Scale the room by one random factor."""
    factor = rng.uniform(*SCALE)
    return replace(
        block,
        pos=block.pos * np.float32(factor),
        center=np.asarray(block.center) * factor,
        extent=np.asarray(block.extent) * factor,
    )


def jitter(block: BlockPoints, rng: np.random.Generator) -> BlockPoints:
    """Move every point a little, like a scanner's noise."""
    noise = rng.normal(0, JITTER, block.pos.shape).clip(-MOST_JITTER, MOST_JITTER)
    return replace(block, pos=block.pos + noise.astype(np.float32))


def contrast(block: BlockPoints, rng: np.random.Generator) -> BlockPoints:
    """Blend each channel with itself stretched to its full range, half the time.

    The weight of the blend is random. This is what a camera's automatic contrast does.
    """
    weight = np.float32(rng.random())
    if rng.random() < 0.5:
        return block
    low, high = block.color.min(axis=0), block.color.max(axis=0)
    stretched = (block.color - low) / np.maximum(high - low, np.float32(1 / 255))
    return replace(block, color=(1 - weight) * block.color + weight * stretched)


def color_drop(block: BlockPoints, rng: np.random.Generator) -> BlockPoints:
    """Make the whole block grey with probability COLOR_DROP."""
    if rng.random() >= COLOR_DROP:
        return block
    return replace(block, color=np.full_like(block.color, GREY))


# The names are those of `config.recipes.AUGMENTATIONS`, which knows no NumPy.
AUGMENTATIONS: dict[str, Callable[[BlockPoints, np.random.Generator], BlockPoints]] = {
    "rotate": rotate,
    "flip": flip,
    "scale": scale,
    "jitter": jitter,
    "contrast": contrast,
    "color-drop": color_drop,
}
