"""Augmentation of a block as if its whole room had been scanned, turned or lit in another way.

Each augmentation is one function of the points and a random generator, and one entry of
AUGMENTATIONS, in whose order they are applied. A point keeps its label. The number of points stays:
what a scan lacks is replaced by copies of what it has, as `draw` does in a block of few points.

Reference:
    Qian et al., PointNeXt, NeurIPS 2022, table 5 (which parts help on S3DIS).
    Graham et al., Submanifold Sparse Convolutional Networks, CVPR 2018 (elastic distortion).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipelines.config import BLOCK_SIZE
from pipelines.config.model import GREY

from .blocks import distinct

PARTIAL, TOPLESS = 0.6, 0.35  # probabilities: a part of the room; without what is above
TOP = (1.0, 2.4)  # m above the floor
DENSITY = (500, 10_000)  # points per square metre of ground
HOLES = 3  # at most
HOLE = (0.1, 0.4)  # m: radius of a ball without points, or half the width of a slab
FEWEST = 50  # points that a block keeps
ELASTIC = ((0.2, 0.015), (0.8, 0.05))  # m: features of two fields, maximal standard deviation
WAVES = 16  # of each field
TILT = math.radians(3)  # about x and y each, at most
SCALE = (0.9, 1.1)
JITTER, MOST_JITTER = 0.005, 0.02  # m, along each axis: standard deviation and maximum
EXPOSURE, BALANCE = 0.4, 0.1  # standard deviations: stops; of the logarithm of each channel's gain
SATURATION, GAMMA = (0.4, 1.3), (0.75, 1.35)
GRAIN = 0.04  # maximal standard deviation of a colour's noise
COLOR_DROP = 0.2  # probability


@dataclass(frozen=True)
class BlockPoints:
    """Points of one block in the frame of its room."""

    pos: np.ndarray  # (n, 3) float32, m, from the room's minimum
    color: np.ndarray  # (n, 3) float32, 0 to 1
    label: np.ndarray  # (n,) uint8
    center: np.ndarray  # (2,) x and y of the block's centre, m
    extent: np.ndarray  # (3,) the room's size, m
    size: float = BLOCK_SIZE  # the block's side, m

    @property
    def corner(self) -> tuple[float, float]:
        """The minimum x and y of an axis-aligned block with this centre."""
        x, y = (float(value) - self.size / 2 for value in self.center)
        return x, y


def augment(block: BlockPoints, names: Sequence[str], rng: np.random.Generator) -> BlockPoints:
    """Apply the named AUGMENTATIONS.

    >>> pos, color, label = np.zeros((1, 3), "f4"), np.zeros((1, 3), "f4"), np.zeros(1, "u1")
    >>> block = BlockPoints(pos, color, label, np.array([0.5, 0.5]), extent=np.array([4.0, 3, 2.5]))
    >>> augment(block, ["scale"], np.random.default_rng(0)).extent.round(2)
    array([4.11, 3.08, 2.57])
    """
    for name, function in AUGMENTATIONS.items():
        if name in names:
            block = function(block, rng)
    return block


def crop(block: BlockPoints, rng: np.random.Generator) -> BlockPoints:
    """Cut the room to a part around the block or to what lies below a height, or both.

    The corner and the size of what is left are the new frame.
    """
    low, extent = np.zeros(3), np.array(block.extent, np.float64)
    if rng.random() < PARTIAL:
        first, last = block.pos[:, :2].min(axis=0), block.pos[:, :2].max(axis=0)
        low[:2] = rng.uniform(0, np.maximum(first, 0))
        extent[:2] = rng.uniform(last, np.maximum(extent[:2], last)) - low[:2]
    if rng.random() < TOPLESS:
        top = rng.uniform(*TOP)
        block = _keep(block, block.pos[:, 2] <= top, rng)
        extent[2] = min(extent[2], max(top, float(block.pos[:, 2].max())))
    pos = block.pos - low.astype(np.float32)
    return replace(block, pos=pos, center=block.center - low[:2], extent=extent)


def thin(block: BlockPoints, rng: np.random.Generator) -> BlockPoints:
    """Thin the block to a random density, and cut a few holes into it.

    Where the density is higher than the block's own, all points stay.
    """
    kept = np.zeros(len(block.pos), bool)
    count = int(block.size**2 * math.exp(rng.uniform(*np.log(DENSITY))))
    kept[rng.permutation(distinct(block.pos))[:count]] = True
    for _ in range(rng.integers(HOLES + 1)):
        offset = block.pos - block.pos[rng.integers(len(block.pos))]
        if rng.random() < 0.5:  # a slab of any direction
            offset = offset @ _direction(rng)[:, None]
        outside = (offset**2).sum(axis=1) > rng.uniform(*HOLE) ** 2
        if np.count_nonzero(kept & outside) >= FEWEST:
            kept &= outside
    return _keep(block, kept, rng)


def _direction(rng: np.random.Generator) -> np.ndarray:
    """Draw a unit vector (3,) float32 of any direction."""
    vector = rng.standard_normal(3, np.float32)
    return vector / np.linalg.norm(vector)


def _keep(block: BlockPoints, kept: np.ndarray, rng: np.random.Generator) -> BlockPoints:
    """Replace the points that are not `kept` (n,) bool by copies of others, unless few are."""
    left = np.flatnonzero(kept)
    if len(left) < min(FEWEST, len(kept)):
        return block
    index = np.where(kept, np.arange(len(kept)), rng.choice(left, len(kept)))
    pos, color, label = block.pos[index], block.color[index], block.label[index]
    return replace(block, pos=pos, color=color, label=label)


def elastic(block: BlockPoints, rng: np.random.Generator) -> BlockPoints:
    """Bend the room: displace its points by two smooth random fields, a fine and a coarse one.

    In SparseConvNet and MinkowskiNet the fields are noise on a grid, smoothed and interpolated,
    of about 5 and 18 cm. Here they are sums of plane waves, and smaller, as walls stay straight.

    Reference:
        Rahimi & Recht, Random Features for Large-Scale Kernel Machines, NeurIPS 2007.
    """
    lengths, most = np.repeat(ELASTIC, WAVES, axis=0).T
    waves = (rng.standard_normal((3, len(lengths))) / lengths).astype(np.float32)
    phases = rng.uniform(0, 2 * math.pi, len(lengths)).astype(np.float32)
    deviations = most * rng.random() * math.sqrt(2 / WAVES)  # a cosine's variance is 1/2
    sums = deviations[:, None] * rng.standard_normal((len(lengths), 3))
    moved = np.cos(block.pos @ waves + phases) @ sums.astype(np.float32)
    return replace(block, pos=block.pos + moved)


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


def tilt(block: BlockPoints, rng: np.random.Generator) -> BlockPoints:
    """Rotate the room a little about x and y; its extent becomes that of the rotated box."""
    a, b = rng.uniform(-TILT, TILT, 2)
    about_x = np.array([[1, 0, 0], [0, math.cos(a), math.sin(a)], [0, -math.sin(a), math.cos(a)]])
    about_y = np.array([[math.cos(b), 0, -math.sin(b)], [0, 1, 0], [math.sin(b), 0, math.cos(b)]])
    turn = about_x @ about_y  # for row vectors
    before = np.asarray(block.extent, np.float64) / 2
    after = before @ np.abs(turn)
    pos = (block.pos - before.astype(np.float32)) @ turn.astype(np.float32)
    center = (np.array([*block.center, before[2]]) - before) @ turn + after
    return replace(block, pos=pos + after.astype(np.float32), center=center[:2], extent=2 * after)


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


def color_shift(block: BlockPoints, rng: np.random.Generator) -> BlockPoints:
    """Change the exposure, white balance, saturation and contrast of a camera, and its noise."""
    gain = 2 ** rng.normal(0, EXPOSURE) * np.exp(rng.normal(0, BALANCE, 3))
    saturation, gamma, grain = (rng.uniform(*span) for span in (SATURATION, GAMMA, (0, GRAIN)))
    color = block.color ** np.float32(gamma)
    grey = color.mean(axis=1, keepdims=True)
    color = (grey + np.float32(saturation) * (color - grey)) * gain.astype(np.float32)
    color += np.float32(grain) * rng.standard_normal(color.shape, np.float32)
    return replace(block, color=color.clip(0, 1))


def color_drop(block: BlockPoints, rng: np.random.Generator) -> BlockPoints:
    """Make the whole block grey with probability COLOR_DROP."""
    if rng.random() >= COLOR_DROP:
        return block
    return replace(block, color=np.full_like(block.color, GREY))


# The names are those of `config.recipes.AUGMENTATIONS`, which knows no NumPy.
AUGMENTATIONS: dict[str, Callable[[BlockPoints, np.random.Generator], BlockPoints]] = {
    "crop": crop,
    "thin": thin,
    "elastic": elastic,
    "rotate": rotate,
    "tilt": tilt,
    "flip": flip,
    "scale": scale,
    "jitter": jitter,
    "contrast": contrast,
    "color-shift": color_shift,
    "color-drop": color_drop,
}
