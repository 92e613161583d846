"""Cells and blocks against boolean masks over all points."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.data.blocks import (
    block_features,
    block_points,
    cover,
    draw,
    grid_sort,
    overlapping,
    positions,
    room_blocks,
    thin,
)


def room(x: float, y: float, count: int = 4000, seed: int = 0) -> np.ndarray:
    """Make points in a box whose corners are points too, sorted by cell."""
    rng = np.random.default_rng(seed)
    pos = rng.random((count, 3)) * [x, y, 2.5]
    pos[0], pos[1] = 0, [x, y, 2.5]
    return pos.astype(np.float32)


@pytest.mark.parametrize(
    ("extent", "stride", "expected"),
    [(0.4, 0.5, 1), (1.0, 0.5, 1), (1.2, 0.5, 2), (3.0, 0.5, 5), (3.3, 0.5, 6), (3.3, 1.0, 4)],
)
def test_positions_are_those_of_the_pointnet_protocol(
    extent: float, stride: float, expected: int
) -> None:
    assert positions(extent, stride) == expected
    if extent >= 1:
        assert expected == math.ceil((extent - 1) / stride) + 1


def test_rounding_of_coordinates_opens_no_row_of_blocks() -> None:
    assert positions(np.float32(3.0) + np.float32(3e-7), 0.5) == positions(3.0, 0.5)


@given(x=st.floats(0.1, 4.9), y=st.floats(0.1, 4.9), seed=st.integers(0, 5))
def test_blocks_hold_what_a_mask_finds(x: float, y: float, seed: int) -> None:
    raw = room(x, y, 300, seed)
    order, grid = grid_sort(raw)
    assert sorted(order) == list(range(len(raw)))
    pos = raw[order]
    blocks = room_blocks(grid, stride=0.5, min_points=1)
    found = {block.corner: set(block_points(block).tolist()) for block in blocks}
    rows, columns = positions(float(raw[:, 0].max()), 0.5), positions(float(raw[:, 1].max()), 0.5)
    for ix in range(rows):
        for iy in range(columns):
            # The last block of an axis also takes what rounding left beyond its edge.
            right = np.inf if ix == rows - 1 else ix * 0.5 + 1
            top = np.inf if iy == columns - 1 else iy * 0.5 + 1
            inside = (pos[:, 0] >= ix * 0.5) & (pos[:, 0] < right)
            inside &= (pos[:, 1] >= iy * 0.5) & (pos[:, 1] < top)
            assert found.get((ix * 0.5, iy * 0.5), set()) == set(np.flatnonzero(inside).tolist())


@given(x=st.floats(0.1, 4.9), y=st.floats(0.1, 4.9))
def test_disjoint_blocks_hold_every_point_once(x: float, y: float) -> None:
    raw = room(x, y, 300)
    _, grid = grid_sort(raw)
    points = np.concatenate(
        [block_points(block) for block in room_blocks(grid, stride=1.0, min_points=1)]
    )
    assert sorted(points) == list(range(len(raw)))


@pytest.mark.parametrize("size", [0.5, 1.0, 1.5, 2.0, 4.0])
@given(x=st.floats(0.1, 9.0), y=st.floats(0.1, 5.0), seed=st.integers(0, 3))
def test_blocks_of_any_size_hold_the_points_of_their_column(
    size: float, x: float, y: float, seed: int
) -> None:
    raw = room(x, y, 200, seed)
    order, grid = grid_sort(raw)
    pos = raw[order]
    edges = [positions(float(raw[:, axis].max()), 0.5) * 0.5 + 0.5 for axis in range(2)]
    for stride in (size, overlapping(size)):
        lows = [[0.0], [0.0]]
        for low, edge in zip(lows, edges, strict=True):
            while low[-1] + size < edge:  # until a block reaches the edge of the last cell
                low.append(low[-1] + stride)
        expected = {}
        for low_x in lows[0]:
            for low_y in lows[1]:
                # What rounding left beyond the edge of the last cell belongs to it.
                right = np.inf if low_x + size >= edges[0] else low_x + size
                top = np.inf if low_y + size >= edges[1] else low_y + size
                inside = (pos[:, 0] >= low_x) & (pos[:, 0] < right)
                inside &= (pos[:, 1] >= low_y) & (pos[:, 1] < top)
                if inside.any():
                    expected[low_x, low_y] = np.flatnonzero(inside).tolist()
        found = room_blocks(grid, size=size, stride=stride, min_points=1)
        assert {b.corner: sorted(block_points(b).tolist()) for b in found} == expected
        assert [b.corner for b in found] == sorted(expected)
        assert all(b.size == size and b.count == len(expected[b.corner]) for b in found)
        times = np.bincount(np.concatenate([block_points(b) for b in found]), minlength=len(pos))
        assert (times == 1).all() if stride == size else (times >= 1).all()


@pytest.mark.parametrize(
    ("size", "stride"), [(0.5, 0.5), (1.0, 0.5), (1.5, 0.5), (2.0, 1.0), (2.5, 1.0), (8.0, 4.0)]
)
def test_training_blocks_overlap_by_half_where_cells_allow(size: float, stride: float) -> None:
    assert overlapping(size) == stride


@pytest.mark.parametrize(("size", "stride"), [(1.0, 1.5), (1.0, 0.25), (1.2, 0.5), (1.0, 0.0)])
def test_blocks_are_whole_cells_without_gaps(size: float, stride: float) -> None:
    _, grid = grid_sort(room(2.0, 2.0))
    with pytest.raises(ValueError, match=r"expected multiples of 0\.5"):
        room_blocks(grid, size=size, stride=stride)


def test_blocks_of_few_points_are_dropped() -> None:
    _, grid = grid_sort(room(2.0, 2.0, 400))
    assert len(room_blocks(grid, stride=1.0)) == 2 or len(room_blocks(grid, stride=1.0)) < 4
    assert all(block.count >= 100 for block in room_blocks(grid, stride=0.5))
    assert len(room_blocks(grid, stride=1.0, min_points=1)) == 4


@given(count=st.integers(1, 300), num_points=st.integers(1, 300), seed=st.integers(0, 3))
def test_draw_repeats_only_what_it_must(count: int, num_points: int, seed: int) -> None:
    drawn = draw(count, num_points, np.random.default_rng(seed))
    assert drawn.shape == (num_points,)
    assert drawn.min() >= 0
    assert drawn.max() < count
    assert len(set(drawn.tolist())) == min(count, num_points)


@given(count=st.integers(1, 500), num_points=st.integers(1, 200), seed=st.integers(0, 3))
def test_cover_holds_every_point(count: int, num_points: int, seed: int) -> None:
    draws = cover(count, num_points, np.random.default_rng(seed))
    assert draws.shape == (math.ceil(count / num_points), num_points)
    assert set(draws.ravel().tolist()) == set(range(count))
    assert all(len(set(row.tolist())) == num_points for row in draws[:-1])


def test_features_by_hand() -> None:
    pos = np.array([[1.0, 2.5, 0.25], [1.5, 3.0, 2.0]], np.float32)
    color = np.array([[255, 0, 51], [0, 255, 102]], np.uint8)
    features = block_features(pos, color, (1.0, 2.0), np.array([4.0, 5.0, 2.0]))
    expected = [
        [-0.5, 0.0, 0.25, 1.0, 0.0, 0.2, 0.25, 0.5, 0.125],
        [0.0, 0.5, 2.0, 0.0, 1.0, 0.4, 0.375, 0.6, 1.0],
    ]
    np.testing.assert_allclose(features, expected, atol=1e-6)
    assert features.dtype == np.float32
    larger = block_features(pos, color, (0.0, 1.0), np.array([4.0, 5.0, 2.0]), size=3.0)
    np.testing.assert_array_equal(larger, features)  # of the same middle
    as_float = block_features(pos, color / 255, (1.0, 2.0), np.array([4.0, 5.0, 2.0]))
    np.testing.assert_allclose(as_float, features, atol=1e-6)


def test_torch_layout_is_pyg_s_normalize_scale() -> None:
    import torch
    from torch_geometric.data import Data
    from torch_geometric.transforms import NormalizeScale

    pos = room(1.0, 1.0, 200)
    color = np.zeros((200, 3), np.uint8)
    extent = np.array([3.0, 3.0, 3.0])
    paper = block_features(pos, color, (0.0, 0.0), extent)
    features = block_features(pos, color, (0.0, 0.0), extent, layout="torch")
    expected = NormalizeScale()(Data(pos=torch.from_numpy(paper[:, :3].copy()))).pos.numpy()
    np.testing.assert_allclose(features[:, :3], expected, atol=1e-6)
    np.testing.assert_array_equal(features[:, 3:], paper[:, 3:])


def test_blocks_of_a_ground_that_is_empty_in_most_places() -> None:
    """Against each block's own count, on two clusters a long way apart and on scattered points."""
    rng = np.random.default_rng(5)
    far = np.concatenate([rng.random((300, 3)), np.array([120.3, 61.7, 0]) + rng.random((200, 3))])
    for pos in (far, rng.random((400, 3)) * [9.2, 0.3, 2], rng.random((400, 3)) * [0.2, 7.9, 2]):
        pos = (pos - pos.min(axis=0)).astype(np.float32)
        order, grid = grid_sort(pos)
        pos = pos[order]
        cell = np.minimum(np.floor(pos[:, :2] / 0.5), [grid.nx - 1, grid.ny - 1])
        for stride, last in ((1.0, (grid.nx, grid.ny)), (0.5, (grid.nx - 1, grid.ny - 1))):
            expected = {}
            for ix in range(0, last[0], int(2 * stride)):
                for iy in range(0, last[1], int(2 * stride)):
                    inside = ((cell >= [ix, iy]) & (cell <= [ix + 1, iy + 1])).all(axis=1)
                    if inside.any():
                        expected[ix / 2, iy / 2] = np.flatnonzero(inside)
            blocks = room_blocks(grid, stride=stride, min_points=1)
            assert [block.corner for block in blocks] == list(expected)
            for block, points in zip(blocks, expected.values(), strict=True):
                assert block.count == len(points)
                np.testing.assert_array_equal(np.sort(block_points(block)), points)


def test_thinning_takes_every_point_of_a_voxel_alike() -> None:
    pos = np.array([[0.1, 0.1, 0.1], [0.3, 0.1, 0.1], [0.4, 0.4, 0.4], [0.6, 0.1, -0.1]])
    drawn = [thin(pos, 0.5, np.random.default_rng(seed)) for seed in range(600)]
    for chosen, own in drawn:
        assert sorted(own.tolist()) == [0, 0, 0, 1] or sorted(own.tolist()) == [0, 1, 1, 1]
        assert {own[point] for point in chosen} == {0, 1}
        assert own[0] == own[1] == own[2] != own[3]
    first = np.bincount([min(chosen) for chosen, _ in drawn], minlength=4)
    assert first[3] == 0
    assert (np.abs(first[:3] - 200) < 60).all()  # five standard deviations
