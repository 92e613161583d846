"""What S3DIS has no class for: the furniture of homes, and things in heaps, on hooks and in pipes.

By S3DIS's rules all of it is clutter. As in `furniture`, each function builds one object in the
frame of `part`: x to its right, y forward, z up, the origin on the floor at the middle of its back.
`size` is its width, depth and height in metres.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from .scene import Material, Part, Vector
from .surface import material


def lump(
    part: Part, rng: np.random.Generator, size: Vector | np.ndarray, role: str = "thing"
) -> None:
    """Build a thing of a size around the origin: a box, a pot, a cushion, or one on another."""
    a, b, c = size
    form = rng.choice(("box", "pot", "cushion", "two"), p=(0.35, 0.2, 0.3, 0.15))
    look = material(role, rng)
    if form == "pot":
        part.cylinder((0, 0, 0), min(a, b) / 2, c, look, facets=7)
    elif form == "cushion":
        start, bulge = (-a / 2, -b / 2, 0), rng.uniform(0.3, 1.0)
        part.cushion(start, (a, 0, 0), (0, b, 0), (0, 0, c), look, bulge)
    else:
        high = c * rng.uniform(0.3, 0.8) if form == "two" else c
        part.box((-a / 2, -b / 2, 0), (a / 2, b / 2, high), look)
        if form == "two":
            lump(part.at(0, 0, high, rng.normal(0, 0.3)), rng, (a * 0.7, b * 0.7, c - high), role)


def bed(part: Part, rng: np.random.Generator, size: Vector) -> None:
    """Build a bed with its head at the wall: frame, mattress, a rumpled blanket, pillows."""
    look, cloth = material("furniture", rng), material("fabric", rng)
    (width, length, head), top, low = size, rng.uniform(0.4, 0.6), rng.uniform(0.05, 0.3)
    w = width / 2
    if rng.random() < 0.7:
        part.box((-w, 0, 0), (w, 0.06, head), look)
    part.box((-w, 0.06, low), (w, length, top - 0.15), look)
    sheet, deep = material("fabric", rng), length - 0.08
    part.cushion((-w, 0.06, top - 0.17), (width, 0, 0), (0, deep, 0), (0, 0, 0.19), sheet, 0.2)
    start = rng.uniform(0.3, 0.9)
    over = (-w - 0.04, start, top - 0.25)
    part.cushion(over, (width + 0.08, 0, 0), (0, length - start, 0), (0, 0, 0.33), cloth, 0.2)
    for _ in range(int(rng.integers(2, 7))):  # folds
        a, b, c = rng.uniform((0.3, 0.2, 0.1), (0.9 * width, 0.8, 0.26))
        fold = part.at(rng.uniform(-w, w) * 0.6, rng.uniform(start + 0.2, length - 0.2), top)
        fold.cushion((-a / 2, -b / 2, 0.05 - c / 2), (a, 0, 0), (0, b, 0), (0, 0, c), cloth, 0.9)
    for x in (-w / 2, w / 2) if width > 1.1 else (0.0,):
        pillow(part.at(x, 0.3, top, rng.normal(0, 0.15)), rng)
    if rng.random() < 0.5:
        heap(part.at(rng.uniform(-w, w) * 0.5, rng.uniform(0.9, length - 0.4), top + 0.06), rng)


def pillow(part: Part, rng: np.random.Generator) -> None:
    """Build a pillow around the origin, lying or leaning back."""
    a, b, c = rng.uniform((0.35, 0.3, 0.1), (0.75, 0.5, 0.22))
    lean = rng.choice((0.0, rng.uniform(0.2, 0.8)))
    v, w = (0, b * (1 - lean), b * lean), (0, -c * lean, c * (1 - lean) + 0.02)
    part.cushion((-a / 2, -b / 2, 0), (a, 0, 0), v, w, material("fabric", rng), 0.7)


def wardrobe(part: Part, rng: np.random.Generator, size: Vector) -> None:
    """Build a wardrobe or a chest of drawers: doors or drawers with handles, things on top."""
    look, metal = material("furniture", rng), material("metal", rng)
    width, d, h = size
    w, d = width / 2, d - 0.05
    part.box((-w, 0, 0.06), (w, d, h), look)
    part.box((-w + 0.03, 0, 0), (w - 0.03, d - 0.04, 0.06), look)
    fronts = material("furniture", rng) if rng.random() < 0.3 else look
    rows = max(1, round(h / rng.uniform(0.2, 0.35))) if h < 1.4 else int(rng.integers(1, 3))
    _fronts(part, (-w, d, 0.06), (width, h - 0.06), rows, 0.5, (fronts, metal))
    for x in rng.uniform(-w + 0.1, max(w - 0.1, 0.11 - w), int(rng.integers(0, 5))):
        lump(part.at(x, d / 2, h), rng, rng.uniform((0.1, 0.1, 0.05), (0.4, 0.9 * d, 0.4)))


def closet(part: Part, rng: np.random.Generator, size: Vector) -> None:
    """Build what covers a wall up to its top: doors of a closet, panels, some with pictures on."""
    (width, d, h), look = size, material("furniture" if rng.random() < 0.75 else "wall", rng)
    w, d = width / 2, d - 0.02
    part.box((-w, 0, 0), (w, d, h), look)
    if rng.random() < 0.65:
        looks = look, material("metal", rng)
        _fronts(part, (-w, d, 0.06), (width, h - 0.1), int(rng.integers(1, 3)), 0.6, looks)
    for x in rng.uniform(-w, w, rng.poisson(0.5 * width)):
        a, b, low = rng.uniform((0.1, 0.15, 0.9), (0.4, 0.7, 1.5))
        front, thing = part.at(x, d + 0.02), material("thing", rng)
        front.box((-a, 0, low), (a, rng.uniform(0.005, 0.08), low + b), thing)


def screen(part: Part, rng: np.random.Generator, size: Vector) -> None:
    """Build a partition, a folding screen or the back of a cabinet, with things hung over it."""
    width, d, h = size
    look, panels = material("furniture", rng), max(1, round(width / rng.uniform(0.5, 1.2)))
    for edge in np.linspace(-width / 2, width / 2, panels + 1)[:-1]:
        part.box((edge, 0.02, 0), (edge + width / panels - 0.01, d, h), look)
    for x in rng.uniform(-width / 2, width / 2, rng.poisson(width)):
        a, b = rng.uniform((0.2, 0.2), (0.7, 0.9))
        low = (x - a / 2, d - 0.02, max(0.05, h - b))
        part.cushion(low, (a, 0, 0), (0, 0.1, 0), (0, 0, b), material("fabric", rng), 0.3)


def _fronts(
    part: Part, low: Vector, span: Vector, rows: int, step: float, looks: tuple[Material, Material]
) -> None:
    """Add doors or drawers with handles over a front of `span` (width, height), about `step` m."""
    columns = max(1, round(span[0] / step))
    wide, high = span[0] / columns, span[1] / rows
    for column in range(columns):
        for row in range(rows):
            front = part.at(low[0] + column * wide, low[1], low[2] + row * high)
            front.box((0.008, 0, 0.008), (wide - 0.008, 0.018, high - 0.008), looks[0])
            z = high * 0.7 if rows > 1 else high * 0.45
            front.box((wide * 0.35, 0.018, z), (wide * 0.65, 0.045, z + 0.015), looks[1])


def counter(part: Part, rng: np.random.Generator, size: Vector) -> None:
    """Build a kitchen: cabinets under a worktop and above, a sink, and what stands there."""
    (width, d, _), top = size, rng.uniform(0.84, 0.94)
    w, look, metal = width / 2, material("furniture", rng), material("metal", rng)
    part.box((-w, 0, 0.1), (w, d - 0.03, top - 0.04), look)
    part.box((-w, 0, 0), (w, d - 0.1, 0.1), material("thing", rng))
    part.box((-w, 0, top - 0.04), (w, d, top), material("furniture", rng))
    step = rng.uniform(0.45, 0.62)
    _fronts(
        part, (-w, d - 0.03, 0.1), (width, top - 0.15), int(rng.integers(1, 4)), step, (look, metal)
    )
    sink = part.at(rng.uniform(-w + 0.3, w - 0.3), 0, top)
    sink.box((-0.25, 0.1, -0.001), (0.25, d - 0.1, 0.004), metal)
    sink.box((-0.015, 0.06, 0), (0.015, 0.09, 0.3), metal)
    sink.box((-0.015, 0.06, 0.28), (0.015, 0.28, 0.3), metal)
    for _ in range(int(rng.integers(3, 6 + int(4 * width)))):
        thing = part.at(rng.uniform(-w + 0.1, w - 0.1), rng.uniform(0.16, d - 0.16), top)
        lump(thing, rng, rng.uniform((0.06, 0.06, 0.06), (0.36, 0.28, 0.4)))
    if rng.random() < 0.8:
        low, high, deep = top + rng.uniform(0.4, 0.6), rng.uniform(1.95, 2.3), rng.uniform(0.3, 0.4)
        start = rng.uniform(-w, 0) if rng.random() < 0.4 else -w
        part.box((start, 0, low), (w, deep, high), look)
        _fronts(part, (start, deep, low), (w - start, high - low), 1, step, (look, metal))


def appliance(part: Part, rng: np.random.Generator, size: Vector) -> None:
    """Build a refrigerator or, if it is low, a washing machine."""
    (width, d, h), look = size, material("thing", rng)
    w, d = width / 2, d - 0.08
    part.box((-w, 0, 0), (w, d, h), look)
    if h < 1.2:
        part.box((-w + 0.12, d, 0.2), (w - 0.12, d + 0.03, 0.6), material("screen", rng))
        return
    split = rng.uniform(0.4, 0.7) * h
    part.box((-w, d, 0.05), (w, d + 0.05, split - 0.01), look)
    part.box((-w, d, split), (w, d + 0.05, h), look)
    handle = material("metal", rng)
    part.box((w - 0.08, d + 0.05, split - 0.4), (w - 0.05, d + 0.09, split - 0.05), handle)


def toilet(part: Part, rng: np.random.Generator, size: Vector) -> None:
    """Build a toilet with its cistern."""
    look, high = material("ceiling", rng), size[2]
    part.box((-0.2, 0, 0.4), (0.2, 0.18, high), look)
    part.box((-0.12, 0.1, 0), (0.12, 0.5, 0.3), look)
    part.cylinder((0, 0.42, 0.3), 0.2, 0.1, look, facets=12)


def tub(part: Part, rng: np.random.Generator, size: Vector) -> None:
    """Build a bathtub along the wall."""
    look, (width, d, h), rim = material("ceiling", rng), size, 0.08
    w = width / 2
    for x in (-w, w - rim):
        part.box((x, 0, 0), (x + rim, d, h), look)
    for y in (0.0, d - rim):
        part.box((rim - w, y, 0), (w - rim, y + rim, h), look)
    part.box((-w, 0, 0), (w, d, 0.15), look)


def washstand(part: Part, rng: np.random.Generator, size: Vector) -> None:
    """Build a washbasin on a cabinet or a foot, with a mirror and things around it."""
    look, (width, d, high), metal = material("ceiling", rng), size, material("metal", rng)
    w = width / 2
    part.box((-w, 0, 0.72), (w, d, 0.85), look)
    if rng.random() < 0.5:
        part.box((-w + 0.03, 0.02, 0.1), (w - 0.03, d - 0.04, 0.72), material("furniture", rng))
    else:
        part.box((-0.09, 0.05, 0), (0.09, 0.25, 0.72), look)
    part.box((-0.015, 0.05, 0.85), (0.015, 0.16, 1.0), metal)
    if rng.random() < 0.7:
        part.box((-w, 0, 1.1), (w, 0.02, high), material("glass", rng))
    for x in rng.uniform(-w, w, int(rng.integers(1, 7))):
        lump(part.at(x, 0.1, 0.85), rng, rng.uniform((0.05, 0.05, 0.05), (0.16, 0.14, 0.25)))


def television(part: Part, rng: np.random.Generator, size: Vector) -> None:
    """Build a television on a low cabinet."""
    (width, d, high), dark = size, material("screen", rng)
    w, h, s = width / 2, rng.uniform(0.35, 0.6), min(width / 2.2, (high - 0.4) / 1.15)
    part.box((-w, 0, 0.05), (w, d, h), material("furniture", rng))
    part.box((-0.15, d / 2 - 0.1, h), (0.15, d / 2 + 0.1, h + 0.06), dark)
    part.box((-s, d / 2, h + 0.06), (s, d / 2 + 0.05, h + 0.06 + 1.15 * s), dark)
    for x in rng.uniform(-w + 0.1, w - 0.1, int(rng.integers(0, 6))):
        lump(part.at(x, 0.12, h), rng, rng.uniform((0.05, 0.05, 0.03), (0.3, 0.2, 0.25)))


def curtain(part: Part, rng: np.random.Generator, size: Vector) -> None:
    """Build a curtain in folds; its lower end is the origin's height."""
    cloth, (width, depth, high) = material("curtain", rng), size
    edges = np.append(np.arange(-width / 2, width / 2 - 0.03, rng.uniform(0.06, 0.17)), width / 2)
    for number, (x, end) in enumerate(pairwise(edges)):
        near, fold = (0.05, depth - 0.05) if number % 2 else (depth, 0.05 - depth)
        part.sheet((x, near, 0), (end - x, fold, 0), (0, 0, high), cloth)


def coats(part: Part, rng: np.random.Generator, size: Vector) -> None:
    """Build clothes on a row of hooks; `size` counts from the floor."""
    width, depth, high = size
    part.box((-width / 2, 0, high - 0.1), (width / 2, 0.03, high), material("furniture", rng))
    for x in np.arange(-width / 2 + 0.12, width / 2, rng.uniform(0.13, 0.3)):
        if rng.random() < 0.8:
            coat, w, d = part.at(x, 0.03, 0, rng.normal(0, 0.1)), *rng.uniform(0.08, 0.2, 2)
            low, slim = rng.uniform(0.6, 1.4), rng.uniform(-0.05, 0.05)
            base, up = (-w, 0, low), (slim, 0, high - low - 0.05)
            coat.slab(base, (2 * w, 0, 0), (0, min(d, depth), 0), up, material("fabric", rng))


def shelf(part: Part, rng: np.random.Generator, size: Vector) -> None:
    """Build boards on the wall with small things; the lowest one is at the origin's height."""
    width, depth, high = size
    look, w = material("furniture", rng), width / 2
    for z in np.arange(0.0, high - 0.1, rng.uniform(0.28, 0.4)):
        part.box((-w, 0, z), (w, depth, z + 0.025), look)
        for x in np.arange(-w, w - 0.12, rng.uniform(0.1, 0.2)):
            thing = part.at(x + 0.05, depth / 2, z + 0.025)
            lump(thing, rng, rng.uniform((0.05, 0.05, 0.05), (0.12, 0.9 * depth, 0.25)))


def heap(part: Part, rng: np.random.Generator) -> None:
    """Build a heap of clothes, boxes and toys around the origin."""
    for _ in range(int(rng.integers(3, 10))):
        x, y = rng.normal(0, 0.16, 2)
        role = "fabric" if rng.random() < 0.5 else "thing"
        size = rng.uniform((0.08, 0.08, 0.02), (0.45, 0.45, 0.28))
        lump(part.at(x, y, 0, rng.uniform(0, 3)), rng, size, role)


def jumble(part: Part, rng: np.random.Generator) -> None:
    """Build bottles, boxes and dishes in a group."""
    for _ in range(int(rng.integers(2, 7))):
        x, y = rng.normal(0, 0.1, 2)
        size = rng.uniform((0.05, 0.05, 0.02), (0.18, 0.18, 0.28))
        lump(part.at(x, y, 0, rng.uniform(0, 3)), rng, size)


def towel(part: Part, rng: np.random.Generator) -> None:
    """Build a towel, a coat or a bag on a hook; the origin is on the wall at floor level."""
    a, b, c = rng.uniform((0.2, 0.04, 0.3), (0.6, 0.16, 0.9))
    start = (-a / 2, 0, rng.uniform(1.0, 1.9) - c)
    part.cushion(start, (a, 0, 0), (0, b, 0), (0, 0, c), material("fabric", rng), 0.4)


def hanging(part: Part, rng: np.random.Generator) -> None:
    """Build a cloth, a map or a mirror on a wall; the origin is on the wall at floor level."""
    a, b, role = *rng.uniform((0.6, 0.7), (1.6, 1.5)), str(rng.choice(("fabric", "thing", "glass")))
    low = rng.uniform(0.3, 2.1 - b)
    part.box((-a / 2, 0, low), (a / 2, rng.uniform(0.006, 0.04), low + b), material(role, rng))


def stack(part: Part, rng: np.random.Generator) -> None:
    """Build a stack of boxes, cases or baskets around the origin."""
    top, (a, b) = 0.0, rng.uniform(0.3, 0.6, 2)
    while top < rng.uniform(0.2, 1.4):
        high = rng.uniform(0.12, 0.5)
        lump(part.at(0, 0, top, rng.normal(0, 0.1)), rng, (a, b, high))
        top += high


def draped(part: Part, rng: np.random.Generator) -> None:
    """Build clothes over the back of a chair; the origin is as of `furniture.chair`."""
    a, b, c = rng.uniform((0.35, 0.12, 0.3), (0.55, 0.22, 0.6))
    start = (-a / 2, -0.28 - b / 2, rng.uniform(0.8, 1.0) - c)
    part.cushion(start, (a, 0, 0), (0, b, 0), (0, 0, c), material("fabric", rng), 0.5)


def notes(part: Part, rng: np.random.Generator) -> None:
    """Build sheets of paper pinned to a wall; the origin is on the wall at floor level."""
    for _ in range(int(rng.integers(2, 9))):
        x, z = rng.uniform((-0.5, 1.0), (0.4, 1.9))
        a, b = rng.uniform((0.1, 0.1), (0.3, 0.4))
        part.sheet((x, 0.008, z), (a, 0, 0), (0, 0, b), material("thing", rng))


def rug(part: Part, rng: np.random.Generator, size: Vector) -> None:
    """Build a rug around the origin; it is a part of the floor."""
    width, depth, high = size
    part.box((-width / 2, -depth / 2, 0), (width / 2, depth / 2, high), material("floor", rng))


def duct(part: Part, rng: np.random.Generator, size: Vector) -> None:
    """Build a duct or pipes along a wall; they lie below the origin's height."""
    width, depth, high = size
    if rng.random() < 0.5:
        part.box((-width / 2, 0.02, -high), (width / 2, depth, -0.03), material("structure", rng))
        return
    look = material("metal", rng)
    for y in np.arange(0.03, depth, rng.uniform(0.1, 0.16)):
        thick = rng.uniform(0.03, 0.08)
        part.box((-width / 2, y, -0.06 - thick), (width / 2, y + thick, -0.06), look)
