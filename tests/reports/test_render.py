"""Views of points whose place in the picture is known: nothing is mirrored or upside down."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.reports.render import BACKGROUND, project, render

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def center(picture: np.ndarray, color: tuple[int, int, int]) -> tuple[float, float]:
    """Return the mean row and column of a colour."""
    rows, columns = np.nonzero((picture == color).all(axis=2))
    assert len(rows), f"{color} is not in the picture"
    return float(rows.mean()), float(columns.mean())


def test_from_above_it_is_a_map() -> None:
    pos = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    colors = np.array([RED, GREEN, BLUE], np.uint8)
    picture = render(pos, colors, width=100, azimuth=0, elevation=90, splat=3)
    origin, east, north = (center(picture, color) for color in (RED, GREEN, BLUE))
    assert east[1] > origin[1] + 50
    assert abs(east[0] - origin[0]) < 2
    assert north[0] < origin[0] - 50
    assert abs(north[1] - origin[1]) < 2


def test_seen_level_up_is_up() -> None:
    pos = np.array([[0.0, 0, 0], [1, 0, 0], [0, 0, 1]])
    colors = np.array([RED, GREEN, BLUE], np.uint8)
    picture = render(pos, colors, width=100, azimuth=0, elevation=0, splat=3)
    assert center(picture, BLUE)[0] < center(picture, RED)[0] - 50


@pytest.mark.parametrize("azimuth", [0.0, 25.0, 130.0, 280.0])
def test_the_view_is_a_rotation(azimuth: float) -> None:
    """Screen right, screen up and depth form a left-handed frame of unit vectors: no mirror."""
    screen, depth = project(np.eye(3), azimuth, 40.0)
    frame = np.column_stack([screen, depth])
    np.testing.assert_allclose(frame.T @ frame, np.eye(3), atol=1e-12)
    assert np.linalg.det(frame) == pytest.approx(-1)


def test_the_nearest_point_is_in_front() -> None:
    pos = np.array([[0.0, 0, 0], [0, 0, 1], [1, 1, 0]])
    for order in ([0, 1, 2], [1, 0, 2]):
        colors = np.array([RED, BLUE, GREEN], np.uint8)[order]
        picture = render(pos[order], colors, width=60, azimuth=0, elevation=90, splat=5)
        assert not (picture == RED).all(axis=2).any(), "the lower point hides the upper one"
        assert (picture == BLUE).all(axis=2).sum() == 25


def test_background_and_size() -> None:
    picture = render(np.array([[0.0, 0, 0], [2, 1, 0]]), np.zeros((2, 3), np.uint8), elevation=90)
    assert picture.shape[1] == 640
    assert (picture == BACKGROUND).all(axis=2).mean() > 0.9
    lone = render(np.zeros((1, 3)), np.zeros((1, 3), np.uint8), width=64)
    assert lone.shape[1] == 64
