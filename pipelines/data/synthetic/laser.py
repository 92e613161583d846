"""A terrestrial laser scanner in a synthetic room.

From each position, rays go out on a jittered grid of angles and hit the nearest surface. So
occlusion is exact, and the density falls with the squared distance and the angle of incidence, as
with a real scanner; where it is higher than wanted, the cloud is thinned.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .scene import Patches, Scene
from .shell import Layout
from .surface import Lighting, surface_axes, surface_color, value_noise

LOWEST = np.deg2rad(-74.0)  # a scanner doesn't see its own tripod
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
    patches, step = scene.patches(), float(np.sqrt(2.0 / density) / REACH)
    parts = []
    for position in positions:
        echoes = _echoes(patches, position, step, density / len(positions), rng)
        parts.append(_measure(patches, position, *echoes, lighting, rng))
    pos, color, owner = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.argsort(owner, kind="stable")
    return Points(pos[order], color[order], owner[order])


def _echoes(
    patches: Patches, position: np.ndarray, step: float, density: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the echoes of one scan, thinned to `density` points per square metre.

    They are the patches (n,), the rays (n, 3) float64 of unit length, and the distances (n,), m.
    """
    direction, elevation = cast_rays(step, rng)
    distance, patch = cast(patches, position, direction, step)
    # Some beams that hit an edge echo from between two surfaces.
    behind = np.roll(distance, -1, axis=1)
    edge = (behind > distance + 0.05) & (behind < np.inf)
    edge &= rng.random(distance.shape, dtype=np.float32) < 0.08
    blend = rng.random(np.count_nonzero(edge), dtype=np.float32) ** 2
    distance[edge] += blend * (behind[edge] - distance[edge])
    row, column = np.nonzero(patch >= 0)
    hit, reach = patch[row, column], distance[row, column].astype(np.float64)
    ray = direction[row, column].astype(np.float64)
    cosine = np.abs((ray * patches.normal[hit]).sum(1))
    local = cosine / (reach**2 * step**2 * np.cos(elevation[row]))
    keep = rng.random(len(hit)) < np.minimum(1.0, density / local) * (
        1 - patches.material["dropout"][hit]
    )
    return hit[keep], ray[keep], reach[keep]


def cast_rays(step: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return rays on a grid of angles `step` apart, each moved at random inside its cell.

    They are unit vectors (rows, columns, 3) float32; also the elevation of each row, radians.
    """
    elevations = np.arange(LOWEST, np.pi / 2 - step, step)
    azimuths = np.arange(int(np.ceil(2 * np.pi / step))) * (2 * np.pi / np.ceil(2 * np.pi / step))
    jitter = rng.random((2, len(elevations), len(azimuths)), dtype=np.float32) * np.float32(step)
    up = elevations[:, None].astype(np.float32) + jitter[0]
    around = azimuths[None, :].astype(np.float32) + jitter[1]
    flat = np.cos(up)
    direction = np.stack([flat * np.cos(around), flat * np.sin(around), np.sin(up)], axis=2)
    return direction, elevations + step / 2


def cast(
    patches: Patches, position: np.ndarray, direction: np.ndarray, step: float
) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest patch along each of the rays of `cast_rays` from position (3,).

    Returns the distance (rows, columns) float32, infinite where nothing is hit, and the patch hit
    (rows, columns) int32, -1 where nothing is hit.
    """
    rows, columns = direction.shape[:2]
    distance = np.full((rows, columns), np.inf, np.float32)
    hit = np.full((rows, columns), -1, np.int32)
    basis = np.stack([patches.u, patches.v, patches.normal], axis=1)
    solve = np.linalg.inv(basis)  # x @ solve = coordinates along u, v and the normal
    shift = np.einsum("pi,pij->pj", patches.origin - position, solve).astype(np.float32)
    solve = solve.astype(np.float32)
    low, high, left, right = _windows(patches, position, rows, columns, step)
    facing = ((patches.origin - position) * np.cross(patches.u, patches.v)).sum(1)
    visible = np.flatnonzero(~(patches.solid & (facing >= 0)) & (high > low))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for index in visible.tolist():
            first, last = int(left[index]), int(right[index])
            # Columns beyond the last one are the first ones again.
            for start, stop in ((first, min(last, columns)), (0, last - columns)):
                if start >= stop:
                    continue
                window = np.s_[low[index] : high[index], start:stop]
                local = direction[window] @ solve[index]
                reach = shift[index, 2] / local[..., 2]
                a = reach * local[..., 0] - shift[index, 0]
                b = reach * local[..., 1] - shift[index, 1]
                if patches.disc[index]:
                    inside = (a - 0.5) ** 2 + (b - 0.5) ** 2 <= 0.25
                else:
                    inside = (a >= 0) & (a <= 1) & (b >= 0) & (b <= 1)
                nearer = inside & (reach > 0.05) & (reach < distance[window])
                np.copyto(distance[window], reach, where=nearer)
                hit[window][nearer] = index
    return distance, hit


def _windows(
    patches: Patches, position: np.ndarray, rows: int, columns: int, step: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return bounds of the rays that can meet each patch: rows [low, high), columns [left, right).

    `left` lies in 0..columns; columns from `columns` on are to be taken modulo it.
    """
    corners = patches.origin[:, None] + np.stack(
        [0 * patches.u, patches.u, patches.u + patches.v, patches.v], axis=1
    )
    local = corners - position
    near, far, around = _flat_distances(local[..., :2])
    lowest, highest = local[..., 2].min(1), local[..., 2].max(1)
    bottom = np.arctan2(lowest, np.where(lowest < 0, near, far))
    top = np.arctan2(highest, np.where(highest > 0, near, far))
    low = np.clip(np.floor((bottom - LOWEST) / step) - 1, 0, rows).astype(int)
    high = np.clip(np.ceil((top - LOWEST) / step) + 1, 0, rows).astype(int)
    middle = np.arctan2(local[..., 1].mean(1), local[..., 0].mean(1))
    turn = np.arctan2(local[..., 1], local[..., 0]) - middle[:, None]
    turn = (turn + np.pi) % (2 * np.pi) - np.pi
    width = 2 * np.pi / columns
    left = np.floor((middle + turn.min(1)) / width).astype(int) - 1
    right = np.ceil((middle + turn.max(1)) / width).astype(int) + 1
    everywhere = around | (right - left >= columns)
    start = np.where(everywhere, 0, left % columns)
    return low, high, start, start + np.where(everywhere, columns, right - left)


def _flat_distances(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the nearest and farthest horizontal distance from the origin to quads (P, 4, 2).

    The third array says which of them have the origin inside; their nearest distance is 0.
    """
    edge = np.roll(corners, -1, axis=1) - corners
    along = -(corners * edge).sum(2) / np.maximum((edge**2).sum(2), 1e-12)
    foot = corners + np.clip(along, 0, 1)[..., None] * edge
    near = np.sqrt((foot**2).sum(2)).min(1)
    side = edge[..., 0] * -corners[..., 1] - edge[..., 1] * -corners[..., 0]
    inside = (side > 1e-9).all(1) | (side < -1e-9).all(1)
    return np.where(inside, 0.0, near), np.sqrt((corners**2).sum(2)).max(1), inside


def _measure(
    patches: Patches,
    position: np.ndarray,
    hit: np.ndarray,
    ray: np.ndarray,
    reach: np.ndarray,
    lighting: Lighting,
    rng: np.random.Generator,
) -> Points:
    """Turn echoes into noisy, coloured points."""
    pos = position + ray * reach[:, None]
    cosine = (patches.normal[hit] * ray).sum(1, keepdims=True)
    normal = patches.normal[hit] * -np.sign(cosine)
    material = patches.material[hit]
    s, t = surface_axes(pos, normal)
    color = surface_color(material, s, t).astype(np.float64)
    color *= lighting.shade(pos, normal)[:, None]
    color *= rng.uniform(0.8, 1.1) * rng.uniform(0.92, 1.08, 3)  # exposure and white balance
    color += rng.normal(0, 0.02, color.shape)
    bumps = value_noise(s / 0.12, t / 0.12, material["seed"]) - 0.5
    pos += normal * (material["relief"] * bumps)[:, None]
    sigma = (0.001 + 0.0007 * reach[:, None]) / np.sqrt(np.maximum(np.abs(cosine), 0.2))
    pos += ray * rng.normal(0, 1, len(ray))[:, None] * sigma
    pos += rng.normal(0, 0.0008, pos.shape) + rng.normal(0, 0.0015, 3)  # lateral; registration
    rgb = np.clip(np.rint(255 * color), 0, 255).astype(np.uint8)
    return Points(pos, rgb, patches.object[hit])
