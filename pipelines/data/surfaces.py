"""The surfaces that points lie on: their density, spacing and noise, estimated from a few columns.

A column of a room is cut around each of a few cells of its ground. In its middle some points are
chosen, and their nearest neighbours tell the density; a plane through the neighbours of a thinned
column tells the noise. The time hardly depends on the number of points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .blocks import CELL, Grid, distinct

COLUMNS, POINTS = 16, 32  # of a room; of each, those whose neighbours are searched
HALVES = (0.5, 2.0, 8.0)  # m, half the side of a column: the first that has enough points
FEWEST, MOST = 1000, 10_000  # points of a column
NEIGHBOURS = 32
FLAT_DENSITY = 500  # points per m², to which a column is thinned where the noise is measured
FLAT = 0.1  # the largest ratio of the two smaller variances of a piece of a plane


@dataclass(frozen=True)
class Surfaces:
    """Surfaces around some points of a room."""

    sampled: np.ndarray  # (3, n): density, spacing, and the surface that each point stands for
    noise: np.ndarray  # (m,) m, around those that lie on a plane
    different: float  # share of points that are no duplicates


def sample_surfaces(pos: np.ndarray, grid: Grid) -> Surfaces:
    """Sample surfaces in a few columns, each around a cell that has points."""
    rng = np.random.default_rng(0)
    occupied = np.flatnonzero(np.diff(grid.offsets))
    chosen = rng.choice(occupied, min(COLUMNS, len(occupied)), replace=False)
    sampled, noise = [np.empty((3, 0))], [np.empty(0)]
    points = places = 0
    for cell in chosen.tolist():
        center = (np.array(divmod(cell, grid.ny)) + 0.5) * CELL
        near, half = _column(pos, center)
        place = near[distinct(near)]
        points, places = points + len(near), places + len(place)
        side = min(half, CELL)  # of the column's middle, whose neighbours are known
        inner = np.flatnonzero(np.abs(place[:, :2] - center).max(axis=1) <= side / 2)
        if len(place) <= NEIGHBOURS or not len(inner):
            continue
        asked = place[rng.choice(inner, min(POINTS, len(inner)), replace=False)]
        density, spacing = _densities(place, asked, half - side / 2)
        if len(density):
            weight = len(inner) / len(density) / side**2 / density
            sampled.append(np.stack([density, spacing, weight]))
            noise.append(_plane_noise(place, asked, float(np.median(density)), rng))
    return Surfaces(np.concatenate(sampled, axis=1), np.concatenate(noise), places / max(1, points))


def _column(pos: np.ndarray, center: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the points (n, 3) around a place on the ground, and half the side of their column."""
    for half in HALVES:
        near = _around(pos, center, half)
        if len(near) >= FEWEST:
            break
    if len(near) > MOST:
        half = max(CELL / 2, half * math.sqrt(MOST / len(near)))
        near = _around(near, center, half)
    return near, half


def _around(pos: np.ndarray, center: np.ndarray, half: float) -> np.ndarray:
    pos = pos[np.abs(pos[:, 0] - np.float32(center[0])) <= half]
    return pos[np.abs(pos[:, 1] - np.float32(center[1])) <= half]


def _densities(place: np.ndarray, asked: np.ndarray, reach: float) -> np.ndarray:
    """Return density and spacing (2, n) at those of the points whose neighbours are all known.

    On a plane with ρ points per m², πr²ρ of the k-th neighbour's distance r follows the gamma
    distribution of shape k.
    """
    from scipy.spatial import cKDTree

    distance, _ = cKDTree(place, balanced_tree=False).query(asked, NEIGHBOURS + 1)
    distance = distance[distance[:, -1] <= reach]
    density = NEIGHBOURS / (math.pi * distance[:, -1] ** 2)
    return np.stack([density, distance[:, 1]])  # the nearest is the point itself


def _plane_noise(
    place: np.ndarray, asked: np.ndarray, density: float, rng: np.random.Generator
) -> np.ndarray:
    """Return the standard deviation (m,), metres, from planes around those points that lie on one.

    The points are thinned first, so that a piece of a plane is much wider than its noise.
    """
    from scipy.spatial import cKDTree

    thinned = place[rng.random(len(place)) * density < FLAT_DENSITY]
    if len(thinned) < NEIGHBOURS:
        return np.empty(0)
    _, index = cKDTree(thinned, balanced_tree=False).query(asked, NEIGHBOURS)
    piece = thinned[index].astype(np.float64)  # (n, k, 3)
    piece -= piece.mean(axis=1, keepdims=True)
    spread = np.einsum("nki,nkj->nij", piece, piece) / (NEIGHBOURS - 3)  # a plane has 3 parameters
    least, middle, _ = np.linalg.eigvalsh(spread).T
    return np.sqrt(np.maximum(least, 0))[least <= FLAT * middle]
