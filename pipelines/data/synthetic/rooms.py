"""Kinds of rooms and how they are furnished.

A kind gives ranges of size and of counts; `furnish` fills a room in a fixed order, the parts of
the building first, then what stands at walls, then what stands free, then clutter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import clutter as clutter
from .clutter import Adder
from .furniture import add_board, add_bookcase, add_chair, add_sofa, add_table
from .layout import Layout
from .scene import Frame, Scene
from .shell import (
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
Count = tuple[int, int]


@dataclass(frozen=True)
class RoomKind:
    """The ranges that a kind of room is drawn from: metres, and how many of each thing."""

    width: Range
    depth: Range
    height: Range = (2.55, 3.1)
    doors: Count = (1, 1)
    windows: Count = (1, 2)
    columns: Count = (0, 1)
    beams: Count = (0, 2)
    boards: Count = (0, 1)
    bookcases: Count = (0, 2)
    sofas: Count = (0, 0)
    desks: Count = (0, 0)
    meetings: Count = (0, 0)  # tables with chairs around them
    chairs: Count = (0, 2)  # that stand alone
    things: Count = (2, 5)  # clutter on the floor
    hangings: Count = (2, 5)  # clutter on walls and ceiling


KINDS: dict[str, RoomKind] = {
    "office": RoomKind(
        (3.2, 4.6),
        (4.2, 5.8),
        columns=(1, 1),
        boards=(1, 1),
        bookcases=(1, 3),
        desks=(1, 2),
        chairs=(1, 2),
    ),
    "conferenceRoom": RoomKind(
        (4.4, 5.8), (5.0, 7.5), boards=(1, 2), meetings=(1, 1), beams=(1, 2), sofas=(1, 1)
    ),
    "lounge": RoomKind(
        (4.2, 6.0), (5.0, 6.8), (2.6, 3.4), sofas=(2, 3), meetings=(1, 2), beams=(1, 2)
    ),
    "lobby": RoomKind(
        (5.0, 7.0),
        (6.0, 7.5),
        (2.7, 3.6),
        doors=(2, 3),
        columns=(1, 3),
        beams=(1, 3),
        sofas=(2, 4),
        meetings=(1, 3),
        chairs=(2, 5),
        things=(4, 7),
    ),
    "hallway": RoomKind(
        (1.9, 2.6),
        (7.0, 12.0),
        doors=(3, 5),
        windows=(0, 1),
        columns=(1, 3),
        beams=(1, 3),
        boards=(0, 2),
        bookcases=(0, 1),
        chairs=(0, 3),
    ),
    "copyRoom": RoomKind(
        (2.8, 4.2),
        (3.2, 4.8),
        windows=(0, 1),
        boards=(1, 1),
        bookcases=(1, 2),
        desks=(1, 1),
        things=(4, 7),
    ),
    "storage": RoomKind(
        (2.6, 3.6),
        (3.2, 4.6),
        windows=(0, 1),
        beams=(1, 2),
        bookcases=(2, 4),
        desks=(0, 1),
        things=(5, 9),
    ),
    "openspace": RoomKind(
        (6.0, 8.0),
        (6.0, 8.0),
        (2.7, 3.4),
        columns=(1, 2),
        beams=(1, 3),
        boards=(0, 1),
        bookcases=(1, 3),
        desks=(3, 6),
        meetings=(0, 1),
        sofas=(0, 1),
    ),
}
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
    ranges = KINDS[kind]
    width, depth = rng.uniform(*ranges.width), rng.uniform(*ranges.depth)
    height = float(rng.uniform(*ranges.height))
    return (width, depth, height) if rng.random() < 0.5 else (depth, width, height)


def furnish(kind: str, size: Size, rng: np.random.Generator) -> tuple[Scene, Layout]:
    """Build a room: its shell and everything in it."""
    room = _Furnisher(KINDS[kind], size, rng)
    room.openings()
    room.structure()
    room.walls()
    room.seats()
    room.clutter()
    return room.scene, room.layout


class _Furnisher:
    """A room while it is being furnished."""

    def __init__(self, kind: RoomKind, size: Size, rng: np.random.Generator) -> None:
        self.kind, self.size, self.rng = kind, size, rng
        self.scene, self.layout = Scene(), Layout(size, rng)
        self.tops: list[tuple[Frame, float, float, bool]] = []  # tables: frame, width, depth

    def openings(self) -> None:
        """Put doors and windows into the walls, then build floor, ceiling and walls."""
        rng, top = self.rng, self.size[2] - 0.35
        doors, windows = [], []
        for _ in self._count(self.kind.doors):
            width = rng.choice((rng.uniform(0.85, 1.0), rng.uniform(1.4, 1.7)), p=(0.85, 0.15))
            door = self._opening(width, 0.0, min(rng.uniform(2.0, 2.2), top))
            doors += [door] if door else []
        for _ in self._count(self.kind.windows):
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
        for _ in self._count(self.kind.columns):
            width, depth = rng.uniform(0.3, 0.55, 2)
            if min(self.size[:2]) > 4.8 and rng.random() < 0.5:
                self._free_column(width, depth)
                continue
            frame = self._at_wall(width, 0.0, self.size[2], depth)
            if frame:
                build_column(self.scene, frame, width, depth, self.size[2], rng)
        for _ in self._count(self.kind.beams):
            build_beam(self.scene, self.size, rng)

    def walls(self) -> None:
        """Add what stands at or hangs on walls: boards, bookcases, desks, sofas."""
        rng = self.rng
        for _ in self._count(self.kind.boards):
            width, low = rng.uniform(0.9, 2.2), rng.uniform(0.85, 1.05)
            high = low + rng.uniform(0.8, 1.15)
            frame = self._at_wall(width, low - 0.05, high + 0.05)
            if frame:
                add_board(self.scene, frame, width - 0.06, low, high, rng)
        for _ in self._count(self.kind.bookcases):
            width, depth = rng.uniform(0.7, 1.3), rng.uniform(0.27, 0.4)
            height = rng.uniform(0.9, 2.15)
            frame = self._at_wall(width, 0.0, height, depth)
            if frame:
                add_bookcase(self.scene, frame.at(0, 0.01), width, depth, height, rng)
        for _ in self._count(self.kind.desks):
            self._desk()
        for _ in self._count(self.kind.sofas):
            self._sofa()

    def seats(self) -> None:
        """Add tables with chairs around them and chairs that stand alone."""
        for _ in self._count(self.kind.meetings):
            self._meeting()
        for _ in self._count(self.kind.chairs):
            spot = self.layout.on_floor(0.55, 0.55, gap=0.02)
            if spot:
                frame = Frame(spot[0], spot[1], 0.0, self.rng.uniform(0, 6.283))
                add_chair(self.scene, frame, self.rng)

    def clutter(self) -> None:
        """Add clutter on tables, on the floor, on walls and under the ceiling."""
        rng, kind = self.rng, self.kind
        for frame, width, depth, is_desk in self.tops:
            self._load(frame, width, depth, is_desk)
        for _ in self._count(kind.things):
            spot = self.layout.on_floor(0.5, 0.5, gap=0.02)
            if spot:
                frame = Frame(spot[0], spot[1], 0.0, rng.uniform(0, 6.283))
                self._pick(clutter.ON_FLOOR)(self.scene, frame, rng)
        for _ in self._count(kind.hangings):
            wall = self._at_wall(1.1, 0.1, 2.2, gap=0.0)
            if wall:
                self._pick(clutter.ON_WALL)(self.scene, wall, rng)
        for _ in self._count((0, 3)):
            x, y = rng.uniform(0.2, 0.8, 2) * self.size[:2]
            under = Frame(x, y, self.size[2], rng.choice((0.0, np.pi / 2)))
            clutter.add_ceiling_lamp(self.scene, under, rng)

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
            clutter.add_monitor(self.scene, frame.at(x, 0.2, 0, rng.normal(0, 0.2)), rng)
            clutter.add_keyboard(self.scene, frame.at(x, 0.42, 0, rng.normal(0, 0.1)), rng)
        for _ in self._count((1, 4)):
            x, y = rng.uniform(-0.42, 0.42) * width, rng.uniform(0.2, 0.8) * depth
            place = frame.at(x, y, 0, rng.uniform(0, 6.283))
            self._pick(clutter.ON_TABLE[2:])(self.scene, place, rng)

    def _count(self, bounds: Count) -> range:
        return range(int(self.rng.integers(bounds[0], bounds[1] + 1)))

    def _pick(self, adders: tuple[Adder, ...]) -> Adder:
        return adders[self.rng.integers(len(adders))]
