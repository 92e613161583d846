"""Estimated areas against surfaces whose area is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipelines.inference.label_store import surface_areas


def rectangle(turn: np.ndarray, sides: tuple[float, float] = (4.0, 3.0)) -> np.ndarray:
    """Make 5,000 points a square metre on a turned rectangle, with 5 mm of noise."""
    rng = np.random.default_rng(0)
    count = int(5000 * sides[0] * sides[1])
    flat = np.c_[rng.random((count, 2)) * sides, rng.normal(0, 0.005, count)]
    turned = flat @ turn.T
    return (turned - turned.min(axis=0)).astype(np.float32)


def about(axis: str, degrees: float) -> np.ndarray:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    if axis == "z":
        return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


@pytest.mark.parametrize("turn", [np.eye(3), about("x", 90), about("z", 90) @ about("x", 90)])
def test_surfaces_along_the_axes(turn: np.ndarray) -> None:
    pos = rectangle(turn)
    areas = surface_areas(pos, np.full(len(pos), 2, np.uint8), 4)
    assert areas.tolist() == [0, 0, pytest.approx(12, rel=0.03), 0]


@pytest.mark.parametrize("degrees", [15, 30, 45, 60])
@pytest.mark.parametrize("axis", ["x", "z"])
def test_slanting_surfaces(axis: str, degrees: float) -> None:
    pos = rectangle(about(axis, degrees) @ (np.eye(3) if axis == "x" else about("x", 90)))
    (area,) = surface_areas(pos, np.zeros(len(pos), np.uint8), 1)
    assert 0.97 * 12 < area < 1.3 * 12


def test_classes_share_a_cube() -> None:
    pos = rectangle(np.eye(3), (1.0, 1.0))
    label = (pos[:, 0] > 0.5).astype(np.uint8)
    np.testing.assert_allclose(surface_areas(pos, label, 2), [0.5, 0.5], rtol=0.12)


def test_few_points_and_none() -> None:
    one = np.array([[3.0, 0.2, 1.0]], np.float32)
    assert surface_areas(one, np.zeros(1, np.uint8), 2).tolist() == [pytest.approx(0.0025), 0]
    assert surface_areas(np.empty((0, 3)), np.empty(0, np.uint8), 3).tolist() == [0, 0, 0]


def test_blocks_add_up() -> None:
    pos = rectangle(np.eye(3), (2.0, 1.0))
    label = np.zeros(len(pos), np.uint8)
    left = pos[:, 0] < 1
    parts = [surface_areas(pos[side], label[side], 1)[0] for side in (left, ~left)]
    assert sum(parts) == pytest.approx(surface_areas(pos, label, 1)[0])
