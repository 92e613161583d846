"""Validation rooms: some, never all, spread, and never from the test area."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.data.split import split_rooms
from pipelines.data.store import RoomInfo
from pipelines.errors import DatasetError


def room(area: int, number: int) -> RoomInfo:
    return RoomInfo(
        area=area,
        name=f"office_{number}",
        points=1000,
        extent=(3.0, 3.0, 3.0),
        checksum="",
        counts=(0,) * 13,
    )


def building(sizes: dict[int, int]) -> list[RoomInfo]:
    return [room(area, number) for area, size in sizes.items() for number in range(size)]


SIZES = st.dictionaries(st.integers(1, 6), st.integers(1, 30), min_size=2)
FRACTIONS = st.floats(0.001, 0.999)


@given(SIZES, FRACTIONS, st.integers(0, 2**32), st.randoms(use_true_random=False))
def test_split(sizes: dict[int, int], fraction: float, seed: int, random: object) -> None:
    rooms = building(sizes)
    test_area = min(sizes)
    usable = [r for r in rooms if r.area != test_area]
    if len(usable) < 2:
        with pytest.raises(DatasetError, match="found 1 outside test area"):
            split_rooms(rooms, test_area=test_area, val_fraction=fraction, seed=seed)
        return
    train, val = split_rooms(rooms, test_area=test_area, val_fraction=fraction, seed=seed)
    assert {r.area for r in train + val} <= set(sizes) - {test_area}
    assert sorted(map(repr, train + val)) == sorted(map(repr, usable))  # all, each once
    assert train
    assert val
    assert abs(len(val) - fraction * len(usable)) <= 1
    random.shuffle(rooms)  # type: ignore[attr-defined]
    assert split_rooms(rooms, test_area=test_area, val_fraction=fraction, seed=seed) == (train, val)


@given(SIZES, FRACTIONS, st.integers(0, 100))
def test_every_area_gives_its_share(sizes: dict[int, int], fraction: float, seed: int) -> None:
    sizes = {**sizes, 7: 1}
    if sum(sizes.values()) - 1 < 2:
        return
    _, val = split_rooms(building(sizes), test_area=7, val_fraction=fraction, seed=seed)
    share = len(val) / (sum(sizes.values()) - 1)
    given_by = Counter(r.area for r in val)
    for area, size in sizes.items():
        assert area == 7 or abs(given_by[area] - share * size) < 2


def test_other_seeds_choose_other_rooms() -> None:
    rooms = building(dict.fromkeys(range(1, 7), 40))
    chosen = {
        tuple(r.name for r in split_rooms(rooms, test_area=5, val_fraction=0.1, seed=seed)[1])
        for seed in range(10)
    }
    assert len(chosen) == 10


def test_one_room_is_not_enough() -> None:
    rooms = building({1: 1, 2: 5})
    with pytest.raises(DatasetError, match=r"found 1 outside test area 2 \(prepared areas: 1, 2\)"):
        split_rooms(rooms, test_area=2, val_fraction=0.1, seed=0)
