"""Comparing runs: intervals with known answers, and runs that do not compare."""

from __future__ import annotations

import itertools
import tracemalloc
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.errors import RunError
from pipelines.metrics import scores
from pipelines.reports.comparison import (
    SIX_FOLD,
    bootstrap_interval,
    compare_scores,
    few_rooms,
    mean_notes,
    pool,
)

CLASSES = ("a", "b")


def room(correct: int, wrong: int) -> np.ndarray:
    return np.array([[correct, wrong], [wrong, correct]])


def values(rooms: dict[str, np.ndarray], **changes: Any) -> dict[str, Any]:
    found = scores(np.sum(list(rooms.values()), axis=0), CLASSES)
    plain = {name: matrix.tolist() for name, matrix in rooms.items()}
    return {
        "protocol": "room",
        "test_area": 5,
        "classes": list(CLASSES),
        "rooms": plain,
        "miou": found.miou,
        "means_over": found.means_over,
        "iou": list(found.iou),
        **changes,
    }


def test_a_run_against_itself_differs_in_nothing() -> None:
    same = values({"x": room(8, 2), "y": room(5, 5)})
    (found,) = compare_scores(["one", "two"], [same, same])
    assert (found.name, found.miou, found.low, found.high) == ("two", 0, 0, 0)
    assert found.iou == (0, 0)


@pytest.mark.parametrize("absent_as", ["exclude", "zero", "one", "minus-one"])
def test_the_difference_lies_in_its_interval_however_absent_classes_count(absent_as: str) -> None:
    """Nothing is of class c; a few points are called so by the second run."""
    rng = np.random.default_rng(0)

    def record(extra: int) -> dict[str, Any]:
        rooms = {}
        for name in "uvwxyz":
            matrix = np.zeros((3, 3), int)
            matrix[:2, :2] = rng.integers(20, 40, (2, 2)) + 40 * np.eye(2, dtype=int)
            matrix[0, 2] = extra
            rooms[name] = matrix
        total = scores(np.sum(list(rooms.values()), axis=0), ("a", "b", "c"), absent_as=absent_as)
        plain = {name: matrix.tolist() for name, matrix in rooms.items()}
        return {**asdict(total), "classes": ["a", "b", "c"], "rooms": plain, "test_area": 5}

    (found,) = compare_scores(["one", "two"], [record(0), record(3)])
    assert found.low <= found.miou <= found.high


def test_an_interval_of_many_classes_takes_little_memory() -> None:
    rng = np.random.default_rng(0)
    first, other = rng.integers(0, 9, (2, 12, 60, 60))
    whole = bootstrap_interval(first, other)
    tracemalloc.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.reports.comparison.AT_ONCE", 10**6)
        assert bootstrap_interval(first, other) == pytest.approx(whole)
    assert tracemalloc.get_traced_memory()[1] < 60e6  # at once 115e6
    tracemalloc.stop()


def test_the_same_gain_in_every_room_is_certain() -> None:
    before = values({name: room(6, 4) for name in "uvwxyz"})
    after = values({name: room(9, 1) for name in "uvwxyz"})
    (found,) = compare_scores(["one", "two"], [before, after])
    assert found.miou == pytest.approx(9 / 11 - 6 / 14)
    assert found.low == pytest.approx(found.high) == pytest.approx(found.miou)


def test_the_interval_of_two_seeds_and_rooms_is_what_all_draws_give() -> None:
    """Two rooms and two trainings drawn twice each: 16 equally likely draws, counted out."""
    first = np.array([[room(6, 4), room(6, 4)], [room(7, 3), room(5, 5)]])
    other = np.array([[room(9, 1), room(3, 7)], [room(8, 2), room(8, 2)]])

    def miou(matrices: np.ndarray) -> float:
        return scores(matrices.sum(axis=0), CLASSES).miou

    differences = [
        np.mean([miou(other[n][list(rooms)]) - miou(first[n][list(rooms)]) for n in trainings])
        for rooms in itertools.product((0, 1), repeat=2)
        for trainings in itertools.product((0, 1), repeat=2)
    ]
    low, high = bootstrap_interval(first, other)
    # 2.5 % of the draws are less than the 1 in 16 that the least and the greatest each have
    assert low == pytest.approx(min(differences))
    assert high == pytest.approx(max(differences))


def test_one_training_a_side_is_the_bootstrap_over_rooms() -> None:
    rng = np.random.default_rng(3)
    first, other = rng.integers(0, 50, (2, 9, 4, 4))
    assert bootstrap_interval(first[None], other[None]) == bootstrap_interval(first, other)
    twice = (np.stack([first, first]), np.stack([other, other]))
    assert bootstrap_interval(*twice) == pytest.approx(bootstrap_interval(first, other))


def test_the_interval_of_two_rooms_is_what_all_draws_give() -> None:
    """Rooms (x, y) drawn twice: xx, xy, yx, yy; a quarter of the draws has only the worse one."""
    first = np.array([room(6, 4), room(6, 4)])
    other = np.array([room(9, 1), room(3, 7)])
    low, high = bootstrap_interval(first, other)
    assert low == pytest.approx(3 / 17 - 6 / 14)
    assert high == pytest.approx(9 / 11 - 6 / 14)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"protocol": "block-s1"}, "two: found protocol block-s1, expected that of one: room"),
        ({"test_area": 1}, "two: found test_area 1, expected that of one: 5"),
        ({"rooms": {"z": [[1, 0], [0, 1]]}}, "two: scored on other data than one"),
        ({"store": {"fingerprint": "b"}}, "two: scored on other data than one"),
        ({"absent_as": "zero"}, "two: found absent_as zero, expected that of one: None"),
        ({"means_over": None}, r"two: found scores of an older .*\n.*eval two --protocol room"),
    ],
)
def test_what_does_not_compare(changes: dict[str, Any], found: str) -> None:
    first = values({"x": room(8, 2)})
    with pytest.raises(RunError, match=found):
        compare_scores(["one", "two"], [first, {**first, **changes}])


def test_the_advice_finds_runs_elsewhere() -> None:
    first, other = values({"x": room(8, 2)}), values({"y": room(8, 2)})
    with pytest.raises(RunError, match="deepgcn eval a/one b/two --data DIR"):
        compare_scores(["one", "two"], [first, other], [Path("a/one"), Path("b/two")])


def test_published_rows_average_to_their_miou() -> None:
    for row in SIX_FOLD:
        if row.iou is not None:
            assert len(row.iou) == 13
            assert sum(row.iou) / 13 == pytest.approx(row.miou, abs=0.06), row.name


def test_few_rooms_are_a_caution() -> None:
    assert few_rooms(10) == []
    assert few_rooms(2)[0].startswith("Caution: 2 test rooms, where")
    assert few_rooms(1)[0].startswith("Caution: 1 test room, where")


def test_the_mean_of_areas_says_when_its_classes_average_to_another_miou() -> None:
    """By hand: area 1 has a and b with IoU 1, area 2 only a, with 6 points right of 10.

    The areas' mIoUs are 1 and 0.6, their mean 0.8; the class IoUs are 0.8 and 1, their mean 0.9.
    """
    counts = {1: [[10, 0], [0, 10]], 2: [[6, 4], [0, 0]]}
    values = {area: {"classes": CLASSES, "confusion": each} for area, each in counts.items()}
    areas, pooled, mean = pool(values)
    assert mean.miou == pytest.approx(0.8)
    assert mean.iou == pytest.approx((0.8, 1.0))
    assert any("lack b, the class IoUs average to another" in n for n in mean_notes(areas, pooled))
    everywhere = pool({**values, 2: {"classes": CLASSES, "confusion": [[6, 4], [0, 1]]}})
    assert mean_notes(*everywhere[:2]) == []
