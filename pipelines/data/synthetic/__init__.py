"""A synthetic building: areas of furnished rooms, scanned, in the raw S3DIS form.

Reading order: `plan_building` decides the rooms and where they lie, `scan_room` makes the points
of one of them, `format_points` their text. A room depends on the seed, its area and its number
alone, so rooms can be made in any order. The parts are in `synthetic_rooms` (what is in a room),
`synthetic_scanner` (how it is seen) and `synthetic_surface` (how it looks).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from .laser import scan, scan_positions
from .rooms import furnish, room_kinds, room_size
from .shell import Size
from .surface import Lighting

GENERATOR = 1  # raised whenever the same seed gives other points
WALL = 0.2  # m between the insides of two neighbouring rooms
ROOMS_PER_ROW = 5


@dataclass(frozen=True)
class RoomPlan:
    """One room of the building: its kind, size and the place of its corner, in metres."""

    seed: int
    area: int
    index: int  # from 0 in its area
    name: str  # as in S3DIS: office_1
    size: Size
    origin: tuple[float, float, float]

    @property
    def kind(self) -> str:
        """The kind of room, a key of `synthetic_rooms.KINDS`."""
        return self.name.rpartition("_")[0]


@dataclass(frozen=True)
class ScannedObject:
    """One object of a room as it was scanned."""

    name: str  # as in S3DIS: chair_2
    pos: np.ndarray  # (n, 3) float64, m, in the building's frame
    color: np.ndarray  # (n, 3) uint8


def plan_building(areas: int, rooms: int, seed: int) -> list[RoomPlan]:
    """Plan all rooms of a building, area by area; more rooms leave the earlier ones as they are."""
    return [plan for area in range(1, areas + 1) for plan in _plan_area(area, rooms, seed)]


def _plan_area(area: int, rooms: int, seed: int) -> list[RoomPlan]:
    rng = _source(seed, area)
    x0, y, z = (float(value) for value in rng.uniform((-25, -25, -0.05), (25, 25, 0.05)))
    plans: list[RoomPlan] = []
    numbers: Counter[str] = Counter()
    x, row_depth = x0, 0.0
    for index, kind in enumerate(room_kinds(rooms, rng)):
        if index and index % ROOMS_PER_ROW == 0:
            x, y, row_depth = x0, y + row_depth + WALL, 0.0
        numbers[kind] += 1
        size = room_size(kind, _source(seed, area, index, 0))
        plans.append(RoomPlan(seed, area, index, f"{kind}_{numbers[kind]}", size, (x, y, z)))
        x, row_depth = x + size[0] + WALL, max(row_depth, size[1])
    return plans


def scan_room(plan: RoomPlan, density: float) -> list[ScannedObject]:
    """Build and scan one room; return its objects that were seen, in a fixed order.

    Args:
        plan: the room, from `plan_building`.
        density: points per square metre where the scanner sees a surface well.
    """
    scene, layout = furnish(plan.kind, plan.size, _source(plan.seed, plan.area, plan.index, 1))
    rng = _source(plan.seed, plan.area, plan.index, 2)
    positions = scan_positions(layout, rng)
    points = scan(scene, positions, _light(plan.size, rng), density=density, rng=rng)
    bounds = np.searchsorted(points.object, np.arange(len(scene.objects) + 1))
    numbers: Counter[str] = Counter()
    result = []
    for name, start, stop in zip(scene.objects, bounds, bounds[1:], strict=False):
        if stop > start:
            numbers[name] += 1
            pos = points.pos[start:stop] + plan.origin
            label = f"{name}_{numbers[name]}"
            result.append(ScannedObject(label, pos, points.color[start:stop]))
    return result


def format_points(pos: np.ndarray, color: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Return the lines `x y z r g b` of points: metres with three decimals, integers 0–255.

    Args:
        pos: (n, 3) float, |pos| < 10,000 m.
        color: (n, 3) uint8.

    Returns:
        The text, and the position of each line's start and of the end, int64 (n + 1,).
    """
    thousandths = np.rint(np.asarray(pos, np.float64) * 1000).astype(np.int32)
    table = np.zeros((len(pos), 42), np.uint8)  # right-aligned fields; 0 is dropped below
    for axis in range(3):
        _put_metres(table[:, 10 * axis : 10 * axis + 10], thousandths[:, axis])
        _put_integer(table[:, 30 + 4 * axis : 34 + 4 * axis], color[:, axis])
    table[:, -1] = ord("\n")
    used = table != 0
    lines = np.concatenate([[0], np.cumsum(used.sum(axis=1))])
    return table[used].tobytes(), lines


def _put_metres(cells: np.ndarray, thousandths: np.ndarray) -> None:
    """Write sign, up to four digits, the point, three digits and a space into (n, 10) cells."""
    size = np.abs(thousandths)
    whole = size // 1000
    cells[:, 9] = ord(" ")
    for column, power in ((8, 1), (7, 10), (6, 100)):
        cells[:, column] = ord("0") + size // power % 10
    cells[:, 5] = ord(".")
    cells[:, 4] = ord("0") + whole % 10
    for column, power in ((3, 10), (2, 100), (1, 1000)):
        cells[:, column] = np.where(whole >= power, ord("0") + whole // power % 10, 0)
    cells[:, 0] = np.where(thousandths < 0, ord("-"), 0)


def _put_integer(cells: np.ndarray, value: np.ndarray) -> None:
    """Write up to three digits and a space into (n, 4) cells."""
    cells[:, 3] = ord(" ")
    cells[:, 2] = ord("0") + value % 10
    cells[:, 1] = np.where(value >= 10, ord("0") + value // 10 % 10, 0)
    cells[:, 0] = np.where(value >= 100, ord("0") + value // 100, 0)


def _light(size: Size, rng: np.random.Generator) -> Lighting:
    """Draw lamps under the ceiling and one window's worth of daylight from a side."""
    low, high = (0.2 * size[0], 0.2 * size[1]), (0.8 * size[0], 0.8 * size[1])
    lamps = np.column_stack([rng.uniform(low, high, (2, 2)), np.full(2, size[2] - 0.1)])
    day = (rng.choice((0.0, size[0])), rng.uniform(0, size[1]), 1.5)
    power = np.array([*rng.uniform(0.25, 0.55, 2), rng.uniform(0.1, 0.7)])
    return Lighting(np.vstack([lamps, day]), power, float(rng.uniform(0.4, 0.6)), size)


def _source(seed: int, *key: int) -> np.random.Generator:
    """Return the random source of one purpose, independent of all others."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
