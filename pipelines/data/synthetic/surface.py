"""What synthetic surfaces look like: palettes, materials by role, patterns and light.

The palettes are shared between the classes on purpose (a wall, a table, a bookcase and a board can
all be white or of wood), so that colour alone does not give the class away.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .scene import Material, Rgb

# hue, saturation and value ranges of HSV
PALETTES: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "white": ((0.05, 0.65), (0.0, 0.06), (0.78, 0.95)),
    "cream": ((0.07, 0.14), (0.08, 0.3), (0.65, 0.9)),
    "pastel": ((0.0, 1.0), (0.1, 0.3), (0.6, 0.85)),
    "wood": ((0.05, 0.11), (0.3, 0.65), (0.3, 0.75)),
    "grey": ((0.0, 1.0), (0.0, 0.1), (0.35, 0.7)),
    "dark": ((0.0, 1.0), (0.0, 0.3), (0.08, 0.3)),
    "vivid": ((0.0, 1.0), (0.45, 0.85), (0.3, 0.75)),
    "green": ((0.2, 0.4), (0.3, 0.7), (0.2, 0.6)),
}


# The possible looks of each role: how often, pattern, palette, how far the second colour lies from
# the first (relative), size of the pattern, relief and dropout as of `Material`.
_LOOKS = """
role      weight texture palette contrast scale relief dropout
wall      5      paint   white   0.1      1     0      0
wall      3      paint   cream   0.1      1     0      0
wall      2      paint   pastel  0.1      1     0      0
wall      1      paint   grey    0.1      1     0      0
wall      1      paint   vivid   0.1      1     0      0
wall      1      wood    wood    0.3      0.5   0      0
wall      1      tiles   wood    0.3      0.25  0.004  0
ceiling   4      tiles   white   0.2      0.6   0      0
ceiling   2      paint   white   0.1      1     0      0
ceiling   1      paint   cream   0.1      1     0      0
ceiling   2      paint   grey    0.2      1     0      0
ceiling   1      wood    wood    0.3      0.4   0      0
floor     3      carpet  grey    0.35     0.02  0      0
floor     1      carpet  dark    0.8      0.02  0      0
floor     1      carpet  vivid   0.35     0.02  0      0
floor     3      wood    wood    0.3      0.3   0      0
floor     2      tiles   cream   0.25     0.4   0      0
floor     1      tiles   white   0.2      0.4   0      0
structure 3      paint   white   0.1      1     0      0
structure 2      paint   cream   0.1      1     0      0
structure 3      paint   grey    0.3      0.5   0.003  0
structure 1      paint   pastel  0.1      1     0      0
structure 2      wood    wood    0.3      0.5   0      0
door      4      wood    wood    0.25     0.6   0      0
door      2      paint   white   0.1      1     0      0
door      2      paint   grey    0.1      1     0      0
door      1      paint   pastel  0.1      1     0      0
door      1      paint   vivid   0.1      1     0      0
frame     3      paint   white   0.1      1     0      0
frame     2      paint   grey    0.1      1     0      0
frame     2      paint   dark    0.1      1     0      0
frame     3      wood    wood    0.2      1     0      0
furniture 4      wood    wood    0.3      0.4   0      0
furniture 3      paint   white   0.1      1     0      0
furniture 1      paint   cream   0.1      1     0      0
furniture 2      paint   grey    0.1      1     0      0
furniture 1      paint   dark    0.2      1     0      0
furniture 1      paint   vivid   0.1      1     0      0
fabric    3      carpet  dark    0.5      0.01  0.012  0
fabric    3      carpet  vivid   0.3      0.01  0.012  0
fabric    2      carpet  grey    0.3      0.01  0.012  0
fabric    2      carpet  cream   0.2      0.01  0.012  0
fabric    1      paint   wood    0.2      0.3   0.008  0
metal     2      paint   dark    0.3      1     0      0
metal     2      paint   grey    0.3      1     0      0
glass     2      view    white   0.5      0.6   0      0.6
glass     1      view    green   0.8      0.4   0      0.6
glass     1      view    pastel  0.6      0.8   0      0.5
glass     1      paint   dark    0.5      0.8   0      0.5
blind     2      slats   white   0.3      0.05  0.004  0
blind     2      slats   grey    0.3      0.05  0.004  0
blind     1      carpet  cream   0.2      0.02  0.006  0
books     3      books   dark    6        0.03  0.015  0
books     1      books   wood    1        0.05  0      0
board     4      writing white   0.7      0.08  0      0
board     2      writing green   0.9      0.08  0      0
board     1      writing dark    2.5      0.08  0      0
board     2      carpet  wood    0.25     0.01  0      0
board     1      print   cream   0.7      0.2   0      0
thing     3      paint   white   0.1      1     0      0
thing     3      paint   dark    0.3      1     0      0
thing     2      paint   grey    0.2      1     0.003  0
thing     3      paint   vivid   0.2      0.5   0.005  0
thing     2      wood    wood    0.2      0.4   0.003  0
thing     2      print   cream   0.8      0.1   0      0
screen    3      paint   dark    0.5      1     0      0
screen    1      print   grey    0.7      0.15  0      0
plant     1      carpet  green   0.5      0.03  0.01   0
"""


class Look(NamedTuple):
    """One possible look of a role: a row of the table."""

    weight: float
    texture: str
    palette: str
    contrast: float
    scale: float
    relief: float
    dropout: float


def _read_looks(table: str) -> dict[str, list[Look]]:
    looks: dict[str, list[Look]] = {}
    for line in table.strip().splitlines()[1:]:
        role, weight, texture, palette, *values = line.split()
        look = Look(float(weight), texture, palette, *map(float, values))
        looks.setdefault(role, []).append(look)
    return looks


ROLES = _read_looks(_LOOKS)


def material(role: str, rng: np.random.Generator) -> Material:
    """Draw a material for a role (a key of ROLES)."""
    looks = ROLES[role]
    weights = np.array([look.weight for look in looks])
    look = looks[rng.choice(len(looks), p=weights / weights.sum())]
    first = color(look.palette, rng)
    factor = 1.0 + rng.choice((-1.0, 1.0) if look.contrast < 1 else (1.0,)) * look.contrast
    second = tuple(float(np.clip(c * factor + rng.normal(0, 0.02), 0, 1)) for c in first)
    return Material(
        texture=look.texture,
        first=first,
        second=(second[0], second[1], second[2]),
        scale=look.scale * rng.uniform(0.7, 1.4),
        relief=look.relief,
        dropout=look.dropout,
        seed=int(rng.integers(1 << 31)),
    )


def color(palette: str, rng: np.random.Generator) -> Rgb:
    """Draw a colour of a palette, rgb in 0–1."""
    hue, saturation, value = (float(rng.uniform(*bounds)) for bounds in PALETTES[palette])
    return colorsys.hsv_to_rgb(hue, saturation, value)


def lattice(i: np.ndarray, j: np.ndarray, seed: np.ndarray) -> np.ndarray:
    """Return a fixed random number in [0, 1) for each integer cell (i, j) and seed."""
    mixed = i.astype(np.uint32) * np.uint32(0x9E3779B1) ^ j.astype(np.uint32) * np.uint32(
        0x85EBCA77
    )
    mixed ^= seed.astype(np.uint32) * np.uint32(0xC2B2AE3D)
    mixed = (mixed ^ (mixed >> np.uint32(15))) * np.uint32(0x2C1B3C6D)
    mixed = (mixed ^ (mixed >> np.uint32(12))) * np.uint32(0x297A2D39)
    return (mixed >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def value_noise(s: np.ndarray, t: np.ndarray, seed: np.ndarray) -> np.ndarray:
    """Return smooth noise in [0, 1) with features of size 1, at the points (s, t)."""
    i, j = np.floor(s), np.floor(t)
    a, b = s - i, t - j
    a, b = a * a * (3 - 2 * a), b * b * (3 - 2 * b)
    i, j = i.astype(np.int32), j.astype(np.int32)
    low = lattice(i, j, seed) * (1 - a) + lattice(i + 1, j, seed) * a
    high = lattice(i, j + 1, seed) * (1 - a) + lattice(i + 1, j + 1, seed) * a
    return low * (1 - b) + high * b


def _paint(s: np.ndarray, t: np.ndarray, seed: np.ndarray) -> np.ndarray:
    return (0.7 * value_noise(s, t, seed) + 0.3 * value_noise(9 * s, 9 * t, seed))[:, None]


def _carpet(s: np.ndarray, t: np.ndarray, seed: np.ndarray) -> np.ndarray:
    speckle = lattice(np.floor(s).astype(np.int32), np.floor(t).astype(np.int32), seed)
    return (0.7 * speckle + 0.3 * value_noise(s / 25, t / 25, seed))[:, None]


def _wood(s: np.ndarray, t: np.ndarray, seed: np.ndarray) -> np.ndarray:
    plank = np.floor(t).astype(np.int32)
    tone = lattice(plank, plank, seed)
    return (0.4 * tone + 0.6 * value_noise(3 * s + 7 * tone, 40 * t, seed))[:, None]


def _tiles(s: np.ndarray, t: np.ndarray, seed: np.ndarray) -> np.ndarray:
    i, j = np.floor(s), np.floor(t)
    joint = (s - i < 0.05) | (t - j < 0.05)
    tone = lattice(i.astype(np.int32), j.astype(np.int32), seed)
    return np.where(joint, np.float32(1.0), 0.35 * tone)[:, None]


def _books(s: np.ndarray, t: np.ndarray, seed: np.ndarray) -> np.ndarray:
    book = np.floor(s).astype(np.int32)
    label = np.floor(4 * t).astype(np.int32) * (lattice(book, book, seed) > 0.7)
    return np.stack([lattice(book, label + 1000 * c, seed) for c in range(3)], axis=1)


def _print(s: np.ndarray, t: np.ndarray, seed: np.ndarray) -> np.ndarray:
    return np.stack([value_noise(s, t + 1000 * c, seed) for c in range(3)], axis=1)


def _writing(s: np.ndarray, t: np.ndarray, seed: np.ndarray) -> np.ndarray:
    ink = value_noise(4 * s, t, seed) > 0.8
    return (ink & (value_noise(s / 5, t / 5, seed) > 0.45)).astype(np.float32)[:, None]


def _view(s: np.ndarray, t: np.ndarray, seed: np.ndarray) -> np.ndarray:
    return (0.5 * value_noise(s, t, seed) + 0.5 * value_noise(4 * s, 2 * t, seed))[:, None]


def _slats(s: np.ndarray, t: np.ndarray, seed: np.ndarray) -> np.ndarray:
    return (0.8 * (t - np.floor(t)) + 0.2 * value_noise(s, t, seed))[:, None].astype(np.float32)


TEXTURES: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    texture.__name__.lstrip("_"): texture
    for texture in (_paint, _carpet, _wood, _tiles, _books, _print, _writing, _view, _slats)
}


def surface_axes(pos: np.ndarray, normal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two coordinates on the surface in metres: along it and up it (flat ones: x and y).

    They are continuous over touching patches of one plane, so a pattern has no seams.
    """
    flat = np.abs(normal[:, 2]) > 0.7
    width = np.maximum(np.hypot(normal[:, 0], normal[:, 1]), 1e-6)
    along = (normal[:, 0] * pos[:, 1] - normal[:, 1] * pos[:, 0]) / width
    s = np.where(flat, pos[:, 0], along)
    t = np.where(flat, pos[:, 1], pos[:, 2])
    return s.astype(np.float32), t.astype(np.float32)


def surface_color(
    materials: list[Material], index: np.ndarray, s: np.ndarray, t: np.ndarray
) -> np.ndarray:
    """Return the unlit colours, float32 (n, 3) in 0–1, of materials `index` (n,) at s, t, m."""
    first = np.array([m.first for m in materials], np.float32)[index]
    second = np.array([m.second for m in materials], np.float32)[index]
    scale = np.array([m.scale for m in materials], np.float32)[index]
    seed = np.array([m.seed for m in materials], np.uint32)[index]
    names = np.array([m.texture for m in materials])[index]
    result = np.empty_like(first)
    for name, texture in TEXTURES.items():
        at = np.flatnonzero(names == name)
        blend = texture(s[at] / scale[at], t[at] / scale[at], seed[at])
        result[at] = first[at] + blend * (second[at] - first[at])
    return result


@dataclass(frozen=True)
class Lighting:
    """The light of a room: lamps and windows as points, and what comes from everywhere."""

    lights: np.ndarray  # (L, 3) m
    power: np.ndarray  # (L,)
    ambient: float
    size: tuple[float, float, float]  # of the room, m

    def shade(self, pos: np.ndarray, normal: np.ndarray) -> np.ndarray:
        """Return the brightness (n,) at points whose normals face the viewer."""
        total = np.full(len(pos), self.ambient)
        for light, power in zip(self.lights, self.power, strict=True):
            ray = light - pos
            distance = np.sqrt((ray**2).sum(1)) + 1e-6
            facing = np.abs((ray * normal).sum(1)) / distance
            total += power * (0.3 + 0.7 * facing) / (1 + 0.12 * distance**2)
        edges = np.sort(np.minimum(pos, np.array(self.size) - pos), axis=1)[:, 1]
        return total * (1 - 0.25 * np.exp(-np.maximum(edges, 0) / 0.2))  # corners are darker
