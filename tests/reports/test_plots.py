"""Pictures are whole PNG files that show what they should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.image import imread

from pipelines.data.s3dis import CLASS_COLORS, CLASSES
from pipelines.reports.plots import confusion_picture, room_picture


def near(picture: np.ndarray, color: tuple[int, int, int]) -> int:
    """Return how many pixels have a colour."""
    return int((np.abs(picture[..., :3] * 255 - color) < 2).all(axis=-1).sum())


def test_a_room_three_times(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pos = rng.random((3000, 3))
    floor, chair, ceiling = (CLASSES.index(name) for name in ("floor", "chair", "ceiling"))
    label = np.full(3000, floor)
    label[:500] = ceiling
    path = tmp_path / "room.png"
    room_picture(
        path,
        pos,
        np.full((3000, 3), (12, 34, 56), np.uint8),
        label,
        np.full(3000, chair),
        classes=CLASSES,
        class_colors=CLASS_COLORS,
        title="a room",
    )
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
    confusion_picture(path, matrix, CLASSES, "a title")
    assert imread(path).shape[:2] == (760, 840)
    before = path.read_bytes()
    confusion_picture(path, matrix, CLASSES, "a title")
    assert path.read_bytes() == before, "the same matrix gives the same file"
