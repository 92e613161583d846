"""The empty synthetic room: which floor and wall is still free, and the parts that are built in.

Built in are floor, ceiling, walls, doors, windows, beams and columns. All lengths are metres.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .scene import Frame, Material, Part, Scene, Vector
from .surface import material

Size = tuple[float, float, float]
Rect = tuple[float, float, float, float]  # low first, low second, high first, high second
TRIES = 80  # random places that are tried before something is left out


class Opening(NamedTuple):
    """A hole in a wall, from s0 to s1 along it and from z0 to z1 above the floor, in metres."""

    wall: int
    s0: float
    z0: float
    s1: float
    z1: float


def wall_frame(size: Size, wall: int) -> Frame:
    """Return the frame of a wall: x along it, y into the room, z up; walls count to the left."""
    corners = ((0.0, 0.0), (size[0], 0.0), (size[0], size[1]), (0.0, size[1]))
    return Frame(*corners[wall], 0.0, wall * math.pi / 2)


class Layout:
    """The occupied parts of a room's floor and walls."""

    def __init__(self, size: Size, rng: np.random.Generator) -> None:
        self.size, self._rng = size, rng
        self.floor: list[Rect] = []  # x0, y0, x1, y1
        self.walls: list[list[Rect]] = [[], [], [], []]  # along0, up0, along1, up1 on each wall

    def at_wall(
        self, width: float, low: float, high: float, depth: float, gap: float
    ) -> tuple[int, float] | None:
        """Take a free stretch of wall between two heights, and `depth` of the floor in front.

        Returns the wall and the position of the middle along it, or None if nothing is free.
        """
        for _ in range(TRIES):
            wall = int(self._rng.integers(4))
            length = self.size[wall % 2]
            if length < width + 0.3:
                continue
            start = self._rng.uniform(0.1, length - width - 0.1)
            rect = (start, low, start + width, high)
            ground = self.in_front(wall, start, start + width, depth)
            if _free(rect, self.walls[wall], gap) and (depth == 0 or self._take(ground, gap)):
                self.walls[wall].append(rect)
                return wall, start + width / 2
        return None

    def on_floor(self, width: float, depth: float, gap: float) -> Frame | None:
        """Take a free rectangle of the floor; return the frame of its middle, or None.

        The frame is rotated by 0 or 90 degrees; `width` lies along its x.
        """
        for _ in range(TRIES):
            turned = self._rng.random() < 0.5
            w, d = (depth, width) if turned else (width, depth)
            if w + 0.2 > self.size[0] or d + 0.2 > self.size[1]:
                continue
            x = self._rng.uniform(w / 2 + 0.1, self.size[0] - w / 2 - 0.1)
            y = self._rng.uniform(d / 2 + 0.1, self.size[1] - d / 2 - 0.1)
            if self._take((x - w / 2, y - d / 2, x + w / 2, y + d / 2), gap):
                return Frame(x, y, 0.0, math.pi / 2 if turned else 0.0)
        return None

    def take_around(self, center: Frame, half: float) -> bool:
        """Take the square of half width `half` around `center` if it is free and in the room."""
        x0, y0, x1, y1 = center.x - half, center.y - half, center.x + half, center.y + half
        inside = x0 > 0 and y0 > 0 and x1 < self.size[0] and y1 < self.size[1]
        return inside and self._take((x0, y0, x1, y1), 0.0)

    def _take(self, rect: Rect, gap: float) -> bool:
        """Take a rectangle of the floor if it is free."""
        free = _free(rect, self.floor, gap)
        if free:
            self.floor.append(rect)
        return free

    def in_front(self, wall: int, start: float, end: float, depth: float) -> Rect:
        """Return the floor in front of a stretch of wall."""
        frame = wall_frame(self.size, wall)
        ax, ay, _ = frame.point((start, 0, 0))
        bx, by, _ = frame.point((end, depth, 0))
        return min(ax, bx), min(ay, by), max(ax, bx), max(ay, by)

    def clearance(self, points: np.ndarray) -> np.ndarray:
        """Return the distance of floor points (n, 2) to the nearest occupied rectangle."""
        distance = np.full(len(points), np.inf)
        for x0, y0, x1, y1 in self.floor:
            outside = points - np.clip(points, (x0, y0), (x1, y1))
            distance = np.minimum(distance, np.hypot(*outside.T))
        return distance


def _free(rect: Rect, taken: list[Rect], gap: float) -> bool:
    return all(
        rect[0] >= other[2] + gap
        or rect[2] <= other[0] - gap
        or rect[1] >= other[3] + gap
        or rect[3] <= other[1] - gap
        for other in taken
    )


def walls(scene: Scene, rng: np.random.Generator, size: Size, openings: list[Opening]) -> None:
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
        holes = sorted(hole for hole in openings if hole.wall == wall)
        _build_wall(part, size[wall % 2], height, holes, look)
        at = 0.0
        for hole in holes:  # the baseboard between the doors
            if hole.z0 == 0:
                part.box((at, 0, 0), (hole.s0 - 0.06, 0.012, 0.08), base)
                at = hole.s1 + 0.06
        part.box((at, 0, 0), (size[wall % 2], 0.012, 0.08), base)


def _build_wall(
    part: Part, length: float, height: float, holes: list[Opening], look: Material
) -> None:
    """Add the pieces of a wall beside, below and above its holes."""
    at = 0.0
    for _, s0, z0, s1, z1 in holes:
        part.sheet((at, 0, 0), (s0 - at, 0, 0), (0, 0, height), look)
        part.sheet((s0, 0, z1), (s1 - s0, 0, 0), (0, 0, height - z1), look)
        if z0 > 0:
            part.sheet((s0, 0, 0), (s1 - s0, 0, 0), (0, 0, z0), look)
        at = s1
    part.sheet((at, 0, 0), (length - at, 0, 0), (0, 0, height), look)


def door(part: Part, rng: np.random.Generator, opening: Opening) -> None:
    """Build a door into its opening: a frame and a leaf, shut, ajar or open into the room."""
    _, s0, _, s1, z1 = opening
    look = material("door", rng)
    frame = look if rng.random() < 0.4 else material("frame", rng)
    _build_surround(part, opening, 0.06, 0.1, frame)
    angle = rng.choice((0.0, rng.uniform(0.2, 0.6), rng.uniform(1.2, 1.7)), p=(0.7, 0.15, 0.15))
    angle = 0.0 if s1 - s0 > 1.3 else float(angle)  # double doors stay shut
    leaf = part.at(s0, -0.05 if angle == 0 else 0.01, 0.0, angle)
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
    _, s0, z0, s1, z1 = opening
    front = 0.025
    part.box((s0 - border, -depth, z0), (s0, front, z1 + border), look)
    part.box((s1, -depth, z0), (s1 + border, front, z1 + border), look)
    part.box((s0, -depth, z1), (s1, front, z1 + border), look)
    if z0 > 0:
        part.box((s0 - border, -depth, z0 - border), (s1 + border, 0.1, z0), look)


def window(part: Part, rng: np.random.Generator, opening: Opening) -> None:
    """Build a window into its opening: sill, border, bars, glass and often a blind."""
    _, s0, z0, s1, z1 = opening
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


def beam(part: Part, rng: np.random.Generator, length: float, across: float, height: float) -> None:
    """Build a beam under the ceiling, along the wall of `part` or parallel to it in the room."""
    thick = rng.uniform(0.2, 0.45)
    drop = rng.uniform(0.18, max(0.2, min(0.45, height - 2.3)))
    at = 0.0 if rng.random() < 0.3 else rng.uniform(0.15, 0.8) * (across - thick)
    part.box((0, at, height - drop), (length, at + thick, height), material("structure", rng))


def column(part: Part, rng: np.random.Generator, size: Vector) -> None:
    """Build a column from floor to ceiling; the origin lies at the middle of its back."""
    width, depth, height = size
    look = material("structure", rng)
    if rng.random() < 0.3:
        part.cylinder((0, depth / 2, 0), min(width, depth) / 2, height, look, facets=14)
    else:
        part.box((-width / 2, 0, 0), (width / 2, depth, height), look)
