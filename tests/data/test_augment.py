"""Augmentation: rigid where it should be, the same as moving the whole room first."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from pipelines.config import recipes
from pipelines.data.augment import (
    AUGMENTATIONS,
    COLOR_DROP,
    GREY,
    SCALE,
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
    return BlockPoints(pos.astype(np.float32), color, np.array(CORNER) + 0.5, EXTENT)


def moved(name: str, seed: int = 1) -> tuple[BlockPoints, BlockPoints]:
    before = block()
    return before, AUGMENTATIONS[name](before, np.random.default_rng(seed))


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


def test_parts_in_any_order_and_the_same_seed_give_the_same() -> None:
    first = augment(block(), ("rotate", "jitter"), np.random.default_rng(5))
    second = augment(block(), ("jitter", "rotate"), np.random.default_rng(5))
    np.testing.assert_array_equal(first.pos, second.pos)
    other = augment(block(), ("rotate", "jitter"), np.random.default_rng(6))
    assert not np.array_equal(first.pos, other.pos)
    assert augment(block(), (), np.random.default_rng(5)).pos.tolist() == block().pos.tolist()
