"""Kinds of rooms and how they are furnished.

`furnish` fills a room in a fixed order: the parts of the building, furniture at walls, furniture
that stands free, clutter.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np

from . import furniture, household, shell
from .meshes import Library
from .pieces import Build, Piece, draw_loose, draw_piece
from .plans import Layout, Opening, Size, draw_plan
from .scene import Frame, Part, Scene
from .surface import material

# Ranges of sizes in metres. `mess` scales the number of things that hang, stand and lie around.
_SIZES = """
kind           width   depth    height   mess
office         2.8-4.6 3.8-5.8  2.5-3.1  0.4-1.3
conferenceRoom 4.0-5.8 4.6-7.5  2.55-3.1 0.3-0.9
lounge         4.2-6.0 5.0-6.8  2.6-3.4  0.3-1.1
lobby          4.6-7.0 5.6-7.5  2.7-3.6  0.2-0.9
hallway        1.3-2.6 4.0-12.0 2.4-3.1  0.2-1.1
copyRoom       2.2-4.2 2.8-4.8  2.5-3.1  0.6-1.5
storage        1.8-3.6 2.4-4.6  2.4-3.1  0.8-1.9
openspace      5.6-8.0 6.0-8.0  2.7-3.4  0.4-1.1
classroom      4.6-7.5 5.6-9.0  2.7-3.4  0.3-1.0
kitchen        1.9-4.0 2.6-5.4  2.4-3.0  0.7-1.7
bedroom        2.4-4.2 2.8-5.0  2.3-3.0  0.7-1.9
livingRoom     3.2-5.4 3.8-6.6  2.3-3.1  0.7-1.8
bathroom       1.4-2.6 1.8-3.4  2.2-2.8  0.6-1.6
"""
# How many of each thing. Cases are bookcases, meetings are tables with chairs around them, chairs
# those that stand alone, bulk those of BULK.
_COUNTS = """
kind           doors windows columns beams boards cases desks sofas meetings chairs bulk
office         1     1-2     1       0-2   1      1-3   2-4   0-1   0        1-4    2-5
conferenceRoom 1     1-2     0-1     1-2   1-2    0-2   0     1     1        0-4    0-2
lounge         1     1-2     0-1     1-2   0-1    0-2   0-1   2-4   1-3      2-6    2-6
lobby          2-3   1-2     1-3     1-3   0-1    0-2   0-1   2-5   1-3      2-8    0-3
hallway        2-5   0-1     0-1     0-3   0-2    0-2   0-1   0-1   0        0-3    1-4
copyRoom       1     0-1     0-1     0-2   1      1-3   1-3   0     0        0-3    1-4
storage        1     0-1     0-1     0-2   0-1    2-4   0-1   0     0        0-3    3-6
openspace      1     1-2     1-2     1-3   0-1    1-4   4-8   0-1   0-1      1-4    1-4
classroom      1-2   1-3     0-2     0-2   1-2    0-2   1-2   0     5-10     2-5    0-3
kitchen        1-2   1-2     0       0-1   0      0-1   0-1   0     1-2      2-5    5-9
bedroom        1-2   1-2     0       0-1   0      0-1   1-2   0-1   0-1      1-4    5-9
livingRoom     1-2   1-3     0-1     0-1   0      0-2   1-2   2-4   1-2      2-6    4-9
bathroom       1     0-1     0       0     0      0     0     0     0        0-1    5-8
"""
# Large things that S3DIS has no class for, by the kind of room; the first ones come first.
BULK = {
    "kitchen": "counter fridge counter washer chest closet wardrobe",
    "bedroom": "bed closet chest wardrobe bed television screen coats chest",
    "livingRoom": "closet television chest screen wardrobe chest coats",
    "bathroom": "toilet washstand tub washer chest coats wardrobe",
    "lounge": "counter closet fridge chest television screen",
    "hallway": "coats closet chest wardrobe chest",
}
HOMES = ("kitchen", "bedroom", "livingRoom", "lounge")
BARS = ("kitchen", "livingRoom", "lounge")
RUGS = ("bedroom", "livingRoom", "bathroom", "lounge", "office")
OFFICE = "chest closet wardrobe coats screen"
# What lies on a piece lies on its seat, m above the floor; else on its top, or nowhere.
SEATS = {**dict.fromkeys(("sofa", "chaise", "sectional", "armchair"), 0.44), "bed": 0.6}
BARE = ("tub", "toilet", "television", "screen")
SEAT_DEPTH = 0.95  # m; of longer sofas, the part at the back


def _read_table(text: str) -> dict[str, dict[str, tuple[float, float]]]:
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
FIRST = "office"  # with one of SECOND it holds all 13 classes, if all find a place
SECOND = ("lounge", "conferenceRoom", "lobby")


def room_size(kind: str, rng: np.random.Generator) -> Size:
    """Draw the inner size of a room, metres."""
    width, depth, height = (
        float(rng.uniform(*SIZES[kind][row])) for row in ("width", "depth", "height")
    )
    return (width, depth, height) if rng.random() < 0.5 else (depth, width, height)


def furnish(
    kind: str, size: Size, rng: np.random.Generator, library: Library
) -> tuple[Scene, Layout]:
    """Build a room: its shell and everything in it, partly from a library of models."""
    room = _Furnisher(kind, size, rng, library)
    room.openings()
    room.structure()
    room.rugs()
    room.walls()
    room.seats()
    room.clutter()
    return room.scene, room.layout


class _Furnisher:
    """A room while it is being furnished."""

    def __init__(self, kind: str, size: Size, rng: np.random.Generator, library: Library) -> None:
        self.kind, self.size, self.rng, self.library = kind, size, rng, library
        self.chair: Piece | None = None  # the chairs of a room are often alike
        self.plan = draw_plan(size, rng)
        self.scene, self.layout = Scene(), Layout(self.plan, rng)
        self.mess = rng.uniform(*SIZES[kind]["mess"])
        self.around = sum(wall.length for wall in self.plan.walls)
        self.tops: list[tuple[Frame, float, float]] = []  # where things may lie: width, depth

    def openings(self) -> None:
        """Put doors and windows into the walls, then build floor, ceiling and walls."""
        rng, top = self.rng, self.size[2] - 0.35
        doors: list[Opening] = []
        windows: list[Opening] = []
        for _ in self._number("doors"):
            width = rng.choice((rng.uniform(0.85, 1.0), rng.uniform(1.4, 1.7)), p=(0.85, 0.15))
            doors += self._opening(width, 0.0, min(rng.uniform(2.0, 2.2), top))
        for _ in self._number("windows"):
            low, width, high = rng.uniform(0.15, 1.1), rng.uniform(0.6, 2.4), rng.uniform(1.9, 2.4)
            found = []
            if self.kind in HOMES and rng.random() < 0.3:  # most of a wall
                low = rng.uniform(0.05, 0.9)
                found = self._opening(rng.uniform(2.2, 3.8), low, min(high, top) - low)
            windows += found or self._opening(width, low, min(high, top) - low)
        shell.walls(self.scene, rng, self.plan, [*doors, *windows, *self.plan.doorways])
        for door in doors:
            self.layout.keep_clear(door, 0.9)
            if not self._fit("door", door):
                shell.door(self._on_wall("door", door), rng, door)
        for window in windows:
            if not self._fit("window", window):
                shell.window(self._on_wall("window", window), rng, window)
            self._dress(window)

    def _fit(self, label: str, hole: Opening) -> bool:
        """Fit a model into an opening, if the library has one; return whether one was."""
        size = (hole.s1 - hole.s0, self.rng.uniform(0.08, 0.2), hole.z1 - hole.z0)
        piece = self.library.draw_fitted(label, size, self.rng)
        if piece:
            wall = self.plan.walls[hole.wall].frame
            self._put(wall.at((hole.s0 + hole.s1) / 2, -0.7 * size[1], hole.z0), piece)
        return piece is not None

    def _dress(self, window: Opening) -> None:
        """Hang curtains before a window or beside it, and a radiator below it."""
        rng, wall = self.rng, self.plan.walls[window.wall].frame
        wide, middle = window.s1 - window.s0, (window.s0 + window.s1) / 2
        if window.z0 > 0.7 and rng.random() < 0.6:
            ground = self.layout.in_front(window.wall, middle - 0.6, middle + 0.6, 0.15)
            self.layout.floor.append(ground)
            self._add("clutter", wall.at(middle, 0), furniture.radiator)
        if rng.random() < 0.35 + 0.3 * self.mess:
            low = rng.choice((0.02, max(0.02, window.z0 - 0.15)))
            high = min(window.z1 + rng.uniform(0.05, 0.4), self.size[2]) - low
            drawn = rng.random() < 0.55
            ends = (wide * rng.uniform(0.05, 0.35), wide * rng.uniform(0.05, 0.35))
            if drawn:  # it hides the window as a blind does, and has its class
                share = rng.uniform(0.0, 1.0)
                covered = (wide + 0.2) * rng.choice((1.0, rng.uniform(0.7, 1.0)))
                ends = (covered * share, covered * (1 - share))
            for side, width in zip((-1, 1), ends, strict=True):
                if width < 0.08:
                    continue
                frame = wall.at(middle + side * (wide / 2 + 0.1 - width / 2), 0, low)
                part = self.scene.add("window" if drawn else "clutter", frame)
                household.curtain(part, rng, (width, rng.uniform(0.1, 0.18), high))

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
            turned = rng.random() < 0.5
            length, across = self.size[1::-1] if turned else self.size[:2]
            frame = Frame(across, 0.0, 0.0, np.pi / 2) if turned else Frame()
            shell.beam(self.scene.add("beam", frame), rng, length, across, height)
        if not self.plan.slope and rng.random() < 0.2:  # a lower part of the ceiling at a wall
            wall = self.plan.walls[rng.integers(4)]
            drop, deep = rng.uniform(0.12, 0.45), rng.uniform(0.3, 1.2)
            soffit = Part(self.scene, self.scene.objects.index("ceiling"), wall.frame)
            low = (0.0, 0.0, height - min(drop, height - 2.1))
            soffit.box(low, (wall.length, deep, height), material("ceiling", rng))
        for _ in range(rng.poisson(0.04 * self.around * self.mess)):
            piece = draw_piece("duct", rng)
            under = self._at_wall(piece.size[0], height - piece.size[2], height)
            if under:
                self._put(under.at(0, 0, height), piece)

    def rugs(self) -> None:
        """Lay rugs, which belong to the floor."""
        rng = self.rng
        floor = self.scene.objects.index("floor")
        for _ in range(rng.poisson(0.5 if self.kind in RUGS else 0.1)):
            wide, deep = rng.uniform(0.5, 2.4, 2).clip(max=np.array(self.size[:2]) - 0.4)
            x, y = rng.uniform((wide / 2, deep / 2), self.size[:2] - np.array((wide, deep)) / 2)
            frame = Frame(x, y, 0.0, rng.choice((0.0, rng.normal(0, 0.2))))
            size = (wide, deep, rng.uniform(0.004, 0.02))
            household.rug(Part(self.scene, floor, frame), rng, size)

    def walls(self) -> None:
        """Add boards, bookcases, desks, sofas, tables with chairs, and large things."""
        rng = self.rng
        for _ in self._number("boards"):
            width, low = rng.uniform(0.9, 2.4), rng.uniform(0.85, 1.05)
            high = low + rng.uniform(0.8, 1.15)
            frame = self._at_wall(width, low - 0.05, high + 0.05)
            if frame is None:
                width = 0.8
                frame = self._at_wall(width, low - 0.05, high + 0.05)
            if frame:
                furniture.board(self.scene.add("board", frame), rng, width - 0.06, low, high)
        if self.kind in HOMES and rng.random() < 0.5:
            self._stand("closet")
        names = BULK.get(self.kind, OFFICE).split()
        bulk = [names[number % len(names)] for number in self._number("bulk")]
        cases = ["case" for _ in self._number("cases")]
        for name in (*cases[:1], *bulk[:2]):
            self._stand(name)
        for _ in self._number("sofas"):
            self._sofa()
        for _ in self._number("desks"):
            self._desk()
        for _ in self._number("meetings"):
            self._meeting()
        for name in (*cases[1:], *bulk[2:]):
            self._stand(name)
        if self.kind in BARS and rng.random() < 0.5:
            self._bar()
        for _ in range(rng.poisson(1.2 if self.kind in RUGS else 0.3)):
            self._stand("side")

    def seats(self) -> None:
        """Add chairs that stand alone."""
        for _ in self._number("chairs"):
            frame = self._somewhere(0.55)
            if frame:
                self._seat(frame)

    def clutter(self) -> None:
        """Add clutter on tables, on walls, on the floor and under the ceiling."""
        rng, mess = self.rng, self.mess
        for top, width, depth in self.tops:
            for _ in range(rng.poisson(0.6 + 7.0 * mess * width * depth)):
                x, y = rng.uniform(-0.42, 0.42) * width, rng.uniform(0.2, 0.8) * depth
                self._put(top.at(x, y, 0, rng.uniform(0, 6.283)), self._loose("table"))
        for _ in range(rng.poisson(0.7 * self.around * mess)):
            self._hang(self._loose("wall"))
        for _ in range(rng.poisson(0.15 * self.around * mess)):
            self._hang(draw_piece("shelf", rng)._replace(elevation=rng.uniform(0.9, 1.5)))
        for _ in range(rng.poisson(0.6 * self.around * mess)):
            self._lean(self._loose("floor"))
        for _ in range(rng.poisson(0.3 * self.size[0] * self.size[1] * mess)):
            piece = self._loose("floor")
            frame = self._somewhere(max(piece.size[:2]))
            if frame:
                self._put(frame, piece)
        for _ in self._between(0, 3):
            x, y = rng.uniform(0.2, 0.8, 2) * self.size[:2]
            under = Frame(x, y, self.size[2], rng.choice((0.0, np.pi / 2)))
            self._put(under, self._loose("ceiling"))

    def _opening(self, width: float, low: float, height: float) -> list[Opening]:
        """Take a stretch of wall for a door or window, if one is free."""
        spot = self.layout.at_wall(width, low, low + height, depth=0.0, gap=0.25, outer=True)
        if spot is None:
            return []
        start = spot[1] - width / 2
        return [Opening(spot[0], start, low, start + width, low + height)]

    def _on_wall(self, name: str, opening: Opening) -> Part:
        return self.scene.add(name, self.plan.walls[opening.wall].frame)

    def _at_wall(
        self, width: float, low: float, high: float, depth: float = 0.0, gap: float = 0.04
    ) -> Frame | None:
        spot = self.layout.at_wall(width, low, high, depth, gap)
        return self.plan.walls[spot[0]].frame.at(spot[1], 0.0) if spot else None

    def _somewhere(self, size: float) -> Frame | None:
        """Take a free square of the floor; its frame is turned at random."""
        spot = self.layout.on_floor(size, size, gap=0.02)
        return replace(spot, yaw=self.rng.uniform(0, 6.283)) if spot else None

    def _put(self, frame: Frame, piece: Piece) -> None:
        piece.build(self.scene.add(piece.label, frame), self.rng)

    def _hang(self, piece: Piece) -> None:
        """Hang a piece on a wall, if there is a place for it."""
        low, high = piece.elevation, piece.elevation + piece.size[2]
        low, high = (low, high) if low else (0.9, 2.0)  # built from the floor
        frame = self._at_wall(piece.size[0], low, high, gap=0.0)
        if frame:
            self._put(frame.at(0, 0, piece.elevation), piece)

    def _lean(self, piece: Piece) -> None:
        """Put a small piece on the floor at a wall, if there is a place for it."""
        width, depth, height = piece.size
        frame = self._at_wall(width, 0.0, height, depth, gap=0.0)
        if frame:
            self._put(frame.at(0, depth / 2, 0, self.rng.choice((0.0, np.pi))), piece)

    def _stand(self, name: str) -> Frame | None:
        """Put a piece at a wall, if there is a place for it; return its frame."""
        piece = self._draw(name)
        width, depth, height = piece.size
        frame = self._at_wall(width, 0.0, min(height, self.size[2]), depth)
        if frame:
            frame = frame.at(0, self.rng.uniform(0.01, 0.06))
            self._put(frame, piece)
            if height < 1.4 and name not in BARE:
                deep = min(depth, SEAT_DEPTH) if name in ("chaise", "sectional") else depth
                self.tops.append((frame.at(0, 0, SEATS.get(name, height)), width, deep))
        return frame

    def _desk(self) -> None:
        rng, frame = self.rng, self._stand("desk")
        if frame is None:
            return
        top, _, depth = self.tops[-1]
        x = rng.uniform(-0.2, 0.2)
        self._add("clutter", top.at(x, 0.2, 0, rng.normal(0, 0.2)), furniture.monitor)
        self._add("clutter", top.at(x, 0.42, 0, rng.normal(0, 0.1)), furniture.keyboard)
        if rng.random() < 0.5:
            self._add("clutter", frame.at(rng.choice((-0.4, 0.4)), 0.3), furniture.computer)
        gap = rng.uniform(-0.15, 0.4)
        self._chair(frame.at(rng.uniform(-0.3, 0.3), depth + gap, 0, np.pi), gap)

    def _sofa(self) -> None:
        rng = self.rng
        name = str(
            rng.choice(("sofa", "chaise", "sectional", "armchair"), p=(0.4, 0.12, 0.2, 0.28))
        )
        free = rng.random() < 0.3
        frame = self._stand_free(self._draw(name)) if free else None
        frame = frame or self._stand(name) or self._stand("armchair")
        if frame is None:
            return
        for _ in range(rng.poisson(1.4)):
            at = frame.at(rng.normal(0, 0.35), rng.uniform(0.35, 0.55), 0.45, rng.normal(0, 0.4))
            self._add("clutter", at, household.pillow)
        if name not in ("sofa", "sectional"):
            return
        front, piece = frame.at(0, 1.25), self._draw("low")
        if self.layout.take_around(front.at(0, 0.25), 0.3):
            self._put(front, piece)
            self.tops.append((front.at(0, 0, piece.size[2]), piece.size[0], piece.size[1]))

    def _stand_free(self, piece: Piece) -> Frame | None:
        """Put a piece somewhere on the floor; return the frame of its back, or None."""
        width, depth, _ = piece.size
        center = self.layout.on_floor(width, depth, gap=0.3)
        if center is None:
            return None
        frame = center.at(0, 0, 0, self.rng.choice((0.0, np.pi))).at(0, -depth / 2)
        self._put(frame, piece)
        return frame

    def _bar(self) -> None:
        """Add a bar to eat at: its top is a table, what carries it is not."""
        piece, rng = draw_piece("bar", self.rng), self.rng
        width, depth, height = piece.size
        frame = self._stand_free(piece)
        if frame is None:
            return
        self._add("clutter", frame, partial(furniture.bar_body, size=piece.size))
        self.tops.append((frame.at(0, 0, height), width, depth))
        for x in np.arange(0.3 - width / 2, width / 2, 0.55):
            if rng.random() < 0.5:
                self._add(
                    "chair", frame.at(x, depth + rng.uniform(0.0, 0.3), 0, np.pi), furniture.stool
                )

    def _meeting(self) -> None:
        rng = self.rng
        names = ("long",) if self.kind == "conferenceRoom" else ("table", "table", "round")
        piece = self._draw(str(rng.choice(names)))
        width, depth, height = piece.size
        center = self.layout.on_floor(width, depth, gap=rng.uniform(0.3, 0.5))
        if center is None:
            return
        frame = center.at(0, -depth / 2)
        self._put(frame, piece)
        self.tops.append((frame.at(0, 0, height), width * 0.8, depth))
        for x, side in product(np.arange(0.35 - width / 2, width / 2, 0.7), (1, -1)):
            if rng.random() < 0.85:
                away = side * (depth / 2 + rng.uniform(-0.2, 0.35))
                self._chair(
                    center.at(x, away, 0, np.pi if side > 0 else 0.0), abs(away) - depth / 2
                )

    def _chair(self, frame: Frame, gap: float) -> None:
        """Add a chair `gap` from its table; it may reach under it, but not into anything else."""
        clear = frame.at(0, -0.06 - max(0.0, 0.2 - gap))
        if self.layout.take_around(clear, 0.13):
            self._seat(frame.at(0, 0, 0, self.rng.normal(0, 0.2)))

    def _seat(self, frame: Frame) -> None:
        """Add a chair whose seat's middle is at `frame`."""
        if self.chair is None or self.rng.random() < 0.3:
            self.chair = self.library.draw_any("chair", "floor", self.rng)
        if self.chair:
            self._put(frame, self.chair)
        else:
            self._add("chair", frame, furniture.chair)
        if self.rng.random() < 0.12 * self.mess:
            self._add("clutter", frame, household.draped)

    def _draw(self, name: str) -> Piece:
        return self.library.draw(name, self.rng) or draw_piece(name, self.rng, self.size[2])

    def _loose(self, place: str) -> Piece:
        drawn = self.library.draw_any("clutter", place, self.rng)
        return drawn or draw_loose(place, self.rng)

    def _add(self, label: str, frame: Frame, build: Build) -> None:
        build(self.scene.add(label, frame), self.rng)

    def _number(self, things: str) -> range:
        """Draw how many of the things this kind of room has."""
        low, high = COUNTS[self.kind][things]
        return self._between(int(low), int(high))

    def _between(self, low: int, high: int) -> range:
        return range(int(self.rng.integers(low, high + 1)))
