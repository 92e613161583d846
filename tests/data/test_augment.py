"""Augmentation: rigid where it should be, the same as moving the whole room first."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from scipy.spatial import ConvexHull, cKDTree
from scipy.spatial.distance import pdist

from pipelines.config import recipes
from pipelines.data import augment as augmentation
from pipelines.data.augment import (
    AUGMENTATIONS,
    COLOR_DROP,
    FEWEST,
    GREY,
    SCALE,
    TILT,
    TOP,
    BlockPoints,
    augment,
    rotate,
)
from pipelines.data.blocks import block_features

EXTENT = np.array([5.0, 3.0, 2.5], np.float32)
CORNER = (2.0, 1.0)


def block(seed: int = 0, count: int = 60) -> BlockPoints:
    rng = np.random.default_rng(seed)
    pos = rng.random((count, 3)).astype(np.float32) * (1, 1, 2.5) + (*CORNER, 0)
    color = (0.2 + 0.5 * rng.random((count, 3))).astype(np.float32)
    label = rng.integers(0, 13, count).astype(np.uint8)
    return BlockPoints(pos.astype(np.float32), color, label, np.array(CORNER) + 0.5, EXTENT)


def moved(name: str, seed: int = 1, count: int = 60) -> tuple[BlockPoints, BlockPoints]:
    before = block(count=count)
    return before, AUGMENTATIONS[name](before, np.random.default_rng(seed))


def origins(before: BlockPoints, after: BlockPoints) -> np.ndarray:
    """Return of which point (n,) before each one after is a copy: that of its colour."""
    distance, index = cKDTree(before.color).query(after.color)
    assert (distance == 0).all()
    return np.asarray(index)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["rotate", "flip", "scale"])
def test_shape_is_kept(name: str, seed: int) -> None:
    before, after = moved(name, seed)
    factor = float(after.extent[2] / before.extent[2])
    assert SCALE[0] <= factor <= SCALE[1]
    np.testing.assert_allclose(pdist(after.pos), factor * pdist(before.pos), rtol=1e-4)
    np.testing.assert_allclose(after.pos[:, 2], factor * before.pos[:, 2], rtol=1e-5)
    np.testing.assert_array_equal(after.color, before.color)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", ["rotate", "flip", "scale", "jitter"])
def test_the_block_stays_around_its_centre_and_inside_its_room(name: str, seed: int) -> None:
    before, after = moved(name, seed)
    scale = float(after.extent[2] / before.extent[2])
    reach = np.abs(before.pos[:, :2] - before.center).max()
    assert np.abs(after.pos[:, :2] - after.center).max() < scale * reach * 2**0.5 + 0.03
    assert (after.pos.min(axis=0) > -0.03).all()
    assert (after.pos.max(axis=0) < after.extent + 0.03).all()


@pytest.mark.parametrize("name", ["crop", "thin"])
def test_copies_take_the_place_of_what_is_missing(name: str) -> None:
    missing = 0
    for seed in range(30):
        before, after = moved(name, seed, count=900)
        assert after.pos.shape == before.pos.shape
        index = origins(before, after)
        shift = before.pos[index] - after.pos
        np.testing.assert_allclose(shift, np.broadcast_to(shift[0], shift.shape), atol=1e-6)
        np.testing.assert_array_equal(after.label, before.label[index])
        kept = index == np.arange(900)
        assert kept[index].all()  # copies are of points that were kept
        assert kept.sum() >= FEWEST
        missing += not kept.all()
    assert 5 < missing <= 30


def test_a_crop_is_a_room_that_holds_the_block() -> None:
    partial, low = 0, []
    for seed in range(200):
        before, after = moved("crop", seed, count=300)
        shift = before.pos[origins(before, after)[0]] - after.pos[0]
        assert (after.pos >= -1e-5).all()
        assert (after.pos <= after.extent + 1e-5).all()
        # The frame lies within the room's, and has moved as the points have.
        assert (shift >= -1e-5).all()
        assert (shift + after.extent <= before.extent + 1e-5).all()
        np.testing.assert_allclose(before.center - after.center, shift[:2], atol=1e-5)
        partial += bool((after.extent[:2] < before.extent[:2]).all())
        if after.extent[2] < before.extent[2]:
            low.append(float(after.extent[2]))
    assert 0.5 < partial / 200 < 0.7
    assert 0.25 < len(low) / 200 < 0.45
    assert TOP[0] <= min(low) < 1.2
    assert 2.2 < max(low) <= TOP[1]


def test_points_are_thinned_to_densities_of_all_magnitudes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(augmentation, "HOLES", 0)
    thinned = (moved("thin", seed, 12_000)[1].pos for seed in range(40))
    counts = [len(set(map(bytes, pos))) for pos in thinned]
    assert 499 <= min(counts) < 800
    assert 6000 < max(counts) <= 10_000
    assert 1500 < np.median(counts) < 3300  # of a log-uniform distribution: 2236
    # A block of 400 points, each three times, is thinner than all that: its points stay.
    few = block(count=400)
    pos, color, label = (np.tile(a, (3, 1)) for a in (few.pos, few.color, few.label[:, None]))
    repeated = replace(few, pos=pos, color=color, label=label[:, 0])
    for seed in range(5):
        after = AUGMENTATIONS["thin"](repeated, np.random.default_rng(seed))
        assert len(set(map(bytes, after.pos))) == 400


def test_holes_are_convex_and_not_too_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation, "HOLES", 1)
    monkeypatch.setattr(augmentation, "DENSITY", (1e6, 1e6))
    directions = np.random.default_rng(0).normal(size=(3, 600))
    directions /= np.linalg.norm(directions, axis=0)
    holes = 0
    for seed in range(20):
        before, after = moved("thin", seed, count=700)
        kept = origins(before, after) == np.arange(700)
        if (~kept).sum() < 10:
            continue
        holes += 1
        faces = ConvexHull(before.pos[~kept]).equations  # outward normals and offsets
        beyond = before.pos[kept] @ faces[:, :3].T + faces[:, 3] > 0
        assert beyond.any(axis=1).all()
        assert np.ptp(before.pos[~kept] @ directions, axis=0).min() < 0.85
    assert 5 < holes < 16


def test_elastic_moves_neighbours_alike() -> None:
    amplitudes = []
    for seed in range(20):
        near = block(seed)
        twin = replace(near, pos=near.pos + np.float32([0.006, 0.0, 0.008]))  # 1 cm away
        first, second = (
            AUGMENTATIONS["elastic"](each, np.random.default_rng(seed)).pos - each.pos
            for each in (near, twin)
        )
        amplitudes.append(np.sqrt((first**2).sum(axis=1).mean()))
        assert np.abs(second - first).max() < 0.006
        assert np.ptp(first, axis=0).max() < 0.4
    assert 0.02 < np.mean(amplitudes) < 0.07  # mean of 0 to √3 · (1.5² + 5²)^½ cm
    assert min(amplitudes) < 0.02


@pytest.mark.parametrize("seed", range(5))
def test_a_tilted_room_is_rigid_and_fills_its_frame(seed: int) -> None:
    before = block()
    corners = np.array(list(product(*((0, size) for size in EXTENT))), np.float32)
    room = replace(before, pos=np.vstack([before.pos, corners]))
    after = AUGMENTATIONS["tilt"](room, np.random.default_rng(seed))
    np.testing.assert_allclose(pdist(after.pos), pdist(room.pos), rtol=1e-4)
    np.testing.assert_allclose(after.pos.min(axis=0), 0, atol=1e-5)  # the floor's lowest corner
    np.testing.assert_allclose(after.pos.max(axis=0), after.extent, atol=1e-5)
    up = (after.pos[-7] - after.pos[-8]) / EXTENT[2]  # the edge above the first corner
    angle = np.arccos(up[2])
    assert 1e-3 < angle < TILT * 2**0.5
    middle = after.pos[:-8, :2].mean(axis=0) - after.center
    np.testing.assert_allclose(middle, before.pos[:, :2].mean(axis=0) - before.center, atol=0.03)


def test_color_shift_is_a_camera_of_other_settings() -> None:
    before, means = block(count=500), []
    grey = before.color.mean(axis=1)
    for seed in range(60):
        color = moved("color-shift", seed, count=500)[1].color
        assert color.dtype == np.float32
        assert (color >= 0).all()
        assert (color <= 1).all()
        means.append(color.mean(axis=0))
        if color.mean() < 0.8:  # not overexposed
            assert np.corrcoef(color.mean(axis=1), grey)[0, 1] > 0.7
    exposure, tint = np.mean(means, axis=1), np.ptp(means, axis=1)
    assert exposure.min() < grey.mean() / 1.3
    assert exposure.max() > grey.mean() * 1.3
    assert 0.03 < np.mean(tint) < 0.2


def test_a_quarter_turn_by_hand() -> None:
    """A room of 5 m × 3 m turned by 90° counter-clockwise: (x, y) → (3 − y, x)."""

    class Quarter:
        def uniform(self, low: float, high: float) -> float:
            return low + (high - low) / 4

    before = block()
    after = rotate(before, Quarter())  # type: ignore[arg-type]
    expected = np.column_stack([3 - before.pos[:, 1], before.pos[:, 0], before.pos[:, 2]])
    np.testing.assert_allclose(after.pos, expected, atol=1e-5)
    np.testing.assert_allclose(after.extent, (3, 5, 2.5), atol=1e-5)
    np.testing.assert_allclose(after.center, (3 - before.center[1], before.center[0]), atol=1e-5)


def test_features_of_a_turned_block_are_turned() -> None:
    before, after = moved("rotate", seed=3)
    first = block_features(before.pos, before.color, before.corner, before.extent)
    second = block_features(after.pos, after.color, after.corner, after.extent)
    radius = [np.linalg.norm(features[:, :2], axis=1) for features in (first, second)]
    np.testing.assert_allclose(radius[1], radius[0], atol=1e-5)
    np.testing.assert_allclose(second[:, 2:6], first[:, 2:6], atol=1e-5)
    assert not np.allclose(first[:, :2], second[:, :2], atol=0.1)


def test_contrast_stretches_and_keeps_the_range() -> None:
    results = [moved("contrast", seed)[1].color for seed in range(40)]
    before = block().color
    same = [np.array_equal(color, before) for color in results]
    assert 0.2 < np.mean(same) < 0.8
    for color in results:
        assert color.dtype == np.float32
        assert (color >= 0).all()
        assert (color <= 1).all()
        assert np.ptp(color) >= np.ptp(before) - 1e-6


def test_color_is_dropped_as_often_as_it_says() -> None:
    dropped = [(moved("color-drop", seed)[1].color == GREY).all() for seed in range(400)]
    assert abs(np.mean(dropped) - COLOR_DROP) < 0.06


def test_every_name_of_a_recipe_has_its_function() -> None:
    assert tuple(AUGMENTATIONS) == recipes.AUGMENTATIONS


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_same_seed_gives_the_same_and_leaves_the_block_alone(name: str) -> None:
    before = block(count=700)
    first, second = (AUGMENTATIONS[name](before, np.random.default_rng(3)) for _ in range(2))
    for field in ("pos", "color", "label", "center", "extent"):
        np.testing.assert_array_equal(getattr(first, field), getattr(second, field))
        np.testing.assert_array_equal(getattr(before, field), getattr(block(count=700), field))
    assert (first.pos.dtype, first.color.dtype) == (np.float32, np.float32)


def test_parts_in_any_order_and_the_same_seed_give_the_same() -> None:
    first = augment(block(), ("rotate", "jitter"), np.random.default_rng(5))
    second = augment(block(), ("jitter", "rotate"), np.random.default_rng(5))
    np.testing.assert_array_equal(first.pos, second.pos)
    other = augment(block(), ("rotate", "jitter"), np.random.default_rng(6))
    assert not np.array_equal(first.pos, other.pos)
    assert augment(block(), (), np.random.default_rng(5)).pos.tolist() == block().pos.tolist()
