"""The laser scanner against the geometry of a bare room."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipelines.data.synthetic.laser import scan
from pipelines.data.synthetic.scene import Frame, Material, Scene
from pipelines.data.synthetic.surface import Lighting

PLAIN = Material("paint", (0.6, 0.6, 0.6), (0.5, 0.5, 0.5), scale=1.0)
EVEN = Lighting(np.zeros((0, 3)), np.zeros((0, 3)), ambient=1.0, size=(20.0, 20.0, 3.0))


def scan_scene(scene: Scene, position: tuple[float, float, float], density: float = 4000.0):
    """Scan from one position with a fixed seed; return positions and the class of each point."""
    rng = np.random.default_rng(3)
    points = scan(scene, np.array([position]), EVEN, density=density, rng=rng)
    return points.pos, np.array(scene.objects)[points.object]


def with_floor(x: float = 12.0, y: float = 12.0) -> Scene:
    scene = Scene()
    scene.add("floor", Frame()).sheet((0, 0, 0), (x, 0, 0), (0, y, 0), PLAIN)
    return scene


def test_a_bookcase_hides_the_wall_behind_it():
    """A box hides its central projection on the wall and nothing else."""

    def wall_points(with_box: bool) -> np.ndarray:
        scene = with_floor()
        scene.add("wall", Frame()).sheet((0, 6, 0), (12, 0, 0), (0, 0, 3), PLAIN)
        if with_box:
            scene.add("bookcase", Frame()).box((4, 4, 0), (6, 5, 2), PLAIN)
        pos, name = scan_scene(scene, (5.0, 1.0, 1.5))
        return pos[name == "wall"]

    def shadow(pos: np.ndarray) -> np.ndarray:  # front face: 3 m away; wall: 5 m away; 5 cm margin
        width, top = 5 / 3 - 0.05, 1.5 + 0.5 * 5 / 4 - 0.05
        return (np.abs(pos[:, 0] - 5) < width) & (pos[:, 2] < top)

    free, hidden = wall_points(False), wall_points(True)
    assert shadow(free).sum() > 300
    assert shadow(hidden).sum() <= 0.01 * shadow(free).sum()  # edges may mix two surfaces
    beside = (np.abs(free[:, 0] - 5) > 2.2).sum(), (np.abs(hidden[:, 0] - 5) > 2.2).sum()
    assert beside[1] == pytest.approx(beside[0], rel=0.05)


def test_the_floor_under_a_table_top_is_missing():
    def floor_below(with_table: bool) -> int:
        scene = with_floor()
        if with_table:
            scene.add("table", Frame()).box((2, 2, 0.72), (4, 3, 0.75), PLAIN)
        pos, name = scan_scene(scene, (1.0, 2.5, 1.5))
        # from 1.5 m a top at 0.75 m throws a shadow of twice its distance: x from 3 to 7
        shadow = (pos[:, 0] > 3.1) & (pos[:, 0] < 6.7) & (np.abs(pos[:, 1] - 2.5) < 0.9)
        return int((shadow & (name == "floor")).sum())

    assert floor_below(False) > 300
    assert floor_below(True) <= 0.01 * floor_below(False)


def test_density_falls_with_distance_and_incidence():
    """Equal steps of both angles give the floor a density in proportion to h / ((h² + d²) d)."""
    pos, _ = scan_scene(with_floor(16, 16), (8.0, 8.0, 1.5), density=20_000)
    away = np.hypot(pos[:, 0] - 8, pos[:, 1] - 8)

    def measured(low: float) -> float:
        return ((away > low) & (away < low + 0.5)).sum() / (math.pi * ((low + 0.5) ** 2 - low**2))

    def expected(low: float) -> float:
        return 1.5 / ((1.5**2 + (low + 0.25) ** 2) * (low + 0.25))

    for low in (3.0, 5.0, 7.0):
        ratio = measured(low) / measured(2.0)
        assert ratio == pytest.approx(expected(low) / expected(2.0), rel=0.05)


def test_density_is_capped_near_the_scanner():
    pos, _ = scan_scene(with_floor(), (6.0, 6.0, 1.5), density=1000)
    away = np.hypot(pos[:, 0] - 6, pos[:, 1] - 6)
    ring = ((away > 0.5) & (away < 1.0)).sum() / (math.pi * 0.75)
    assert ring < 1100


@pytest.mark.parametrize(("range_m", "low", "high"), [(2.0, 0.0015, 0.0035), (8.0, 0.005, 0.009)])
def test_noise_is_a_few_millimetres_and_grows_with_range(range_m, low, high):
    scene = Scene()
    scene.add("wall", Frame()).sheet((0, range_m, 0), (3, 0, 0), (0, 0, 3), PLAIN)
    pos, _ = scan_scene(scene, (1.5, 0.0, 1.5), density=8000)
    central = np.hypot(pos[:, 0] - 1.5, pos[:, 2] - 1.5) < 0.5
    assert low < pos[central, 1].std() < high


def test_dropout_takes_its_share_of_the_points():
    def count(dropout: float) -> int:
        scene = Scene()
        glass = Material("view", (0.5,) * 3, (0.6,) * 3, 1.0, dropout=dropout)
        scene.add("window", Frame()).sheet((0, 2, 0), (2, 0, 0), (0, 0, 2), glass)
        return len(scan_scene(scene, (1.0, 0.0, 1.0))[0])

    assert count(0.6) == pytest.approx(0.4 * count(0.0), rel=0.1)
