"""The empty synthetic room: which floor and wall is still free, and the parts that are built in.

Built in are floor, ceiling, walls, doors, windows, beams and columns. All lengths are metres.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .scene import Frame, Material, Part, Scene
from .surface import material

Size = tuple[float, float, float]
Rect = tuple[float, float, float, float]  # low first, low second, high first, high second
TRIES = 80  # random places that are tried before something is left out


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
    """Return the length of a wall, m."""
    return size[wall % 2]


class Layout:
    """The occupied parts of a room's floor and walls."""

    def __init__(self, size: Size, rng: np.random.Generator) -> None:
        self.size = size
        self.floor: list[Rect] = []  # x0, y0, x1, y1
        self.walls: list[list[Rect]] = [[], [], [], []]  # along0, up0, along1, up1 on each wall
        self._rng = rng

    def at_wall(
        self, width: float, low: float, high: float, depth: float = 0.0, gap: float = 0.05
    ) -> tuple[int, float] | None:
        """Take a free stretch of wall between two heights, and `depth` of the floor in front.

        Returns:
            The wall and the position of the middle along it, or None if nothing is free.
        """
        for _ in range(TRIES):
            wall = int(self._rng.integers(4))
            length = wall_length(self.size, wall)
            if length < width + 0.3:
                continue
            start = self._rng.uniform(0.1, length - width - 0.1)
            rect = (start, low, start + width, high)
            ground = self._ground(wall, start, width, depth)
            if not _free(rect, self.walls[wall], gap) or (
                depth > 0 and not _free(ground, self.floor, gap)
            ):
                continue
            self.walls[wall].append(rect)
            if depth > 0:
                self.floor.append(ground)
            return wall, start + width / 2
        return None

    def on_floor(
        self, width: float, depth: float, gap: float = 0.3
    ) -> tuple[float, float, float] | None:
        """Take a free rectangle of the floor; return its middle and a yaw, or None.

        The yaw is 0 or 90 degrees and already decides which way `width` lies.
        """
        for _ in range(TRIES):
            turned = self._rng.random() < 0.5
            w, d = (depth, width) if turned else (width, depth)
            if w + 0.2 > self.size[0] or d + 0.2 > self.size[1]:
                continue
            x = self._rng.uniform(w / 2 + 0.1, self.size[0] - w / 2 - 0.1)
            y = self._rng.uniform(d / 2 + 0.1, self.size[1] - d / 2 - 0.1)
            rect = (x - w / 2, y - d / 2, x + w / 2, y + d / 2)
            if _free(rect, self.floor, gap):
                self.floor.append(rect)
                return x, y, math.pi / 2 if turned else 0.0
        return None

    def take(self, x: float, y: float, half: float, gap: float = 0.0) -> bool:
        """Take the square of half width `half` around (x, y) if it is free and in the room."""
        rect = (x - half, y - half, x + half, y + half)
        inside = rect[0] > 0 and rect[1] > 0 and rect[2] < self.size[0] and rect[3] < self.size[1]
        if inside and _free(rect, self.floor, gap):
            self.floor.append(rect)
            return True
        return False

    def keep_clear(self, wall: int, start: float, width: float, depth: float) -> None:
        """Keep furniture away from the floor in front of a stretch of wall."""
        self.floor.append(self._ground(wall, start, width, depth))

    def clearance(self, points: np.ndarray) -> np.ndarray:
        """Return the distance of floor points (n, 2) to the nearest occupied rectangle."""
        distance = np.full(len(points), np.inf)
        for x0, y0, x1, y1 in self.floor:
            dx = np.maximum(np.maximum(x0 - points[:, 0], points[:, 0] - x1), 0)
            dy = np.maximum(np.maximum(y0 - points[:, 1], points[:, 1] - y1), 0)
            distance = np.minimum(distance, np.hypot(dx, dy))
        return distance

    def _ground(self, wall: int, start: float, width: float, depth: float) -> Rect:
        frame = wall_frame(self.size, wall)
        ax, ay, _ = frame.point((start, 0, 0))
        bx, by, _ = frame.point((start + width, depth, 0))
        return min(ax, bx), min(ay, by), max(ax, bx), max(ay, by)


def _free(rect: Rect, taken: list[Rect], gap: float) -> bool:
    return all(
        rect[0] >= other[2] + gap
        or rect[2] <= other[0] - gap
        or rect[1] >= other[3] + gap
        or rect[3] <= other[1] - gap
        for other in taken
    )


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
    leaf = part.at(s0, inset, 0.0, angle)
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
