"""The fixed parts of a synthetic room: floor, ceiling, walls, doors, windows, beams, columns."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .scene import Frame, Material, Part, Scene
from .surface import material

Size = tuple[float, float, float]
Rect = tuple[float, float, float, float]  # low first, low second, high first, high second


@dataclass(frozen=True)
class Opening:
    """A hole in a wall: from `start` along the wall and `low` above the floor, in metres."""

    wall: int
    start: float
    low: float
    width: float
    height: float

    @property
    def rect(self) -> Rect:
        """The hole on its wall: along, up, along, up."""
        return self.start, self.low, self.start + self.width, self.low + self.height


def wall_frame(size: Size, wall: int) -> Frame:
    """Return the frame of a wall: x along it, y into the room, z up; walls count to the left."""
    corners = ((0.0, 0.0), (size[0], 0.0), (size[0], size[1]), (0.0, size[1]))
    return Frame(*corners[wall], 0.0, wall * math.pi / 2)


def wall_length(size: Size, wall: int) -> float:
    """Return the length of a wall in metres."""
    return size[wall % 2]


def build_shell(
    scene: Scene, size: Size, openings: list[Opening], rng: np.random.Generator
) -> None:
    """Add floor, ceiling and the four walls with their holes."""
    width, depth, height = size
    floor = scene.add("floor", Frame())
    floor.sheet((0, 0, 0), (width, 0, 0), (0, depth, 0), material("floor", rng))
    ceiling = scene.add("ceiling", Frame())
    ceiling.sheet((0, 0, height), (width, 0, 0), (0, depth, 0), material("ceiling", rng))
    common = material("wall", rng)
    base = material("structure", rng)
    for wall in range(4):
        look = common if rng.random() < 0.75 else material("wall", rng)
        part = scene.add("wall", wall_frame(size, wall))
        holes = [o for o in openings if o.wall == wall]
        _build_wall(part, wall_length(size, wall), height, holes, look)
        _build_baseboard(part, wall_length(size, wall), holes, base)


def _build_wall(
    part: Part, length: float, height: float, holes: Iterable[Opening], look: Material
) -> None:
    """Add the pieces of a wall beside, below and above its holes."""
    at = 0.0
    for s0, z0, s1, z1 in sorted(hole.rect for hole in holes):
        part.sheet((at, 0, 0), (s0 - at, 0, 0), (0, 0, height), look)
        part.sheet((s0, 0, z1), (s1 - s0, 0, 0), (0, 0, height - z1), look)
        if z0 > 0:
            part.sheet((s0, 0, 0), (s1 - s0, 0, 0), (0, 0, z0), look)
        at = s1
    part.sheet((at, 0, 0), (length - at, 0, 0), (0, 0, height), look)


def _build_baseboard(part: Part, length: float, holes: list[Opening], look: Material) -> None:
    at = 0.0
    for s0, z0, s1, _ in sorted(hole.rect for hole in holes):
        if z0 == 0:
            part.box((at, 0, 0), (s0 - 0.06, 0.012, 0.08), look)
            at = s1 + 0.06
    part.box((at, 0, 0), (length, 0.012, 0.08), look)


def build_door(scene: Scene, size: Size, opening: Opening, rng: np.random.Generator) -> None:
    """Add a door into its opening: a frame and a leaf, shut, ajar or open into the room."""
    part = scene.add("door", wall_frame(size, opening.wall))
    s0, _, s1, z1 = opening.rect
    look = material("door", rng)
    frame = look if rng.random() < 0.4 else material("frame", rng)
    _build_surround(part, opening, 0.06, 0.1, frame)
    angle = rng.choice((0.0, rng.uniform(0.2, 0.6), rng.uniform(1.2, 1.7)), p=(0.7, 0.15, 0.15))
    angle = 0.0 if opening.width > 1.3 else float(angle)  # double doors stay shut
    inset = -0.05 if angle == 0 else 0.01
    leaf = Part(scene, part.index, part.frame.at(s0, inset, 0.0, angle))
    leaf.box((0.0, -0.04, 0.008), (s1 - s0, 0.0, z1), look)
    handle = material("metal", rng)
    leaf.box((s1 - s0 - 0.12, -0.1, 1.0), (s1 - s0 - 0.05, 0.06, 1.05), handle)
    if rng.random() < 0.3:
        pane = material("glass", rng)
        leaf.sheet((0.2, 0.006, 1.1), (s1 - s0 - 0.4, 0, 0), (0, 0, z1 - 1.3), pane)


def _build_surround(
    part: Part, opening: Opening, border: float, depth: float, look: Material
) -> None:
    """Add the border around an opening, a little proud of the wall and `depth` into it."""
    s0, z0, s1, z1 = opening.rect
    front = 0.025
    part.box((s0 - border, -depth, z0), (s0, front, z1 + border), look)
    part.box((s1, -depth, z0), (s1 + border, front, z1 + border), look)
    part.box((s0, -depth, z1), (s1, front, z1 + border), look)
    if z0 > 0:
        part.box((s0 - border, -depth, z0 - border), (s1 + border, 0.1, z0), look)


def build_window(scene: Scene, size: Size, opening: Opening, rng: np.random.Generator) -> None:
    """Add a window into its opening: sill, border, bars, glass and often a blind."""
    part = scene.add("window", wall_frame(size, opening.wall))
    s0, z0, s1, z1 = opening.rect
    depth = rng.uniform(0.08, 0.2)
    frame = material("frame", rng)
    _build_surround(part, opening, 0.05, depth, frame)
    part.sheet((s0, -depth, z0), (s1 - s0, 0, 0), (0, 0, z1 - z0), material("glass", rng))
    for bar in np.linspace(s0, s1, int(rng.integers(2, 5)))[1:-1]:
        part.box((bar - 0.03, -depth, z0), (bar + 0.03, 0.05 - depth, z1), frame)
    if rng.random() < 0.5:
        cross = z0 + rng.uniform(0.3, 0.7) * (z1 - z0)
        part.box((s0, -depth, cross - 0.03), (s1, 0.05 - depth, cross + 0.03), frame)
    if rng.random() < 0.6:
        drop = rng.uniform(0.2, 1.0) * (z1 - z0)
        blind = material("blind", rng)
        part.sheet((s0, -0.02, z1 - drop), (s1 - s0, 0, 0), (0, 0, drop), blind)


def build_beam(scene: Scene, size: Size, rng: np.random.Generator) -> None:
    """Add a beam under the ceiling, from wall to wall across the room or along one wall."""
    width, depth, height = size
    wall = int(rng.integers(4))
    length = wall_length(size, wall)
    thick = rng.uniform(0.2, 0.45)
    drop = rng.uniform(0.18, max(0.2, min(0.45, height - 2.3)))
    across = depth if wall % 2 == 0 else width
    at = 0.0 if rng.random() < 0.3 else rng.uniform(0.15, 0.8) * (across - thick)
    part = scene.add("beam", wall_frame(size, wall))
    part.box((0, at, height - drop), (length, at + thick, height), material("structure", rng))


def build_column(
    scene: Scene, frame: Frame, width: float, depth: float, height: float, rng: np.random.Generator
) -> None:
    """Add a column from floor to ceiling; `frame` lies at the middle of its back."""
    part = scene.add("column", frame)
    look = material("structure", rng)
    if rng.random() < 0.3:
        part.cylinder((0, depth / 2, 0), min(width, depth) / 2, height, look, facets=14)
    else:
        part.box((-width / 2, 0, 0), (width / 2, depth, height), look)
