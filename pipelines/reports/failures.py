"""Where a network fails: wrong points by distance to an object boundary, density, height and class.

Everything is kept as counts, int64 (bins of all attributes, 2): points and wrong points. The
arrays add up over rooms; scores.json stores them by attribute.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from pipelines.data.store import IGNORED

from .tables import Table, percent

NEIGHBORS = 8  # of a point, for the boundary and the density
MOST_POINTS = 200_000  # examined in a room, spread evenly

# Upper ends of the bins; the last one is open.
EDGES: dict[str, tuple[float, ...]] = {
    "boundary": (0.02, 0.05, 0.1, 0.2, 0.5),  # m to the nearest point beside another label
    "density": (250, 500, 1000, 2000, 4000, 8000),  # points per m² of surface
    "height": (0.1, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0),  # m above the room's lowest point
}
TITLES = {"boundary": "distance to an object boundary", "density": "density", "height": "height"}
SIZES = [len(edges) + 1 for edges in EDGES.values()]  # bins of each
UNITS = {"boundary": "m", "density": "points/m²", "height": "m"}


def no_failures() -> np.ndarray:
    """Return counts of zero."""
    return np.zeros((sum(SIZES), 2), np.int64)


def by_attribute(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Return the counts of each attribute, (bins, 2)."""
    return dict(zip(EDGES, np.split(counts, np.cumsum(SIZES)[:-1]), strict=True))


def error_rates(counts: np.ndarray) -> dict[str, list[tuple[str, int, float | None]]]:
    """Return (bin, points, share of wrong points or None) for each bin of each attribute."""
    rates = {}
    for name, found in by_attribute(counts).items():
        edges = EDGES[name]
        inner = [f"{low:g} – {high:g}" for low, high in itertools.pairwise(edges)]
        bins = zip([f"< {edges[0]:g}", *inner, f"≥ {edges[-1]:g}"], found.tolist(), strict=True)
        rates[name] = [(label, n, wrong / n if n else None) for label, (n, wrong) in bins]
    return rates


def find_failures(pos: np.ndarray, label: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Count a room's points and wrong points per bin.

    `pos` is (N, 3) metres from the room's minimum; `label` and `predicted` are (N,). Points whose
    label is IGNORED are not counted.
    """
    labelled = np.flatnonzero(label != IGNORED)
    chosen = labelled[:: max(1, -(-len(labelled) // MOST_POINTS))]
    wrong = label[chosen] != predicted[chosen]
    distance, density = surroundings(pos, label, chosen)
    values = {"boundary": distance, "density": density, "height": pos[chosen, 2]}
    counts = []
    for name, edges in EDGES.items():
        bins, size = np.searchsorted(edges, values[name], side="right"), len(edges) + 1
        both = [np.bincount(found, minlength=size) for found in (bins, bins[wrong])]
        counts.append(np.column_stack(both))
    return np.concatenate(counts, dtype=np.int64)


def surroundings(
    pos: np.ndarray, label: np.ndarray, chosen: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance to a boundary (m) and the density (points/m²) of the chosen points.

    A point lies on a boundary if one of its NEIGHBORS nearest points has another label. The density
    is NEIGHBORS over the area of the disc that reaches to the farthest of them.
    """
    from scipy.spatial import cKDTree

    count = min(NEIGHBORS + 1, len(pos))  # the nearest is the point itself
    kept = _few_of_each_place(pos, count)
    reach, near = cKDTree(pos[kept]).query(pos, count, workers=-1)
    reach, near = reach.reshape(len(pos), -1), kept[near].reshape(len(pos), -1)
    radius = np.maximum(reach[chosen, -1], 1e-6)
    density = (count - 1) / (np.pi * radius**2)
    edge = np.flatnonzero((label[near] != label[:, None]).any(axis=1))
    if not len(edge):
        return np.full(len(chosen), np.inf), density
    edges = pos[edge][_few_of_each_place(pos[edge], 1)]
    return cKDTree(edges).query(pos[chosen], workers=-1)[0], density


def _few_of_each_place(pos: np.ndarray, most: int) -> np.ndarray:
    """Return at most so many of the points (N, 3) of each place, as sorted indices.

    Scanners pile up points on one place, where a tree cannot part them: a search among n of them
    takes n² steps, and finds no others than among `most`, if it looks for so many.
    """
    order = np.lexsort(pos.T)
    begins = np.ones(len(pos), bool)
    begins[1:] = (pos[order[1:]] != pos[order[:-1]]).any(axis=1)
    numbers = np.arange(len(pos))
    rank = numbers - np.maximum.accumulate(np.where(begins, numbers, 0))
    return np.sort(order[rank < most])


def confused_pairs(
    matrix: np.ndarray, classes: Sequence[str], most: int = 10
) -> list[tuple[str, str, int, float]]:
    """Return the pairs (ground truth, prediction, points, share of that class) confused most."""
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    totals = matrix.sum(axis=1)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    return [
        (classes[a], classes[b], int(wrong[a, b]), float(wrong[a, b] / totals[a]))
        for a, b in zip(*np.unravel_index(order, wrong.shape), strict=True)
        if wrong[a, b]
    ]


def failure_tables(
    failures: np.ndarray | None, matrix: np.ndarray, classes: Sequence[str]
) -> tuple[Table, ...]:
    """Return tables of the pairs confused most and of errors by attribute; none without counts."""
    if failures is None:
        return ()
    pairs = confused_pairs(matrix, classes)
    most = tuple((a, b, f"{count:,}", percent(share)) for a, b, count, share in pairs)
    tables = [Table("Most confused", ("ground truth", "taken for", "points", "% of it"), most)]
    for name, rows in error_rates(failures).items():
        lines = tuple((label, f"{points:,}", percent(share)) for label, points, share in rows)
        columns = (UNITS[name], "points", "% wrong")
        tables.append(Table(f"Errors by {TITLES[name]}", columns, lines))
    return tuple(tables)
