"""Augmentation of a block as if its whole room had been turned, scaled or lit in another way.

Each part is one function of the points and a random generator; `augment` applies those that are
asked for, in the order of PARTS. Labels never change.

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
JITTER, MOST_JITTER = 0.005, 0.02  # m: standard deviation, and the most that a point is moved
COLOR_DROP = 0.2  # probability
GREY = 0.5  # the colour of a scan without colour, here as in `predict`


@dataclass(frozen=True)
class BlockPoints:
    """Points of one block in the frame of its room.

    Attributes:
        pos: (n, 3) float32 metres, from the room's minimum.
        color: (n, 3) float32, 0 to 1.
        middle: (2,) x and y of the block's middle.
        extent: (3,) the room's size.
    """

    pos: np.ndarray
    color: np.ndarray
    middle: np.ndarray
    extent: np.ndarray

    @property
    def corner(self) -> tuple[float, float]:
        """The block's minimum x and y, if it lay along the axes."""
        x, y = (float(value) - BLOCK_SIZE / 2 for value in self.middle)
        return x, y


def augment(block: BlockPoints, parts: Sequence[str], rng: np.random.Generator) -> BlockPoints:
    """Apply the named parts in the order of PARTS, whatever order they are named in."""
    for name, part in PARTS.items():
        if name in parts:
            block = part(block, rng)
    return block


def rotate(block: BlockPoints, rng: np.random.Generator) -> BlockPoints:
    """Turn the room about z by any angle; its extent becomes that of the turned rectangle."""
    angle = rng.uniform(0, 2 * math.pi)
    cos, sin = math.cos(angle), math.sin(angle)
    turn = np.array([[cos, sin], [-sin, cos]], np.float32)  # for row vectors
    width, depth = float(block.extent[0]), float(block.extent[1])
    size = (abs(width * cos) + abs(depth * sin), abs(width * sin) + abs(depth * cos))
    before, after = np.array([width, depth]) / 2, np.array(size) / 2
    pos = block.pos.copy()
    pos[:, :2] = (pos[:, :2] - before.astype(np.float32)) @ turn + after.astype(np.float32)
    middle = (block.middle - before) @ turn + after
    return replace(block, pos=pos, middle=middle, extent=np.array([*size, block.extent[2]]))


def flip(block: BlockPoints, rng: np.random.Generator) -> BlockPoints:
    """Mirror x and y, each with probability 1/2."""
    pos, middle = block.pos.copy(), np.array(block.middle, np.float64)
    for axis in range(2):
        if rng.random() < 0.5:
            pos[:, axis] = np.float32(block.extent[axis]) - pos[:, axis]
            middle[axis] = block.extent[axis] - middle[axis]
    return replace(block, pos=pos, middle=middle)


def scale(block: BlockPoints, rng: np.random.Generator) -> BlockPoints:
    """Scale the room by one factor out of SCALE."""
    factor = rng.uniform(*SCALE)
    return replace(
        block,
        pos=block.pos * np.float32(factor),
        middle=np.asarray(block.middle) * factor,
        extent=np.asarray(block.extent) * factor,
    )


def jitter(block: BlockPoints, rng: np.random.Generator) -> BlockPoints:
    """Move every point a little, as a scanner's noise does."""
    noise = rng.normal(0, JITTER, block.pos.shape).clip(-MOST_JITTER, MOST_JITTER)
    return replace(block, pos=block.pos + noise.astype(np.float32))


def contrast(block: BlockPoints, rng: np.random.Generator) -> BlockPoints:
    """Blend each channel with itself stretched to its full range, by a random share, half the time.

    What a camera's automatic contrast would have made of the block.
    """
    share = np.float32(rng.random())
    if rng.random() < 0.5:
        return block
    low, high = block.color.min(axis=0), block.color.max(axis=0)
    stretched = (block.color - low) / np.maximum(high - low, np.float32(1 / 255))
    return replace(block, color=(1 - share) * block.color + share * stretched)


def color_drop(block: BlockPoints, rng: np.random.Generator) -> BlockPoints:
    """Make the whole block grey with probability COLOR_DROP."""
    if rng.random() >= COLOR_DROP:
        return block
    return replace(block, color=np.full_like(block.color, GREY))


Part = Callable[[BlockPoints, np.random.Generator], BlockPoints]
PARTS: dict[str, Part] = {
    "rotate": rotate,
    "flip": flip,
    "scale": scale,
    "jitter": jitter,
    "contrast": contrast,
    "color-drop": color_drop,
}
