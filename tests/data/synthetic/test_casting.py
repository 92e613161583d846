"""The z-buffer of patches against brute force in float64."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.data.synthetic.casting import NEAR, Caster, View
from pipelines.data.synthetic.laser import cube
from pipelines.data.synthetic.scene import (
    ELLIPSE,
    MATERIAL,
    TRIANGLE,
    Frame,
    Material,
    Patches,
    Scene,
)

PLAIN = Material("paint", (0.6, 0.6, 0.6), (0.5, 0.5, 0.5), scale=1.0)


def random_scene(rng: np.random.Generator) -> Scene:
    """Shapes of all kinds at random around the origin of the rays."""
    scene = Scene()
    for _ in range(25):
        part = scene.add("clutter", Frame(*rng.uniform(-4, 4, 3), rng.uniform(0, 6)))
        part.sheet(rng.uniform(-1, 1, 3), rng.normal(0, 1, 3), rng.normal(0, 1, 3), PLAIN)
        part.box((0, 0, 0), rng.uniform(0.1, 0.6, 3), PLAIN)
        part.cylinder((0.5, 1, 0), 0.3, 0.7, PLAIN, facets=6)
        part.leaf(rng.uniform(-1, 1, 3), rng.normal(0, 0.4, 3), rng.normal(0, 0.4, 3), PLAIN)
        looks = np.array([PLAIN] * 4, MATERIAL)
        part.mesh(rng.normal(0, 0.7, (4, 3, 3)).astype(np.float32), looks)
    for bulge in (0.2, 0.6, 1.0):  # of triangles that are seen from outside alone
        part = scene.add("sofa", Frame(*rng.uniform(-3, 3, 3), rng.uniform(0, 6)))
        part.cushion((-1, 0, 0), (0.6, 0, 0), (0.1, 0.4, 0), (0, 0.1, 0.5), PLAIN, bulge)
    room = scene.add("wall", Frame())  # so large that views cross it behind themselves
    room.sheet((-6, -6, -2), (12, 0, 0), (0, 12, 0), PLAIN)
    room.sheet((-6, -6, -2), (0, 12, 0), (0, 0, 5), PLAIN)
    return scene


@pytest.mark.parametrize("bulge", [0.2, 0.5, 1.0])
def test_a_cushion_fills_its_slab(bulge: float) -> None:
    scene = Scene()
    part = scene.add("sofa", Frame(1.0, 2.0, 0.5, 0.0))
    part.cushion((0, 0, 0), (2, 0, 0), (0, 1, 0), (0, 0, 0.4), PLAIN, bulge)
    patches = scene.patches()
    corners = patches.origin + np.stack([0 * patches.u, patches.u, patches.v])
    corners = corners.reshape(-1, 3)
    np.testing.assert_allclose(corners.min(axis=0), (1.0, 2.0, 0.5), atol=1e-9)
    np.testing.assert_allclose(corners.max(axis=0), (3.0, 3.0, 0.9), atol=1e-9)
    # The divergence theorem: the volume from the triangles, which is 1/6 π of the box of an
    # ellipsoid (less what 144 flat triangles cut off), and more the smaller the bulge.
    normal = np.cross(patches.u, patches.v)
    volume = (patches.origin * normal).sum() / 6 / 0.8
    assert {0.2: 0.85, 0.5: 0.68, 1.0: 0.44}[bulge] < volume < {0.2: 1, 0.5: 0.85, 1.0: 0.53}[bulge]


def brute_force(patches: Patches, view: View, rays: np.ndarray) -> np.ndarray:
    """Return the depth of the nearest patch by trying every patch with every ray (Cramer)."""
    ray = rays.reshape(-1, 3).astype(np.float64)
    nearest = np.full(len(ray), np.inf)
    for origin, u, v, shape in zip(
        patches.origin, patches.u, patches.v, patches.shape, strict=True
    ):
        determinant = -ray @ np.cross(u, v)
        to_origin = view.position - origin
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.dot(to_origin, np.cross(u, v)) / determinant
            a = np.cross(v, to_origin) @ ray.T / determinant
            b = np.cross(to_origin, u) @ ray.T / determinant
        inside = (a >= 0) & (a <= 1) & (b >= 0) & (b <= 1)
        if shape == ELLIPSE:
            inside = (a - 0.5) ** 2 + (b - 0.5) ** 2 <= 0.25
        if shape == TRIANGLE:
            inside = (a >= 0) & (b >= 0) & (a + b <= 1)
        nearest = np.where(inside & (t > NEAR), np.minimum(nearest, t), nearest)
    return nearest.reshape(rays.shape[:2])


def views(rng: np.random.Generator) -> list[View]:
    """The faces of a cube, and narrow views in random directions."""
    position = rng.uniform(-0.5, 0.5, 3)
    turns = [np.linalg.qr(rng.normal(0, 1, (3, 3)))[0] for _ in range(6)]
    return [*cube(position, 0.06), *(View(position, turn, 60.0, 64, 48) for turn in turns)]


@pytest.mark.parametrize("seed", range(3))
def test_cast_finds_what_brute_force_finds(seed):
    rng = np.random.default_rng(seed)
    patches = random_scene(rng).patches()
    caster, seen = Caster(patches), 0
    for view in views(rng):
        rays = view.rays(rng)
        depth, hit = caster.cast(view, rays)
        expected = brute_force(patches, view, rays)
        agree = np.isclose(depth, expected, rtol=1e-4) | (np.isinf(depth) & np.isinf(expected))
        assert agree.mean() > 0.998  # float32 rounding at the rims of patches
        assert np.array_equal(hit < 0, np.isinf(depth))
        seen += np.isfinite(expected).mean()
    assert 3 < seen < 12  # of 12 views: neither nothing nor everything is hit


def test_the_patch_that_is_hit_is_the_one_at_that_depth():
    rng = np.random.default_rng(7)
    patches = random_scene(rng).patches()
    caster, view = Caster(patches), views(rng)[8]
    rays = view.rays(rng)
    depth, hit = caster.cast(view, rays)
    at = hit >= 0
    points = view.position + rays[at] * depth[at][:, None]
    off = ((points - patches.origin[hit[at]]) * patches.normal[hit[at]]).sum(axis=1)
    assert np.abs(off).max() < 1e-3


def test_rays_stay_in_their_pixels():
    view = cube(np.zeros(3), 0.1)[0]
    local = view.rays(np.random.default_rng(0)) @ view.axes.T
    assert np.allclose(local[..., 2], 1, atol=1e-6)
    column = local[..., 0] * view.focal + view.width / 2
    row = local[..., 1] * view.focal + view.height / 2
    assert np.all(np.abs(column - np.arange(view.width) - 0.5) <= 0.501)
    assert np.all(np.abs(row.T - np.arange(view.height) - 0.5) <= 0.501)


def test_the_faces_of_a_cube_cover_the_sphere_once():
    directions = np.random.default_rng(0).normal(0, 1, (1000, 3))
    inside = np.zeros(1000, int)
    for view in cube(np.zeros(3), 0.1):
        x, y, z = view.axes @ directions.T
        inside += (z > 0) & (np.abs(x) <= z) & (np.abs(y) <= z)
        assert np.linalg.det(view.axes) == pytest.approx(1)
    assert np.all(inside == 1)
