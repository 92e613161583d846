"""Height bands: learned and scored on rooms made by hand."""

from __future__ import annotations

import numpy as np

from pipelines.data.store import make_room
from pipelines.reports.baseline import BANDS, height_bands, learn_height_bands, score_height_bands


def room(heights: list[float], label: list[int]):
    pos = np.column_stack([np.linspace(0, 0.4, len(heights)), np.zeros(len(heights)), heights])
    color = np.zeros((len(heights), 3), np.uint8)
    return make_room(1, "office_1", pos, color, np.array(label, np.uint8))


def test_the_most_frequent_class_of_a_band_wins() -> None:
    first = room([0.0, 0.01, 0.02, 1.05, 1.06, 2.5], [1, 1, 2, 2, 2, 0])
    second = room([0.0, 0.05, 1.01, 2.51], [2, 1, 0, 0])
    best = learn_height_bands([first, second], 3)
    assert best[0] == 1
    assert best[10] == 2
    assert best[25] == 0
    assert best[50] == 2, "an empty band answers the class that is most frequent overall"


def test_a_room_starts_at_its_own_floor_and_the_top_band_is_open() -> None:
    tall = room([7.0, 7.05, 30.0], [0, 0, 1])
    assert sorted(height_bands(tall).tolist()) == [0, 0, BANDS - 1]


def test_counts() -> None:
    best = np.zeros(BANDS, np.int64)
    best[0] = 1
    matrix = score_height_bands(best, room([0.0, 0.05, 1.0], [1, 0, 0]), 2)
    assert matrix.tolist() == [[1, 1], [0, 1]]


def test_points_without_a_class_are_neither_learned_nor_scored() -> None:
    odd = room([0.0, 0.01, 0.02, 1.0], [255, 255, 1, 0])
    best = learn_height_bands([odd], 2)
    assert best[0] == 1
    assert score_height_bands(best, odd, 2).sum() == 2
