"""Where a network fails: distances, densities and counts of scenes drawn up by hand."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from pipelines.reports.failures import (
    EDGES,
    NEIGHBORS,
    by_attribute,
    confused_pairs,
    error_rates,
    find_failures,
    no_failures,
    surroundings,
)


def sheet(step: float = 0.05, size: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Return a square grid of points, left half class 0, right half class 1."""
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(size), np.arange(size), indexing="ij"))
    pos = np.column_stack([x, y, np.zeros_like(x)]) * step
    return pos.astype(np.float32), (x >= size // 2).astype(np.uint8)


def test_distance_and_density_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    pos = rng.random((300, 3)).astype(np.float32)
    label = (pos[:, 0] > 0.5).astype(np.uint8)
    chosen = np.arange(0, 300, 7)
    distance, density = surroundings(pos, label, chosen)
    every = cdist(pos, pos)
    order = every.argsort(axis=1)[:, : NEIGHBORS + 1]
    edge = (label[order] != label[:, None]).any(axis=1)
    np.testing.assert_allclose(distance, every[np.ix_(chosen, edge)].min(axis=1), atol=1e-6)
    reach = np.sort(every, axis=1)[chosen, NEIGHBORS]
    np.testing.assert_allclose(density, NEIGHBORS / (np.pi * reach**2), rtol=1e-4)


def test_points_piled_up_on_one_place() -> None:
    """In pairs, and 100,000 on one place, which a search among all of them would take long for."""
    pos, label = sheet(size=20)
    pile = np.tile(pos[57], (100_000, 1))
    points = np.concatenate([pos, pos, pile])
    labels = np.concatenate([label, label, np.full(len(pile), label[57])])
    begin = time.process_time()
    distance, density = surroundings(points, labels, np.arange(len(points)))
    assert time.process_time() - begin < 5
    assert (distance[800:] == distance[57]).all()
    assert density[800:].min() > 1e12, "no point of the pile is apart from its neighbours"
    every = cdist(pos, pos)
    edge = (label[every.argsort(axis=1)[:, :5]] != label[:, None]).any(axis=1)
    np.testing.assert_allclose(distance[:400], every[:, edge].min(axis=1), atol=1e-6)


def test_a_pile_of_two_classes_is_a_boundary() -> None:
    pos, _ = sheet(size=6)
    points = np.concatenate([pos, np.tile(pos[14], (100_000, 1))])
    label = np.zeros(len(points), np.uint8)
    label[len(pos) :: 2] = 1
    begin = time.process_time()
    distance, _ = surroundings(points, label, np.arange(len(points)))
    assert time.process_time() - begin < 5
    assert (distance[36:] == 0).all()
    assert distance[:36].max() <= np.linalg.norm(pos - pos[14], axis=1).max()


def test_density_of_an_even_sheet_is_about_one_point_per_cell() -> None:
    pos, label = sheet(step=0.05)
    middle = np.flatnonzero((np.abs(pos[:, :2] - 1.0) < 0.2).all(axis=1))
    _, density = surroundings(pos, label, middle)
    assert np.median(density) == pytest.approx(1 / 0.05**2, rel=0.3)


def test_errors_at_the_boundary_are_found_there() -> None:
    pos, label = sheet()
    predicted = label.copy()
    wrong = np.abs(pos[:, 0] - 0.975) < 0.03
    predicted[wrong] = 1 - predicted[wrong]
    found = find_failures(pos, label, predicted)
    rows = error_rates(found)["boundary"]
    assert rows[0][2] > 0.9, "points on the boundary are wrong, but for some at the sheet's rim"
    assert rows[-1][2] == 0.0, "none far from it is"
    for name in EDGES:
        assert sum(points for _, points, _ in error_rates(found)[name]) == len(pos)
        assert by_attribute(found)[name][:, 1].sum() == wrong.sum()


def test_rooms_add_up() -> None:
    pos, label = sheet(size=12)
    one = find_failures(pos, label, label)
    two = one + one + no_failures()
    np.testing.assert_array_equal(two, 2 * one)


def test_one_class_has_no_boundary_and_few_points_are_no_trouble() -> None:
    pos, label = sheet(size=6)
    rows = error_rates(find_failures(pos, np.zeros_like(label), label))["boundary"]
    assert [points for _, points, _ in rows] == [0, 0, 0, 0, 0, 36]
    single = find_failures(pos[:1], label[:1], label[:1])
    assert by_attribute(single)["height"].sum() == 1


def test_names_of_bins_meet() -> None:
    for attribute, rows in error_rates(no_failures()).items():
        names, edges = [name for name, _, _ in rows], EDGES[attribute]
        assert len(names) == len(edges) + 1
        assert names[0] == f"< {edges[0]:g}"
        for left, right in itertools.pairwise(names[1:-1]):
            assert left.split(" – ")[1] == right.split(" – ")[0]


def test_pairs_are_ordered_by_points() -> None:
    matrix = np.array([[5, 2, 0], [4, 6, 0], [1, 0, 9]])
    assert confused_pairs(matrix, "abc") == [
        ("b", "a", 4, 0.4),
        ("a", "b", 2, 2 / 7),
        ("c", "a", 1, 0.1),
    ]
    assert confused_pairs(matrix, "abc", most=1) == [("b", "a", 4, 0.4)]


def test_points_without_a_class_are_not_counted() -> None:
    pos, label = sheet(size=10)
    label[:30] = 255
    found = find_failures(pos, label, np.zeros_like(label))
    assert by_attribute(found)["height"].sum(axis=0).tolist() == [70, 50]
