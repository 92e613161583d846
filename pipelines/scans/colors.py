"""Colours for the points of a scan that have none."""

from __future__ import annotations

import numpy as np

from .table import CHUNK

GREY = 128  # of a scan without colour
BLACK = 0.05  # a fraction of black points to warn of; in 15 rooms of S3DIS there is not one
LARGEST = 4 * CHUNK  # coloured points that are searched; of more, so many at random


def fill_colors(pos: np.ndarray, color: np.ndarray, missing: np.ndarray) -> None:
    """Give points without colour that of the nearest coloured point; grey if there is none.

    Of black, grey and this, it changes the fewest labels: `benchmarks.missing_colors`.

    Args:
        pos: (N, 3) float, metres; NaN where unknown.
        color: (N, 3) uint8, changed in place.
        missing: (N,) bool, the points without colour.

    >>> color = np.array([[9, 9, 9], [70, 70, 70], [0, 0, 0]], np.uint8)
    >>> pos = np.array([[0, 0, 0], [3, 0, 0], [2, 0, 0]])
    >>> fill_colors(pos, color, np.array([False, False, True]))
    >>> color[:, 0].tolist()
    [9, 70, 70]
    """
    from scipy.spatial import cKDTree

    color[missing] = GREY
    placed = ~np.isnan(pos[:, 0])
    known, wanted = np.flatnonzero(placed & ~missing), np.flatnonzero(placed & missing)
    if len(known) > LARGEST:
        known = np.random.default_rng(0).choice(known, LARGEST, replace=False)
    if len(known) and len(wanted):
        # A balanced tree takes long where many points lie in one place.
        tree = cKDTree(pos[known], balanced_tree=False)
        for start in range(0, len(wanted), CHUNK):
            some = wanted[start : start + CHUNK]
            color[some] = color[known[tree.query(pos[some])[1]]]
