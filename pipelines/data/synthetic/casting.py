"""The nearest surface along the rays of a pinhole view: a z-buffer over patches.

A patch is tried only with the pixels that its corners' projections bound, and objects outside the
view not at all, so a view of 10,000 rays in a room of 5,000 patches takes about a millisecond.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from .scene import ELLIPSE, TRIANGLE, Patches

NEAR = 0.05  # m: nothing nearer is seen


@dataclass(frozen=True)
class View:
    """A pinhole camera: where it stands, its axes and its image."""

    position: np.ndarray  # (3,) m
    axes: np.ndarray  # (3, 3): unit vectors to the right, down and forward
    focal: float  # pixels
    width: int  # pixels
    height: int

    def rays(self, rng: np.random.Generator) -> np.ndarray:
        """Return a ray through a random place of each pixel, (height, width, 3) float32.

        Their component along the view's axis is 1, so a distance along them is a depth.
        """
        jitter = rng.random((2, self.height, self.width), dtype=np.float32)
        x = (np.arange(self.width, dtype=np.float32) + jitter[0] - self.width / 2) / self.focal
        y = np.arange(self.height, dtype=np.float32)[:, None] + jitter[1] - self.height / 2
        local = np.stack([x, y / np.float32(self.focal), np.ones_like(x)], axis=2)
        return local @ self.axes.astype(np.float32)


class Caster:
    """The patches of a scene, prepared for any number of views.

    `normal` has the patches' unit normals, (P, 3) float64.
    """

    def __init__(self, patches: Patches) -> None:
        self.patches, self.normal = patches, patches.normal
        basis = np.stack([patches.u, patches.v, self.normal], axis=1)
        self._solve = np.linalg.inv(basis).astype(np.float32)  # x @ solve: along u, v, normal
        across = np.where(patches.shape == TRIANGLE, 0.0, 1.0)[:, None] * patches.v
        steps = [0 * patches.u, patches.u, patches.u + across, patches.v]
        self._corners = patches.origin[:, None] + np.stack(steps, axis=1)  # (P, 4, 3)
        self._facing = np.cross(patches.u, patches.v)
        starts = np.flatnonzero(np.diff(patches.object, prepend=-1))
        self._bounds = np.append(starts, len(patches.object))  # of the objects' patches
        low = np.minimum.reduceat(self._corners.min(1), starts)
        high = np.maximum.reduceat(self._corners.max(1), starts)
        radius = np.linalg.norm(high - low, axis=1, keepdims=True) / 2
        self._spheres = np.hstack([(low + high) / 2, radius])  # around the objects

    def cast(self, view: View, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find the nearest patch along each ray of a view.

        Returns the depth (height, width) float32, m, infinite where nothing is hit, and the patch
        (height, width) int32, -1 where nothing is hit.
        """
        depth = np.full(rays.shape[:2], np.inf, np.float32)
        hit = np.full(rays.shape[:2], -1, np.int32)
        offset = self.patches.origin - view.position
        geometry = (self._solve, self.patches.shape, self._corners, self._facing)
        camera = (view.axes, view.axes @ view.position, float(view.focal))
        objects = (self._bounds, self._spheres)
        _cast(rays, *geometry, self.patches.solid, offset, *objects, *camera, depth, hit)
        return depth, hit


@njit(cache=True, nogil=True, error_model="numpy")
def _cast(
    rays, solve, shape, corners, facing, solid, offset, bounds, spheres, axes, at, focal, depth, hit
):
    local = np.empty((4, 3))
    for number in range(len(spheres)):
        if not _in_view(spheres[number], axes, at, focal, depth.shape):
            continue
        for p in range(bounds[number], bounds[number + 1]):
            o, n = offset[p], facing[p]
            if solid[p] and o[0] * n[0] + o[1] * n[1] + o[2] * n[2] >= 0:
                continue  # it turns its back
            for corner in range(4):
                _turn(corners[p, corner], axes, at, local[corner])
            window = _window(local, focal, depth.shape)
            if window[0] < window[1] and window[2] < window[3]:
                _fill(rays, solve[p], shape[p], o, p, depth, hit, window)


@njit(cache=True, nogil=True, error_model="numpy")
def _turn(point, axes, at, local):
    """Put the coordinates of a point in the camera's frame into `local`."""
    for axis in range(3):
        row = axes[axis]
        local[axis] = point[0] * row[0] + point[1] * row[1] + point[2] * row[2] - at[axis]


@njit(cache=True, nogil=True, error_model="numpy")
def _in_view(sphere, axes, at, focal, shape):
    """Return whether a sphere (x, y, z, radius) may be seen in an image of a shape."""
    local = np.empty(3)
    _turn(sphere, axes, at, local)
    radius, z = sphere[3], local[2]
    if z < -radius:
        return False
    for axis in range(2):
        slope = shape[1 - axis] / 2 / focal
        if abs(local[axis]) > z * slope + radius * np.sqrt(1 + slope**2):
            return False
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def _window(local, focal, shape):
    """Return the pixels that a quad's part in front of the camera may cover.

    They are rows [first, second) and columns [third, fourth); none if a range is empty.
    """
    top, bottom, left, right = 1e6, -1e6, 1e6, -1e6
    for corner in range(4):
        x, y, z = local[corner]
        if z >= NEAR:
            u, v = x / z * focal, y / z * focal
            left, right, top, bottom = min(left, u), max(right, u), min(top, v), max(bottom, v)
        after = local[(corner + 1) % 4]
        if (z >= NEAR) != (after[2] >= NEAR):  # the edge crosses the near plane
            part = (NEAR - z) / (after[2] - z)
            u = (x + part * (after[0] - x)) / NEAR * focal
            v = (y + part * (after[1] - y)) / NEAR * focal
            left, right, top, bottom = min(left, u), max(right, u), min(top, v), max(bottom, v)
    height, width = shape
    return (
        int(max(0.0, top + height / 2)),
        int(min(float(height), bottom + height / 2 + 1)),
        int(max(0.0, left + width / 2)),
        int(min(float(width), right + width / 2 + 1)),
    )


@njit(cache=True, nogil=True, error_model="numpy")
def _fill(rays, solve, shape, offset, patch, depth, hit, window):
    """Write a patch to the pixels of a window where it is the nearest so far."""
    m, o = solve, offset.astype(np.float32)
    a0 = o[0] * m[0, 0] + o[1] * m[1, 0] + o[2] * m[2, 0]
    b0 = o[0] * m[0, 1] + o[1] * m[1, 1] + o[2] * m[2, 1]
    c0 = o[0] * m[0, 2] + o[1] * m[1, 2] + o[2] * m[2, 2]
    half, quarter, one = np.float32(0.5), np.float32(0.25), np.float32(1)
    for row in range(window[0], window[1]):
        for column in range(window[2], window[3]):
            x, y, z = rays[row, column, 0], rays[row, column, 1], rays[row, column, 2]
            reach = c0 / (x * m[0, 2] + y * m[1, 2] + z * m[2, 2])
            if not (NEAR < reach < depth[row, column]):
                continue
            a = reach * (x * m[0, 0] + y * m[1, 0] + z * m[2, 0]) - a0
            b = reach * (x * m[0, 1] + y * m[1, 1] + z * m[2, 1]) - b0
            if shape == ELLIPSE:
                inside = (a - half) ** 2 + (b - half) ** 2 <= quarter
            elif shape == TRIANGLE:
                inside = a >= 0 and b >= 0 and a + b <= one
            else:
                inside = 0 <= a <= one and 0 <= b <= one
            if inside:
                depth[row, column] = reach
                hit[row, column] = patch
