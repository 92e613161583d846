"""Parametric furniture, and the clutter on tables, floors, walls and ceilings of a real room.

Each function builds one object in the frame of `part`: x to its right, y forward (the side that one
sits at or looks at, or from a wall into the room), z up. The origin of furniture is on the floor at
the middle of its back edge unless said otherwise, that of clutter where it stands or, on a wall, at
floor level. Sizes are metres.
"""

from __future__ import annotations

import math
from functools import partial
from itertools import product

import numpy as np

from .scene import Material, Part, Vector
from .surface import material


def table(part: Part, rng: np.random.Generator, size: Vector, *, is_round: bool = False) -> None:
    """Build a table with legs, feet, side panels or a pedestal, often with drawers."""
    width, depth, height = size
    top = material("furniture", rng)
    below = top if rng.random() < 0.5 else material("metal", rng)
    thick = rng.uniform(0.022, 0.05)
    w, under = width / 2, height - thick
    if is_round:
        radius = min(width, depth) / 2
        part.cylinder((0, depth / 2, under), radius, thick, top, facets=16)
        part.cylinder((0, depth / 2, 0.03), 0.04, under - 0.03, below)
        part.cylinder((0, depth / 2, 0), radius * 0.55, 0.03, below, facets=12)
        return
    part.box((-w, 0, under), (w, depth, height), top)
    legs = rng.choice(("panels", "feet", "four"), p=(0.4, 0.15, 0.45))
    if legs == "panels":
        for x in (-w + 0.03, w - 0.06):
            part.box((x, 0.02, 0), (x + 0.03, depth - 0.02, under), below)
        part.box((-w + 0.06, 0.1, 0.3), (w - 0.06, 0.12, under), below)
    elif legs == "feet":  # T-shaped, and a bar between them
        middle = depth / 2
        for x in (-w * 0.8, w * 0.8 - 0.06):
            part.box((x, 0.05, 0), (x + 0.06, depth - 0.05, 0.05), below)
            part.box((x, middle - 0.05, 0.05), (x + 0.06, middle + 0.05, under), below)
        part.box((-w * 0.8, middle - 0.02, under - 0.1), (w * 0.8, middle + 0.02, under), below)
    else:
        if rng.random() < 0.5:
            rim = rng.uniform(0.05, 0.12)
            part.box((-w + 0.05, 0.05, under - rim), (w - 0.05, depth - 0.05, under), below)
        half = rng.uniform(0.018, 0.035)
        for x, y in product((-w + 0.06, w - 0.06), (0.06, depth - 0.06)):
            part.box((x - half, y - half, 0), (x + half, y + half, under), below)
    if height > 0.6:
        for side in (-1, 1):  # drawers
            if width > 0.9 and rng.random() < 0.35:
                x, low = side * (w - 0.25), rng.uniform(0.02, 0.45)
                part.box((x - 0.2, 0.05, low), (x + 0.2, depth - 0.08, under), top)
        if rng.random() < 0.15:  # a board to put things on
            low = rng.uniform(0.12, 0.3)
            part.box((-w + 0.06, 0.06, low), (w - 0.06, depth - 0.06, low + 0.025), below)
    if rng.random() < 0.12:
        _cloth(part, rng, size)


def _cloth(part: Part, rng: np.random.Generator, size: Vector) -> None:
    """Add a cloth over a table, hanging down all around."""
    look, hang, (width, depth, height) = material("fabric", rng), rng.uniform(0.08, 0.4), size
    w, high = width / 2 + 0.01, height + 0.006
    part.sheet((-w, -0.01, high), (2 * w, 0, 0), (0, depth + 0.02, 0), look)
    for x in (-w, w):
        part.sheet((x, -0.01, high), (0, depth + 0.02, 0), (0, 0, -min(hang, high)), look)
    for y in (-0.01, depth + 0.01):
        part.sheet((-w, y, high), (2 * w, 0, 0), (0, 0, -min(hang, high)), look)


def desk(part: Part, rng: np.random.Generator, size: Vector) -> None:
    """Build a desk: a table, sometimes with a top of shelves at its back."""
    width, depth, height = size
    table(part, rng, size)
    if rng.random() < 0.3:
        look, rise, w = material("furniture", rng), rng.uniform(0.3, 0.7), width / 2
        for x in (-w, -0.01, w - 0.02):
            part.box((x, 0, height), (x + 0.02, 0.28, height + rise), look)
        part.box((-w, 0, height + rise), (w, min(0.28, depth), height + rise + 0.02), look)


def coffee_table(part: Part, rng: np.random.Generator, size: Vector) -> None:
    """Build a low table: a table, a block, a trunk, or boards between two sides."""
    width, depth, height = size
    if rng.random() < 0.35:
        table(part, rng, size, is_round=bool(rng.random() < 0.3))
        return
    look, w, thick = material("furniture", rng), width / 2, rng.uniform(0.02, 0.06)
    part.box((-w, 0, height - thick), (w, depth, height), look)
    low = rng.uniform(0.03, 0.15)
    if rng.random() < 0.45:  # a block
        part.box((-w + 0.02, 0.02, low), (w - 0.02, depth - 0.02, height - thick), look)
        return
    part.box((-w + 0.03, 0.03, low), (w - 0.03, depth - 0.03, low + 0.03), look)
    for x in (-w + 0.02, w - 0.06):
        part.box((x, 0.02, 0), (x + 0.04, depth - 0.02, height - thick), look)


def bar_top(part: Part, rng: np.random.Generator, size: Vector) -> None:
    """Build the top of a bar, on the body that `bar_body` builds."""
    (width, depth, height), look = size, material("furniture", rng)
    part.box((-width / 2, 0, height - rng.uniform(0.03, 0.06)), (width / 2, depth, height), look)


def bar_body(part: Part, rng: np.random.Generator, size: Vector) -> None:
    """Build what a bar's top lies on: a low wall of boards or cabinets."""
    (width, depth, height), look = size, material("furniture", rng)
    over = rng.uniform(0.0, 0.5) * depth
    part.box((-width / 2 + 0.02, 0.02, 0), (width / 2 - 0.02, depth - over, height - 0.06), look)


def stool(part: Part, rng: np.random.Generator) -> None:
    """Build a stool for a bar; the origin is the middle of its seat on the floor."""
    w, seat = rng.uniform(0.15, 0.21), rng.uniform(0.6, 0.78)
    look, metal = material("fabric", rng), material("metal", rng)
    part.cylinder((0, 0, seat - 0.05), w, 0.05, look, facets=10)
    if rng.random() < 0.4:
        _back(part, rng, w, seat, look)
    _legs(part, rng, w * 0.8, seat - 0.05, metal)


def chair(part: Part, rng: np.random.Generator) -> None:
    """Build a chair or, rarely, a stool; the origin is the middle of its seat on the floor."""
    w, seat = rng.uniform(0.2, 0.27), rng.uniform(0.41, 0.5)
    look = material("fabric" if rng.random() < 0.6 else "furniture", rng)
    metal = material("metal" if rng.random() < 0.7 else "furniture", rng)
    under = seat - rng.uniform(0.03, 0.09)
    shape = part.cushion if rng.random() < 0.55 else part.slab
    shape((-w, -w, under), (2 * w, 0, 0), (0, 2 * w, 0), (0, 0, seat - under), look)
    if rng.random() < 0.93:
        _back(part, rng, w, seat, look)
    if rng.random() < 0.5:
        _star(part, rng, under, metal)
    else:
        _legs(part, rng, w, under, metal)
    if rng.random() < 0.45:
        for x in (-w - 0.05, w):
            part.box((x, -w + 0.05, seat + 0.17), (x + 0.05, w - 0.08, seat + 0.2), metal)
            part.box((x + 0.01, -0.03, under), (x + 0.04, 0.03, seat + 0.17), metal)


def _back(part: Part, rng: np.random.Generator, w: float, seat: float, look: Material) -> None:
    """Add the back of a chair: a board or a cushion, a curved one, or bars."""
    height, lean = rng.uniform(0.3, 0.62), rng.uniform(0.03, 0.14)
    gap = rng.choice((0.0, rng.uniform(0.05, 0.2)))  # below the back
    y, z, up = -w - lean * gap / height, seat + gap, (0, -lean, height - gap)
    style = rng.choice(("board", "cushion", "curve", "bars"), p=(0.3, 0.3, 0.2, 0.2))
    if style == "bars":
        for x in np.linspace(-w, w - 0.03, int(rng.integers(3, 8))):
            part.slab((x, y, z), (0.03, 0, 0), (0, 0.025, 0), up, look)
        top = (-w, y - lean * 0.9, z + up[2] * 0.85)
        part.slab(top, (2 * w, 0, 0), (0, 0.03, 0), (0, -0.1 * lean, 0.15 * up[2]), look)
    elif style == "curve":
        for turn in (-0.6, 0.0, 0.6):
            part.at(0, 0, 0, turn).slab(
                (-0.42 * w, y, z), (0.84 * w, 0, 0), (0, 0.035, 0), up, look
            )
    else:
        shape, thick = (part.slab, 0.035) if style == "board" else (part.cushion, 0.09)
        shape((-w, y, z), (2 * w, 0, 0), (0, thick, 0), up, look)
    if gap:
        for x in (-0.02,) if rng.random() < 0.5 else (-w, w - 0.04):
            part.box((x, -w, seat - 0.03), (x + 0.04, -w + 0.03, seat + gap), look)


def _star(part: Part, rng: np.random.Generator, top: float, look: Material) -> None:
    """Add the five-star base of an office chair."""
    part.cylinder((0, 0, 0.08), 0.03, top - 0.08, look)
    reach, start = rng.uniform(0.24, 0.33), rng.uniform(0, 1)
    for turn in np.linspace(0, 2 * math.pi, 6)[:-1]:
        arm = part.at(0, 0, 0, float(turn) + start)
        arm.slab((0, -0.025, 0.07), (reach, 0, -0.02), (0, 0.05, 0), (0, 0, 0.04), look)
        arm.cylinder((reach - 0.01, 0, 0), 0.03, 0.05, look, facets=6)


def _legs(part: Part, rng: np.random.Generator, w: float, top: float, look: Material) -> None:
    """Add four legs, upright or spread, sometimes with bars between them."""
    spread, thick = rng.choice((0.0, rng.uniform(0.02, 0.07))), rng.uniform(0.02, 0.04)
    for x, y in product((-w + 0.02, w - 0.02 - thick), repeat=2):
        foot = (x + math.copysign(spread, x), y + math.copysign(spread, y), 0)
        up = (x - foot[0], y - foot[1], top)
        part.slab(foot, (thick, 0, 0), (0, thick, 0), up, look)
    if rng.random() < 0.4:
        z = rng.uniform(0.08, 0.25)
        for x in (-w + 0.02, w - 0.04):
            part.box((x, -w + 0.04, z), (x + 0.02, w - 0.04, z + 0.02), look)


def sofa(part: Part, rng: np.random.Generator, size: Vector) -> None:
    """Build a sofa, an armchair if it is narrow, or a sofa with a chaise if it is deep."""
    look = material("sofa", rng)
    width, depth, back = size
    deep, depth = depth, min(depth, 0.95)
    seat, arm, base = rng.uniform(0.38, 0.46), rng.uniform(0.1, 0.26), rng.uniform(0.03, 0.12)
    x, bulge = width / 2, rng.uniform(0.2, 0.5)
    soft = partial(part.cushion, material=look, bulge=bulge)
    part.box((-x + 0.03, 0.05, base), (x - 0.03, depth, seat - 0.14), look)
    soft((-x, 0, base), (2 * x, 0, 0), (0, 0.25, 0), (0, -0.05, back - base))
    rise = rng.uniform(0.1, 0.24)
    for side in (-x, x - arm):
        soft((side, 0, base), (arm, 0, 0), (0, depth, 0), (0, 0, seat + rise - base))
    cushions = max(1, round((width - 2 * arm) / rng.uniform(0.55, 0.9)))
    step = (width - 2 * arm) / cushions
    long = rng.choice((0, cushions - 1)) if deep > depth else -1
    for i in range(cushions):
        low = -x + arm + i * step
        end = (deep if i == long else depth) + rng.uniform(-0.02, 0.03)
        soft((low, 0.15, seat - 0.16), (step, 0, 0), (0, end - 0.15, 0), (0, 0, 0.18))
        thick, lean = rng.uniform(0.14, 0.28), rng.uniform(-0.12, 0)
        high = back + rng.uniform(-0.06, 0.06) - seat
        soft((low, 0.15, seat - 0.02), (step, 0, 0), (0, thick, 0), (0, lean, high))
        if i == long:
            part.box((low, depth, base), (low + step, end - 0.01, seat - 0.14), look)


def sectional(part: Part, rng: np.random.Generator, size: Vector) -> None:
    """Build an L of two sofas alike: one at the back, one along a side."""
    width, depth, back = size
    side, draw = int(rng.choice((-1, 1))), int(rng.integers(1 << 31))
    deep = 0.9
    sofa(part, np.random.default_rng(draw), (width, deep, back))
    length = depth - deep + 0.2
    other = part.at(side * width / 2, depth - length / 2, 0, side * math.pi / 2)
    sofa(other, np.random.default_rng(draw), (length, deep, back))


def bookcase(part: Part, rng: np.random.Generator, size: Vector) -> None:
    """Build a bookcase: shelves full of books, boxes and gaps, sometimes doors or no back."""
    width, depth, height = size
    look = material("furniture", rng)
    w, board = width / 2, 0.022
    for x in (-w, w - board):
        part.box((x, 0, 0), (x + board, depth, height), look)
    if rng.random() < 0.8:
        part.sheet((-w, 0.01, 0), (width, 0, 0), (0, 0, height), look)
    count = max(2, round(height / rng.uniform(0.27, 0.42)))
    levels = np.linspace(0.06, height - board, count + 1)
    for z in levels:
        part.box((-w + board, 0, z), (w - board, depth, z + board), look)
    closed = 1 if rng.random() < 0.25 else 0
    full, bookish = rng.uniform(0.4, 0.95), rng.uniform(0.4, 1.0)
    for z, above in zip(levels[closed:], levels[closed + 1 :], strict=False):
        x, bottom, room = board - w, z + board, above - z - board
        while x < w - board - 0.08:  # rows of books, boxes and gaps between them
            run = float(min(rng.uniform(0.08, 0.5), w - board - x))
            if rng.random() < full:
                tall = rng.uniform(0.35, 0.92) * room
                deep = rng.uniform(0.5, 0.95) * depth
                content = material("books" if rng.random() < bookish else "thing", rng)
                part.box((x, 0.02, bottom), (x + run, deep, bottom + tall), content)
            x += run
    if closed:
        part.box((-w, depth, 0.06), (w, depth + 0.02, levels[1]), look)


def board(part: Part, rng: np.random.Generator, width: float, low: float, high: float) -> None:
    """Build a board on a wall; the origin is on the wall at floor level, at the board's middle."""
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


def monitor(part: Part, rng: np.random.Generator) -> None:
    """Build a screen on a foot, facing y."""
    look = material("screen", rng)
    w, h, lift = rng.uniform(0.2, 0.32), rng.uniform(0.28, 0.4), rng.uniform(0.08, 0.15)
    part.box((-0.12, -0.08, 0), (0.12, 0.1, 0.015), look)
    part.box((-0.03, -0.03, 0), (0.03, 0, lift + 0.1), look)
    part.box((-w, 0, lift), (w, 0.03, lift + h), look)


def computer(part: Part, rng: np.random.Generator) -> None:
    """Build an upright computer case."""
    look = material("thing", rng)
    part.box((-0.1, -0.22, 0), (0.1, 0.22, rng.uniform(0.38, 0.48)), look)


def keyboard(part: Part, rng: np.random.Generator) -> None:
    """Build a keyboard or an open laptop."""
    look = material("screen", rng)
    part.box((-0.2, -0.08, 0), (0.2, 0.1, 0.022), look)
    if rng.random() < 0.4:
        part.slab((-0.2, -0.1, 0.01), (0.4, 0, 0), (0, 0.012, 0), (0, -0.06, 0.24), look)


def papers(part: Part, rng: np.random.Generator) -> None:
    """Build a pile of papers or books, each turned a little."""
    z = 0.0
    for _ in range(int(rng.integers(1, 5))):
        pile = part.at(0, 0, z, rng.normal(0, 0.2))
        thick = rng.uniform(0.01, 0.05)
        pile.box((-0.11, -0.15, 0), (0.11, 0.15, thick), material("thing", rng))
        z += thick


def cup(part: Part, rng: np.random.Generator) -> None:
    """Build a cup, a bottle or a vase."""
    radius, height = rng.uniform(0.03, 0.06), rng.uniform(0.09, 0.3)
    part.cylinder((0, 0, 0), radius, height, material("thing", rng))


def crate(part: Part, rng: np.random.Generator) -> None:
    """Build one or two cardboard boxes on top of each other."""
    w, d, h = rng.uniform(0.12, 0.24), rng.uniform(0.12, 0.2), rng.uniform(0.18, 0.4)
    part.box((-w, -d, 0), (w, d, h), material("thing", rng))
    if rng.random() < 0.4:
        top = part.at(0, 0, h, rng.normal(0, 0.3))
        top.box((-w * 0.8, -d * 0.8, 0), (w * 0.8, d * 0.8, h * 0.7), material("thing", rng))


def waste_bin(part: Part, rng: np.random.Generator) -> None:
    """Build a waste-paper bin."""
    radius, height = rng.uniform(0.12, 0.2), rng.uniform(0.28, 0.65)
    part.cylinder((0, 0, 0), radius, height, material("thing", rng), facets=12)


def plant(part: Part, rng: np.random.Generator) -> None:
    """Build a plant: a pot and leaves at all angles."""
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


def bag(part: Part, rng: np.random.Generator) -> None:
    """Build a bag or a backpack on the floor."""
    w, d, h = rng.uniform(0.15, 0.22), rng.uniform(0.08, 0.13), rng.uniform(0.3, 0.48)
    shape = part.cushion if rng.random() < 0.7 else part.slab
    shape((-w, -d, 0), (2 * w, 0, 0), (0, 2 * d, 0), (0, 0.06, h), material("fabric", rng))


def cabinet(part: Part, rng: np.random.Generator) -> None:
    """Build a filing cabinet, a printer or a cooler: a big body with ledges."""
    look = material("furniture" if rng.random() < 0.5 else "thing", rng)
    w, d, h = rng.uniform(0.2, 0.4), rng.uniform(0.2, 0.32), rng.uniform(0.6, 1.4)
    part.box((-w, -d, 0), (w, d, h), look)
    trim = material("metal", rng)
    for z in np.arange(0.25, h, rng.uniform(0.22, 0.4)):
        part.box((-w * 0.6, d, z), (w * 0.6, d + 0.03, z + 0.03), trim)


def lamp(part: Part, rng: np.random.Generator) -> None:
    """Build a standing lamp."""
    metal, height = material("metal", rng), rng.uniform(1.3, 1.75)
    part.cylinder((0, 0, 0), 0.14, 0.03, metal, facets=10)
    part.cylinder((0, 0, 0.03), 0.015, height, metal, facets=5)
    part.cylinder((0, 0, height - 0.1), 0.18, 0.28, material("thing", rng), facets=12)


def picture(part: Part, rng: np.random.Generator) -> None:
    """Build a picture, a poster or a television on a wall."""
    w, h, low = rng.uniform(0.2, 0.6), rng.uniform(0.3, 0.8), rng.uniform(1.0, 1.4)
    look = material("screen" if rng.random() < 0.4 else "thing", rng)
    part.box((-w, 0, low), (w, rng.uniform(0.006, 0.06), low + h), look)


def radiator(part: Part, rng: np.random.Generator) -> None:
    """Build a radiator low on a wall."""
    look, w = material("structure", rng), rng.uniform(0.3, 0.6)
    for x in np.arange(-w, w, 0.08):
        part.box((x, 0.04, 0.12), (x + 0.06, 0.12, 0.6), look)


def fixture(part: Part, rng: np.random.Generator) -> None:
    """Build a switch, a clock or a fire extinguisher on a wall."""
    if rng.random() < 0.5:
        part.cylinder((0, 0.09, 0.9), 0.08, 0.45, material("thing", rng), facets=10)
    else:
        low = rng.uniform(1.1, 2.1)
        part.box((-0.12, 0, low), (0.12, 0.04, low + 0.22), material("thing", rng))


def ceiling_lamp(part: Part, rng: np.random.Generator) -> None:
    """Build a lamp, a vent or a projector under the ceiling; the origin lies on the ceiling."""
    look = material("thing", rng)
    if rng.random() < 0.6:
        part.box((-0.6, -0.1, -rng.uniform(0.05, 0.25)), (0.6, 0.1, -0.01), look)
        return
    drop = rng.uniform(0.15, 0.5)
    part.box((-0.02, -0.02, -drop), (0.02, 0.02, 0), look)
    part.box((-0.17, -0.15, -drop - 0.1), (0.17, 0.15, -drop), look)
