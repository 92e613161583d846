"""Tiles with vectors of eight and of sixteen numbers: the same bits, whatever the processor."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numba import njit

from pipelines.kernels.knn_search.cpu import tile_eight as cpu_tile_eight
from pipelines.kernels.knn_search.cpu import tile_sixteen as cpu_tile_sixteen
from pipelines.kernels.knn_search.cpu.panels import PANEL, TILE

CHANNELS = 5
LENGTH = 3 * PANEL  # of a list


def compiled(module: ModuleType) -> tuple[Any, Any]:
    """Return a tile's product with its transpose, and appending, as compiled functions."""
    multiply, turn, append = module.multiply, module.turn, module.append

    @njit
    def product(rows: Any, columns: Any, tile: Any) -> None:
        multiply(rows, PANEL * CHANNELS, columns, 0, PANEL * CHANNELS, tile)
        turn(tile)

    @njit
    def appended(tile: Any, at: int, given: Any, lists: Any, counts: Any) -> None:
        points, squares, limit = given
        append(tile, at, 3, 1, points, squares, limit, lists, counts, 2)

    return product, appended


@pytest.fixture(scope="module", params=[cpu_tile_eight, cpu_tile_sixteen], ids=["eight", "sixteen"])
def functions(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    return compiled(request.param)


def in_order(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return left · right (a, c) · (b, c) as one float32 fused multiply-add after the other.

    Products of integers below 2^16, and their sums with the total, are exact in float64 but not in
    float32: another order, or a product rounded before it is added, has other bits.
    """
    total = np.zeros((len(left), len(right)), np.float32)
    for c in range(left.shape[1]):
        exact = np.outer(left[:, c].astype(np.float64), right[:, c]) + total
        total = exact.astype(np.float32)
    return total


def test_products_and_their_transpose(functions: tuple[Any, Any]) -> None:
    rng = np.random.default_rng(0)
    left, right = (rng.integers(-(1 << 16), 1 << 16, (PANEL, CHANNELS)) for _ in range(2))
    rows = np.concatenate([np.full(PANEL * CHANNELS, np.nan), left.T.ravel()]).astype(np.float32)
    tile = np.empty(2 * TILE, np.float32)
    functions[0](rows, right.T.ravel().astype(np.float32), tile)
    expected = in_order(left.astype(np.float32), right.astype(np.float32))
    np.testing.assert_array_equal(tile[:TILE].reshape(PANEL, PANEL), expected)
    np.testing.assert_array_equal(tile[TILE:].reshape(PANEL, PANEL), expected.T)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 1.0])
def test_what_is_appended(functions: tuple[Any, Any], share: float) -> None:
    """Row by row in the order of the columns; NaN never; a full list counts on."""
    rng = np.random.default_rng(round(100 * share))
    tile = rng.integers(-8, 8, 2 * TILE).astype(np.float32)
    squares = rng.integers(0, 64, 2 * PANEL).astype(np.float32)
    squares[PANEL + 3], squares[PANEL + 11] = np.nan, np.inf
    points = rng.permutation(1000)[: 2 * PANEL].astype(np.int32)
    with np.errstate(invalid="ignore"):
        keys = squares[PANEL:] - 2 * tile[TILE:].reshape(PANEL, PANEL)
    limit = np.zeros(4 * PANEL, np.float32)
    limit[3 * PANEL :] = np.sort(keys)[:, round(share * (PANEL - 2))] if share else -np.inf
    limit[3 * PANEL + 5] = -np.inf  # a row that wants nothing
    room = PANEL * 2 * LENGTH
    lists = np.full(room, np.nan, np.float32), np.full(room, -1, np.int32)
    counts = rng.integers(0, 5, 2 * PANEL)
    counts[PANEL + 7] = LENGTH  # full
    before = counts.copy()
    functions[1](tile, TILE, (points, squares, limit), lists, counts)
    np.testing.assert_array_equal(counts[:PANEL], before[:PANEL])
    for n in range(PANEL):
        row = PANEL + n
        wanted = keys[n] <= limit[3 * PANEL + n]
        assert counts[row] == before[row] + wanted.sum()
        place = row * LENGTH + min(before[row], LENGTH - PANEL)
        end = place + wanted.sum()
        np.testing.assert_array_equal(lists[0][place:end], keys[n][wanted])
        np.testing.assert_array_equal(lists[1][place:end], points[PANEL:][wanted])
        beyond = slice(max(end, place + PANEL), (row + 1) * LENGTH)
        assert (lists[1][beyond] == -1).all()
    assert (lists[1][: PANEL * LENGTH] == -1).all()
