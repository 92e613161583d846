"""Every point is labelled once, in its own order, whatever the batch size and the input's order."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines import segment
from pipelines.config import ModelConfig
from pipelines.data.blocks import block_features, block_points, cover, grid_sort, room_blocks, thin
from pipelines.errors import ConfigError, DatasetError, WeightsError
from pipelines.inference.segmentation import (
    Draws,
    add_rows,
    block_logits,
    softmax,
    sort_points,
    vote_pos,
)
from pipelines.kernels import use
from pipelines.model.deepgcn import DeepGCN
from pipelines.progress import Task
from tests.ears import Ears

POINTS = 64  # of a draw


@pytest.fixture(scope="module")
def model() -> DeepGCN:
    torch.manual_seed(0)
    return DeepGCN(ModelConfig(depth=2, width=8, k=4, fusion_channels=16)).eval()


def scan(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    pos = rng.random((count, 3)) * (2.6, 1.4, 2.0) + (100.0, -7.0, 3.0)
    return pos, rng.integers(0, 256, (count, 3)).astype(np.uint8)


def slow_probabilities(model: DeepGCN, pos: np.ndarray, color: np.ndarray) -> np.ndarray:
    """Return what `segment` should, one draw and one point at a time."""
    local = (pos - pos.min(axis=0)).astype(np.float32)
    order, grid = grid_sort(local)
    local, color = local[order], color[order]
    total = np.zeros((len(pos), 13), np.float64)
    for number, block in enumerate(room_blocks(grid, stride=1.0, min_points=1)):
        points = block_points(block)
        rng = np.random.default_rng([0, number])
        for chosen in cover(block.count, POINTS, rng):
            rows = points[chosen]
            features = block_features(local[rows], color[rows], block.corner, local.max(axis=0))
            with torch.inference_mode():
                logits = model(torch.from_numpy(features)[None])[0].numpy()
            for row, values in zip(rows, logits, strict=True):
                total[row] += values
    exponential = np.exp(total - total.max(axis=1, keepdims=True))
    probabilities = np.empty_like(total)
    probabilities[order] = exponential / exponential.sum(axis=1, keepdims=True)
    return probabilities


def test_agrees_with_one_point_at_a_time(model: DeepGCN) -> None:
    pos, color = scan(700)
    with use("reference"):
        label, probabilities = segment(model, pos, color, num_points=POINTS, batch_size=3)
        expected = slow_probabilities(model, pos, color)
    np.testing.assert_allclose(probabilities, expected, atol=1e-4)
    assert label.dtype == np.int64
    np.testing.assert_array_equal(label, probabilities.argmax(axis=1))


@pytest.mark.parametrize("batch_size", [1, 2, 7, 100])
def test_the_batch_size_changes_nothing(model: DeepGCN, batch_size: int) -> None:
    pos, color = scan(900, seed=1)
    with use("reference"):
        _, alone = segment(model, pos, color, num_points=POINTS, batch_size=4)
        _, found = segment(model, pos, color, num_points=POINTS, batch_size=batch_size)
    np.testing.assert_allclose(found, alone, atol=1e-5)


def test_every_point_belongs_to_one_block(model: DeepGCN) -> None:
    pos, color = scan(1500, seed=2)
    local = (pos - pos.min(axis=0)).astype(np.float32)
    seen = np.zeros(len(pos), int)
    _, room = sort_points(local, color)
    for points, logits, _ in block_logits(model, room, Draws(POINTS, 5), Task()):
        seen[points] += 1
        assert logits.shape == (len(points), 13)
        assert (np.abs(logits).sum(axis=1) > 0).all(), "a point without logits"
    assert (seen == 1).all()


@pytest.mark.parametrize("size", [0.5, 2.0, 4.0])
def test_blocks_are_as_large_as_in_training(model: DeepGCN, size: float) -> None:
    pos, color = scan(1200, seed=3)  # 2.6 m × 1.4 m
    model.block_size = size
    try:
        with use("reference"):
            label, probabilities = segment(model, pos, color, num_points=POINTS)
    finally:
        model.block_size = 1.0
    assert label.shape == (1200,)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)  # every point was labelled
    local = (pos - pos.min(axis=0)).astype(np.float32)
    column = np.floor(local[:, :2] / size) @ [100, 1]
    order, room = sort_points(local, color, None, size)
    for points, *_ in block_logits(model, room, Draws(POINTS, 5, block_size=size), Task()):
        number = column[order[points]]
        assert len(set(number)) == 1
        assert len(points) == (column == number[0]).sum()


def test_labels_of_voxels_spread_back_to_every_point(model: DeepGCN) -> None:
    """As if only the chosen points had been scanned: one of each voxel of 25 cm, by block."""
    pos, color = scan(1200, seed=4)
    local = (pos - pos.min(axis=0)).astype(np.float32)
    order, room = sort_points(local, color)
    draws, found = Draws(POINTS, 5, voxel=0.25), np.full((len(pos), 13), np.nan, np.float32)
    passes = 0
    with use("reference"):
        for points, logits, count in block_logits(model, room, draws, Task()):
            found[order[points]] = logits
            passes += count
    kept = 0
    for number, block in enumerate(room.blocks):
        rows = block_points(block)
        chosen, _ = thin(room.pos[rows], 0.25, np.random.default_rng([0, number]))
        cells = np.floor(room.pos[rows] / 0.25).astype(int)
        groups = {tuple(cell): rows[(cells == cell).all(axis=1)] for cell in cells}
        assert len(groups) == len(chosen) < len(rows)
        kept += -(-len(chosen) // POINTS)
        for group in groups.values():
            assert len({*group} & {*rows[chosen]}) == 1
            assert (found[order[group]] == found[order[group[0]]]).all(), "one label a voxel"
    assert passes == kept
    assert np.isfinite(found).all()


@pytest.mark.parametrize("count", [1, 3, POINTS, POINTS + 1])
def test_few_points(model: DeepGCN, count: int) -> None:
    pos, color = scan(count)
    label, probabilities = segment(model, pos, color, num_points=POINTS)
    assert label.shape == (count,)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


def test_a_network_that_sees_no_colors_needs_none(model: DeepGCN) -> None:
    pos, color = scan(300)
    with pytest.raises(DatasetError, match="found no color, which this network sees"):
        segment(model, pos, num_points=POINTS)
    torch.manual_seed(0)
    blind = DeepGCN(dataclasses.replace(model.config, rgb=False))
    label, probabilities = segment(blind, pos, num_points=POINTS)
    colored = segment(blind, pos, color, num_points=POINTS)
    np.testing.assert_array_equal(label, colored[0])
    np.testing.assert_array_equal(probabilities, colored[1])


def test_color_from_0_to_1_means_the_same(model: DeepGCN) -> None:
    pos, color = scan(200)
    _, expected = segment(model, pos, color, num_points=POINTS)
    _, found = segment(model, pos, (color / 255).astype(np.float32), num_points=POINTS)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("pos", "color", "found"),
    [
        (np.zeros((0, 3)), np.zeros((0, 3)), r"pos \(0, 3\)"),
        (np.zeros((4, 2)), np.zeros((4, 2)), r"pos \(4, 2\)"),
        (np.zeros((4, 3)), np.zeros((3, 3)), r"color \(3, 3\)"),
        (np.full((4, 3), np.nan), np.zeros((4, 3)), "4 of 4 points with NaN"),
        (np.full((4, 3), "1"), np.zeros((4, 3)), "pos of type <U1"),
        (np.ones((4, 3)), np.full((4, 3), 255), "color of type int64"),
        (np.ones((4, 3)), np.full((4, 3), 255.0), "color from 255.0 to 255.0"),
        (np.ones((4, 3)), np.full((4, 3), -0.5), "color from -0.5 to -0.5"),
        (np.ones((4, 3)), np.full((4, 3), np.nan), "color from nan to nan"),
    ],
)
def test_arrays_that_do_not_fit(
    model: DeepGCN, pos: np.ndarray, color: np.ndarray, found: str
) -> None:
    with pytest.raises(DatasetError, match=found):
        segment(model, pos, color)


@pytest.mark.parametrize("kind", [np.int8, np.float16, torch.float32])
def test_any_kind_of_coordinates(model: DeepGCN, kind: type | torch.dtype) -> None:
    pos, color = scan(200)
    whole = np.round((pos - pos.min(axis=0)) * 80 - 100).clip(-128, 127)  # wider than int8 holds
    _, expected = segment(model, whole, color, num_points=POINTS)
    tensor = isinstance(kind, torch.dtype)
    given = torch.from_numpy(whole).to(kind) if tensor else whole.astype(kind)
    _, found = segment(
        model, given, torch.from_numpy(color) if tensor else color, num_points=POINTS
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_far_points_are_refused_whatever_their_type(model: DeepGCN) -> None:
    pos = np.array([[-2_000_000_000, 0, 0], [2_000_000_000, 0, 0]], np.int32)  # 4e9 apart wraps
    for each in (pos, pos.astype(np.float32), pos * 1e200):
        with pytest.raises(DatasetError, match="segment: found an extent of"):
            segment(model, each, np.zeros((2, 3), np.uint8))


@pytest.mark.parametrize("values", [{"num_points": 0}, {"batch_size": 0}, {"seed": -1}])
def test_impossible_numbers_are_refused(model: DeepGCN, values: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=rf"{next(iter(values))}: found"):
        segment(model, *scan(10), **values)


def test_outputs_that_are_no_numbers_are_no_labels() -> None:
    model = DeepGCN(ModelConfig(depth=2, width=8, k=4, fusion_channels=16)).eval()
    model.get_buffer("fusion.norm.running_var").fill_(-1.0)
    with pytest.raises(WeightsError, match=r"resgcn-2 .*: found NaN or infinite outputs"):
        segment(model, *scan(100), num_points=POINTS)


def test_too_few_points_for_the_neighborhood(model: DeepGCN) -> None:
    with pytest.raises(ConfigError, match="k·d"):
        segment(model, *scan(100), num_points=3)


@given(st.lists(st.integers(0, 6), max_size=30))
def test_repeated_rows_are_added_up(rows: list[int]) -> None:
    values = np.arange(2 * len(rows), dtype=np.float32).reshape(-1, 2)
    total = np.ones((7, 2), np.float32)
    expected = np.ones((7, 2), np.float32)
    if rows:
        add_rows(total, np.array(rows), values)
        np.add.at(expected, rows, values)
    np.testing.assert_array_equal(total, expected)


def test_softmax_of_large_logits() -> None:
    found = softmax(np.array([[1000.0, 1000.0], [0.0, np.log(3)]], np.float32))
    np.testing.assert_allclose(found, [[0.5, 0.5], [0.25, 0.75]], atol=1e-6)
    assert found.dtype == np.float32


STRAY = {
    "one below": [[101, -6, 0]],
    "one beside": [[200, -6, 4]],
    "a pile": np.tile([100.2, -6.8, 1.8], (300, 1)),
}


@pytest.mark.parametrize("name", STRAY)
def test_stray_points_change_no_other_label(model: DeepGCN, name: str) -> None:
    """The clean scan's labels stay; its probabilities, up to the rounding of another batch."""
    pos, color = scan(1500)
    stray = np.asarray(STRAY[name], np.float64)
    both = np.concatenate([stray, pos])
    colors = np.concatenate([np.full(stray.shape, 9, np.uint8), color])
    ears = Ears()
    with use("reference"):
        label, probabilities = segment(model, pos, color, num_points=POINTS)
        found, of_both = segment(model, both, colors, num_points=POINTS, progress=ears)
        quiet, rule = Ears(), "published"
        _, moved = segment(model, both, colors, num_points=POINTS, frame=rule, progress=quiet)
        _, alone = segment(model, pos, color, num_points=POINTS, frame=rule, progress=quiet)
    np.testing.assert_array_equal(found[len(stray) :], label)
    np.testing.assert_allclose(of_both[len(stray) :], probabilities, atol=1e-6)
    np.testing.assert_array_equal(alone, probabilities)
    np.testing.assert_allclose(of_both.sum(axis=1), 1, atol=1e-5)  # stray points have labels, too
    assert np.abs(moved[len(stray) :] - probabilities).max() > 1e-3
    (said,) = ears.said
    assert f"{len(stray)} of {len(both):,} points left out of the frame" in said
    assert quiet.said == []


def test_stray_points_are_labelled_at_the_nearest_place_in_the_frame() -> None:
    pos = np.array([[0, 0, 0], [3, 2, 2.5], [1, 1, 1], [2, 1, -7], [90, -5, 1]], np.float32)
    order, room = sort_points(pos, np.zeros((5, 3), np.uint8), np.arange(5) >= 3)
    assert order[3:].tolist() == [3, 4]
    assert room.pos[3:].tolist() == [[2, 1, 0], [3, 0, 1]]
    held = [block_points(block).tolist() for block in room.blocks]
    assert sorted(row for rows in held for row in rows) == [0, 1, 2, 3, 4]
    assert all(max(rows) < 3 or min(rows) >= 3 for rows in held), "no block has both"


def test_a_point_beyond_all_numbers_has_a_label(model: DeepGCN) -> None:
    pos, color = scan(500)
    pos[7] = [1e300, -1e300, 0]
    with use("reference"):
        _, found = segment(model, pos, color, num_points=POINTS)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


def test_votes_turn_a_room_about_its_own_corner() -> None:
    pos = scan(50)[0].astype(np.float32)
    both = np.concatenate([pos, [[1e38, 5, -9]]]).astype(np.float32)
    for vote in range(1, 4):
        moved = vote_pos(both, vote, 4, np.arange(51) == 50)
        np.testing.assert_array_equal(moved[:50], vote_pos(pos, vote, 4))


def test_an_unknown_rule_of_frames(model: DeepGCN) -> None:
    with pytest.raises(ConfigError, match=r"frame: found the unknown rule 'robus'\. Did you mean"):
        segment(model, *scan(100), frame="robus")
