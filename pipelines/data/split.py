"""Which rooms train and which choose the best checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipelines.errors import DatasetError

from .store import RoomInfo


def split_rooms(
    rooms: Sequence[RoomInfo], *, test_area: int, val_fraction: float, seed: int
) -> tuple[list[RoomInfo], list[RoomInfo]]:
    """Split the rooms outside the test area into training and validation rooms.

    The validation rooms are spread over the areas in proportion to their sizes. There is at least
    one, and at least one room is left for training. The result depends on the set of rooms and the
    seed, not on the order of `rooms`.

    Raises:
        DatasetError: fewer than two rooms lie outside the test area.
    """
    usable = sorted(
        (room for room in rooms if room.area != test_area), key=lambda room: (room.area, room.name)
    )
    if len(usable) < 2:
        areas = sorted({room.area for room in rooms})
        raise DatasetError(
            f"training rooms: found {len(usable)} outside test area {test_area} "
            f"(prepared areas: {', '.join(map(str, areas)) or 'none'}), expected at least 2.\n"
            "Prepare more areas, or hold out another one with --area."
        )
    count = min(max(1, round(val_fraction * len(usable))), len(usable) - 1)
    places = _spread([room.area for room in usable], np.random.default_rng(seed))
    chosen = set(np.argsort(places, kind="stable")[:count].tolist())
    train = [room for number, room in enumerate(usable) if number not in chosen]
    return train, [usable[number] for number in sorted(chosen)]


def _spread(areas: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Give each room a place in 0 … 1 such that any first part has its share of every area.

    The m rooms of an area get the places (i + u) / m in random order, with one random u an area.
    """
    of_room = np.asarray(areas)
    places = np.empty(len(areas))
    for area in np.unique(of_room):
        members = np.flatnonzero(of_room == area)
        places[members] = (rng.permutation(len(members)) + rng.random()) / len(members)
    return places
