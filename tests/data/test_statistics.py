"""Statistics of made surfaces, whose density, spacing and noise are known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.data import statistics
from pipelines.data.statistics import Spread, Statistics, describe, differences, measure, merge
from pipelines.data.store import MANIFEST, Store
from pipelines.serialization import from_plain, to_plain
from tests.ears import Ears
from tests.tiny_store import SIZE, write_tiny_store


def surface(density: float, x: float, y: float, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """Points at random on a rectangle, with noise across it."""
    rng = np.random.default_rng(seed)
    count = round(density * x * y)
    return np.column_stack([rng.random((count, 2)) * (x, y), rng.normal(0, noise, count)])


def box(density: float, noise: float = 0.0) -> np.ndarray:
    """Floor, ceiling and walls of a room of 6 m × 5 m × 2.6 m."""
    parts = []
    for side in (0.0, 1.0):
        seed = int(side)
        parts += [
            surface(density, 6, 5, noise, seed) + np.array([0, 0, 2.6 * side]),
            surface(density, 6, 2.6, noise, seed + 2)[:, [0, 2, 1]] + np.array([0, 5 * side, 0]),
            surface(density, 5, 2.6, noise, seed + 4)[:, [2, 0, 1]] + np.array([6 * side, 0, 0]),
        ]
    return np.concatenate(parts)


def measured(pos: np.ndarray, **about: object) -> Statistics:
    local = (pos - pos.min(axis=0)).astype(np.float32)
    return measure(local, np.full(local.shape, 7, np.uint8), **about)  # type: ignore[arg-type]


@pytest.mark.parametrize("density", [50, 300, 1500, 10_000])
def test_density_and_spacing_of_random_points(density: float) -> None:
    found = measured(box(density))
    assert found.density is not None
    assert found.density.p50 == pytest.approx(density, rel=0.08)
    assert found.density.p25 < found.density.p50 < found.density.p75
    # On a plane with ρ points per m² the nearest one is farther than r with probability exp(−πr²ρ).
    assert found.spacing is not None
    expected = np.sqrt(np.log(2) / (np.pi * density))
    assert found.spacing.p50 == pytest.approx(expected, rel=0.1)
    assert found.duplicates < 0.001


def test_a_lattice_with_duplicates() -> None:
    x, y = np.meshgrid(np.arange(0, 4, 0.02), np.arange(0, 3, 0.02))
    pos = np.column_stack([x.ravel(), y.ravel(), np.zeros(x.size)])
    once, thrice = measured(pos), measured(np.concatenate([pos, pos, pos]))
    assert thrice.duplicates == pytest.approx(2 / 3, abs=1e-3)
    assert once.duplicates == 0
    for found in (once, thrice):
        assert found.spacing is not None
        assert found.density is not None
        assert found.spacing.p5 == found.spacing.p95 == pytest.approx(0.02, rel=1e-3)
        assert found.density.p50 == pytest.approx(2500, rel=0.05)
        assert found.noise is not None
        assert found.noise.p95 < 1e-6
        blocks = {each.side: each.points for each in found.blocks}
        assert blocks[1.0].p50 == pytest.approx(2500, rel=1e-3)
        assert blocks[2.0].p50 == pytest.approx(10_000, rel=0.5)  # half of them at the edge


@pytest.mark.parametrize(("density", "noise"), [(1500, 0.002), (1500, 0.01), (10_000, 0.006)])
def test_noise_of_planes(density: float, noise: float) -> None:
    found = measured(box(density, noise))
    assert found.noise is not None
    assert found.noise.p50 == pytest.approx(noise, rel=0.1)


def test_half_of_a_room_is_denser() -> None:
    half = surface(4000, 5, 10, seed=3) + np.array([5, 0, 0])
    found = measured(np.concatenate([surface(400, 5, 10), half]))
    assert found.density is not None
    assert found.density.p25 == pytest.approx(400, rel=0.25)
    assert found.density.p75 == pytest.approx(4000, rel=0.25)


def test_blocks_and_classes_by_brute_force() -> None:
    rng = np.random.default_rng(4)
    pos = (rng.random((5000, 3)) ** 2 * (7.3, 3.4, 2)).astype(np.float32)
    label = np.where(pos[:, 0] < 1.5, 0, np.where(rng.random(5000) < 0.001, 1, 2)).astype(np.uint8)
    label[:300] = 255
    found = measure(pos, np.zeros((5000, 3), np.uint8), label, num_classes=4)
    assert found.class_points == tuple((label == number).sum() for number in range(4))
    square = [tuple(place) for place in np.floor(pos[:, :2]).astype(int)]
    assert found.class_blocks == tuple(
        len({place for place, own in zip(square, label, strict=True) if own == number})
        for number in range(4)
    )
    for blocks in found.blocks:
        column = np.floor(pos[:, :2] / blocks.side).astype(int) @ [100, 1]
        counts = np.unique(column, return_counts=True)[1]
        taken = counts[counts >= 100]
        assert blocks.number == len(taken)
        if len(taken):
            assert blocks.points.p50 == pytest.approx(np.median(taken), rel=1e-3)
            assert blocks.points.p95 == pytest.approx(np.percentile(taken, 95), rel=1e-3)
    assert found.ground == 0.25 * len({tuple(p) for p in np.floor(pos[:, :2] / 0.5).astype(int)})
    assert (found.length.p50, found.width.p50) == pytest.approx(pos.max(axis=0)[:2], rel=1e-3)


def test_colours() -> None:
    pos = surface(500, 3, 3).astype(np.float32) + np.float32(1)
    rng = np.random.default_rng(0)
    color = rng.integers(20, 200, (len(pos), 3)).astype(np.uint8)
    color[: len(pos) // 4] = color[: len(pos) // 4, :1]
    found = measure(pos, color, uncolored=len(pos) // 2)
    assert found.colored == pytest.approx(0.5, abs=1e-3)
    assert found.grey == pytest.approx(0.25, abs=0.01)
    assert found.color_range == pytest.approx((20, 199), abs=4)
    bare = measure(pos, np.full(color.shape, 128, np.uint8))
    assert (bare.colored, bare.grey, bare.color_range) == (0, 1, (128, 128))


@pytest.mark.parametrize("count", [1, 2, 20, 33])
def test_few_points(count: int) -> None:
    found = measured(np.random.default_rng(0).random((count, 3)))
    assert found.points == count
    assert describe(found)
    assert from_plain(Statistics, json.loads(json.dumps(to_plain(found)))) == found
    assert measured(np.zeros((count, 3))).duplicates == pytest.approx(1 - 1 / count, abs=1e-3)


def test_the_same_points_have_the_same_statistics() -> None:
    assert measured(box(1500, 0.01)) == measured(box(1500, 0.01))


def test_spread_of_values() -> None:
    values = np.random.default_rng(0).random(501)
    found = Spread.of(values)
    assert found is not None
    expected = np.percentile(values, [5, 25, 50, 75, 95])
    np.testing.assert_allclose(
        [found.p5, found.p25, found.p50, found.p75, found.p95], expected, 1e-3
    )
    # Weights that are whole numbers are copies.
    few, weights = np.array([3.0, 1.0, 2.0]), np.array([900, 1000, 1100])
    weighted, copied = Spread.of(few, weights), Spread.of(np.repeat(few, weights))
    assert weighted is not None
    assert copied is not None
    assert weighted.p50 == pytest.approx(copied.p50, abs=0.5)
    assert Spread.of(np.empty(0)) is None


def test_rooms_together() -> None:
    sparse, dense = measured(box(300)), measured(box(3000))
    assert merge([sparse]) == sparse
    both = merge([sparse, dense, dense])
    assert (both.rooms, both.points) == (3, sparse.points + 2 * dense.points)
    assert both.density is not None
    assert both.density.p25 == pytest.approx(300, rel=0.35)
    assert both.density.p50 == pytest.approx(3000, rel=0.35)
    assert both.density.p5 < both.density.p25 < both.density.p50 < both.density.p75
    assert [each.number for each in both.blocks] == [
        one.number + 2 * two.number for one, two in zip(sparse.blocks, dense.blocks, strict=True)
    ]


def test_objects_of_rooms_together() -> None:
    parts = [
        measured(surface(300, 2, 2), objects=sizes)
        for sizes in ({"chair": [0.9, 0.5]}, {"chair": [1.0], "table": [2.0]}, {})
    ]
    found = {each.name: each for each in merge(parts).objects}
    assert {name: (each.number, each.smallest) for name, each in found.items()} == {
        "chair": (3, 0.5),
        "table": (1, 2.0),
    }


def test_a_store_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of before, whose manifest has none."""
    store = write_tiny_store(tmp_path / "data")
    before = (store.path / MANIFEST).read_text()
    assert "statistics" not in before
    assert statistics.of_rooms(store, store.rooms()) is None
    found = statistics.of_store(store)
    assert found.rooms == 7
    surfaces = 2 * SIZE[0] * SIZE[1] + SIZE[0] * SIZE[2]
    assert found.density is not None
    assert found.density.p25 < 3 * 800 / surfaces < found.density.p95
    manifest = json.loads((store.path / MANIFEST).read_text())
    for entry in manifest["rooms"]:
        del entry["statistics"]
    assert manifest == json.loads(before)

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(statistics, "measure_room", fail)
    again = Store.open(store.path)
    assert statistics.of_store(again) == found
    assert statistics.of_rooms(again, again.rooms(1)) != found
    entry = again.manifest["rooms"][0]
    entry["statistics"]["density"] = "high"  # of another version, or edited
    with pytest.raises(AssertionError, match="measured again"):
        statistics.of_store(again)


def test_statistics_that_cannot_be_kept(tmp_path: Path) -> None:
    store, ears = write_tiny_store(tmp_path / "data"), Ears()
    (store.path / MANIFEST).write_text("{")
    assert statistics.of_store(store, ears).rooms == 7
    (warning,) = ears.warned
    assert "cannot keep the statistics" in warning


def test_what_is_unlike_the_training() -> None:
    scan = measured(box(300, 0.002))
    like = statistics.summarize(measured(box(500, 0.003)))
    assert differences(scan, like) == ""
    assert differences(scan, {}) == ""
    dense = statistics.summarize(measured(box(3000, 0.002)))
    text = differences(scan, {**dense, "height": 25.0, "colored": 0.0})
    surfaces, height, colour = text.split(", ")
    assert surfaces == "300 instead of 3,000 points/m² of surface"
    assert (height, colour) == ("2.6 instead of 25 m high", "colour instead of none")


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "{",
        "[1]",
        '{"density": NaN, "noise": -1}',
        '{"density": "much"}',
        "[" * 10_000,
        "3",
    ],
)
def test_damaged_summaries_are_none(text: str | None) -> None:
    assert statistics.read_summary(text) == {}


def test_summaries_read_back() -> None:
    found = statistics.summarize(measured(box(1500, 0.004)))
    assert statistics.read_summary(json.dumps({**found, "more": "later"})) == found
    none = statistics.summarize(replace(measured(box(300)), density=None))
    assert set(none) == {"noise", "height", "colored"}
