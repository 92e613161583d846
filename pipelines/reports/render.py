"""Points as a picture: an orthographic view from above and the side, the nearest point in front.

Axes: azimuth 0 looks along +y with +x to the right, as on a map; a larger azimuth turns the
camera counter-clockwise. Nothing is mirrored: what is left in the room is left in the picture.
"""

from __future__ import annotations

import math

import numpy as np

AZIMUTH, ELEVATION = 25.0, 55.0  # degrees
BACKGROUND = 255  # grey


def project(pos: np.ndarray, azimuth: float, elevation: float) -> tuple[np.ndarray, np.ndarray]:
    """Return screen coordinates (N, 2), right and up, and depth (N,), in the unit of `pos`."""
    turn, tilt = math.radians(azimuth), math.radians(elevation)
    right = np.array([math.cos(turn), math.sin(turn), 0.0])
    ahead = np.array([-math.sin(turn), math.cos(turn), 0.0])
    up = np.array([0.0, 0.0, 1.0])
    screen_up = ahead * math.sin(tilt) + up * math.cos(tilt)
    looking = ahead * math.cos(tilt) - up * math.sin(tilt)
    pos = pos.astype(np.float64)
    return pos @ np.column_stack([right, screen_up]), pos @ looking


def render(
    pos: np.ndarray,
    color: np.ndarray,
    *,
    width: int = 640,
    azimuth: float = AZIMUTH,
    elevation: float = ELEVATION,
    splat: int | None = None,
) -> np.ndarray:
    """Draw points as squares, the nearest in front.

    Args:
        pos: (N, 3) metres.
        color: (N, 3) uint8.
        width: of the picture, pixels; its height follows.
        azimuth: degrees.
        elevation: degrees above the horizon that the camera looks down from.
        splat: side of a point, pixels; None: as large as closes the gaps between points.

    Returns:
        (H, W, 3) uint8.
    """
    screen, depth = project(pos, azimuth, elevation)
    low, high = screen.min(axis=0), screen.max(axis=0)
    scale = (width - 8) / max(float(high[0] - low[0]), 1e-6)
    height = max(8, round((high[1] - low[1]) * scale) + 8)
    if splat is None:
        splat = min(12, max(1, round(1.6 * math.sqrt(width * height / len(pos)))))
    columns = np.rint((screen[:, 0] - low[0]) * scale).astype(np.int64) + 4 - splat // 2
    rows = np.rint((high[1] - screen[:, 1]) * scale).astype(np.int64) + 4 - splat // 2
    return _paint(rows, columns, depth, color, (height, width), splat)


def _paint(
    rows: np.ndarray,
    columns: np.ndarray,
    depth: np.ndarray,
    color: np.ndarray,
    size: tuple[int, int],
    splat: int,
) -> np.ndarray:
    """Paint squares of `splat` pixels; in each pixel the point of least depth wins."""
    height, width = size
    far_first = np.argsort(-depth, kind="stable")
    rank = np.empty(len(depth), np.int64)
    rank[far_first] = np.arange(len(depth))
    front = np.full(height * width, -1, np.int64)
    for down in range(splat):
        for right in range(splat):
            y, x = rows + down, columns + right
            inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            np.maximum.at(front, y[inside] * width + x[inside], rank[inside])
    picture = np.full((height * width, 3), BACKGROUND, np.uint8)
    seen = front >= 0
    picture[seen] = color[far_first[front[seen]]]
    return picture.reshape(height, width, 3)
