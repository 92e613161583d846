"""A terrestrial laser scanner in a synthetic room.

From each position, rays go out in all directions and hit the nearest surface. So occlusion is
exact, and the density falls with the squared distance and the angle of incidence, as with a real
scanner; where it is higher than wanted, the cloud is thinned.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from .casting import Caster, View
from .plans import Layout
from .scene import Scene
from .surface import Lighting, surface_axes, surface_color, value_noise

LOWEST = np.sin(np.deg2rad(-74.0))  # of unit rays: a scanner doesn't see its own tripod
REACH = 1.5  # m: the distance at which two scans together have the wanted density


class Points(NamedTuple):
    """Scanned points in the room's frame."""

    pos: np.ndarray  # (n, 3) float64, m
    color: np.ndarray  # (n, 3) uint8
    object: np.ndarray  # (n,) int64, index into Scene.objects


def scan_positions(layout: Layout, rng: np.random.Generator) -> np.ndarray:
    """Choose where the scanner stands: clear of furniture, far from each other; (S, 3) m."""
    width, depth, _ = layout.size
    count = int(np.clip(round(width * depth / 8.0), 3, 5))
    spots = rng.uniform((0.4, 0.4), (width - 0.4, depth - 0.4), (300, 2))
    clearance = layout.clearance(spots)
    spots = spots[clearance >= min(0.25, np.sort(clearance)[-20])]
    chosen = [int(np.argmin(np.abs(spots - (width / 2, depth / 2)).sum(1)))]
    while len(chosen) < count:
        gaps = np.linalg.norm(spots[:, None] - spots[chosen], axis=2).min(axis=1)
        chosen.append(int(np.argmax(gaps * rng.uniform(0.7, 1.0, len(spots)))))
    return np.column_stack([spots[chosen], rng.uniform(1.4, 1.65, count)])


def scan(
    scene: Scene,
    positions: np.ndarray,
    lighting: Lighting,
    density: float,
    rng: np.random.Generator,
) -> Points:
    """Scan a room from positions (S, 3), m, and return all points, sorted by object.

    `density` is the points per square metre where the scanner sees a surface well.
    """
    caster, step = Caster(scene.patches()), float(np.sqrt(2.0 / density) / REACH)
    parts = []
    for position in positions:
        share = density / len(positions)
        faces = [_echoes(caster, view, share, rng) for view in cube(position, step)]
        hit, ray, reach = (np.concatenate(arrays) for arrays in zip(*faces, strict=True))
        parts.append(_measure(caster, position, hit, ray, reach, lighting, rng))
    pos, color, owner = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.argsort(owner, kind="stable")
    return Points(pos[order], color[order], owner[order])


def cube(position: np.ndarray, step: float) -> list[View]:
    """Return the faces of a cube of views; in their middles, rays are `step` radians apart."""
    pixels, axes = int(np.ceil(2 / step)), np.eye(3)
    faces = []
    for index, sign in itertools.product(range(3), (1.0, -1.0)):
        forward, right = sign * axes[index], axes[index - 1]
        turn = np.stack([right, np.cross(forward, right), forward])
        faces.append(View(position, turn, pixels / 2, pixels, pixels))
    return faces


def _echoes(
    caster: Caster, view: View, density: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the echoes of one view, thinned to `density` points per square metre.

    They are the patches (n,), the rays (n, 3) float64 of unit length, and the distances (n,), m.
    """
    rays = view.rays(rng)
    depth, hit = caster.cast(view, rays)
    mix_edges(depth, 0.08, rng)
    length = np.linalg.norm(rays, axis=2)
    seen = (hit >= 0) & (rays[..., 2] > LOWEST * length)
    patch, stretch = hit[seen], length[seen].astype(np.float64)
    reach, ray = depth[seen] * stretch, rays[seen] / stretch[:, None]
    cosine = np.abs((ray * caster.normal[patch]).sum(1))
    # A pixel's solid angle is 1 / (f² s³), that of a scanner's equal steps of angles cos e / f².
    here = cosine * view.focal**2 / reach**2
    wanted = np.minimum(density, here / np.sqrt(np.maximum(1 - ray[:, 2] ** 2, 1e-6)))
    chance = np.minimum(1.0, wanted / (here * stretch**3))
    keep = rng.random(len(patch)) < chance * (1 - caster.patches.material["dropout"][patch])
    return patch[keep], ray[keep], reach[keep]


def mix_edges(depth: np.ndarray, share: float, rng: np.random.Generator) -> None:
    """Move a share of the pixels of a view at edges to between the two surfaces."""
    behind = np.roll(depth, -1, axis=1)
    behind[:, -1] = np.inf  # there is no next pixel
    edge = (behind > depth + 0.05) & (behind < np.inf)
    edge &= rng.random(depth.shape, dtype=np.float32) < share
    blend = rng.random(np.count_nonzero(edge), dtype=np.float32) ** 2
    depth[edge] += blend * (behind[edge] - depth[edge])


def _measure(
    caster: Caster,
    position: np.ndarray,
    hit: np.ndarray,
    ray: np.ndarray,
    reach: np.ndarray,
    lighting: Lighting,
    rng: np.random.Generator,
) -> Points:
    """Turn echoes into noisy, coloured points."""
    pos = position + ray * reach[:, None]
    normal, material = caster.normal[hit], caster.patches.material[hit]
    cosine = (normal * ray).sum(1, keepdims=True)
    normal *= -np.sign(cosine)
    s, t = surface_axes(pos, normal)
    color = surface_color(material, s, t).astype(np.float64)
    color *= lighting.shade(pos, normal)
    color *= rng.uniform(0.8, 1.1) * rng.uniform(0.92, 1.08, 3)  # exposure and white balance
    color += rng.normal(0, 0.02, color.shape)
    bumps = value_noise(s / 0.12, t / 0.12, material["seed"]) - 0.5
    pos += normal * (material["relief"] * bumps)[:, None]
    sigma = (0.001 + 0.0007 * reach[:, None]) / np.sqrt(np.maximum(np.abs(cosine), 0.2))
    pos += ray * rng.normal(0, 1, len(ray))[:, None] * sigma
    pos += rng.normal(0, 0.0008, pos.shape) + rng.normal(0, 0.0015, 3)  # lateral; registration
    rgb = np.clip(np.rint(255 * color), 0, 255).astype(np.uint8)
    return Points(pos, rgb, caster.patches.object[hit])
