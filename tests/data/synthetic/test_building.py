"""The synthetic building: what is in it, that it repeats, and that no cheap cue solves it."""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.data.s3dis import CLASSES
from pipelines.data.synthetic import RoomPlan, ScannedObject, format_points, plan_room, scan_room
from pipelines.data.synthetic.meshes import Library
from pipelines.data.synthetic.pieces import Piece
from pipelines.data.synthetic.rooms import KINDS, _Furnisher
from pipelines.data.synthetic.scene import Frame

DENSITY = 300.0


def plan_building(areas: int, rooms: int, seed: int) -> list[RoomPlan]:
    return [plan_room(seed, area, index) for area in range(1, areas + 1) for index in range(rooms)]


@cache
def building(seed: int = 0) -> list[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Return (area, pos, color, label) of every room of a thinly scanned default building."""
    return [(plan.area, *stack(scan_room(plan, DENSITY))) for plan in plan_building(6, 3, seed)]


def stack(objects: list[ScannedObject]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels = [CLASSES.index(item.name.rpartition("_")[0]) for item in objects]
    return (
        np.concatenate([item.pos for item in objects]),
        np.concatenate([item.color for item in objects]),
        np.repeat(labels, [len(item.pos) for item in objects]),
    )


def same(a: list[ScannedObject], b: list[ScannedObject]) -> bool:
    return [i.name for i in a] == [i.name for i in b] and all(
        np.array_equal(i.pos, j.pos) and np.array_equal(i.color, j.color)
        for i, j in zip(a, b, strict=True)
    )


def test_every_class_occurs_in_every_area():
    for area in range(1, 7):
        labels = np.concatenate([label for a, _, _, label in building() if a == area])
        assert np.bincount(labels, minlength=13).min() > 50, f"Area_{area}"


@pytest.mark.parametrize("seed", [1, 2])
def test_two_rooms_already_hold_every_class(seed):
    for area in (1, 2, 3):
        rooms = [p for p in plan_building(3, 2, seed) if p.area == area]
        names = {item.name.rpartition("_")[0] for p in rooms for item in scan_room(p, DENSITY)}
        assert names == set(CLASSES)


class Furnished(_Furnisher):
    """A room that keeps where its pieces stand."""

    def __init__(self, seed: int) -> None:
        self.pieces: list[tuple[str, Frame, tuple[float, ...]]] = []
        rng = np.random.default_rng(seed)
        super().__init__("livingRoom", (7.0, 6.0, 2.6), rng, Library())

    def _put(self, frame: Frame, piece: Piece) -> None:
        self.pieces.append((piece.label, frame, piece.size))
        super()._put(frame, piece)


def test_a_bar_s_body_is_as_large_as_its_top():
    for seed in range(20):
        room = Furnished(seed)
        room._bar()
        if room.pieces:
            ((_, frame, (width, depth, height)),) = room.pieces
            ((top, wide, deep),) = room.tops
            assert (wide, deep, top.z) == (width, depth, pytest.approx(frame.z + height))


def test_things_lie_on_seats_and_tops_and_nowhere_in_the_air():
    for name in ("sofa", "chaise", "sectional", "armchair"):
        room = Furnished(3)
        assert room._stand(name)
        ((top, _, deep),) = room.tops
        assert (top.z, deep) == (pytest.approx(0.44), pytest.approx(0.9, abs=0.11))
    for name in ("tub", "toilet", "television", "screen"):
        room = Furnished(3)
        assert room._stand(name)
        assert not room.tops


def test_windows_and_doors_are_in_outer_walls():
    partitions = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        room = _Furnisher("livingRoom", (9.0, 5.0, 2.6), rng, Library())
        inner = {n for n, wall in enumerate(room.plan.walls) if wall.reveal}
        partitions += bool(inner)
        found = [room._opening(0.9, 0.0, 2.0) for _ in range(6)]
        assert not inner & {opening.wall for each in found for opening in each}
    assert partitions > 3


def test_a_room_depends_on_seed_area_and_number_alone():
    plans = plan_building(2, 3, seed=5)
    backwards = [scan_room(plan, DENSITY) for plan in reversed(plans)][::-1]
    assert all(same(scan_room(p, DENSITY), room) for p, room in zip(plans, backwards, strict=True))
    assert plan_building(3, 5, seed=5)[:3] == plans[:3]
    assert not same(backwards[0], scan_room(plan_building(2, 3, seed=6)[0], DENSITY))


def test_rooms_of_an_area_lie_side_by_side():
    plans = plan_building(1, 40, seed=0)
    boxes = [(p.origin[:2], np.add(p.origin[:2], p.size[:2])) for p in plans]
    for i, (low, high) in enumerate(boxes):
        for other_low, other_high in boxes[:i]:
            apart = np.maximum(np.subtract(low, other_high), np.subtract(other_low, high))
            assert apart.max() >= 0.19
    assert len({p.name for p in plans}) == 40
    assert {p.name.rpartition("_")[0] for p in plans} == set(KINDS)


def test_the_floor_is_lowest_and_the_ceiling_highest():
    floor, ceiling = CLASSES.index("floor"), CLASSES.index("ceiling")
    for _, pos, _, label in building():
        z = pos[:, 2]
        assert np.median(z[label == floor]) < np.percentile(z, 1) + 0.02
        # Not its median: some ceilings slope.
        assert np.percentile(z[label == ceiling], 90) > np.percentile(z, 99) - 0.02
        assert 2.4 < np.ptp(z) < 3.8


def test_boards_hang_and_doors_stand():
    floor, rooms = CLASSES.index("floor"), building()
    for name, low, high in (("board", 0.7, 2.35), ("door", 0.0, 2.35)):
        z = [
            pos[label == CLASSES.index(name), 2] - np.median(pos[label == floor, 2])
            for _, pos, _, label in rooms
            if (label == CLASSES.index(name)).sum() > 50
        ]
        assert z
        assert min(values.min() for values in z) > low - 0.1
        # A beam at an edge may echo from between a door and the wall behind it.
        assert max(np.percentile(values, 97) for values in z) < high
    assert all(values.min() < 0.5 for values in z), "a door reaches the floor"


def test_density_is_uneven():
    """Over the floor cells of a room the count varies far more than the chance of a draw."""
    for _, pos, _, label in building()[:6]:
        floor = pos[label == CLASSES.index("floor"), :2]
        cells = np.floor((floor - floor.min(0)) / 0.5).astype(int)
        _, counts = np.unique(cells, axis=0, return_counts=True)
        assert counts.std() > 1.5 * np.sqrt(counts.mean())


def best_band_miou(band_of, *, bands: int) -> float:
    """Return the mIoU of the best class per band, leaving one area out each time.

    "Best" is the most frequent class, or the one that is most frequent relative to a power of its
    share; the power that scores highest is taken, which favours the bands.
    """
    rooms = [(area, band_of(pos, color), label) for area, pos, color, label in building()]
    best = 0.0
    for power in (0.0, 0.5, 1.0):
        matrix = np.zeros((13, 13))
        for test in range(1, 7):
            counts = np.zeros((bands, 13))
            for _, band, label in (r for r in rooms if r[0] != test):
                np.add.at(counts, (band, label), 1)
            answer = (counts / counts.sum(0) ** power).argmax(1)
            for _, band, label in (r for r in rooms if r[0] == test):
                np.add.at(matrix, (label, answer[band]), 1)
        hits = np.diag(matrix)
        best = max(best, float((hits / (matrix.sum(0) + matrix.sum(1) - hits)).mean()))
    return best


def test_height_alone_does_not_give_the_class_away():
    def band(pos, _):
        z = pos[:, 2] - pos[:, 2].min()
        return (z / z.max() * 79).astype(int)

    assert best_band_miou(band, bands=80) < 0.3  # measured: 0.23


def test_colour_alone_does_not_give_the_class_away():
    def band(_, color):
        red, green, blue = (color // 32).astype(int).T
        return (red * 8 + green) * 8 + blue

    assert best_band_miou(band, bands=512) < 0.15  # measured: 0.08


thousandths = st.integers(-3_000, 3_000)
row = st.tuples(thousandths, thousandths, thousandths, *[st.integers(0, 255)] * 3)


@given(st.lists(row, min_size=1), st.integers(-9_999_999, 9_999_999))
def test_format_points_writes_what_python_would(rows, origin):
    table = np.array(rows, np.int64)
    table[:, :3] += origin
    rows = table.tolist()
    text = format_points(table[:, :3] / 1000, table[:, 3:].astype(np.uint8))
    expected = [
        " ".join([*(f"{v / 1000:.3f}" for v in row[:3]), *map(str, row[3:])]) + "\n" for row in rows
    ]
    assert text.decode() == "".join(expected)


def test_format_points_rounds_and_has_no_negative_zero():
    text = format_points(np.array([[-0.0004, 0.0016, -1.2346]]), np.zeros((1, 3), np.uint8))
    assert text == b"0.000 0.002 -1.235 0 0 0\n"
    assert re.fullmatch(rb"(-?\d+\.\d{3} ){3}\d+ \d+ \d+\n", text)
