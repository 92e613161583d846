"""How many blocks rooms give, without reading their points."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.config import TrainConfig
from pipelines.data import statistics
from pipelines.data.blocks import CELL, overlapping, positions
from pipelines.data.sampler import cut_room, split_rooms
from pipelines.data.statistics import Statistics
from pipelines.data.store import RoomInfo, Store
from pipelines.errors import DatasetError


def count_positions(room: RoomInfo, side: float, stride: float) -> int:
    """Return how many places blocks of a side have in a room, whether they have points or not.

    >>> count_positions(RoomInfo(1, "hall", 9, (6.0, 2.0, 3.0), "", ()), 1.0, 1.0)
    12
    """
    wide, step, count = round(side / CELL), round(stride / CELL), 1
    for extent in room.extent[:2]:
        cells = positions(extent, CELL) + 1
        count *= len(range(0, max(1, cells - wide + step), step))
    return count


def count_blocks(rooms: Sequence[RoomInfo], found: Statistics, side: float) -> tuple[int, int]:
    """Estimate the training blocks of rooms, which overlap, and their disjoint blocks.

    The part of the places that have enough points is that of the disjoint blocks of the nearest
    side whose number is known.
    """

    def places(side: float, stride: float) -> int:
        return sum(count_positions(room, side, stride) for room in rooms)

    known = min(found.blocks, key=lambda each: abs(each.side - side))
    filled = min(1.0, known.number / max(1, places(known.side, known.side)))
    trained, disjoint = places(side, overlapping(side)), places(side, side)
    return max(1, round(filled * trained)), max(1, round(filled * disjoint))


def check_validation(config: TrainConfig) -> None:
    """Raise DatasetError if the rooms that are to validate have no block, as was measured.

    Blocks of sides that were not measured, and of voxels, are left to the training; an only room is
    cut as in the training.
    """
    store = Store.open(config.data)
    area = store.test_area if config.test_area is None else config.test_area
    trained, rooms = split_rooms(
        store.rooms(),
        test_area=area,
        val_fraction=config.val_fraction,
        seed=config.seed,
        fold=config.fold,
    )
    if trained == rooms:
        cut_room(store.read(rooms[0]), config.val_fraction, config.block_side)  # raises
    found = statistics.of_rooms(store, rooms)
    numbers = {each.side: each.number for each in found.blocks} if found else {}
    if not config.voxel_side and numbers.get(config.block_side) == 0:
        names = ", ".join(f"Area_{room.area}/{room.name}" for room in rooms[:3])
        part = f"--val-fold {config.val_fold}: " if config.val_fold else ""
        raise DatasetError(
            f"{config.data}: {part}found no block of {config.block_side:g} m in the rooms that "
            f"validate ({names}{', …' if len(rooms) > 3 else ''})."
        )
