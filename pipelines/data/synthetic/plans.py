"""The floor plan of a synthetic room, and which of its floor and walls is still free.

A plan is a rectangle, one without a corner or with an alcove, two rooms with an open doorway
between them, or a room under a slope. All lengths are metres.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from .scene import Frame

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


class Wall(NamedTuple):
    """One face of a wall: its frame (x along it, y into the room, z up) and its length."""

    frame: Frame
    length: float
    reveal: float = 0.0  # how deep its doorways are, of a partition in the room


class Plan(NamedTuple):
    """The floor plan of a room in its bounding box."""

    size: Size
    walls: tuple[Wall, ...]
    floors: tuple[Rect, ...]  # what the floor consists of
    outside: tuple[Rect, ...] = ()  # the rest of the bounding box
    doorways: tuple[Opening, ...] = ()  # in the two faces of a partition
    taken: tuple[Opening, ...] = ()  # where nothing can stand or hang
    slope: tuple[float, float] | None = None  # the ceiling's height at x = 0, and up to which x


def draw_plan(size: Size, rng: np.random.Generator) -> Plan:
    """Draw the plan of a room."""
    width, depth, height = size
    form = rng.choice(("box", "niche", "two", "slope"), p=(0.36, 0.28, 0.24, 0.12))
    whole = Plan(size, _ring(_corners(width, depth)), ((0.0, 0.0, width, depth),))
    if form == "niche" and min(width, depth) > 2.6:
        return _cut(size, rng)
    if form == "two" and max(width, depth) > 4.6:
        return _divide(whole, rng)
    if form == "slope" and width > 1.7:  # a narrower room has no place for it
        low, run = rng.uniform(0.9, 1.8), rng.uniform(1.0, min(2.5, width * 0.6))
        under = (
            Opening(0, 0.0, low - 0.1, run, height),
            Opening(2, width - run, low - 0.1, width, height),
            Opening(3, 0.0, low - 0.1, depth, height),
        )
        return whole._replace(slope=(low, run), taken=under)
    return whole


def _corners(width: float, depth: float) -> list[tuple[float, float]]:
    return [(0.0, 0.0), (width, 0.0), (width, depth), (0.0, depth)]


def _ring(corners: list[tuple[float, float]]) -> tuple[Wall, ...]:
    """Return the walls between corners, which go around the room to the left."""
    return tuple(
        Wall(
            Frame(*start, 0.0, math.atan2(end[1] - start[1], end[0] - start[0])),
            math.dist(start, end),
        )
        for start, end in pairwise([*corners, corners[0]])
    )


def _cut(size: Size, rng: np.random.Generator) -> Plan:
    """Cut one corner off a rectangle, or two, which leaves an alcove; on any side."""
    turned, back = rng.random(2) < 0.5
    width, depth = size[1::-1] if turned else size[:2]
    left, right = rng.uniform(0.12, 0.4, 2) * width * ((1, 1), (0, 1), (1, 0))[rng.integers(3)]
    low = depth * (1 - rng.uniform(0.15, 0.5))

    def place(x: float, y: float) -> tuple[float, float]:
        y = depth - y if back else y
        return (y, x) if turned else (x, y)

    def rect(x0: float, y0: float, x1: float, y1: float) -> Rect:
        (ax, ay), (bx, by) = place(x0, y0), place(x1, y1)
        return min(ax, bx), min(ay, by), max(ax, bx), max(ay, by)

    far = width - right
    ring = [(0.0, 0.0), (width, 0.0), *([(width, low), (far, low)] if right else [])]
    ring += [(far, depth), (left, depth), *([(left, low), (0.0, low)] if left else [])]
    ring = [place(*corner) for corner in ring]
    ring = ring[::-1] if turned != back else ring  # mirrored, it goes around to the right
    outside = [rect(0, low, left, depth)] if left else []
    outside += [rect(far, low, width, depth)] if right else []
    floors = rect(0, 0, width, low), rect(left, low, far, depth)
    return Plan(size, _ring(ring), floors, tuple(outside))


def _divide(whole: Plan, rng: np.random.Generator) -> Plan:
    """Put a partition with a doorway across the longer side."""
    width, depth, height = whole.size
    half, share = rng.uniform(0.05, 0.1), rng.uniform(0.35, 0.65)
    if width >= depth:
        at, length, first = share * width, depth, 0
        near = Frame(at - half, 0.0, 0.0, math.pi / 2)
        far = Frame(at + half, depth, 0.0, -math.pi / 2)
    else:
        at, length, first = share * depth, width, 1
        near = Frame(width, at - half, 0.0, math.pi)
        far = Frame(0.0, at + half, 0.0, 0.0)
    wide = min(rng.choice((rng.uniform(0.8, 1.1), rng.uniform(1.2, 2.4))), length - 0.8)
    start, top = rng.uniform(0.3, length - wide - 0.3), rng.choice((2.05, 2.2, height - 0.02))
    walls = (*whole.walls, Wall(near, length, half), Wall(far, length, half))
    top = min(top, height - 0.02)
    doorways = (
        Opening(4, start, 0.0, start + wide, top),
        Opening(5, length - start - wide, 0.0, length - start, top),
    )
    across = whole.walls[first].length
    ends = (
        Opening(first, at - half, 0.0, at + half, height),
        Opening(first + 2, across - at - half, 0.0, across - at + half, height),
    )
    return whole._replace(walls=walls, doorways=doorways, taken=(*doorways, *ends))


class Layout:
    """The occupied parts of a room's floor and walls."""

    def __init__(self, plan: Plan, rng: np.random.Generator) -> None:
        self.plan, self.size, self._rng = plan, plan.size, rng
        self.floor: list[Rect] = list(plan.outside)  # x0, y0, x1, y1
        self.walls: list[list[Rect]] = [[] for _ in plan.walls]  # along0, up0, along1, up1
        for opening in plan.taken:
            self.walls[opening.wall].append(opening[1:])
        for doorway in plan.doorways:
            self.keep_clear(doorway, 0.8)
        for index, wall in enumerate(plan.walls):
            if wall.reveal:
                self.floor.append(self.in_front(index, 0.0, wall.length, 0.01))

    def at_wall(
        self, width: float, low: float, high: float, depth: float, gap: float, outer: bool = False
    ) -> tuple[int, float] | None:
        """Take a free stretch of wall between two heights, and `depth` of the floor in front.

        Only of the `outer` walls, or also of a partition, whose two faces come last.

        Returns the wall and the position of the middle along it, or None if nothing is free.
        """
        count = sum(not (outer and wall.reveal) for wall in self.plan.walls)
        for _ in range(TRIES):
            wall = int(self._rng.integers(count))
            length = self.plan.walls[wall].length
            if length < width + 0.1:
                continue
            start = self._rng.uniform(0.05, length - width - 0.05)
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

    def keep_clear(self, opening: Opening, depth: float) -> None:
        """Keep the floor in front of an opening free."""
        self.floor.append(self.in_front(opening.wall, opening.s0, opening.s1, depth))

    def in_front(self, wall: int, start: float, end: float, depth: float) -> Rect:
        """Return the floor in front of a stretch of wall."""
        frame = self.plan.walls[wall].frame
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
