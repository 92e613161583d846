"""Kinds of rooms and how they are furnished.

`furnish` fills a room in a fixed order: the parts of the building, furniture at walls, furniture
that stands free, clutter.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from . import furniture
from .furniture import Clutter, add_board, add_bookcase, add_chair, add_sofa, add_table
from .scene import Frame, Scene
from .shell import (
    Layout,
    Opening,
    Size,
    build_beam,
    build_column,
    build_door,
    build_shell,
    build_window,
    wall_frame,
)

Range = tuple[float, float]

# Ranges of sizes in metres, and of how many of each thing. Cases are bookcases, meetings are tables
# with chairs around them, chairs those that stand alone, things are clutter on the floor, hangings
# clutter on the walls.
_SIZES = """
kind           width   depth    height
office         3.2-4.6 4.2-5.8  2.55-3.1
conferenceRoom 4.4-5.8 5.0-7.5  2.55-3.1
lounge         4.2-6.0 5.0-6.8  2.6-3.4
lobby          5.0-7.0 6.0-7.5  2.7-3.6
hallway        1.9-2.6 7.0-12.0 2.55-3.1
copyRoom       2.8-4.2 3.2-4.8  2.55-3.1
storage        2.6-3.6 3.2-4.6  2.55-3.1
openspace      6.0-8.0 6.0-8.0  2.7-3.4
"""
_COUNTS = """
kind           doors windows columns beams boards cases desks sofas meetings chairs things hangings
office         1     1-2     1       0-2   1      1-3   1-2   0     0        1-2    2-5    2-5
conferenceRoom 1     1-2     0-1     1-2   1-2    0-2   0     1     1        0-2    2-5    2-5
lounge         1     1-2     0-1     1-2   0-1    0-2   0     2-3   1-2      0-2    2-5    2-5
lobby          2-3   1-2     1-3     1-3   0-1    0-2   0     2-4   1-3      2-5    4-7    2-5
hallway        3-5   0-1     1-3     1-3   0-2    0-1   0     0     0        0-3    2-5    2-5
copyRoom       1     0-1     0-1     0-2   1      1-2   1     0     0        0-2    4-7    2-5
storage        1     0-1     0-1     1-2   0-1    2-4   0-1   0     0        0-2    5-9    2-5
openspace      1     1-2     1-2     1-3   0-1    1-3   3-6   0-1   0-1      0-2    2-5    2-5
"""


def _read_table(text: str) -> dict[str, dict[str, Range]]:
    """Return the ranges of a table: kind → column → (low, high)."""
    (_, *columns), *rows = (line.split() for line in text.strip().splitlines())
    return {
        kind: {
            name: (float(cell.split("-")[0]), float(cell.split("-")[-1]))
            for name, cell in zip(columns, cells, strict=True)
        }
        for kind, *cells in rows
    }


SIZES, COUNTS = _read_table(_SIZES), _read_table(_COUNTS)
KINDS = tuple(SIZES)
FIRST = "office"  # with one of SECOND it holds all 13 classes
SECOND = ("lounge", "conferenceRoom", "lobby")


def room_kinds(count: int, rng: np.random.Generator) -> list[str]:
    """Return the kinds of an area's rooms; the first two already hold every class."""
    kinds = [FIRST, SECOND[rng.integers(len(SECOND))]]
    while len(kinds) < count:
        kinds += [str(kind) for kind in rng.permutation(KINDS)]
    return kinds[:count]


def room_size(kind: str, rng: np.random.Generator) -> Size:
    """Draw the inner size of a room, metres."""
    ranges = SIZES[kind]
    width, depth = rng.uniform(*ranges["width"]), rng.uniform(*ranges["depth"])
    height = float(rng.uniform(*ranges["height"]))
    return (width, depth, height) if rng.random() < 0.5 else (depth, width, height)


def furnish(kind: str, size: Size, rng: np.random.Generator) -> tuple[Scene, Layout]:
    """Build a room: its shell and everything in it."""
    room = _Furnisher(COUNTS[kind], size, rng)
    room.openings()
    room.structure()
    room.walls()
    room.seats()
    room.clutter()
    return room.scene, room.layout


class _Furnisher:
    """A room while it is being furnished."""

    def __init__(self, counts: dict[str, Range], size: Size, rng: np.random.Generator) -> None:
        self.counts, self.size, self.rng = counts, size, rng
        self.scene, self.layout = Scene(), Layout(size, rng)
        self.tops: list[tuple[Frame, float, float, bool]] = []  # tables: frame, width, depth

    def openings(self) -> None:
        """Put doors and windows into the walls, then build floor, ceiling and walls."""
        rng, top = self.rng, self.size[2] - 0.35
        doors, windows = [], []
        for _ in self._number("doors"):
            width = rng.choice((rng.uniform(0.85, 1.0), rng.uniform(1.4, 1.7)), p=(0.85, 0.15))
            door = self._opening(width, 0.0, min(rng.uniform(2.0, 2.2), top))
            doors += [door] if door else []
        for _ in self._number("windows"):
            low = rng.uniform(0.15, 1.0)
            window = self._opening(rng.uniform(0.9, 2.2), low, min(rng.uniform(1.9, 2.4), top))
            windows += [window] if window else []
        build_shell(self.scene, self.size, doors + windows, rng)
        for door in doors:
            self.layout.keep_clear(door.wall, door.start, door.width, 0.9)
            build_door(self.scene, self.size, door, rng)
        for window in windows:
            build_window(self.scene, self.size, window, rng)

    def structure(self) -> None:
        """Add columns, at walls or standing free, and beams."""
        rng = self.rng
        for _ in self._number("columns"):
            width, depth = rng.uniform(0.3, 0.55, 2)
            if min(self.size[:2]) > 4.8 and rng.random() < 0.5:
                self._free_column(width, depth)
                continue
            frame = self._at_wall(width, 0.0, self.size[2], depth)
            if frame:
                build_column(self.scene, frame, width, depth, self.size[2], rng)
        for _ in self._number("beams"):
            build_beam(self.scene, self.size, rng)

    def walls(self) -> None:
        """Add what stands at or hangs on walls: boards, bookcases, desks, sofas."""
        rng = self.rng
        for _ in self._number("boards"):
            width, low = rng.uniform(0.9, 2.2), rng.uniform(0.85, 1.05)
            high = low + rng.uniform(0.8, 1.15)
            frame = self._at_wall(width, low - 0.05, high + 0.05)
            if frame:
                add_board(self.scene, frame, width - 0.06, low, high, rng)
        for _ in self._number("cases"):
            width, depth = rng.uniform(0.7, 1.3), rng.uniform(0.27, 0.4)
            height = rng.uniform(0.9, 2.15)
            frame = self._at_wall(width, 0.0, height, depth)
            if frame:
                add_bookcase(self.scene, frame.at(0, 0.01), width, depth, height, rng)
        for _ in self._number("desks"):
            self._desk()
        for _ in self._number("sofas"):
            self._sofa()

    def seats(self) -> None:
        """Add tables with chairs around them and chairs that stand alone."""
        for _ in self._number("meetings"):
            self._meeting()
        for _ in self._number("chairs"):
            spot = self.layout.on_floor(0.55, 0.55, gap=0.02)
            if spot:
                frame = Frame(spot[0], spot[1], 0.0, self.rng.uniform(0, 6.283))
                add_chair(self.scene, frame, self.rng)

    def clutter(self) -> None:
        """Add clutter on tables, on the floor, on walls and under the ceiling."""
        rng = self.rng
        for frame, width, depth, is_desk in self.tops:
            self._load(frame, width, depth, is_desk)
        for _ in self._number("things"):
            spot = self.layout.on_floor(0.5, 0.5, gap=0.02)
            if spot:
                frame = Frame(spot[0], spot[1], 0.0, rng.uniform(0, 6.283))
                self._clutter(frame, self._one_of(furniture.ON_FLOOR))
        for _ in self._number("hangings"):
            wall = self._at_wall(1.1, 0.1, 2.2, gap=0.0)
            if wall:
                self._clutter(wall, self._one_of(furniture.ON_WALL))
        for _ in self._between(0, 3):
            x, y = rng.uniform(0.2, 0.8, 2) * self.size[:2]
            under = Frame(x, y, self.size[2], rng.choice((0.0, np.pi / 2)))
            self._clutter(under, furniture.ceiling_lamp)

    def _opening(self, width: float, low: float, high: float) -> Opening | None:
        spot = self.layout.at_wall(width, low, high, gap=0.25)
        if spot is None:
            return None
        return Opening(spot[0], spot[1] - width / 2, low, width, high - low)

    def _at_wall(
        self, width: float, low: float, high: float, depth: float = 0.0, gap: float = 0.08
    ) -> Frame | None:
        spot = self.layout.at_wall(width, low, high, depth, gap)
        return wall_frame(self.size, spot[0]).at(spot[1], 0.0) if spot else None

    def _free_column(self, width: float, depth: float) -> None:
        spot = self.layout.on_floor(width, depth, gap=0.6)
        if spot:
            frame = Frame(spot[0], spot[1], 0.0, spot[2]).at(0, -depth / 2)
            build_column(self.scene, frame, width, depth, self.size[2], self.rng)

    def _desk(self) -> None:
        rng = self.rng
        width, depth, height = rng.uniform(1.1, 1.8), rng.uniform(0.6, 0.85), rng.uniform(0.7, 0.78)
        frame = self._at_wall(width, 0.0, height, depth)
        if frame is None:
            return
        frame = frame.at(0, rng.uniform(0.01, 0.05))
        add_table(self.scene, frame, width, depth, height, rng)
        self.tops.append((frame.at(0, 0, height), width, depth, True))
        self._chair(frame.at(rng.uniform(-0.3, 0.3), depth + rng.uniform(0.15, 0.4), 0, np.pi))

    def _sofa(self) -> None:
        rng = self.rng
        width = rng.choice((rng.uniform(0.85, 1.05), rng.uniform(1.4, 2.2)))
        frame = self._at_wall(width, 0.0, 0.9, 1.0)
        if frame is None:
            return
        add_sofa(self.scene, frame.at(0, rng.uniform(0.02, 0.1)), width, rng)
        front = frame.at(0, 1.25)
        if width > 1.3 and self.layout.take(*front.at(0, 0.25).point((0, 0, 0))[:2], 0.3):
            height = rng.uniform(0.36, 0.5)
            add_table(self.scene, front, 0.8, 0.5, height, rng, is_round=rng.random() < 0.3)
            self.tops.append((front.at(0, 0, height), 0.5, 0.4, False))

    def _meeting(self) -> None:
        rng = self.rng
        width, depth = rng.uniform(1.2, 3.0), rng.uniform(0.8, 1.3)
        is_round = rng.random() < 0.3
        if is_round:
            width = depth
        spot = self.layout.on_floor(width, depth, gap=0.55)
        if spot is None:
            return
        center, height = Frame(spot[0], spot[1], 0.0, spot[2]), rng.uniform(0.7, 0.77)
        frame = center.at(0, -depth / 2)
        add_table(self.scene, frame, width, depth, height, rng, is_round=is_round)
        self.tops.append((frame.at(0, 0, height), width * 0.7, depth, False))
        places = [
            (x, side) for x in np.arange(0.35 - width / 2, width / 2, 0.7) for side in (1, -1)
        ]
        for x, side in places:
            if rng.random() < 0.85:
                away = side * (depth / 2 + rng.uniform(0.2, 0.35))
                self._chair(center.at(x, away, 0, np.pi if side > 0 else 0.0))

    def _chair(self, frame: Frame) -> None:
        """Add a chair that may reach under its table, but not into anything else."""
        center = frame.at(0, -0.06)
        if self.layout.take(center.x, center.y, 0.13):
            add_chair(self.scene, frame.at(0, 0, 0, self.rng.normal(0, 0.2)), self.rng)

    def _load(self, frame: Frame, width: float, depth: float, is_desk: bool) -> None:
        """Put clutter on a table top; a desk gets a screen and a keyboard first."""
        rng = self.rng
        if is_desk:
            x = rng.uniform(-0.2, 0.2)
            self._clutter(frame.at(x, 0.2, 0, rng.normal(0, 0.2)), furniture.monitor)
            self._clutter(frame.at(x, 0.42, 0, rng.normal(0, 0.1)), furniture.keyboard)
        for _ in self._between(1, 4):
            x, y = rng.uniform(-0.42, 0.42) * width, rng.uniform(0.2, 0.8) * depth
            place = frame.at(x, y, 0, rng.uniform(0, 6.283))
            self._clutter(place, self._one_of(furniture.ON_TABLE))

    def _number(self, things: str) -> range:
        """Draw how many of the things this kind of room has."""
        low, high = self.counts[things]
        return self._between(int(low), int(high))

    def _between(self, low: int, high: int) -> range:
        return range(int(self.rng.integers(low, high + 1)))

    def _clutter(self, frame: Frame, build: Clutter) -> None:
        build(self.scene.add("clutter", frame), self.rng)

    def _one_of(self, choices: Sequence[Clutter]) -> Clutter:
        return choices[int(self.rng.integers(len(choices)))]
