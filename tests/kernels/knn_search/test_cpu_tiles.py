"""Tiles for registers of eight and of sixteen elements: the same bits on any processor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numba import njit

from pipelines.kernels import simd
from pipelines.kernels.knn_search.cpu.tiles import (
    EIGHT_LANES,
    PANEL,
    SIXTEEN_LANES,
    TILE,
    append,
    tile_functions,
)

CHANNELS = 5
LENGTH = 3 * PANEL  # of a candidate buffer


@pytest.fixture(params=["here", "eight"])
def appended(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Compile `append` for registers as here, and for those of eight elements."""
    if request.param == "eight":
        monkeypatch.setattr(simd, "wide_registers", lambda: False)
    compiled = njit(append.py_func, error_model="numpy")

    @njit
    def run(tile: Any, at: int, given: Any, candidates: Any, counts: Any) -> None:
        points, squares, threshold = given
        compiled(tile, at, 3, 1, points, squares, threshold, candidates, counts, 2)

    return run


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


@pytest.mark.parametrize("shape", [EIGHT_LANES, SIXTEEN_LANES], ids=["eight", "sixteen"])
def test_products_and_their_transpose(shape: tuple[int, int]) -> None:
    multiply, turn = tile_functions(*shape)

    @njit
    def product(rows: Any, columns: Any, tile: Any) -> None:
        multiply(rows, PANEL * CHANNELS, columns, 0, PANEL * CHANNELS, tile)
        turn(tile)

    rng = np.random.default_rng(0)
    left, right = (rng.integers(-(1 << 16), 1 << 16, (PANEL, CHANNELS)) for _ in range(2))
    rows = np.concatenate([np.full(PANEL * CHANNELS, np.nan), left.T.ravel()]).astype(np.float32)
    tile = np.empty(2 * TILE, np.float32)
    product(rows, right.T.ravel().astype(np.float32), tile)
    expected = in_order(left.astype(np.float32), right.astype(np.float32))
    np.testing.assert_array_equal(tile[:TILE].reshape(PANEL, PANEL), expected)
    np.testing.assert_array_equal(tile[TILE:].reshape(PANEL, PANEL), expected.T)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 1.0])
def test_what_is_appended(appended: Any, share: float) -> None:
    """Row by row in the order of the columns; NaN never; a full buffer counts on."""
    rng = np.random.default_rng(round(100 * share))
    tile = rng.integers(-8, 8, 2 * TILE).astype(np.float32)
    squares = rng.integers(0, 64, 2 * PANEL).astype(np.float32)
    squares[PANEL + 3], squares[PANEL + 11] = np.nan, np.inf
    points = rng.permutation(1000)[: 2 * PANEL].astype(np.int32)
    with np.errstate(invalid="ignore"):
        keys = squares[PANEL:] - 2 * tile[TILE:].reshape(PANEL, PANEL)
    threshold = np.zeros(4 * PANEL, np.float32)
    threshold[3 * PANEL :] = np.sort(keys)[:, round(share * (PANEL - 2))] if share else -np.inf
    threshold[3 * PANEL + 5] = -np.inf  # a row that wants nothing
    room = PANEL * 2 * LENGTH
    candidates = np.full(room, np.nan, np.float32), np.full(room, -1, np.int32)
    counts = rng.integers(0, 5, 2 * PANEL)
    counts[PANEL + 7] = LENGTH  # full
    before = counts.copy()
    appended(tile, TILE, (points, squares, threshold), candidates, counts)
    np.testing.assert_array_equal(counts[:PANEL], before[:PANEL])
    for n in range(PANEL):
        row = PANEL + n
        wanted = keys[n] <= threshold[3 * PANEL + n]
        assert counts[row] == before[row] + wanted.sum()
        place = row * LENGTH + min(before[row], LENGTH - PANEL)
        end = place + wanted.sum()
        np.testing.assert_array_equal(candidates[0][place:end], keys[n][wanted])
        np.testing.assert_array_equal(candidates[1][place:end], points[PANEL:][wanted])
        beyond = slice(max(end, place + PANEL), (row + 1) * LENGTH)
        assert (candidates[1][beyond] == -1).all()
    assert (candidates[1][: PANEL * LENGTH] == -1).all()
