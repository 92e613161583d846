"""The order of points in panels, and that what it rules out holds no neighbour."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.kernels.knn_search import cpu
from pipelines.kernels.knn_search.cpu import order as cpu_order
from pipelines.kernels.knn_search.cpu import tiles as cpu_tiles
from pipelines.kernels.knn_search.cpu.tiles import PANEL


def scan_like(points: int, channels: int, seed: int) -> np.ndarray:
    """Features that bend along three directions, as those of a scan do."""
    rng = np.random.default_rng(seed)
    place = rng.uniform(-1, 1, (points, 3))
    hidden = np.maximum(place @ rng.normal(size=(3, 32)) + rng.normal(size=32), 0)
    x = (hidden @ rng.normal(size=(32, channels))).astype(np.float32)
    return x - x.mean(axis=0)


def with_outlier(points: int, channels: int, seed: int) -> np.ndarray:
    x = scan_like(points, channels, seed)
    x[seed % points] += 1e6
    return x - x.mean(axis=0)


def repeated(points: int, channels: int, seed: int) -> np.ndarray:
    x = scan_like(-(-points // 9), channels, seed)
    return np.concatenate([x] * 9)[:points]


def noise(points: int, channels: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(points, channels)).astype(np.float32)


KINDS = (scan_like, with_outlier, repeated, noise)


def ruled_out(order: cpu_order.Order, reach: np.ndarray) -> np.ndarray:
    """Return (N', N' / 16) bool: which rows have no neighbour in which panels, as `pairs` asks."""
    panels = len(reach) // PANEL
    out = np.empty((panels, PANEL, panels), bool)
    for a in range(panels):
        for b in range(panels):
            within = cpu_tiles.rows_within(order.places, order.boxes, reach, order.axes, a, b)
            out[a, :, b] = [not within >> n & 1 for n in range(PANEL)]
    return out.reshape(-1, panels)


def all_keys(packed: np.ndarray, squares: np.ndarray) -> np.ndarray:
    keys = np.empty((len(squares), len(squares)), np.float32)
    for row in range(len(squares)):
        cpu_tiles.row_keys(packed, squares, row, keys[row])
    return keys


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    points=st.integers(1, 400),
    channels=st.integers(1, 40),
    scale=st.sampled_from([1e-25, 1e-19, 1e-3, 1.0, 1e6, 1e18]),
    rank=st.integers(0, 60),
    seed=st.integers(0, 1000),
)
def test_no_key_within_the_threshold_is_ruled_out(
    kind, points: int, channels: int, scale: float, rank: int, seed: int
) -> None:
    x = kind(points, channels, seed) * np.float32(scale)
    order = cpu_order.arrange(x)
    packed, squares = cpu._pack(x, order.points)
    keys = all_keys(packed, squares)
    threshold = np.partition(keys, min(rank, points - 1), axis=1)[:, min(rank, points - 1)]
    out = ruled_out(order, order.reach(threshold, squares))[:points]
    wanted = (keys <= threshold[:, None]).reshape(len(keys), -1, PANEL).any(axis=2)[:points]
    assert not (out & wanted).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("points", "channels"), [(300, 1), (1000, 3), (1023, 5), (2000, 64)])
def test_the_order_changes_no_neighbour(
    kind, points: int, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.from_numpy(kind(points, channels, seed=points))[None]
    ranks = tuple(range(0, 16 * 4, 4))
    found = cpu.knn(x, ranks)
    monkeypatch.setattr(cpu, "arrange", lambda x: cpu_order.as_given(len(x)))
    assert torch.equal(cpu.knn(x, ranks), found)


@pytest.mark.parametrize("points", [1, 15, 16, 17, 700, 5000])
def test_an_order_holds_every_point_once(points: int) -> None:
    order = cpu_order.arrange(scan_like(points, 7, seed=1))
    assert sorted(order.points) == list(range(points))


def test_of_a_scan_most_pairs_of_panels_are_ruled_out() -> None:
    x = scan_like(2048, 64, seed=3)
    order = cpu_order.arrange(x)
    packed, squares = cpu._pack(x, order.points)
    threshold = np.partition(all_keys(packed, squares), 32, axis=1)[:, 32]
    out = ruled_out(order, order.reach(threshold, squares))
    assert out.mean() > 0.8


def test_what_is_not_finite_rules_nothing_out() -> None:
    x = scan_like(500, 6, seed=0)
    for bad in (np.nan, np.inf, 3e38):
        x[7] = bad
        order = cpu_order.arrange(x)
        squares = cpu._pack(x, order.points)[1]
        reach = order.reach(np.zeros_like(squares), squares)
        assert np.isinf(reach[:500]).all()
        assert (reach[500:] == -1).all()
