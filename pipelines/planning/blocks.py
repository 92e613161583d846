"""How many blocks rooms give, without reading them."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.data.blocks import CELL, overlapping, positions
from pipelines.data.statistics import Statistics
from pipelines.data.store import RoomInfo


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
