"""Parametric furniture: tables, chairs, sofas, bookcases and boards.

Each function adds one object at a frame: x to its right, y forward (the side that one sits at or
looks at), z up, the origin on the floor at the middle of its back edge unless said otherwise.
Sizes are metres.
"""

from __future__ import annotations

import math

import numpy as np

from .scene import Frame, Material, Part, Scene
from .surface import material


def add_table(
    scene: Scene,
    frame: Frame,
    width: float,
    depth: float,
    height: float,
    rng: np.random.Generator,
    *,
    is_round: bool = False,
) -> None:
    """Add a table with legs, side panels or a pedestal, sometimes with drawers."""
    part = scene.add("table", frame)
    top = material("furniture", rng)
    below = top if rng.random() < 0.5 else material("metal", rng)
    thick = rng.uniform(0.022, 0.05)
    if is_round:
        radius = min(width, depth) / 2
        part.cylinder((0, depth / 2, height - thick), radius, thick, top, facets=16)
        part.cylinder((0, depth / 2, 0.03), 0.04, height - thick - 0.03, below)
        part.cylinder((0, depth / 2, 0), radius * 0.55, 0.03, below, facets=12)
        return
    part.box((-width / 2, 0, height - thick), (width / 2, depth, height), top)
    _add_support(part, width, depth, height - thick, below, rng)
    if height > 0.6 and rng.random() < 0.4:
        side = rng.choice((-1, 1)) * (width / 2 - 0.25)
        part.box((side - 0.2, 0.05, 0.1), (side + 0.2, depth - 0.08, height - thick), top)


def _add_support(
    part: Part, width: float, depth: float, height: float, look: Material, rng: np.random.Generator
) -> None:
    if rng.random() < 0.3:
        for x in (-width / 2 + 0.03, width / 2 - 0.06):
            part.box((x, 0.02, 0), (x + 0.03, depth - 0.02, height), look)
        part.box((-width / 2 + 0.06, 0.1, 0.3), (width / 2 - 0.06, 0.12, height), look)
        return
    half = rng.uniform(0.018, 0.035)
    for x in (-width / 2 + 0.06, width / 2 - 0.06):
        for y in (0.06, depth - 0.06):
            part.box((x - half, y - half, 0), (x + half, y + half, height), look)


def add_chair(scene: Scene, frame: Frame, rng: np.random.Generator) -> None:
    """Add a chair; the origin is the middle of its seat on the floor."""
    part = scene.add("chair", frame)
    width, seat = rng.uniform(0.42, 0.52), rng.uniform(0.42, 0.5)
    look = material("fabric" if rng.random() < 0.6 else "furniture", rng)
    metal = material("metal", rng)
    thick = rng.uniform(0.03, 0.09)
    w = width / 2
    part.box((-w, -w, seat - thick), (w, w, seat), look)
    _add_chair_back(part, w, seat, look, rng)
    if rng.random() < 0.5:
        _add_swivel(part, seat - thick, metal)
    else:
        _add_legs(part, w, seat - thick, metal)
    if rng.random() < 0.4:
        for x in (-w - 0.05, w):
            part.box((x, -w + 0.05, seat + 0.17), (x + 0.05, w - 0.08, seat + 0.2), metal)
            part.box((x + 0.01, -0.03, seat - thick), (x + 0.04, 0.03, seat + 0.17), metal)


def _add_chair_back(
    part: Part, w: float, seat: float, look: Material, rng: np.random.Generator
) -> None:
    height, lean = rng.uniform(0.35, 0.6), rng.uniform(0.03, 0.12)
    gap = rng.choice((0.0, 0.12))
    part.slab(
        (-w, -w - lean * gap, seat + gap),
        (2 * w, 0, 0),
        (0, 0.05, 0),
        (0, -lean, height - gap),
        look,
    )
    if gap:
        part.box((-0.04, -w, seat - 0.03), (0.04, -w + 0.03, seat + gap), look)


def _add_swivel(part: Part, height: float, look: Material) -> None:
    part.cylinder((0, 0, 0.08), 0.03, height - 0.08, look)
    for turn in np.linspace(0, 2 * math.pi, 6)[:-1]:
        arm = Part(part.scene, part.index, part.frame.at(0, 0, 0, float(turn)))
        arm.box((0, -0.025, 0.05), (0.28, 0.025, 0.09), look)
        arm.cylinder((0.27, 0, 0), 0.03, 0.05, look, facets=6)


def _add_legs(part: Part, w: float, height: float, look: Material) -> None:
    for x in (-w + 0.02, w - 0.05):
        for y in (-w + 0.02, w - 0.05):
            part.box((x, y, 0), (x + 0.03, y + 0.03, height), look)


def add_sofa(scene: Scene, frame: Frame, width: float, rng: np.random.Generator) -> None:
    """Add a sofa (or an armchair, if narrow) of 0.8 to 0.95 m depth."""
    part = scene.add("sofa", frame)
    look = material("fabric", rng)
    depth, seat = rng.uniform(0.8, 0.95), rng.uniform(0.38, 0.46)
    back, arm = rng.uniform(0.72, 0.95), rng.uniform(0.1, 0.24)
    base = rng.uniform(0.03, 0.12)
    x = width / 2
    part.box((-x, 0, base), (x, depth, seat - 0.14), look)
    part.slab((-x, 0, base), (2 * x, 0, 0), (0, 0.2, 0), (0, -0.05, back - base), look)
    for side in (-x, x - arm):
        part.box((side, 0, base), (side + arm, depth, seat + rng.uniform(0.12, 0.2)), look)
    cushions = max(1, round((width - 2 * arm) / 0.65))
    step = (width - 2 * arm) / cushions
    for i in range(cushions):
        low = -x + arm + i * step
        part.box((low + 0.01, 0.18, seat - 0.14), (low + step - 0.01, depth, seat), look)
        rise = rng.uniform(-0.04, 0.04)
        part.box((low + 0.02, 0.12, seat), (low + step - 0.02, 0.32, back + rise), look)


def add_bookcase(
    scene: Scene, frame: Frame, width: float, depth: float, height: float, rng: np.random.Generator
) -> None:
    """Add a bookcase with shelves, books on most of them, sometimes doors below."""
    part = scene.add("bookcase", frame)
    look = material("furniture", rng)
    w, board = width / 2, 0.022
    for x in (-w, w - board):
        part.box((x, 0, 0), (x + board, depth, height), look)
    part.sheet((-w, 0.01, 0), (width, 0, 0), (0, 0, height), look)
    count = max(2, round(height / rng.uniform(0.3, 0.42)))
    levels = np.linspace(0.06, height - board, count + 1)
    for z in levels:
        part.box((-w + board, 0, z), (w - board, depth, z + board), look)
    closed = 1 if rng.random() < 0.25 else 0
    for z, above in zip(levels[closed:], levels[closed + 1 :], strict=False):
        _add_books(part, w - board, depth, z + board, above - z - board, rng)
    if closed:
        part.box((-w, depth, 0.06), (w, depth + 0.02, levels[1]), look)


def _add_books(
    part: Part, w: float, depth: float, z: float, room: float, rng: np.random.Generator
) -> None:
    """Fill one shelf from the left with rows of books and gaps between them."""
    x = -w
    while x < w - 0.08:
        run = float(min(rng.uniform(0.1, 0.5), w - x))
        if rng.random() < 0.75:
            tall = rng.uniform(0.55, 0.92) * room
            deep = rng.uniform(0.5, 0.92) * depth
            part.box((x, 0.02, z), (x + run, deep, z + tall), material("books", rng))
        x += run


def add_board(
    scene: Scene, frame: Frame, width: float, low: float, high: float, rng: np.random.Generator
) -> None:
    """Add a board on a wall; the origin is on the wall at floor level, at the board's middle."""
    part = scene.add("board", frame)
    look, rim = material("board", rng), material("frame", rng)
    w, thick = width / 2, rng.uniform(0.012, 0.035)
    part.box((-w, 0, low), (w, thick, high), look)
    edge = 0.025
    for x in (-w - edge, w):
        part.box((x, 0, low - edge), (x + edge, thick + 0.008, high + edge), rim)
    for z in (low - edge, high):
        part.box((-w, 0, z), (w, thick + 0.008, z + edge), rim)
    if rng.random() < 0.6:
        part.box((-w * 0.8, 0, low - edge - 0.01), (w * 0.8, 0.08, low - edge), rim)
