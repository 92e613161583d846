"""Synthetic rooms: furnished, scanned and labelled, alone or as a building in the S3DIS form.

`room` makes one labelled scan, for training. `plan_room` and `scan_room` make the rooms of a
building, `format_points` their text. A room depends on the seed, its area and its number alone, so
rooms can be made in any order. `rooms` furnishes them on one of the `plans`, with the `pieces` that
`furniture` and `household` build in a `scene`; `shell` has what is built in, `surface` colours it.
`laser` and `camera` scan a scene by `casting` rays, `variety` makes scans differ. `stream` makes
rooms for a training.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from pipelines.data.blocks import block_features, block_points, draw, room_blocks
from pipelines.data.s3dis import CLASSES
from pipelines.data.store import make_room

from .camera import film
from .laser import scan, scan_positions
from .meshes import Library
from .plans import Size
from .rooms import FIRST, KINDS, SECOND, furnish, room_size
from .surface import Lighting
from .variety import vary

GENERATOR = 6  # raised whenever the same seed gives other points
PITCH = 14.0  # m between the corners of neighbouring rooms: more than a room is long
LINE = (*[(b"%.3f ", 1000)] * 3, *[(b"%d ", 1)] * 2, (b"%d\n", 1))  # of mm and colours
LEAST_DENSITY = 4000.0  # points per square metre of `room_features`
# The kinds after the first two rooms of an area come in rounds, homes more often.
ROUND = (*KINDS, "office", "kitchen", "bedroom", "livingRoom", "livingRoom")
BY_LASER = 0.35  # of the rooms of a mixed building


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


def plan_room(seed: int, area: int, index: int) -> RoomPlan:
    """Plan a room of a building; the first two of an area hold every class that finds a place."""
    rng = _source(seed, area)
    corner = rng.uniform((-25, -25, -0.05), (25, 25, 0.05))
    first = [FIRST, SECOND[rng.integers(len(SECOND))]]
    turn, position = divmod(index - 2, len(ROUND))
    kinds = [*first, *_source(seed, area, max(turn, 0), 3).permutation(ROUND).tolist()]
    kind, before = kinds[index if index < 2 else position + 2], kinds[: min(index, position + 2)]
    number = before.count(kind) + max(turn, 0) * ROUND.count(kind) + 1
    # Squares of rooms around one another: (0, 0), then (1, 0), (1, 1), (0, 1), then (2, 0) …
    shell = math.isqrt(index)
    along = index - shell**2
    row, column = (shell, along) if along <= shell else (2 * shell - along, shell)
    x, y, z = (corner + PITCH * np.array((row, column, 0))).tolist()
    size = room_size(kind, _source(seed, area, index, 0))
    return RoomPlan(seed, area, index, f"{kind}_{number}", size, (x, y, z))


def scan_room(
    plan: RoomPlan, density: float, scanner: str = "laser", library: Library | None = None
) -> list[ScannedObject]:
    """Build and scan one room; return the objects that the scanner saw, in a fixed order.

    `density` is the points per square metre where the scanner sees a surface well. `scanner` is
    `laser` (the whole room, along the axes, as in S3DIS), `rgbd` (a hand-held camera) or `mixed`
    (one of both); rooms of the last two are turned, cut and coloured in many ways, and their
    density differs by up to a factor of two. `library` has models for some of the furniture.
    """
    kind, _, _ = plan.name.rpartition("_")
    rng = _source(plan.seed, plan.area, plan.index, 1)
    scene, layout = furnish(kind, plan.size, rng, library or Library())
    rng = _source(plan.seed, plan.area, plan.index, 2)
    lighting = _light(plan.size, rng)
    by_laser = scanner == "laser" or (scanner == "mixed" and rng.random() < BY_LASER)
    if scanner != "laser":
        density *= 2 ** rng.uniform(-1, 1)
    if by_laser:
        points = scan(scene, scan_positions(layout, rng), lighting, density, rng)
    else:
        points = film(scene, layout, lighting, density, rng)
    if scanner != "laser":
        points = vary(points, plan.size, rng)
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


def _light(size: Size, rng: np.random.Generator) -> Lighting:
    """Draw lamps under the ceiling and daylight from a side, each of its own colour."""
    width, depth, height = size
    low, high = (0.2 * width, 0.2 * depth), (0.8 * width, 0.8 * depth)
    lamps = np.column_stack([rng.uniform(low, high, (2, 2)), np.full(2, height - 0.1)])
    day = (rng.choice((0.0, width)), rng.uniform(0, depth), 1.5)
    power = np.array([*rng.uniform(0.2, 0.9, 2), rng.uniform(0.1, 1.2)])
    tints = np.exp(rng.normal(0.02, 0.1, (3, 1)) * (1.0, 0.0, -1.0))  # warm to cold
    ambient = float(rng.uniform(0.2, 0.55))
    return Lighting(np.vstack([lamps, day]), power[:, None] * tints, ambient, size)


def room(
    seed: int,
    index: int,
    *,
    scanner: str = "mixed",
    density: float = 1500.0,
    library: Library | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make a labelled scan of a room, from `seed` and `index` alone, for training.

    Returns the positions (n, 3) float32, m, from the minimum corner, the colours (n, 3) uint8 and
    the labels (n,) uint8, indices into the classes of S3DIS. `scanner`, `density` and
    `library` are as of `scan_room`. It can be called in any process and order.

    >>> pos, color, label = room(seed=0, index=5, density=50.0)
    """
    objects = scan_room(plan_room(seed, 0, index), density, scanner, library)
    pos = np.concatenate([item.pos for item in objects])
    color = np.concatenate([item.color for item in objects])
    label = [CLASSES.index(item.name.rpartition("_")[0]) for item in objects]
    counts = [len(item.pos) for item in objects]
    pos = (pos - pos.min(axis=0)).astype(np.float32)
    return pos, color, np.repeat(np.array(label, np.uint8), counts)


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
    pos, color, label = room(0, 0, scanner="laser", density=max(LEAST_DENSITY, num_points / 2))
    scanned = make_room(1, f"{FIRST}_1", pos, color, label)
    blocks = sorted(room_blocks(scanned.grid, stride=1.0), key=lambda block: -block.count)
    rng, features = np.random.default_rng(0), []
    for block in itertools.islice(itertools.cycle(blocks), batch):
        points = block_points(block)[draw(block.count, num_points, rng)]
        pos, color = scanned.pos[points], scanned.color[points]
        features.append(block_features(pos, color, block.corner, scanned.extent))
    return np.stack(features)


def _source(seed: int, *key: int) -> np.random.Generator:
    """Return the random generator of one purpose, independent of all others."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
