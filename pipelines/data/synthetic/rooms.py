"""Kinds of rooms and how they are furnished.

`furnish` fills a room in a fixed order: the parts of the building, furniture at walls, furniture
that stands free, clutter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np

from . import furniture, shell
from .furniture import Clutter
from .scene import Frame, Part, Scene
from .shell import Layout, Opening, Size, wall_frame

# Ranges of sizes in metres, and of how many of each thing. Cases are bookcases, meetings are tables
# with chairs around them, chairs those that stand alone, things are clutter on the floor.
_KINDS = """
kind     office   conferenceRoom lounge  lobby   hallway  copyRoom storage  openspace
width    3.2-4.6  4.4-5.8        4.2-6.0 5.0-7.0 1.9-2.6  2.8-4.2  2.6-3.6  6.0-8.0
depth    4.2-5.8  5.0-7.5        5.0-6.8 6.0-7.5 7.0-12.0 3.2-4.8  3.2-4.6  6.0-8.0
height   2.55-3.1 2.55-3.1       2.6-3.4 2.7-3.6 2.55-3.1 2.55-3.1 2.55-3.1 2.7-3.4
doors    1        1              1       2-3     3-5      1        1        1
windows  1-2      1-2            1-2     1-2     0-1      0-1      0-1      1-2
columns  1        0-1            0-1     1-3     1-3      0-1      0-1      1-2
beams    0-2      1-2            1-2     1-3     1-3      0-2      1-2      1-3
boards   1        1-2            0-1     0-1     0-2      1        0-1      0-1
cases    1-3      0-2            0-2     0-2     0-1      1-2      2-4      1-3
desks    1-2      0              0       0       0        1        0-1      3-6
sofas    0        1              2-3     2-4     0        0        0        0-1
meetings 0        1              1-2     1-3     0        0        0        0-1
chairs   1-2      0-2            0-2     2-5     0-3      0-2      0-2      0-2
things   2-5      2-5            2-5     4-7     2-5      4-7      5-9      2-5
"""


def _read_kinds(table: str) -> dict[str, dict[str, tuple[float, float]]]:
    """Return the ranges of a table: kind → row → (low, high)."""
    (_, *kinds), *rows = (line.split() for line in table.strip().splitlines())
    ranges = {
        row: [(float(cell.split("-")[0]), float(cell.split("-")[-1])) for cell in cells]
        for row, *cells in rows
    }
    return {kind: {row: ranges[row][at] for row in ranges} for at, kind in enumerate(kinds)}


KINDS = _read_kinds(_KINDS)
FIRST = "office"  # with one of SECOND it holds all 13 classes
SECOND = ("lounge", "conferenceRoom", "lobby")


def room_kinds(count: int, rng: np.random.Generator) -> list[str]:
    """Return the kinds of an area's rooms; the first two already hold every class."""
    kinds = [FIRST, SECOND[rng.integers(len(SECOND))]]
    while len(kinds) < count:
        kinds += [str(kind) for kind in rng.permutation(list(KINDS))]
    return kinds[:count]


def room_size(kind: str, rng: np.random.Generator) -> Size:
    """Draw the inner size of a room, metres."""
    width, depth, height = (
        float(rng.uniform(*KINDS[kind][row])) for row in ("width", "depth", "height")
    )
    return (width, depth, height) if rng.random() < 0.5 else (depth, width, height)


def furnish(kind: str, size: Size, rng: np.random.Generator) -> tuple[Scene, Layout]:
    """Build a room: its shell and everything in it."""
    room = _Furnisher(kind, size, rng)
    room.openings()
    room.structure()
    room.walls()
    room.seats()
    room.clutter()
    return room.scene, room.layout


class _Furnisher:
    """A room while it is being furnished."""

    def __init__(self, kind: str, size: Size, rng: np.random.Generator) -> None:
        self.kind, self.size, self.rng = kind, size, rng
        self.scene, self.layout = Scene(), Layout(size, rng)
        self.tops: list[tuple[Frame, float, float, bool]] = []  # tables: frame, width, depth

    def openings(self) -> None:
        """Put doors and windows into the walls, then build floor, ceiling and walls."""
        rng, top = self.rng, self.size[2] - 0.35
        doors: list[Opening] = []
        windows: list[Opening] = []
        for _ in self._number("doors"):
            width = rng.choice((rng.uniform(0.85, 1.0), rng.uniform(1.4, 1.7)), p=(0.85, 0.15))
            doors += self._opening(width, 0.0, min(rng.uniform(2.0, 2.2), top))
        for _ in self._number("windows"):
            low, width = rng.uniform(0.15, 1.0), rng.uniform(0.9, 2.2)
            windows += self._opening(width, low, min(rng.uniform(1.9, 2.4), top) - low)
        shell.walls(self.scene, rng, self.size, doors + windows)
        for door in doors:
            front = self.layout.in_front(door.wall, door.s0, door.s1, 0.9)
            self.layout.floor.append(front)  # nothing may stand there
            shell.door(self._on_wall("door", door.wall), rng, door)
        for window in windows:
            shell.window(self._on_wall("window", window.wall), rng, window)

    def structure(self) -> None:
        """Add columns, at walls or standing free, and beams."""
        rng, height = self.rng, self.size[2]
        for _ in self._number("columns"):
            width, depth = rng.uniform(0.3, 0.55, 2)
            if min(self.size[:2]) > 4.8 and rng.random() < 0.5:
                middle = self.layout.on_floor(width, depth, gap=0.6)
                back = middle and middle.at(0, -depth / 2)
            else:
                back = self._at_wall(width, 0.0, height, depth)
            if back:
                shell.column(self.scene.add("column", back), rng, (width, depth, height))
        for _ in self._number("beams"):
            wall = int(rng.integers(4))
            length, across = self.size[wall % 2], self.size[1 - wall % 2]
            shell.beam(self._on_wall("beam", wall), rng, length, across, height)

    def walls(self) -> None:
        """Add what stands at or hangs on walls: boards, bookcases, desks, sofas."""
        rng = self.rng
        for _ in self._number("boards"):
            width, low = rng.uniform(0.9, 2.2), rng.uniform(0.85, 1.05)
            high = low + rng.uniform(0.8, 1.15)
            frame = self._at_wall(width, low - 0.05, high + 0.05)
            if frame:
                furniture.board(self.scene.add("board", frame), rng, width - 0.06, low, high)
        for _ in self._number("cases"):
            width, depth = rng.uniform(0.7, 1.3), rng.uniform(0.27, 0.4)
            height = rng.uniform(0.9, 2.15)
            frame = self._at_wall(width, 0.0, height, depth)
            if frame:
                part = self.scene.add("bookcase", frame.at(0, 0.01))
                furniture.bookcase(part, rng, (width, depth, height))
        for _ in self._number("desks"):
            self._desk()
        for _ in self._number("sofas"):
            self._sofa()

    def seats(self) -> None:
        """Add tables with chairs around them and chairs that stand alone."""
        for _ in self._number("meetings"):
            self._meeting()
        for _ in self._number("chairs"):
            frame = self._somewhere(0.55)
            if frame:
                furniture.chair(self.scene.add("chair", frame), self.rng)

    def clutter(self) -> None:
        """Add clutter on tables, on the floor, on walls and under the ceiling."""
        rng = self.rng
        for frame, width, depth, is_desk in self.tops:
            self._load(frame, width, depth, is_desk)
        for _ in self._number("things"):
            self._clutter(self._somewhere(0.5), furniture.ON_FLOOR)
        for _ in self._between(2, 5):
            self._clutter(self._at_wall(1.1, 0.1, 2.2, gap=0.0), furniture.ON_WALL)
        for _ in self._between(0, 3):
            x, y = rng.uniform(0.2, 0.8, 2) * self.size[:2]
            under = Frame(x, y, self.size[2], rng.choice((0.0, np.pi / 2)))
            furniture.ceiling_lamp(self.scene.add("clutter", under), rng)

    def _opening(self, width: float, low: float, height: float) -> list[Opening]:
        """Take a stretch of wall for a door or window, if one is free."""
        spot = self.layout.at_wall(width, low, low + height, depth=0.0, gap=0.25)
        if spot is None:
            return []
        start = spot[1] - width / 2
        return [Opening(spot[0], start, low, start + width, low + height)]

    def _on_wall(self, name: str, wall: int) -> Part:
        return self.scene.add(name, wall_frame(self.size, wall))

    def _at_wall(
        self, width: float, low: float, high: float, depth: float = 0.0, gap: float = 0.08
    ) -> Frame | None:
        spot = self.layout.at_wall(width, low, high, depth, gap)
        return wall_frame(self.size, spot[0]).at(spot[1], 0.0) if spot else None

    def _somewhere(self, size: float) -> Frame | None:
        """Take a free square of the floor; its frame is turned at random."""
        spot = self.layout.on_floor(size, size, gap=0.02)
        return replace(spot, yaw=self.rng.uniform(0, 6.283)) if spot else None

    def _desk(self) -> None:
        rng = self.rng
        width, depth, height = rng.uniform(1.1, 1.8), rng.uniform(0.6, 0.85), rng.uniform(0.7, 0.78)
        frame = self._at_wall(width, 0.0, height, depth)
        if frame:
            frame = frame.at(0, rng.uniform(0.01, 0.05))
            furniture.table(self.scene.add("table", frame), rng, (width, depth, height))
            self.tops.append((frame.at(0, 0, height), width, depth, True))
            self._chair(frame.at(rng.uniform(-0.3, 0.3), depth + rng.uniform(0.15, 0.4), 0, np.pi))

    def _sofa(self) -> None:
        rng = self.rng
        width = rng.choice((rng.uniform(0.85, 1.05), rng.uniform(1.4, 2.2)))
        frame = self._at_wall(width, 0.0, 0.9, 1.0)
        if frame is None:
            return
        furniture.sofa(self.scene.add("sofa", frame.at(0, rng.uniform(0.02, 0.1))), rng, width)
        front = frame.at(0, 1.25)
        if width > 1.3 and self.layout.take_around(front.at(0, 0.25), 0.3):
            height, is_round = rng.uniform(0.36, 0.5), rng.random() < 0.3
            low = self.scene.add("table", front)
            furniture.table(low, rng, (0.8, 0.5, height), is_round=is_round)
            self.tops.append((front.at(0, 0, height), 0.5, 0.4, False))

    def _meeting(self) -> None:
        rng = self.rng
        width, depth = rng.uniform(1.2, 3.0), rng.uniform(0.8, 1.3)
        is_round = rng.random() < 0.3
        width = depth if is_round else width
        center = self.layout.on_floor(width, depth, gap=0.55)
        if center is None:
            return
        frame, height = center.at(0, -depth / 2), rng.uniform(0.7, 0.77)
        table = self.scene.add("table", frame)
        furniture.table(table, rng, (width, depth, height), is_round=is_round)
        self.tops.append((frame.at(0, 0, height), width * 0.7, depth, False))
        for x, side in product(np.arange(0.35 - width / 2, width / 2, 0.7), (1, -1)):
            if rng.random() < 0.85:
                away = side * (depth / 2 + rng.uniform(0.2, 0.35))
                self._chair(center.at(x, away, 0, np.pi if side > 0 else 0.0))

    def _chair(self, frame: Frame) -> None:
        """Add a chair that may reach under its table, but not into anything else."""
        if self.layout.take_around(frame.at(0, -0.06), 0.13):
            turned = frame.at(0, 0, 0, self.rng.normal(0, 0.2))
            furniture.chair(self.scene.add("chair", turned), self.rng)

    def _load(self, frame: Frame, width: float, depth: float, is_desk: bool) -> None:
        """Put clutter on a table top; a desk gets a screen and a keyboard first."""
        rng = self.rng
        if is_desk:
            x = rng.uniform(-0.2, 0.2)
            behind = self.scene.add("clutter", frame.at(x, 0.2, 0, rng.normal(0, 0.2)))
            furniture.monitor(behind, rng)
            before = self.scene.add("clutter", frame.at(x, 0.42, 0, rng.normal(0, 0.1)))
            furniture.keyboard(before, rng)
        for _ in self._between(1, 4):
            x, y = rng.uniform(-0.42, 0.42) * width, rng.uniform(0.2, 0.8) * depth
            self._clutter(frame.at(x, y, 0, rng.uniform(0, 6.283)), furniture.ON_TABLE)

    def _clutter(self, frame: Frame | None, choices: Sequence[Clutter]) -> None:
        """Add one of the choices, if there is a place for it."""
        if frame:
            build = choices[int(self.rng.integers(len(choices)))]
            build(self.scene.add("clutter", frame), self.rng)

    def _number(self, things: str) -> range:
        """Draw how many of the things this kind of room has."""
        low, high = KINDS[self.kind][things]
        return self._between(int(low), int(high))

    def _between(self, low: int, high: int) -> range:
        return range(int(self.rng.integers(low, high + 1)))
