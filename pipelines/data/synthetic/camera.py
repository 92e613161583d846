"""A hand-held RGB-D camera in a synthetic room, and the mesh that its views are fused into.

Somebody stands at a few spots, turns, and walks on to the next. Each view sees a limited angle and
range; the views are fused in voxels, whose averages are the vertices of a mesh. Fusion rounds edges
and lets colours bleed into what is near; noise grows with the squared depth. So parts of the room
are missing: what was never looked at (often the ceiling), what is too near, too far, too dark, too
slanted or of glass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit

from .casting import Caster, View
from .laser import Points, mix_edges
from .plans import Layout
from .scene import Scene
from .surface import Lighting, surface_axes, surface_color, value_noise

NEAREST = 0.4  # m: the camera measures nothing nearer
STEP = 25.0  # degrees that the camera turns between two views
RAYS = 4.5  # for each vertex of a room that is seen whole
PASSES = 2  # of smoothing over neighbouring voxels


@dataclass(frozen=True)
class Quality:
    """How well a scan was made; drawn once a room."""

    noise: float  # of depth: 1 is the first Kinect
    drift: float  # m: error of the poses
    bend: float  # m: how far the tops of walls 3 m away are lifted
    range: float  # m: nothing further is seen
    slant: float  # the least cosine of the angle of incidence
    votes: int  # observations that a vertex needs
    flicker: float  # standard deviation of the views' exposures, in stops
    blur: float  # m on the surface
    smooth: float  # weight of each touching voxel in a vertex's place and colour
    rise: float  # degrees that the camera is held higher than usual


def draw_quality(rng: np.random.Generator) -> Quality:
    """Draw the quality of a scan."""
    return Quality(
        noise=rng.uniform(0.15, 1.2),
        drift=0.06 * rng.random() ** 1.4,
        bend=rng.choice((0.0, rng.normal(0, 0.12)), p=(0.6, 0.4)),
        range=rng.uniform(3.5, 5.5),
        slant=rng.uniform(0.08, 0.25),
        votes=int(rng.choice((1, 2), p=(0.75, 0.25))),
        flicker=rng.uniform(0.0, 0.45),
        blur=rng.uniform(0.0, 0.03),
        smooth=rng.uniform(0.0, 0.7),
        rise=rng.choice((rng.normal(0, 5), rng.uniform(8, 32)), p=(0.7, 0.3)),
    )


def film(
    scene: Scene, layout: Layout, lighting: Lighting, density: float, rng: np.random.Generator
) -> Points:
    """Scan a room by hand; return the vertices, about `density` a square metre, by object."""
    quality, caster = draw_quality(rng), Caster(scene.patches())
    width, depth, height = layout.size
    surface = 2 * width * depth + 2 * (width + depth) * height
    views = walk(layout, int(RAYS * density * surface), rng, quality.rise)
    lost = _lost(caster)
    errors = _wander(len(views), quality, rng)
    seen = [_look(caster, lost, *pose, quality, rng) for pose in zip(views, errors, strict=True)]
    hit, values = (np.concatenate(arrays) for arrays in zip(*seen, strict=True))
    grid = _Voxels.sort(values[:, :3], np.sqrt(1.2 / density), rng.uniform(0, np.pi))
    count = np.diff(grid.starts, append=len(hit))
    mean = np.add.reduceat(values[grid.order], grid.starts) / count[:, None]
    keep = count >= quality.votes
    hit = hit[grid.order[grid.starts[keep]]]
    mean, count = mean[keep].astype(np.float64), count[keep]
    pos, far, gain = mean[:, :3], mean[:, 3], mean[:, 4:]
    color = _paint(caster, hit, pos, lighting, quality, rng) * gain
    both = _smooth(np.hstack([pos, color]), grid, keep, quality.smooth)
    color = both[:, 3:] + rng.normal(0, 0.015, color.shape)
    rgb = np.clip(np.rint(255 * color), 0, 255)
    pos = _distort(both[:, :3].astype(np.float64), caster.normal[hit], far, count, quality, rng)
    owner = caster.patches.object[hit]
    order = np.argsort(owner, kind="stable")
    return Points(pos[order], rgb.astype(np.uint8)[order], owner[order])


def walk(layout: Layout, rays: int, rng: np.random.Generator, rise: float = 0.0) -> list[View]:
    """Plan the views of somebody who scans a room, about `rays` pixels in all.

    They look down by 29 degrees less `rise` on average.
    """
    width, depth, _ = layout.size
    spots = rng.uniform((0.3, 0.3), (width - 0.3, depth - 0.3), (200, 2))
    clearance = layout.clearance(spots)
    spots = spots[clearance >= min(0.2, np.sort(clearance)[-20])]
    here, yaw = spots[rng.integers(len(spots))], rng.uniform(0, 360)
    poses = []
    for _ in range(rng.integers(4, 10)):
        steps = np.linalg.norm(spots - here, axis=1)
        there = spots[np.argmin(np.abs(steps - rng.uniform(0.5, 2.5)))]
        height, way = rng.uniform(1.2, 1.8), rng.choice((-1, 1))
        for _ in range(rng.choice((1, 2, 3), p=(0.3, 0.45, 0.25))):
            pitch, views = rise + rng.normal(-29, 14), int(np.ceil(rng.uniform(90, 380) / STEP))
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


def _wander(views: int, quality: Quality, rng: np.random.Generator) -> np.ndarray:
    """Return the errors (views, 4) of views that follow one another, each like the one before.

    The columns are x, y, z, m, and the exposure in stops; the vertical error is the least.
    """
    drift = 0.2 * quality.drift
    errors = rng.normal(0, (drift, drift, drift / 3, 0.6 * quality.flicker), (views, 4))
    for view in range(1, views):
        errors[view] += 0.8 * errors[view - 1]
    return errors


def _look(
    caster: Caster,
    lost: np.ndarray,
    view: View,
    error: np.ndarray,
    quality: Quality,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Return what a view measures: patches (n,) int32, and (n, 5) float32.

    The columns are x, y, z and depth, m, and the factor of brightness. The view believes that it
    stands `error` (4,), m, from where it does; the last one is its exposure in stops.
    """
    rays = view.rays(rng)
    depth, hit = caster.cast(view, rays)
    mix_edges(depth, 0.1, rng)
    chance = rng.random(depth.shape, dtype=np.float32)
    limits = NEAREST, quality.range, quality.slant, 2 ** error[3]
    place = view.position + error[:3]
    return _measure(rays, depth, hit, chance, caster.normal, lost, place, limits)


def _lost(caster: Caster) -> np.ndarray:
    """Return the fraction of rays (P,) that come back from no patch: of glass, often if dark."""
    material = caster.patches.material
    return np.maximum(material["dropout"], 0.4 * (material["first"].max(axis=1) < 0.16))


@njit(cache=True, nogil=True)
def _measure(rays, depth, hit, chance, normal, lost, position, limits):
    nearest, furthest, slant, gain = limits
    patches = np.empty(depth.size, np.int32)
    values = np.empty((depth.size, 5), np.float32)
    count = 0
    for row in range(depth.shape[0]):
        for column in range(depth.shape[1]):
            patch, z = hit[row, column], depth[row, column]
            if patch < 0 or not nearest < z < furthest or chance[row, column] < lost[patch]:
                continue
            ray, n = rays[row, column], normal[patch]
            across = ray[0] * n[0] + ray[1] * n[1] + ray[2] * n[2]
            if across**2 <= slant**2 * (ray[0] ** 2 + ray[1] ** 2 + ray[2] ** 2):
                continue
            patches[count] = patch
            for axis in range(3):
                values[count, axis] = position[axis] + ray[axis] * z
            values[count, 3], values[count, 4] = z, gain
            count += 1
    return patches[:count].copy(), values[:count].copy()


class _Voxels(NamedTuple):
    """Points sorted by the voxel that they lie in."""

    order: np.ndarray  # (n,) of the points
    starts: np.ndarray  # (V,) each voxel's first point in it
    key: np.ndarray  # (V,) int64, ascending
    steps: tuple[int, int, int]  # from a voxel's key to those of its neighbours along the axes

    @classmethod
    def sort(cls, pos: np.ndarray, size: float, turn: float) -> _Voxels:
        """Sort points (n, 3) float32 by voxels of a size, m.

        They are turned about the vertical, as a scan's axes have nothing to do with its walls.
        """
        x, y, z = pos.T / np.float32(size)
        cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
        key, shift, steps = np.zeros(len(pos), np.int64), len(pos).bit_length(), [1, 1, 1]
        for number, axis in enumerate((cos * x - sin * y, sin * x + cos * y, z)):
            cell = np.floor(axis - axis.min()).astype(np.int64)
            size_along = int(cell.max()) + 2  # one more, so that no row touches the next one
            key = key * size_along + cell
            steps[:number] = [step * size_along for step in steps[:number]]
        key = (key << shift) | np.arange(len(pos))  # sorting is many times faster than argsort
        key.sort()
        voxel = key >> shift
        starts = np.flatnonzero(np.diff(voxel, prepend=-1))
        x_step, y_step, z_step = steps
        return cls(key & ((1 << shift) - 1), starts, voxel[starts], (x_step, y_step, z_step))


def _smooth(values: np.ndarray, grid: _Voxels, keep: np.ndarray, weight: float) -> np.ndarray:
    """Average values (V, c) with those of touching voxels, which have a weight, PASSES times."""
    key, steps = grid.key[keep], np.array(grid.steps)
    for _ in range(PASSES):
        values = _average(values.astype(np.float32), key, steps, np.float32(weight))
    return values


@njit(cache=True, nogil=True)
def _average(values, key, steps, weight):
    total, weights = values.copy(), np.ones((len(values), 1), np.float32)
    for step in steps:
        above = 0
        for voxel in range(len(key)):
            while above < len(key) - 1 and key[above] < key[voxel] + step:
                above += 1
            if key[above] == key[voxel] + step:
                weights[voxel] += weight
                weights[above] += weight
                for column in range(values.shape[1]):
                    total[voxel, column] += weight * values[above, column]
                    total[above, column] += weight * values[voxel, column]
    return total / weights


def _paint(
    caster: Caster,
    hit: np.ndarray,
    pos: np.ndarray,
    lighting: Lighting,
    quality: Quality,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the lit colours (n, 3), mixed up by blur, of vertices (n, 3) on patches `hit` (n,)."""
    normal, material = caster.normal[hit], caster.patches.material[hit]
    place = np.stack(surface_axes(pos, normal))
    place += np.float32(quality.blur) * rng.standard_normal(place.shape, dtype=np.float32)
    return surface_color(material, *place) * lighting.shade(pos, normal)


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
    shift = 2 * quality.drift * np.stack(drift, axis=1)
    middle, turn = pos[:, :2].mean(axis=0), rng.uniform(0, np.pi)
    away = (pos[:, :2] - middle) @ (np.cos(turn), np.sin(turn))
    shift[:, 2] += quality.bend * (z / 2.5) * (away / 3) ** 2
    return pos + normal * along[:, None] + shift
