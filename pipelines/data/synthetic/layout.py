"""Where things can stand in a synthetic room: free floor and free wall, without overlaps."""

from __future__ import annotations

import math

import numpy as np

from .scene import Frame
from .shell import Rect, Size, wall_frame, wall_length

TRIES = 80


class Layout:
    """The occupied parts of a room's floor and walls.

    `floor` holds (x0, y0, x1, y1) of what stands on the floor; `walls[k]` holds
    (along0, up0, along1, up1) of what stands at or hangs on wall k.
    """

    def __init__(self, size: Size, rng: np.random.Generator) -> None:
        self.size = size
        self.floor: list[Rect] = []
        self.walls: list[list[Rect]] = [[], [], [], []]
        self._rng = rng

    def at_wall(
        self, width: float, low: float, high: float, depth: float = 0.0, gap: float = 0.05
    ) -> tuple[int, float] | None:
        """Take a free stretch of wall for something `width` wide between two heights.

        Something with `depth` also takes the floor in front.

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
        frame: Frame = wall_frame(self.size, wall)
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
