"""Pictures show what they should, and views are neither mirrored nor upside down."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from pipelines.data.s3dis import CLASS_COLORS, CLASSES
from pipelines.data.store import IGNORED, make_room
from pipelines.reports.plots import (
    BACKGROUND,
    confusion_figure,
    project,
    render,
    room_picture,
    save_figure,
    scan_picture,
    training_curves,
)

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def near(picture: np.ndarray, color: tuple[int, int, int]) -> int:
    """Return how many pixels have a colour."""
    return int((np.abs(picture[..., :3] * 255 - color) < 2).all(axis=-1).sum())


def test_a_room_three_times(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pos = rng.random((3000, 3))
    floor, chair, ceiling = (CLASSES.index(name) for name in ("floor", "chair", "ceiling"))
    label = np.full(3000, floor, np.uint8)
    label[:500] = ceiling
    path = tmp_path / "room.png"
    figure = room_picture(
        make_room(1, "office_1", pos, np.full((3000, 3), (12, 34, 56), np.uint8), label),
        np.full(3000, chair),
        classes=CLASSES,
        class_colors=CLASS_COLORS,
        title="a room",
    )
    save_figure(path, figure)
    picture = imread(path)
    third = picture.shape[1] // 3
    left, middle, right = (picture[:, n * third : (n + 1) * third] for n in range(3))
    assert near(left, (12, 34, 56)) > 5000
    assert near(middle, CLASS_COLORS[floor]) > 5000
    assert near(right, CLASS_COLORS[chair]) > 5000
    assert near(picture, CLASS_COLORS[ceiling]) == 0, "the ceiling is left out"
    first = path.read_bytes()
    assert list(tmp_path.iterdir()) == [path]
    assert first.startswith(b"\x89PNG")


def test_a_confusion_matrix(tmp_path: Path) -> None:
    matrix = np.zeros((13, 13), int)
    matrix[0, 0], matrix[1, 2] = 5, 7
    path = tmp_path / "confusion.png"
    save_figure(path, confusion_figure(matrix, CLASSES, "a title"))
    assert imread(path).shape[:2] == (760, 840)
    before = path.read_bytes()
    save_figure(path, confusion_figure(matrix, CLASSES, "a title"))
    assert path.read_bytes() == before, "the same matrix gives the same file"


def test_letters_that_the_font_lacks_are_drawn_all_the_same(tmp_path: Path) -> None:
    """No warning comes (it would be an error), and the picture of a plain name is another one."""
    names = ("Türen", "墙"), ("Türen", "a")
    for number, classes in enumerate(names):
        figure = confusion_figure(np.eye(2, dtype=int), classes, "t")
        save_figure(tmp_path / f"{number}.png", figure)
    assert (tmp_path / "0.png").read_bytes() != (tmp_path / "1.png").read_bytes()


def test_training_curves_have_gaps() -> None:
    epochs = [
        {"step": 10, "loss": 2.0, "val_miou": 0.25, "val_oa": 0.5},
        {"step": 20, "loss": 1.0, "val_miou": None, "val_oa": 0.6},
        {"step": 30, "loss": float("nan"), "val_miou": 0.75, "val_oa": 0.7},
    ]
    loss, validation = training_curves(epochs).axes
    np.testing.assert_array_equal(loss.lines[0].get_xydata(), [[10, 2], [20, 1], [30, np.nan]])
    found = {line.get_label(): line.get_ydata() for line in validation.lines}
    assert list(found) == ["mIoU", "OA"], "no epoch has a mean accuracy"
    np.testing.assert_allclose(found["mIoU"], [25, np.nan, 75])
    assert training_curves([{"loss": 1.0}, {"loss": 0.5}]).axes[1].lines[:] == []


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


@pytest.mark.parametrize("radius", [0.0, 0.001])
def test_a_thin_column_is_drawn_in_the_middle_of_a_picture_of_bounded_height(radius: float) -> None:
    rng = np.random.default_rng(0)
    pos = rng.random((3000, 3)) * (radius, radius, 2.5)
    picture = render(pos, np.zeros((3000, 3), np.uint8), width=100)
    assert picture.shape[1] == 100
    assert 300 < picture.shape[0] < 400
    row, column = center(picture, (0, 0, 0))
    assert abs(column - 50) < 2
    assert abs(row - picture.shape[0] / 2) < 4


def test_background_and_size() -> None:
    picture = render(np.array([[0.0, 0, 0], [2, 1, 0]]), np.zeros((2, 3), np.uint8), elevation=90)
    assert picture.shape[1] == 640
    assert (picture == BACKGROUND).all(axis=2).mean() > 0.9
    lone = render(np.zeros((1, 3)), np.zeros((1, 3), np.uint8), width=64)
    assert lone.shape[1] == 64


def test_where_only_a_ceiling_can_be_drawn_it_is() -> None:
    """Points without a place, or far off, are of other classes."""
    pos = np.random.default_rng(0).random((50, 3))
    pos[:5] = np.nan
    label = np.zeros(50, np.uint8)
    label[:5] = IGNORED
    color = np.full((50, 3), 9, np.uint8)
    figure = scan_picture(pos, color, label, CLASSES, CLASS_COLORS, "a ceiling")
    assert len(figure.axes) == 2
