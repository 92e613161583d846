"""The area of labelled surfaces, from points alone: an estimate for the summary of a scan."""

from __future__ import annotations

import numpy as np

SIDE = 0.05  # m: a piece of surface; scanned indoors, nearly every one holds a point
CUBE = 5  # cells along a cube's edge; within 0.25 m a surface is taken to be flat
FEWEST = 6  # points of a cube from which a direction can be estimated


def surface_areas(pos: np.ndarray, label: np.ndarray, classes: int) -> np.ndarray:
    """Return the area of each class's surfaces in m², (classes,) float64.

    For pos (n, 3) in metres, finite and not below 0, and label (n,). Space is cut into cubes of
    0.25 m. In each, a class's points are projected along x, y or z, whichever their surface faces
    most, the 5 cm cells that they fall into are counted, and the count is divided by the cosine
    between that axis and the surface's normal (the direction in which the points vary least).
    Surfaces with fewer than about 1,500 points per m² come out too small, because cells stay empty;
    rounded ones are approximate.
    """
    if not len(pos):
        return np.zeros(classes)
    cell = np.floor(pos / SIDE).astype(np.int64)
    cube, within = np.divmod(cell, CUBE)
    piece, label_of, count = _pieces(cube, label, classes)
    cells = np.stack([_occupied(within, piece, len(count), axis) for axis in range(3)])  # (3, m)
    normal = _normals(pos, piece, count)  # (m, 3)
    facing = np.where(count < FEWEST, cells.argmax(axis=0), np.abs(normal).argmax(axis=1))
    each = np.arange(len(count))
    cosine = np.where(count < FEWEST, 1.0, np.abs(normal[each, facing]))
    area = cells[facing, each] * SIDE**2 / cosine
    return np.bincount(label_of, weights=area, minlength=classes)


def _pieces(
    cube: np.ndarray, label: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each point's pair of cube and class (n,), and each pair's class and size (m,)."""
    size = cube.max(axis=0) + 1
    key = ((cube[:, 0] * size[1] + cube[:, 1]) * size[2] + cube[:, 2]) * classes + label
    found, piece, count = np.unique(key, return_inverse=True, return_counts=True)
    return piece, found % classes, count


def _occupied(within: np.ndarray, piece: np.ndarray, pieces: int, axis: int) -> np.ndarray:
    """Return in how many cells each piece's points lie, seen along `axis`, (m,)."""
    first, second = (other for other in range(3) if other != axis)
    key = (piece * CUBE + within[:, first]) * CUBE + within[:, second]
    occupied = np.zeros(pieces * CUBE * CUBE, bool)
    occupied[key] = True
    return occupied.reshape(pieces, -1).sum(axis=1)


def _normals(pos: np.ndarray, piece: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Return the unit direction in which each piece's points vary least, (m, 3) float64."""
    pieces = len(count)
    mean = np.stack([np.bincount(piece, axis, pieces) / count for axis in pos.T], axis=1)
    away = pos - mean[piece]
    spread = np.empty((pieces, 3, 3))
    for row in range(3):
        for column in range(row, 3):
            products = np.bincount(piece, away[:, row] * away[:, column], pieces)
            spread[:, row, column] = spread[:, column, row] = products
    return np.linalg.eigh(spread).eigenvectors[:, :, 0]
