"""The hand-held camera in a bare room: what it can see, how exactly, and what it leaves out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipelines.data.synthetic import camera
from pipelines.data.synthetic.camera import draw_quality, film, walk
from pipelines.data.synthetic.plans import Layout, draw_plan
from pipelines.data.synthetic.scene import Frame, Material, Scene
from pipelines.data.synthetic.surface import Lighting

PLAIN = Material("paint", (0.6, 0.6, 0.6), (0.5, 0.5, 0.5), scale=1.0)
SIZE = (5.0, 4.0, 2.6)
EVEN = Lighting(np.zeros((0, 3)), np.zeros((0, 3)), ambient=1.0, size=SIZE)


def box_room(size: tuple[float, float, float]) -> tuple[Scene, Layout]:
    """Return a bare room: floor, ceiling and four walls, one object each."""
    rng = np.random.default_rng(0)
    plan = next(p for p in (draw_plan(size, rng) for _ in range(99)) if len(p.walls) == 4)
    width, depth, height = size
    scene = Scene()
    scene.add("floor", Frame()).sheet((0, 0, 0), (width, 0, 0), (0, depth, 0), PLAIN)
    scene.add("ceiling", Frame()).sheet((0, 0, height), (width, 0, 0), (0, depth, 0), PLAIN)
    for wall in plan.walls:
        scene.add("wall", wall.frame).sheet((0, 0, 0), (wall.length, 0, 0), (0, 0, height), PLAIN)
    return scene, Layout(plan._replace(taken=(), slope=None), rng)


def shoot(monkeypatch, seed: int = 1, size=SIZE, density: float = 1500.0, **quality):
    """Film a bare room with a quality; return the positions and the class of each vertex."""
    plain = {"noise": 0.0, "drift": 0.0, "range": 9.0, "slant": 0.0, "votes": 1, "blur": 0.0}
    plain |= {"smooth": 0.0, "rise": 0.0, "bend": 0.0}
    drawn = replace(draw_quality(np.random.default_rng(0)), **{**plain, **quality})
    monkeypatch.setattr(camera, "draw_quality", lambda _rng: drawn)
    scene, layout = box_room(size)
    points = film(scene, layout, EVEN, density, np.random.default_rng(seed))
    return points.pos, np.array(scene.objects)[points.object], points.object


def test_vertices_lie_on_the_surfaces_at_the_wanted_density(monkeypatch):
    pos, name, _ = shoot(monkeypatch)
    floor = pos[name == "floor"]
    middle = (np.abs(floor[:, :2] - (2.5, 2.0)) < 1.0).all(axis=1)
    assert np.percentile(np.abs(floor[middle, 2]), 99) < 0.002
    assert middle.sum() / 4 == pytest.approx(1500, rel=0.35)
    on_wall = np.minimum(np.abs(pos[:, :2]), np.abs(SIZE[:2] - pos[:, :2])).min(axis=1)
    # Edges mix two surfaces, so a few lie between them.
    assert np.percentile(on_wall[name == "wall"], 95) < 0.02


def test_nothing_beyond_the_range_is_seen(monkeypatch):
    size = (12.0, 12.0, 2.6)
    views = walk(box_room(size)[1], 1000, np.random.default_rng(1))  # as `film` draws them
    spots = np.array([view.position for view in views])

    def reach(limit: float) -> float:
        pos, _, _ = shoot(monkeypatch, size=size, density=200.0, range=limit)
        gaps = [np.linalg.norm(spots - point, axis=1).min() for point in pos[::7]]
        return max(gaps)

    # The range is a depth along the axis; at the corners of the image rays are up to 1.3 longer.
    assert reach(2.0) < 2.0 * 1.35
    assert reach(4.0) > 2.0 * 1.35


def test_noise_grows_with_the_squared_distance(monkeypatch):
    def spread(noise: float) -> float:
        pos, name, _ = shoot(monkeypatch, noise=noise)
        return float(np.median(np.abs(pos[name == "floor", 2])))

    calm, rough = spread(0.0), spread(1.0)
    assert calm < 0.001
    assert 0.001 < rough < 0.02


def test_fusion_rounds_edges_and_leaves_flat_surfaces(monkeypatch):
    def distances(smooth: float) -> tuple[np.ndarray, np.ndarray]:
        """Return how far vertices in the middle of the floor, and at its edges, lie inside."""
        pos, name, _ = shoot(monkeypatch, smooth=smooth)
        wall = np.minimum(pos[:, :2], SIZE[:2] - pos[:, :2]).min(axis=1)
        inside = np.minimum(wall, pos[:, 2])
        floor = name == "floor"
        return inside[floor & (wall > 0.3)], inside[floor & (wall < 0.03)]

    (flat, sharp), (still_flat, round_) = distances(0.0), distances(0.7)
    assert np.percentile(np.abs(still_flat), 95) < 0.001
    assert np.percentile(np.abs(flat), 95) < 0.001
    assert np.median(sharp) < 0.001
    assert 0.002 < np.median(round_) < 0.02  # by how the voxels lie


def test_fusion_is_the_mean_over_touching_voxels():
    rng = np.random.default_rng(0)
    pos = rng.uniform(0, 1.2, (400, 3)).astype(np.float32)
    grid = camera._Voxels.sort(pos, 0.1, 0.0)
    cells = np.floor(pos / np.float32(0.1) - (pos / np.float32(0.1)).min(axis=0)).astype(int)
    owners = [tuple(cells[i]) for i in grid.order[grid.starts]]
    assert len(set(owners)) == len(owners) == len(set(map(tuple, cells)))
    keep = rng.random(len(owners)) < 0.8
    kept = [owner for owner, stays in zip(owners, keep, strict=True) if stays]
    values = {cell: rng.normal(size=2) for cell in kept}
    found = camera._smooth(np.array([values[cell] for cell in kept]), grid, keep, 0.4)
    for _ in range(camera.PASSES):
        means = {}
        for x, y, z in values:
            around = [(x + d, y, z) for d in (-1, 1)] + [(x, y + d, z) for d in (-1, 1)]
            near = [values[c] for c in (*around, (x, y, z - 1), (x, y, z + 1)) if c in values]
            means[x, y, z] = (values[x, y, z] + 0.4 * sum(near)) / (1 + 0.4 * len(near))
        values = means
    np.testing.assert_allclose(found, [values[cell] for cell in kept], atol=1e-5)


def test_slanted_surfaces_are_lost(monkeypatch):
    whole, _, _ = shoot(monkeypatch)
    part, _, _ = shoot(monkeypatch, slant=0.7)
    assert len(part) < 0.9 * len(whole)


def test_scans_are_incomplete_and_the_ceiling_most_of_all(monkeypatch):
    shares = {"floor": [], "ceiling": []}
    for seed in range(8):
        _, name, _ = shoot(monkeypatch, seed=seed, density=400.0, range=4.5, slant=0.1)
        for surface, found in shares.items():
            found.append((name == surface).sum() / (400 * SIZE[0] * SIZE[1]))
    assert np.median(shares["ceiling"]) < 0.3
    assert np.median(shares["floor"]) > 0.6


def test_vertices_are_sorted_by_object(monkeypatch):
    _, _, owner = shoot(monkeypatch)
    assert np.all(np.diff(owner) >= 0)


def test_views_look_down_from_the_height_of_a_hand():
    _, layout = box_room(SIZE)
    poses = [v for seed in range(10) for v in walk(layout, 50_000, np.random.default_rng(seed))]
    height = np.array([v.position[2] for v in poses])
    assert height.min() > 1.0
    assert height.max() < 2.0
    pitch = np.rad2deg(np.arcsin([v.axes[2, 2] for v in poses]))
    assert -36 < pitch.mean() < -20
    for view in poses[:50]:
        assert np.allclose(view.axes @ view.axes.T, np.eye(3), atol=1e-9)
        assert view.axes[1, 2] < 0  # the image's second axis points down
