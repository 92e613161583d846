"""The parts of a synthetic room that are built in.

They are floor, ceiling, walls, doors, windows, beams and columns. All lengths are metres.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from .plans import Opening, Plan, Wall
from .scene import Frame, Material, Part, Scene, Vector
from .surface import material


def walls(scene: Scene, rng: np.random.Generator, plan: Plan, openings: list[Opening]) -> None:
    """Add floor, ceiling and the walls with their holes."""
    floor, look = scene.add("floor", Frame()), material("floor", rng)
    for x0, y0, x1, y1 in plan.floors:
        floor.sheet((x0, y0, 0), (x1 - x0, 0, 0), (0, y1 - y0, 0), look)
    _build_ceiling(scene.add("ceiling", Frame()), plan, material("ceiling", rng))
    common = material("wall", rng)
    base = material("structure", rng)
    for index, wall in enumerate(plan.walls):
        look = common if rng.random() < 0.75 else material("wall", rng)
        part = scene.add("wall", wall.frame)
        holes = sorted(hole for hole in openings if hole.wall == index)
        _build_wall(part, wall, plan.size[2], holes, look)
        at = 0.0
        for hole in holes:  # the baseboard between the doors
            if hole.z0 == 0:
                part.box((at, 0, 0), (hole.s0 - 0.06, 0.012, 0.08), base)
                at = hole.s1 + 0.06
        part.box((at, 0, 0), (wall.length, 0.012, 0.08), base)


def _build_ceiling(part: Part, plan: Plan, look: Material) -> None:
    """Add the ceiling over the floors, or a slope and the rest."""
    width, depth, height = plan.size
    if plan.slope:
        low, run = plan.slope
        part.sheet((0, 0, low), (run, 0, height - low), (0, depth, 0), look)
        part.sheet((run, 0, height), (width - run, 0, 0), (0, depth, 0), look)
        return
    for x0, y0, x1, y1 in plan.floors:
        part.sheet((x0, y0, height), (x1 - x0, 0, 0), (0, y1 - y0, 0), look)


def _build_wall(
    part: Part, wall: Wall, height: float, holes: list[Opening], look: Material
) -> None:
    """Add the pieces of a wall beside, below and above its holes, and a doorway's reveal."""
    at = 0.0
    for _, s0, z0, s1, z1 in holes:
        part.sheet((at, 0, 0), (s0 - at, 0, 0), (0, 0, height), look)
        part.sheet((s0, 0, z1), (s1 - s0, 0, 0), (0, 0, height - z1), look)
        if z0 > 0:
            part.sheet((s0, 0, 0), (s1 - s0, 0, 0), (0, 0, z0), look)
        if wall.reveal:
            for along in (s0, s1):
                part.sheet((along, 0, 0), (0, -wall.reveal, 0), (0, 0, z1), look)
            part.sheet((s0, 0, z1), (s1 - s0, 0, 0), (0, -wall.reveal, 0), look)
        at = s1
    part.sheet((at, 0, 0), (wall.length - at, 0, 0), (0, 0, height), look)


def door(part: Part, rng: np.random.Generator, opening: Opening) -> None:
    """Build a door into its opening: a frame and a leaf, shut, ajar or open, or no leaf."""
    _, s0, _, s1, z1 = opening
    look = material("door" if rng.random() < 0.8 else "wall", rng)
    frame = look if rng.random() < 0.4 else material("frame", rng)
    deep = rng.uniform(0.08, 0.25)
    _build_surround(part, opening, rng.uniform(0.05, 0.12), deep, frame)
    if s1 - s0 < 1.3 and rng.random() < 0.1:
        return  # the leaf is off its hinges, or out of sight
    angle = rng.choice((0.0, rng.uniform(0.1, 0.6), rng.uniform(1.2, 1.7)), p=(0.5, 0.22, 0.28))
    angle = 0.0 if s1 - s0 > 1.3 else float(angle)  # double doors stay shut
    leaf = part.at(s0, -rng.uniform(0.0, deep - 0.04) if angle == 0 else 0.01, 0.0, angle)
    handle, width = material("metal", rng), s1 - s0
    leaf.box((width - 0.12, -0.1, 1.0), (width - 0.05, 0.06, 1.05), handle)
    if rng.random() < 0.12:  # of glass in a narrow frame
        rim = 0.08
        pane = material("glass", rng)
        leaf.sheet((rim, -0.02, rim), (width - 2 * rim, 0, 0), (0, 0, z1 - 2 * rim), pane)
        for x in (0.0, width - rim):
            leaf.box((x, -0.04, 0.008), (x + rim, 0.0, z1), look)
        for z in (0.008, z1 - rim):
            leaf.box((rim, -0.04, z), (width - rim, 0.0, z + rim), look)
        return
    leaf.box((0.0, -0.04, 0.008), (width, 0.0, z1), look)
    if rng.random() < 0.4:
        _build_panels(leaf, rng, width, z1, look)
    elif rng.random() < 0.4:
        pane = material("glass", rng)
        leaf.sheet((0.2, 0.006, 1.1), (width - 0.4, 0, 0), (0, 0, z1 - 1.3), pane)


def _build_panels(
    leaf: Part, rng: np.random.Generator, width: float, height: float, look: Material
) -> None:
    """Add raised panels, one over another or two beside each other, to both sides of a leaf."""
    rim, proud = rng.uniform(0.09, 0.14), rng.uniform(0.008, 0.02)
    columns = np.linspace(rim / 2, width - rim / 2, int(rng.integers(1, 3)) + 1)
    rows = np.linspace(rim / 2, height - rim / 2, int(rng.integers(2, 4)) + 1)
    for left, right in pairwise(columns.tolist()):
        for low, high in pairwise(rows.tolist()):
            start, end = (left + rim / 2, low + rim / 2), (right - rim / 2, high - rim / 2)
            leaf.box((start[0], -0.04 - proud, start[1]), (end[0], proud, end[1]), look)


def _build_surround(
    part: Part, opening: Opening, border: float, depth: float, look: Material
) -> None:
    """Add the border around an opening, a little proud of the wall and `depth` into it."""
    _, s0, z0, s1, z1 = opening
    front = 0.025
    part.box((s0 - border, -depth, z0), (s0, front, z1 + border), look)
    part.box((s1, -depth, z0), (s1 + border, front, z1 + border), look)
    part.box((s0, -depth, z1), (s1, front, z1 + border), look)
    if z0 > 0:
        part.box((s0 - border, -depth, z0 - border), (s1 + border, 0.1, z0), look)


def window(part: Part, rng: np.random.Generator, opening: Opening) -> None:
    """Build a window into its opening: sill, border, sashes with glass, often a blind."""
    _, s0, z0, s1, z1 = opening
    depth, frame = rng.uniform(0.05, 0.35), material("frame", rng)
    _build_surround(part, opening, 0.05, depth, frame)
    glass = material("glass", rng)
    cross = z0 + (rng.uniform(0.3, 0.8) if rng.random() < 0.5 else 1.0) * (z1 - z0)
    edges = np.linspace(s0, s1, max(1, round((s1 - s0) / rng.uniform(0.5, 1.2))) + 1)
    rim = rng.uniform(0.03, 0.09)
    for left, right in pairwise(edges.tolist()):
        for low, high in ((z0, cross), (cross, z1)):
            if high - low > 2 * rim:
                open_by = rng.uniform(0.1, 1.4) if rng.random() < 0.05 else 0.0
                sash = part.at(left, -depth, low, open_by)
                _build_sash(sash, right - left, high - low, rim, (frame, glass))
    if rng.random() < 0.55:
        drop = rng.uniform(0.1, 1.0) * (z1 - z0)
        blind, at = material("blind", rng), rng.choice((-0.02, 0.04, 0.06 - depth))
        part.sheet((s0, at, z1 - drop), (s1 - s0, 0, 0), (0, 0, drop), blind)


def _build_sash(
    part: Part, width: float, height: float, rim: float, looks: tuple[Material, Material]
) -> None:
    """Add a pane in a frame; the origin is its lower left corner."""
    frame, glass = looks
    part.sheet((rim, 0.01, rim), (width - 2 * rim, 0, 0), (0, 0, height - 2 * rim), glass)
    for x in (0.0, width - rim):
        part.box((x, 0, 0), (x + rim, 0.05, height), frame)
    for z in (0.0, height - rim):
        part.box((rim, 0, z), (width - rim, 0.05, z + rim), frame)


def beam(part: Part, rng: np.random.Generator, length: float, across: float, height: float) -> None:
    """Build a beam under the ceiling, along the wall of `part` or parallel to it in the room."""
    thick = rng.uniform(0.2, 0.6)
    drop = rng.uniform(0.2, max(0.25, min(0.6, height - 2.2)))
    at = 0.0 if rng.random() < 0.4 else rng.uniform(0.15, 0.8) * (across - thick)
    part.box((0, at, height - drop), (length, at + thick, height), material("structure", rng))


def column(part: Part, rng: np.random.Generator, size: Vector) -> None:
    """Build a column from floor to ceiling; the origin lies at the middle of its back."""
    width, depth, height = size
    look = material("structure", rng)
    if rng.random() < 0.3:
        part.cylinder((0, depth / 2, 0), min(width, depth) / 2, height, look, facets=14)
    else:
        part.box((-width / 2, 0, 0), (width / 2, depth, height), look)
