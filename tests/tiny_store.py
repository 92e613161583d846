"""A handmade building, small enough to train on in seconds, as a store."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path

import numpy as np

from pipelines.data.s3dis import CLASS_COLORS, CLASSES, PUBLISHED_ROOMS
from pipelines.data.store import (
    IGNORED,
    Room,
    Store,
    area_file,
    make_room,
    write_manifest,
    write_rooms,
)

SIZE = (2.1, 1.6, 2.5)  # m
COLORS = {"floor": (150, 90, 40), "ceiling": (230, 230, 230), "wall": (200, 190, 120)}


def write_tiny_store(
    data: Path, *, points: int = 800, test_area: int = 3, bare: Collection[int] = ()
) -> Store:
    """Write areas 1, 2, 3 with 3, 2, 2 rooms of 2.1 m × 1.6 m, `points` on each surface.

    No point of the `bare` areas has a label.
    """
    rooms = [
        tiny_room(area, number, points)
        for area, size in ((1, 3), (2, 2), (3, 2))
        for number in range(1, size + 1)
    ]
    for room in rooms:
        if room.area in bare:
            room.label[:] = IGNORED
    for area in (1, 2, 3):
        write_rooms(area_file(data, area), [room for room in rooms if room.area == area])
    infos = [asdict(room.info(len(CLASSES))) for room in rooms]
    write_manifest(
        data,
        infos,
        classes=CLASSES,
        class_colors=CLASS_COLORS,
        test_area=test_area,
        published_rooms=sum(PUBLISHED_ROOMS.values()),
    )
    return Store.open(data)


def tiny_room(area: int, number: int, points: int) -> Room:
    """Return a room with a floor, a ceiling and one wall, each of its own colour, with noise."""
    rng = np.random.default_rng([area, number])
    x, y, z = SIZE
    pos = [
        rng.random((points, 3)) * (x, y, 0.02),
        rng.random((points, 3)) * (x, y, 0.02) + (0, 0, z - 0.02),
        rng.random((points, 3)) * (x, 0.02, z),
    ]
    color = [np.clip(rng.normal(mean, 20, (points, 3)), 0, 255) for mean in COLORS.values()]
    label = np.repeat([CLASSES.index(name) for name in COLORS], points).astype(np.uint8)
    return make_room(
        area,
        f"office_{number}",
        np.concatenate(pos) + np.array([10.0, -5.0, 1.0]),
        np.concatenate(color).astype(np.uint8),
        label,
    )
