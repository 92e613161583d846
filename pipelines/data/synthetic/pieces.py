"""The things that a synthetic room is furnished with: their classes, sizes and builders.

The classes follow S3DIS: a desk is a table, an armchair a sofa; monitors, curtains, lamps, plants,
beds and cabinets are clutter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from . import furniture, household
from .plans import Size

Build = Callable[..., None]  # (part, rng)


class Piece(NamedTuple):
    """A thing to place. It is built on the floor at the middle of its back, or where it hangs."""

    label: str  # class of S3DIS
    size: Size  # width, depth, height, m
    build: Build
    elevation: float = 0.0  # m above the floor


# Ranges of sizes in metres: width, depth, height.
_SIZED = """
name       class    width     depth     height    builder
desk       table    1.1-2.2   0.6-0.9   0.7-0.78  desk
table      table    1.0-2.6   0.75-1.3  0.7-0.77  table
long       table    2.0-3.8   0.9-1.5   0.7-0.77  table
round      table    0.8-1.3   0.8-1.3   0.7-0.77  round_table
low        table    0.5-1.3   0.45-0.75 0.34-0.52 coffee_table
side       table    0.35-0.65 0.35-0.55 0.45-0.66 coffee_table
bar        table    1.1-2.6   0.35-0.65 0.9-1.12  bar_top
case       bookcase 0.6-1.4   0.25-0.42 0.8-2.2   bookcase
sofa       sofa     1.4-2.3   0.85-1.0  0.72-0.95 sofa
chaise     sofa     1.9-2.7   1.3-1.8   0.72-0.95 sofa
sectional  sofa     2.0-3.2   1.7-2.6   0.72-0.95 sectional
armchair   sofa     0.85-1.05 0.8-0.95  0.72-0.95 sofa
bed        clutter  0.9-1.8   1.9-2.15  0.6-1.1   bed
wardrobe   clutter  0.8-2.2   0.5-0.7   1.7-2.3   wardrobe
closet     clutter  1.0-3.6   0.05-0.65 2.0-3.3   closet
screen     clutter  0.8-2.2   0.06-0.4  1.0-1.9   screen
chest      clutter  0.4-1.6   0.35-0.55 0.5-1.3   wardrobe
counter    clutter  1.2-3.6   0.58-0.68 2.3-2.3   counter
fridge     clutter  0.55-0.8  0.6-0.78  1.4-1.9   appliance
washer     clutter  0.55-0.65 0.6-0.7   0.82-0.9  appliance
television clutter  1.0-1.9   0.35-0.5  0.9-1.3   television
toilet     clutter  0.4-0.5   0.62-0.7  0.75-0.85 toilet
tub        clutter  1.5-1.8   0.7-0.8   0.5-0.6   tub
washstand  clutter  0.5-1.0   0.42-0.55 1.6-2.0   washstand
coats      clutter  0.5-1.5   0.15-0.3  1.5-1.9   coats
shelf      clutter  0.5-1.5   0.15-0.3  0.3-0.9   shelf
duct       clutter  0.8-3.5   0.15-0.4  0.15-0.4  duct
"""


def _read(table: str) -> dict[str, tuple[str, np.ndarray, Callable[..., None]]]:
    """Return of each name the class, the ranges of the size (3, 2), and the builder."""
    makers: dict[str, Any] = {**vars(furniture), **vars(household)}
    makers["round_table"] = partial(furniture.table, is_round=True)
    rows = (line.split() for line in table.strip().splitlines()[1:])
    return {
        name: (label, np.array([cell.split("-") for cell in cells], float), makers[maker])
        for name, label, *cells, maker in rows
    }


SIZED = _read(_SIZED)


def draw_piece(name: str, rng: np.random.Generator, ceiling: float = math.inf) -> Piece:
    """Draw the size of a piece of the table; it ends below `ceiling`, m.

    >>> draw_piece("desk", np.random.default_rng(0)).label
    'table'
    """
    label, ranges, build = SIZED[name]
    width, depth, height = rng.uniform(*ranges.T).tolist()
    size = (width, width if name == "round" else depth, min(height, ceiling - 0.01))
    return Piece(label, size, partial(build, size=size))


# What lies or hangs around, by its place: builders and about how wide they are, m.
LOOSE: dict[str, tuple[tuple[Build, float], ...]] = {
    "table": (
        *((furniture.papers, 0.3), (furniture.cup, 0.1), (furniture.crate, 0.4)),
        *((furniture.keyboard, 0.4), (furniture.monitor, 0.5)),
        *((household.jumble, 0.4), (household.jumble, 0.4), (household.jumble, 0.4)),
    ),
    "floor": (
        *((furniture.waste_bin, 0.4), (furniture.crate, 0.45), (furniture.bag, 0.4)),
        *((furniture.plant, 0.6), (furniture.cabinet, 0.65), (furniture.lamp, 0.35)),
        *((furniture.computer, 0.4), (household.heap, 0.6), (household.heap, 0.6)),
        *((household.stack, 0.6), (household.stack, 0.6)),
    ),
    "wall": (
        *((furniture.picture, 1.2), (furniture.picture, 1.2), (furniture.fixture, 0.25)),
        *((furniture.radiator, 1.2), (household.towel, 0.5), (household.notes, 1.0)),
        *((household.hanging, 1.6), (household.hanging, 1.6)),
    ),
    "ceiling": ((furniture.ceiling_lamp, 1.2),),
}


def draw_loose(place: str, rng: np.random.Generator) -> Piece:
    """Draw something that lies or hangs around: on a table, the floor, a wall or the ceiling."""
    build, width = LOOSE[place][rng.integers(len(LOOSE[place]))]
    return Piece("clutter", (width, width, 0.5), build)
