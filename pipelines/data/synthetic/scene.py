"""The geometry of a synthetic room: flat patches in objects, each patch with a material.

Everything is made of parallelograms, flat discs and triangles: a box is six parallelograms, a
cylinder a ring of them and two discs, a cushion 120 triangles. Coordinates are metres in the room's
frame: x and y from the room's corner, z from the floor.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

PARALLELOGRAM, ELLIPSE, TRIANGLE = range(3)
Vector = Sequence[float]
Rgb = tuple[float, float, float]


class Material(NamedTuple):
    """How a surface looks: a pattern between two colours (0–1), and how it reflects a laser."""

    texture: str
    first: Rgb
    second: Rgb
    scale: float  # the pattern's size, m
    relief: float = 0.0  # the amplitude of the bumps, m
    dropout: float = 0.0  # the fraction of rays without an echo (glass)
    seed: int = 0


MATERIAL = [
    *(("texture", "U8"), ("first", "f4", 3), ("second", "f4", 3), ("scale", "f4")),
    *(("relief", "f8"), ("dropout", "f8"), ("seed", "u4")),
]  # as a row of an array


@dataclass(frozen=True)
class Frame:
    """A local frame in the room: its origin and its rotation about the vertical, in radians."""

    x: float = 0.0
    y: float = 0.0
    z: float = 0.0
    yaw: float = 0.0

    def at(self, x: float, y: float, z: float = 0.0, yaw: float = 0.0) -> Frame:
        """Return the frame that lies at (x, y, z) of this one, rotated by `yaw`."""
        px, py, pz = self.point((x, y, z))
        return Frame(px, py, pz, self.yaw + yaw)

    def point(self, local: Vector) -> tuple[float, float, float]:
        """Return the room coordinates of a local point."""
        dx, dy, dz = self.vector(local)
        return self.x + dx, self.y + dy, self.z + dz

    def vector(self, local: Vector) -> tuple[float, float, float]:
        """Return a local direction as a direction of the room."""
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        return cos * local[0] - sin * local[1], sin * local[0] + cos * local[1], local[2]


@dataclass(frozen=True)
class Patches:
    """The patches of a scene as arrays: the points `origin + a·u + b·v` for a, b in [0, 1]."""

    origin: np.ndarray  # (P, 3) float64
    u: np.ndarray  # (P, 3)
    v: np.ndarray  # (P, 3)
    shape: np.ndarray  # (P,) uint8: PARALLELOGRAM, ELLIPSE inside it, TRIANGLE with a + b ≤ 1
    solid: np.ndarray  # (P,) bool: visible only from the side that u × v points to
    material: np.ndarray  # (P,) of the columns MATERIAL
    object: np.ndarray  # (P,) int64, index into Scene.objects

    @property
    def normal(self) -> np.ndarray:
        """The unit normals, (P, 3)."""
        normal = np.cross(self.u, self.v)
        return normal / np.linalg.norm(normal, axis=1, keepdims=True)


class Scene:
    """A room being built: objects with their class, patches and materials."""

    def __init__(self) -> None:
        self.objects: list[str] = []  # their classes
        self.corners: list[tuple[Vector, Vector, Vector]] = []  # of each patch: origin, u, v
        self.materials: list[Material] = []  # of each patch
        self.flags: list[tuple[int, bool, int]] = []  # of each patch: shape, solid, object
        self.meshes: list[Patches] = []

    def add(self, class_name: str, frame: Frame) -> Part:
        """Start an object of a class; its shapes are added in the coordinates of `frame`."""
        self.objects.append(class_name)
        return Part(self, len(self.objects) - 1, frame)

    def patches(self) -> Patches:
        """Return all patches as arrays, sorted by object."""
        origin, u, v = np.array(self.corners, np.float64).reshape(-1, 3, 3).transpose(1, 0, 2)
        shape, solid, owner = np.array(self.flags, np.int64).reshape(-1, 3).T
        material = np.array(self.materials, MATERIAL)
        flat = Patches(origin, u, v, shape.astype(np.uint8), solid.astype(bool), material, owner)
        parts = [flat, *self.meshes]
        order = np.argsort(np.concatenate([part.object for part in parts]), kind="stable")
        names = [item.name for item in fields(Patches)]
        whole = (np.concatenate([getattr(part, name) for part in parts]) for name in names)
        return Patches(*(values[order] for values in whole))


@dataclass(frozen=True)
class Part:
    """One object of a scene, and the shapes that can be added to it."""

    scene: Scene
    index: int
    frame: Frame

    def at(self, x: float, y: float, z: float = 0.0, yaw: float = 0.0) -> Part:
        """Return the same object in a frame at (x, y, z) of this one, rotated by `yaw`."""
        return replace(self, frame=self.frame.at(x, y, z, yaw))

    def sheet(self, origin: Vector, u: Vector, v: Vector, material: Material) -> None:
        """Add a thin parallelogram that is seen from both sides."""
        self._patch(origin, u, v, material, solid=False)

    def box(self, low: Vector, high: Vector, material: Material) -> None:
        """Add the box between two opposite corners, along the axes of the frame."""
        x, y, z = (b - a for a, b in zip(low, high, strict=True))
        self.slab(low, (x, 0, 0), (0, y, 0), (0, 0, z), material)

    def slab(self, origin: Vector, u: Vector, v: Vector, w: Vector, material: Material) -> None:
        """Add the solid spanned by u, v, w (right-handed) at `origin`."""
        for start, first, second in (
            (origin, v, u),
            (_add(origin, w), u, v),
            (origin, u, w),
            (_add(origin, v), w, u),
            (origin, w, v),
            (_add(origin, u), v, w),
        ):
            self._patch(start, first, second, material, solid=True)

    def cylinder(
        self, center: Vector, radius: float, height: float, material: Material, facets: int = 8
    ) -> None:
        """Add an upright cylinder: `center` is the middle of its base."""
        turn = np.linspace(0.0, 2 * math.pi, facets + 1)
        ring = [(radius * math.cos(a), radius * math.sin(a), 0.0) for a in turn]
        for start, end in itertools.pairwise(ring):
            edge = (end[0] - start[0], end[1] - start[1], 0.0)
            self._patch(_add(center, start), edge, (0, 0, height), material, solid=True)
        self.disc(_add(center, (0, 0, height)), radius, material)
        self.disc(center, radius, material)

    def disc(self, center: Vector, radius: float, material: Material) -> None:
        """Add a thin horizontal disc."""
        self.leaf(center, (radius, 0, 0), (0, radius, 0), material)

    def leaf(self, center: Vector, u: Vector, v: Vector, material: Material) -> None:
        """Add a thin ellipse with the half axes u and v."""
        corner = [c - a - b for c, a, b in zip(center, u, v, strict=True)]
        self._patch(corner, _add(u, u), _add(v, v), material, solid=False, shape=ELLIPSE)

    def cushion(
        self,
        origin: Vector,
        u: Vector,
        v: Vector,
        w: Vector,
        material: Material,
        bulge: float = 0.5,
    ) -> None:
        """Add a rounded solid inside that of `slab`: a box at bulge 0, an ellipsoid at 1."""
        axes = np.array([u, v, w], np.float64)
        triangles = _superellipsoid(round(bulge, 1)) @ axes + np.array(origin)
        rows = np.repeat(np.array([tuple(material)], MATERIAL), len(triangles))
        self.mesh(triangles, rows, solid=True)

    def mesh(self, triangles: np.ndarray, material: np.ndarray, *, solid: bool = False) -> None:
        """Add triangles (T, 3, 3), m, of materials (T,), see MATERIAL, seen from both sides.

        Those of a `solid` are seen from outside; their corners go around to the left.
        """
        cos, sin = math.cos(self.frame.yaw), math.sin(self.frame.yaw)
        corners = triangles.astype(np.float64) @ ((cos, sin, 0), (-sin, cos, 0), (0, 0, 1))
        corners += (self.frame.x, self.frame.y, self.frame.z)
        origin, u, v = (corners - corners[:, :1] * ((0,), (1,), (1,))).swapaxes(0, 1)
        kept = np.linalg.norm(np.cross(u, v), axis=1) > 1e-7  # m²: thinner ones have no normal
        count = int(kept.sum())
        shape, owner = np.full(count, TRIANGLE, np.uint8), np.full(count, self.index)
        seen = np.full(count, solid)
        mesh = Patches(origin[kept], u[kept], v[kept], shape, seen, material[kept], owner)
        self.scene.meshes.append(mesh)

    def _patch(
        self,
        origin: Vector,
        u: Vector,
        v: Vector,
        material: Material,
        *,
        solid: bool,
        shape: int = PARALLELOGRAM,
    ) -> None:
        turn = self.frame.vector
        self.scene.corners.append((self.frame.point(origin), turn(u), turn(v)))
        self.scene.materials.append(material)
        self.scene.flags.append((shape, solid, self.index))


@lru_cache
def _superellipsoid(exponent: float) -> np.ndarray:
    """Return the triangles (T, 3, 3) of a superellipsoid in the unit cube.

    Reference:
        Barr, Superquadrics and angle-preserving transformations, IEEE CG&A 1981.
    """
    around = np.linspace(-math.pi, math.pi, 13)
    rise = np.linspace(-math.pi / 2, math.pi / 2, 7)[:, None]

    def power(wave: np.ndarray) -> np.ndarray:
        return np.sign(wave) * np.abs(wave) ** exponent

    flat = power(np.cos(rise))
    x, y = flat * power(np.cos(around)), flat * power(np.sin(around))
    grid = 0.5 + 0.5 * np.stack([x, y, power(np.sin(rise)) + 0 * x], axis=2)
    a, b, c, d = grid[:-1, :-1], grid[:-1, 1:], grid[1:, 1:], grid[1:, :-1]
    return np.stack([a, b, c, a, c, d], axis=2).reshape(-1, 3, 3)


def _add(a: Vector, b: Vector) -> tuple[float, float, float]:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]
