"""A hand-held RGB-D camera in a synthetic room, and the mesh that its views are fused into.

Somebody stands at a few spots, turns, and walks on to the next. Each view sees a limited angle and
range; the views are fused in voxels, whose averages are the vertices of a mesh, with noise that
grows with the squared depth. So parts of the room are missing: what was never looked at (often the
ceiling), what is too near, too far, too dark, too slanted or of glass.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .casting import Caster, View
from .laser import Points, mix_edges
from .plans import Layout
from .scene import Scene
from .surface import Lighting, surface_axes, surface_color, value_noise

NEAREST = 0.4  # m: the camera measures nothing nearer
STEP = 25.0  # degrees that the camera turns between two views
RAYS = 3.0  # for each vertex of a room that is seen whole


@dataclass(frozen=True)
class Quality:
    """How well a scan was made; drawn once a room."""

    noise: float  # of depth: 1 is the first Kinect
    drift: float  # m: error of the poses
    range: float  # m: nothing further is seen
    slant: float  # the least cosine of the angle of incidence
    votes: int  # observations that a vertex needs
    flicker: float  # standard deviation of the views' exposures, in stops
    blur: float  # m on the surface


def draw_quality(rng: np.random.Generator) -> Quality:
    """Draw the quality of a scan."""
    return Quality(
        noise=rng.uniform(0.15, 1.2),
        drift=rng.uniform(0.0, 0.02),
        range=rng.uniform(3.5, 5.5),
        slant=rng.uniform(0.08, 0.25),
        votes=int(rng.integers(1, 3)),
        flicker=rng.uniform(0.0, 0.35),
        blur=rng.uniform(0.0, 0.03),
    )


def film(
    scene: Scene, layout: Layout, lighting: Lighting, density: float, rng: np.random.Generator
) -> Points:
    """Scan a room by hand; return the vertices, about `density` a square metre, by object."""
    quality, caster = draw_quality(rng), Caster(scene.patches())
    width, depth, height = layout.size
    surface = 2 * width * depth + 2 * (width + depth) * height
    views = walk(layout, int(RAYS * density * surface), rng)
    seen = [_look(caster, view, quality, rng) for view in views]
    hit, values = (np.concatenate(arrays) for arrays in zip(*seen, strict=True))
    order, starts = _voxels(values[:, :3], np.sqrt(1.2 / density), rng.uniform(0, np.pi))
    count = np.diff(starts, append=len(order))
    mean = np.add.reduceat(values[order], starts) / count[:, None]
    keep = count >= quality.votes
    # Sorted, so that the vertices of an object are together.
    hit, mean, count = hit[order[starts[keep]]], mean[keep].astype(np.float64), count[keep]
    by_object = np.argsort(hit, kind="stable")
    hit, mean, count = hit[by_object], mean[by_object], count[by_object]
    pos, far, gain = mean[:, :3], mean[:, 3], mean[:, 4:]
    color = _paint(caster, hit, pos, lighting, quality, rng) * gain
    rgb = np.clip(np.rint(255 * (color + rng.normal(0, 0.015, color.shape))), 0, 255)
    pos = _distort(pos, caster.normal[hit], far, count, quality, rng)
    return Points(pos, rgb.astype(np.uint8), caster.patches.object[hit])


def walk(layout: Layout, rays: int, rng: np.random.Generator) -> list[View]:
    """Plan the views of somebody who scans a room, about `rays` pixels in all."""
    width, depth, _ = layout.size
    spots = rng.uniform((0.3, 0.3), (width - 0.3, depth - 0.3), (200, 2))
    clearance = layout.clearance(spots)
    spots = spots[clearance >= min(0.2, np.sort(clearance)[-20])]
    here, yaw = spots[rng.integers(len(spots))], rng.uniform(0, 360)
    poses = []
    for _ in range(rng.integers(3, 8)):
        steps = np.linalg.norm(spots - here, axis=1)
        there = spots[np.argmin(np.abs(steps - rng.uniform(0.5, 2.5)))]
        height, way = rng.uniform(1.2, 1.8), rng.choice((-1, 1))
        for _ in range(rng.choice((1, 2, 3), p=(0.3, 0.45, 0.25))):
            pitch, views = rng.normal(-22, 16), int(np.ceil(rng.uniform(90, 380) / STEP))
            for part in range(views):
                place = here + (there - here) * part / views * 0.5
                yaw += way * STEP + rng.normal(0, 4)
                poses.append((*place, height + rng.normal(0, 0.04), yaw, pitch + rng.normal(0, 5)))
        here = there
    columns = int(np.clip(np.sqrt(rays / len(poses) / 0.75), 48, 640))
    focal = rng.uniform(0.75, 1.05) * columns  # 51 to 67 degrees
    return [_view(pose, focal, columns) for pose in poses]


def _view(pose: tuple[float, ...], focal: float, columns: int) -> View:
    """Return the view of a pose: x, y, z in metres, yaw and pitch in degrees."""
    yaw, pitch = np.deg2rad(pose[3:])
    forward = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)])
    right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    axes = np.stack([right, np.cross(forward, right), forward])
    return View(np.array(pose[:3]), axes, focal, columns, columns * 3 // 4)


def _look(
    caster: Caster, view: View, quality: Quality, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return what a view measures: patches (n,) int32, and (n, 5) float32.

    The columns are x, y, z and depth, m, and the factor of brightness.
    """
    rays = view.rays(rng)
    depth, hit = caster.cast(view, rays)
    mix_edges(depth, 0.1, rng)
    seen = (hit >= 0) & (depth > NEAREST) & (depth < quality.range)
    hit, depth, rays = hit[seen], depth[seen], rays[seen]
    length = np.sqrt(np.einsum("ij,ij->i", rays, rays))
    cosine = np.abs(np.einsum("ij,ij->i", rays, caster.normal[hit].astype(np.float32)))
    material = caster.patches.material
    dark = material["first"].max(axis=1) < 0.16
    lost = np.maximum(material["dropout"], 0.4 * dark).astype(np.float32)[hit]
    seen = (cosine > quality.slant * length) & (rng.random(len(hit), dtype=np.float32) >= lost)
    hit, depth = hit[seen], depth[seen]
    values = np.empty((len(hit), 5), np.float32)
    values[:, :3] = view.position + rays[seen] * depth[:, None]
    values[:, 3], values[:, 4] = depth, 2 ** rng.normal(0, quality.flicker)
    return hit, values


def _voxels(pos: np.ndarray, size: float, turn: float) -> tuple[np.ndarray, np.ndarray]:
    """Return an order of points (n, 3) by voxels of a size, m, and each voxel's start in it.

    The voxels are turned about the vertical, as a scan's axes have nothing to do with its walls.
    """
    x, y, z = pos.T / np.float32(size)
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    key, shift = np.zeros(len(pos), np.int64), len(pos).bit_length()
    for axis in (cos * x - sin * y, sin * x + cos * y, z):
        cell = np.floor(axis - axis.min()).astype(np.int64)
        key = key * (cell.max() + 1) + cell
    key = (key << shift) | np.arange(len(pos))  # sorting is many times faster than argsort
    key.sort()
    return key & ((1 << shift) - 1), np.flatnonzero(np.diff(key >> shift, prepend=-1))


def _paint(
    caster: Caster,
    hit: np.ndarray,
    pos: np.ndarray,
    lighting: Lighting,
    quality: Quality,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the lit, blurred colours (n, 3) of vertices (n, 3) on patches `hit` (n,)."""
    normal, material = caster.normal[hit], caster.patches.material[hit]
    place = np.stack(surface_axes(pos, normal))
    color = np.zeros((len(pos), 3))
    for _ in range(2):
        blurred = place + quality.blur * rng.standard_normal(place.shape, dtype=np.float32)
        color += surface_color(material, *blurred) / 2
    return color * lighting.shade(pos, normal)[:, None]


def _distort(
    pos: np.ndarray,
    normal: np.ndarray,
    depth: np.ndarray,
    count: np.ndarray,
    quality: Quality,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return vertices (n, 3) displaced by the noise that fusion leaves, and by drift."""
    sigma = quality.noise * (0.0012 + 0.0019 * (depth - NEAREST) ** 2)
    seeds = rng.integers(1 << 31, size=(4, 1)).astype(np.uint32)
    s, t = surface_axes(pos, normal)
    waves = value_noise(s / 0.08, t / 0.08, seeds[3]) - 0.5
    along = sigma * (2 * waves + rng.normal(0, 1, len(pos)) / np.sqrt(count))
    x, y, z = pos.T
    drift = [
        value_noise((x + lift * z) / 1.5, (y - lift * z) / 1.5, seed) - 0.5
        for lift, seed in zip((1.0, 0.7, 0.2), seeds, strict=False)
    ]
    return pos + normal * along[:, None] + 2 * quality.drift * np.stack(drift, axis=1)
