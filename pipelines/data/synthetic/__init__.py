"""A synthetic building: areas of furnished rooms, scanned, in the raw S3DIS form.

`plan_building` decides the rooms and where they lie, `scan_room` makes the points of one of them,
`format_points` their text. A room depends on the seed, its area and its number alone, so rooms can
be made in any order. `rooms` furnishes them, from `shell`, `furniture` and the geometry in `scene`;
`surface` colours them and `laser` scans them.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass

import numpy as np

from pipelines.data.blocks import block_features, block_points, draw, room_blocks
from pipelines.data.store import make_room

from .laser import scan, scan_positions
from .rooms import furnish, room_kinds, room_size
from .shell import Size
from .surface import Lighting

GENERATOR = 1  # raised whenever the same seed gives other points
WALL = 0.2  # m between the insides of two neighbouring rooms
ROOMS_PER_ROW = 5
LINE = (*[(b"%.3f ", 1000)] * 3, *[(b"%d ", 1)] * 2, (b"%d\n", 1))  # of mm and colours
LEAST_DENSITY = 4000.0  # points per square metre of `room_features`


@dataclass(frozen=True)
class RoomPlan:
    """One room of the building: its kind, size and minimum corner, in metres."""

    seed: int
    area: int
    index: int  # from 0 in its area
    name: str  # as in S3DIS: office_1, the kind (a key of `rooms.KINDS`) and its number
    size: Size
    origin: tuple[float, float, float]


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
    """Build and scan one room; return the objects that the scanner saw, in a fixed order.

    `density` is the points per square metre where the scanner sees a surface well.
    """
    width, depth, height = plan.size
    kind, _, _ = plan.name.rpartition("_")
    scene, layout = furnish(kind, plan.size, _source(plan.seed, plan.area, plan.index, 1))
    rng = _source(plan.seed, plan.area, plan.index, 2)
    positions = scan_positions(layout, rng)
    # Lamps under the ceiling, and one window's worth of daylight from a side.
    low, high = (0.2 * width, 0.2 * depth), (0.8 * width, 0.8 * depth)
    lamps = np.column_stack([rng.uniform(low, high, (2, 2)), np.full(2, height - 0.1)])
    day = (rng.choice((0.0, width)), rng.uniform(0, depth), 1.5)
    power = np.array([*rng.uniform(0.25, 0.55, 2), rng.uniform(0.1, 0.7)])
    ambient = float(rng.uniform(0.4, 0.6))
    lighting = Lighting(np.vstack([lamps, day]), power, ambient, plan.size)
    points = scan(scene, positions, lighting, density=density, rng=rng)
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


def format_points(pos: np.ndarray, color: np.ndarray) -> bytes:
    """Return the lines `x y z r g b` of an object: metres with three decimals, integers 0–255.

    `pos` is (n, 3) float64, metres, and `color` (n, 3) uint8; n ≥ 1.
    """
    columns = []
    table = np.column_stack([np.rint(pos * 1000), color]).astype(np.int64)
    for values, (form, unit) in zip(table.T, LINE, strict=True):
        # An object is a few metres long, so it has fewer texts of a millimetre than points.
        low = int(values.min())
        texts = [form % (value / unit) for value in range(low, int(values.max()) + 1)]
        columns.append(np.array(texts)[values - low])
    return np.column_stack(columns).tobytes().translate(None, b"\0")  # without the padding


def room_features(batch: int, num_points: int) -> np.ndarray:
    """Return the features (batch, num_points, 9) float32 of blocks of one room, for benchmarks.

    They are always the same. The blocks with most points come first, and again if there are fewer
    than `batch`. The scan is so dense that a block with walls has `num_points` points or more.
    """
    (plan,) = plan_building(areas=1, rooms=1, seed=0)
    objects = scan_room(plan, max(LEAST_DENSITY, num_points / 2))
    pos = np.concatenate([item.pos for item in objects])
    color = np.concatenate([item.color for item in objects])
    room = make_room(plan.area, plan.name, pos, color, np.zeros(len(pos), np.uint8))
    blocks = sorted(room_blocks(room.grid, stride=1.0), key=lambda block: -block.count)
    rng, features = np.random.default_rng(0), []
    for block in itertools.islice(itertools.cycle(blocks), batch):
        points = block_points(block)[draw(block.count, num_points, rng)]
        pos, color = room.pos[points], room.color[points]
        features.append(block_features(pos, color, block.corner, room.extent))
    return np.stack(features)


def _source(seed: int, *key: int) -> np.random.Generator:
    """Return the random generator of one purpose, independent of all others."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
