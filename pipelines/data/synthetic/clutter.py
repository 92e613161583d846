"""Clutter: what stands on tables and floors and hangs on walls and ceilings of a real room.

Each function adds one object of the class `clutter` at a frame whose origin it stands on or, for
what hangs on a wall, whose y points into the room. Sizes are metres.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .scene import Frame, Part, Scene
from .surface import material

Adder = Callable[[Scene, Frame, np.random.Generator], None]


def _clutter(scene: Scene, frame: Frame) -> Part:
    return scene.add("clutter", frame)


def add_monitor(scene: Scene, frame: Frame, rng: np.random.Generator) -> None:
    """Add a screen on a foot, facing y."""
    part = _clutter(scene, frame)
    look = material("screen", rng)
    w, h, lift = rng.uniform(0.2, 0.32), rng.uniform(0.28, 0.4), rng.uniform(0.08, 0.15)
    part.box((-0.12, -0.08, 0), (0.12, 0.1, 0.015), look)
    part.box((-0.03, -0.03, 0), (0.03, 0, lift + 0.1), look)
    part.box((-w, 0, lift), (w, 0.03, lift + h), look)


def add_computer(scene: Scene, frame: Frame, rng: np.random.Generator) -> None:
    """Add an upright computer case."""
    look = material("thing", rng)
    _clutter(scene, frame).box((-0.1, -0.22, 0), (0.1, 0.22, rng.uniform(0.38, 0.48)), look)


def add_keyboard(scene: Scene, frame: Frame, rng: np.random.Generator) -> None:
    """Add a keyboard or an open laptop."""
    part = _clutter(scene, frame)
    look = material("screen", rng)
    part.box((-0.2, -0.08, 0), (0.2, 0.1, 0.022), look)
    if rng.random() < 0.4:
        part.slab((-0.2, -0.1, 0.01), (0.4, 0, 0), (0, 0.012, 0), (0, -0.06, 0.24), look)


def add_papers(scene: Scene, frame: Frame, rng: np.random.Generator) -> None:
    """Add a pile of papers or books, each turned a little."""
    index = _clutter(scene, frame).index
    z = 0.0
    for _ in range(int(rng.integers(1, 5))):
        pile = Part(scene, index, frame.at(0, 0, z, rng.normal(0, 0.2)))
        thick = rng.uniform(0.01, 0.05)
        pile.box((-0.11, -0.15, 0), (0.11, 0.15, thick), material("thing", rng))
        z += thick


def add_cup(scene: Scene, frame: Frame, rng: np.random.Generator) -> None:
    """Add a cup, a bottle or a vase."""
    radius, height = rng.uniform(0.03, 0.06), rng.uniform(0.09, 0.3)
    _clutter(scene, frame).cylinder((0, 0, 0), radius, height, material("thing", rng))


def add_crate(scene: Scene, frame: Frame, rng: np.random.Generator) -> None:
    """Add one or two cardboard boxes on top of each other."""
    part = _clutter(scene, frame)
    w, d, h = rng.uniform(0.12, 0.24), rng.uniform(0.12, 0.2), rng.uniform(0.18, 0.4)
    part.box((-w, -d, 0), (w, d, h), material("thing", rng))
    if rng.random() < 0.4:
        top = Part(scene, part.index, frame.at(0, 0, h, rng.normal(0, 0.3)))
        top.box((-w * 0.8, -d * 0.8, 0), (w * 0.8, d * 0.8, h * 0.7), material("thing", rng))


def add_bin(scene: Scene, frame: Frame, rng: np.random.Generator) -> None:
    """Add a waste-paper bin."""
    radius, height = rng.uniform(0.12, 0.2), rng.uniform(0.28, 0.65)
    _clutter(scene, frame).cylinder((0, 0, 0), radius, height, material("thing", rng), facets=12)


def add_plant(scene: Scene, frame: Frame, rng: np.random.Generator) -> None:
    """Add a plant: a pot and leaves at all angles."""
    part = _clutter(scene, frame)
    pot = rng.uniform(0.2, 0.4)
    part.cylinder((0, 0, 0), 0.14, pot, material("thing", rng), facets=10)
    green = material("plant", rng)
    reach = rng.uniform(0.25, 0.4)
    for _ in range(int(rng.integers(14, 26))):
        turn, rise = rng.uniform(0, 2 * math.pi), rng.uniform(0.1, 1.0)
        out = reach * rng.uniform(0.2, 1.0)
        u = (0.12 * math.cos(turn), 0.12 * math.sin(turn), rng.uniform(-0.06, 0.1))
        v = (-0.05 * math.sin(turn), 0.05 * math.cos(turn), rng.uniform(-0.02, 0.02))
        center = (out * math.cos(turn), out * math.sin(turn), pot + 0.9 * rise)
        part.leaf(center, u, v, green)
    part.cylinder((0, 0, pot), 0.02, 0.7, green, facets=5)


def add_bag(scene: Scene, frame: Frame, rng: np.random.Generator) -> None:
    """Add a bag or a backpack on the floor."""
    w, d, h = rng.uniform(0.15, 0.22), rng.uniform(0.08, 0.13), rng.uniform(0.3, 0.48)
    part = _clutter(scene, frame)
    part.slab((-w, -d, 0), (2 * w, 0, 0), (0, 2 * d, 0), (0, 0.06, h), material("fabric", rng))


def add_cabinet(scene: Scene, frame: Frame, rng: np.random.Generator) -> None:
    """Add a filing cabinet, a printer or a cooler: a big body with ledges."""
    part = _clutter(scene, frame)
    look = material("furniture" if rng.random() < 0.5 else "thing", rng)
    w, d, h = rng.uniform(0.2, 0.4), rng.uniform(0.2, 0.32), rng.uniform(0.6, 1.4)
    part.box((-w, -d, 0), (w, d, h), look)
    trim = material("metal", rng)
    for z in np.arange(0.25, h, rng.uniform(0.22, 0.4)):
        part.box((-w * 0.6, d, z), (w * 0.6, d + 0.03, z + 0.03), trim)


def add_lamp(scene: Scene, frame: Frame, rng: np.random.Generator) -> None:
    """Add a standing lamp."""
    part = _clutter(scene, frame)
    metal, height = material("metal", rng), rng.uniform(1.3, 1.75)
    part.cylinder((0, 0, 0), 0.14, 0.03, metal, facets=10)
    part.cylinder((0, 0, 0.03), 0.015, height, metal, facets=5)
    part.cylinder((0, 0, height - 0.1), 0.18, 0.28, material("thing", rng), facets=12)


def add_picture(scene: Scene, frame: Frame, rng: np.random.Generator) -> None:
    """Add a picture, a poster or a television on a wall."""
    part = _clutter(scene, frame)
    w, h, low = rng.uniform(0.2, 0.6), rng.uniform(0.3, 0.8), rng.uniform(1.0, 1.4)
    look = material("screen" if rng.random() < 0.4 else "thing", rng)
    part.box((-w, 0, low), (w, rng.uniform(0.006, 0.06), low + h), look)


def add_radiator(scene: Scene, frame: Frame, rng: np.random.Generator) -> None:
    """Add a radiator low on a wall."""
    part = _clutter(scene, frame)
    look, w = material("structure", rng), rng.uniform(0.3, 0.6)
    for x in np.arange(-w, w, 0.08):
        part.box((x, 0.04, 0.12), (x + 0.06, 0.12, 0.6), look)


def add_fixture(scene: Scene, frame: Frame, rng: np.random.Generator) -> None:
    """Add a switch, a clock or a fire extinguisher on a wall."""
    part = _clutter(scene, frame)
    if rng.random() < 0.5:
        part.cylinder((0, 0.09, 0.9), 0.08, 0.45, material("thing", rng), facets=10)
    else:
        low = rng.uniform(1.1, 2.1)
        part.box((-0.12, 0, low), (0.12, 0.04, low + 0.22), material("thing", rng))


def add_ceiling_lamp(scene: Scene, frame: Frame, rng: np.random.Generator) -> None:
    """Add a lamp, a vent or a projector under the ceiling; the origin lies on the ceiling."""
    part = _clutter(scene, frame)
    look = material("thing", rng)
    if rng.random() < 0.6:
        part.box((-0.6, -0.1, -rng.uniform(0.05, 0.25)), (0.6, 0.1, -0.01), look)
        return
    drop = rng.uniform(0.15, 0.5)
    part.box((-0.02, -0.02, -drop), (0.02, 0.02, 0), look)
    part.box((-0.17, -0.15, -drop - 0.1), (0.17, 0.15, -drop), look)


ON_TABLE: tuple[Adder, ...] = (add_monitor, add_keyboard, add_papers, add_cup, add_crate)
ON_FLOOR: tuple[Adder, ...] = (
    add_bin,
    add_crate,
    add_bag,
    add_plant,
    add_cabinet,
    add_lamp,
    add_computer,
)
ON_WALL: tuple[Adder, ...] = (add_picture, add_picture, add_radiator, add_fixture)
