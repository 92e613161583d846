"""Votes: each sees the room in another way, and every point gets all of their logits."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist

from pipelines.config import ModelConfig
from pipelines.data.blocks import grid_sort
from pipelines.data.store import Room, Store
from pipelines.inference.protocols import (
    SCALES,
    Subject,
    answer_room,
    answer_rooms,
    count_blocks,
    vote_pos,
)
from pipelines.inference.segmentation import block_logits, softmax
from pipelines.kernels import use
from pipelines.model.deepgcn import DeepGCN
from tests.tiny_store import write_tiny_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_tiny_store(tmp_path_factory.mktemp("tiny") / "data", points=400)


@pytest.fixture(scope="module")
def subject(store: Store) -> Subject:
    torch.manual_seed(0)
    model = DeepGCN(ModelConfig(depth=2, width=8, k=4, fusion_channels=16)).eval()
    return Subject(model, store, tuple(store.rooms(3)), num_points=64)


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


def test_votes_sum_the_logits_of_each_view(subject: Subject, store: Store) -> None:
    room = store.read(subject.rooms[0])
    votes = 3
    with use("reference"):
        found = answer_room(dataclasses.replace(subject, votes=votes), room)
        once = answer_room(subject, room)
        total = sum(_view_logits(subject, room, vote, votes) for vote in range(votes))
    np.testing.assert_array_equal(found.first, once.predicted)
    assert (found.predicted == total.argmax(axis=1)).mean() > 0.999
    np.testing.assert_allclose(found.confidence, softmax(total / votes).max(axis=1), atol=1e-4)
    assert found.blocks > 2 * once.blocks


def _view_logits(subject: Subject, room: Room, vote: int, votes: int) -> np.ndarray:
    """Return one view's logits (N, C) in the room's order."""
    pos = vote_pos(room.pos, vote, votes)
    order, grid = grid_sort(pos)
    total = np.zeros((len(pos), 13), np.float32)
    for block in block_logits(
        subject.model,
        pos[order],
        room.color[order],
        grid,
        pos.max(axis=0),
        num_points=subject.num_points,
        batch_size=1,
        seed=subject.seed + vote,
    ):
        total[order[block.points]] = block.logits
    return total


def test_every_protocol_counts_what_it_says(subject: Subject, store: Store) -> None:
    with use("reference"):
        rooms = list(answer_rooms(subject))
        one, half = (list(count_blocks(subject, name)) for name in ("block-s1", "block-s05"))
    assert [answer.room.name for answer in rooms] == [info.name for info in subject.rooms]
    assert [a.matrix(13).sum() for a in rooms] == [info.points for info in subject.rooms]
    for counted in (*one, *half):
        assert counted.matrix.sum() == counted.blocks * subject.num_points
    for found, stride in ((one, 1.0), (half, 0.5)):
        expected = [dense_blocks(store.read(info).pos, stride) for info in subject.rooms]
        assert [counted.blocks for counted in found] == expected
    assert sum(counted.blocks for counted in half) > sum(counted.blocks for counted in one)


def dense_blocks(pos: np.ndarray, stride: float) -> int:
    """Count the blocks of at least 100 points, one position at a time."""
    found = 0
    ends = pos.max(axis=0)
    for x in np.arange(int(np.ceil((ends[0] - 1) / stride)) + 1) * stride:
        for y in np.arange(int(np.ceil((ends[1] - 1) / stride)) + 1) * stride:
            inside = (pos[:, :2] >= (x, y)).all(axis=1) & (pos[:, :2] < (x + 1, y + 1)).all(axis=1)
            found += int(inside.sum() >= 100)
    return found
