"""Votes see a room in different ways and their logits add up; height bands of rooms by hand."""

from __future__ import annotations

import dataclasses
from typing import cast

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist

from pipelines.config import EvalConfig, ModelConfig
from pipelines.data.store import Room, RoomInfo, Store, make_room
from pipelines.inference.protocols import (
    Evaluation,
    count_blocks,
    count_height_bands,
    predict_rooms,
)
from pipelines.inference.segmentation import (
    SCALES,
    Draws,
    block_logits,
    softmax,
    sort_points,
    vote_pos,
)
from pipelines.kernels import use
from pipelines.model.deepgcn import DeepGCN
from pipelines.progress import Task
from tests.tiny_store import write_tiny_store

NUM_POINTS = 64
MODEL = ModelConfig(depth=2, width=8, k=4, fusion_channels=16)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_tiny_store(tmp_path_factory.mktemp("tiny") / "data", points=400)


@pytest.fixture(scope="module")
def target(store: Store) -> Evaluation:
    torch.manual_seed(0)
    model = DeepGCN(MODEL).eval()
    return evaluation(store, model)


def evaluation(store: Store, model: DeepGCN | None) -> Evaluation:
    if model is not None:
        model.num_points = NUM_POINTS
    return Evaluation(
        "net", store.path, (), (model,) if model else (), EvalConfig(), store, tuple(store.rooms(3))
    )


def test_vote_0_is_the_room_itself() -> None:
    pos = np.random.default_rng(0).random((20, 3)).astype(np.float32)
    assert vote_pos(pos, 0, 4) is pos


@pytest.mark.parametrize("vote", range(1, 8))
def test_a_vote_moves_the_room_without_bending_it(vote: int) -> None:
    pos = np.random.default_rng(0).random((40, 3)).astype(np.float32) * (5, 3, 2.5)
    moved = vote_pos(pos, vote, 8)
    np.testing.assert_allclose(moved.min(axis=0), 0, atol=1e-6)
    scale = SCALES[vote % len(SCALES)]
    np.testing.assert_allclose(pdist(moved), scale * pdist(pos), rtol=1e-4)
    np.testing.assert_allclose(moved[:, 2], scale * (pos[:, 2] - pos[:, 2].min()), atol=1e-5)


def test_votes_turn_and_mirror() -> None:
    corner = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32)

    def turn(vote: int) -> tuple[float, float]:
        """Return the angle of the corner's first side, degrees, and its orientation."""
        moved = vote_pos(corner, vote, 4)
        first, second = moved[1] - moved[0], moved[2] - moved[0]
        return float(np.degrees(np.arctan2(first[1], first[0]))), float(
            np.sign(first[0] * second[1] - first[1] * second[0])
        )

    assert turn(2)[0] % 360 == pytest.approx(180, abs=1e-3)
    assert [turn(vote)[1] for vote in (1, 2, 3)] == [-1, 1, -1]


def test_votes_sum_the_logits_of_each_view(target: Evaluation, store: Store) -> None:
    room = store.read(target.rooms[0])
    votes = 3
    with use("reference"):
        found = next(predict_rooms(dataclasses.replace(target, options=EvalConfig(votes=votes))))
        once = next(predict_rooms(target))
        total = sum(_view_logits(target, room, vote, votes) for vote in range(votes))
    np.testing.assert_array_equal(found.first, once.predicted)
    assert (found.predicted == total.argmax(axis=1)).mean() > 0.999
    np.testing.assert_allclose(found.confidence, softmax(total / votes).max(axis=1), atol=1e-4)
    assert found.blocks > 2 * once.blocks


def _view_logits(target: Evaluation, room: Room, vote: int, votes: int) -> np.ndarray:
    """Return one view's logits (N, C) in the room's order."""
    pos = vote_pos(room.pos, vote, votes)
    order, points = sort_points(pos, room.color)
    total = np.zeros((len(pos), 13), np.float32)
    for rows, logits, _ in block_logits(target.model, points, Draws(NUM_POINTS, 1, vote), Task()):
        total[order[rows]] = logits
    return total


def test_every_protocol_counts_what_it_says(target: Evaluation, store: Store) -> None:
    with use("reference"):
        rooms = list(predict_rooms(target))
        one, half = (count_blocks(target, name) for name in ("block-s1", "block-s05"))
    assert [answer.room.name for answer in rooms] == [info.name for info in target.rooms]
    for answer, info in zip(rooms, target.rooms, strict=True):
        assert len(answer.predicted) == info.points
        assert answer.predicted.max() < 13
    for (counted, blocks), stride in ((one, 1.0), (half, 0.5)):
        expected = [dense_blocks(store.read(info).pos, stride) for info in target.rooms]
        assert [counts.sum() for counts in counted.values()] == [
            number * NUM_POINTS for number in expected
        ]
        assert list(counted) == [info.name for info in target.rooms]
        assert blocks == sum(expected)
    assert half[1] > one[1]


def dense_blocks(pos: np.ndarray, stride: float) -> int:
    """Count the blocks of at least 100 points, one position at a time."""
    found = 0
    ends = pos.max(axis=0)
    for x in np.arange(int(np.ceil((ends[0] - 1) / stride)) + 1) * stride:
        for y in np.arange(int(np.ceil((ends[1] - 1) / stride)) + 1) * stride:
            inside = (pos[:, :2] >= (x, y)).all(axis=1) & (pos[:, :2] < (x + 1, y + 1)).all(axis=1)
            found += int(inside.sum() >= 100)
    return found


class Rooms:
    """Rooms in memory in the place of a store; the last is of the test area, 3."""

    def __init__(self, classes: int, *made: tuple[list[float], list[int]]) -> None:
        self.classes, self.path = ("",) * classes, None
        self.made = {}
        for number, (heights, label) in enumerate(made):
            pos = np.zeros((len(heights), 3))
            pos[:, 0], pos[:, 2] = np.linspace(0, 0.4, len(heights)), heights
            area = 3 if number == len(made) - 1 else 1
            color = np.zeros((len(heights), 3), np.uint8)
            room = make_room(area, f"room_{number}", pos, color, np.array(label, np.uint8))
            self.made[room.info(classes)] = room

    def rooms(self, area: int | None = None) -> list[RoomInfo]:
        return [info for info in self.made if area in (None, info.area)]

    def read(self, info: RoomInfo) -> Room:
        return self.made[info]


def baseline(classes: int, *made: tuple[list[float], list[int]]) -> list[list[int]]:
    store = cast("Store", Rooms(classes, *made))
    return count_height_bands(evaluation(store, None)).tolist()


def test_the_most_frequent_class_of_a_band_wins() -> None:
    first = [0.0, 0.01, 0.02, 1.05, 1.06, 2.5], [1, 1, 2, 2, 2, 0]
    second = [0.0, 0.05, 1.01, 2.51], [2, 1, 0, 0]
    scored = [0.0, 1.0, 2.55, 5.0], [0, 0, 0, 0]
    # Bands of 10 cm: 1 at the floor, 2 at 1 m, 0 at 2.5 m; an empty one answers what is most
    # frequent of all, here 2.
    assert baseline(3, first, second, scored) == [[1, 1, 2], [0, 0, 0], [0, 0, 0]]


def test_a_room_starts_at_its_own_floor_and_the_top_band_is_open() -> None:
    learned = [7.0, 7.05, 30.0], [0, 0, 1]
    assert baseline(2, learned, ([1.0, 60.0, 11.0], [0, 1, 1])) == [[1, 0], [0, 2]]


def test_points_without_a_class_are_neither_learned_nor_scored() -> None:
    odd = [0.0, 0.01, 0.02, 1.0], [255, 255, 1, 0]
    assert baseline(2, odd, odd) == [[1, 0], [0, 1]]
