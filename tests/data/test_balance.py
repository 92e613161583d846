"""Class-balanced sampling against the two draws that it stands for: a class, then a block."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.data.blocks import block_points, room_blocks
from pipelines.data.sampler import MOST, block_counts, block_probabilities, draw_blocks
from pipelines.data.store import IGNORED
from tests.tiny_store import tiny_room


def test_a_classs_share_of_the_draws_is_that_of_every_other() -> None:
    # 40 blocks of class 0 alone, 8 that are half of class 1, 2 that are a quarter of class 2.
    counts = np.array([[100, 0, 0, 0]] * 40 + [[50, 50, 0, 0]] * 8 + [[300, 0, 100, 0]] * 2)
    shares = counts / counts.sum(axis=1, keepdims=True)
    expected = np.zeros(len(counts))
    for of_class in shares[:, :3].T:  # class 3 never occurs
        expected += of_class / of_class.sum() / 3
    found = block_probabilities(counts)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    # By hand: class 1 alone gives each of its 8 blocks 1/3 · 1/8; class 0 adds 0.5/45.5 of 1/3.
    assert found[40] == pytest.approx((1 / 8 + 0.5 / 45.5) / 3)
    assert found[0] * 50 < 0.4 < 2 < found[40] * 50 < found[-1] * 50


def test_many_points_do_not_make_a_block_likelier() -> None:
    counts = np.array([[10, 0], [1000, 0], [0, 7], [0, 70]])
    assert block_probabilities(counts).tolist() == [0.25] * 4


def test_a_few_points_in_one_block_do_not_fill_the_epoch() -> None:
    counts = np.zeros((1000, 5), np.int64)
    counts[:, 0] = 1000
    counts[7, 1:] = 1  # without a limit, 4 of 5 draws
    found = block_probabilities(counts)
    assert found.sum() == pytest.approx(1)
    assert found[7] == pytest.approx(MOST * found[0] * 5, rel=0.05)  # the others lost 4 of 5
    assert found[7] < 0.05


def test_blocks_without_labels_are_not_drawn_unless_none_has_any() -> None:
    assert block_probabilities(np.array([[3, 0], [0, 0], [0, 1]])).tolist() == [0.5, 0, 0.5]
    assert block_probabilities(np.zeros((4, 13), np.int64)).tolist() == [0.25] * 4


def test_counts_are_of_the_blocks_points() -> None:
    room = tiny_room(1, 1, points=900)
    room.label[::7] = IGNORED
    for block in room_blocks(room.grid, stride=0.5):
        label = room.label[block_points(block)]
        expected = [int((label == number).sum()) for number in range(13)]
        assert block_counts(room.label, block, 13).tolist() == expected


@given(weights=st.lists(st.integers(0, 50), min_size=1, max_size=40), seed=st.integers(0, 9))
def test_a_block_is_drawn_as_often_as_its_probability_says(weights: list[int], seed: int) -> None:
    weights[0] += 1
    probabilities = np.array(weights) / sum(weights)
    blocks = len(weights)
    drawn = draw_blocks(probabilities, np.random.default_rng(seed))
    assert len(drawn) == len(set(drawn.tolist())) == blocks
    times = np.bincount(drawn % blocks, minlength=blocks)
    assert (np.abs(times - blocks * probabilities) < 1 + 1e-9).all()
    for block in range(blocks):  # copies are numbered from 0
        assert sorted(drawn[drawn % blocks == block] // blocks) == list(range(times[block]))


def test_over_many_epochs_the_mean_is_exact() -> None:
    probabilities = np.array([0.05, 0.05, 0.2, 0.7])
    times = np.zeros(4)
    for epoch in range(4000):
        times += np.bincount(draw_blocks(probabilities, np.random.default_rng(epoch)) % 4)
    np.testing.assert_allclose(times / 4000, 4 * probabilities, atol=0.02)


def test_blocks_that_alternate_vary_no_more_than_others() -> None:
    # 100 rooms of a block with B·p 1.5 and one with 0.5. In this order all would fall alike, so
    # that 0 or 100 come twice (a deviation of 50); independent halves deviate by √(100/4) = 5.
    probabilities = np.tile([1.5, 0.5], 100) / 200
    twice = [
        int((draw_blocks(probabilities, np.random.default_rng(seed)) >= 200).sum())
        for seed in range(50)
    ]
    assert np.std(twice) < 2 * 5
    assert np.mean(twice) == pytest.approx(50, abs=5)


def test_epochs_are_in_random_order() -> None:
    drawn = [draw_blocks(np.full(30, 1 / 30), np.random.default_rng(seed)) for seed in (0, 1)]
    assert sorted(drawn[0]) == sorted(drawn[1]) == list(range(30))
    assert drawn[0].tolist() != drawn[1].tolist()
    assert drawn[0].tolist() != sorted(drawn[0])
