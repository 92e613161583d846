"""What synthetic surfaces look like: palettes, materials by role, patterns and light.

The palettes are shared between the classes on purpose (a wall, a table, a bookcase and a board can
all be white or of wood), so that colour alone does not give the class away.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

from .scene import Material

# hue, saturation and value ranges of HSV
PALETTES: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "white": ((0.05, 0.65), (0.0, 0.06), (0.78, 0.95)),
    "cream": ((0.07, 0.14), (0.08, 0.3), (0.65, 0.9)),
    "pastel": ((0.0, 1.0), (0.1, 0.3), (0.6, 0.85)),
    "wood": ((0.05, 0.11), (0.3, 0.65), (0.3, 0.75)),
    "grey": ((0.0, 1.0), (0.0, 0.1), (0.35, 0.7)),
    "dark": ((0.0, 1.0), (0.0, 0.3), (0.08, 0.3)),
    "vivid": ((0.0, 1.0), (0.45, 0.85), (0.3, 0.75)),
    "sky": ((0.5, 0.62), (0.1, 0.45), (0.75, 1.0)),
    "bright": ((0.1, 0.62), (0.0, 0.15), (1.2, 2.4)),  # overexposed
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
door      3      paint   white   0.1      1     0      0
door      2      paint   cream   0.1      1     0      0
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
sofa      3      carpet  dark    0.5      0.01  0.012  0
sofa      4      carpet  grey    0.3      0.01  0.012  0
sofa      2      carpet  cream   0.2      0.01  0.012  0
sofa      1      carpet  vivid   0.3      0.01  0.012  0
sofa      2      paint   wood    0.2      0.3   0.008  0
metal     2      paint   dark    0.3      1     0      0
metal     2      paint   grey    0.3      1     0      0
glass     4      view    bright  0.7      0.8   0      0.5
glass     1      view    bright  0.3      0.5   0      0.1
glass     2      view    white   0.5      0.6   0      0.6
glass     2      view    white   0.3      0.8   0      0.9
glass     1      view    sky     0.5      0.8   0      0.4
glass     1      view    sky     0.5      0.8   0      0.95
glass     1      view    green   0.8      0.4   0      0.3
glass     1      view    pastel  0.6      0.8   0      0.5
glass     1      paint   dark    0.5      0.8   0      0.5
glass     1      view    dark    2.0      0.6   0      0.9
blind     2      slats   white   0.3      0.05  0.004  0
blind     2      slats   grey    0.3      0.05  0.004  0
blind     1      carpet  cream   0.2      0.02  0.006  0
blind     1      slats   wood    0.4      0.05  0.004  0
blind     1      slats   bright  0.6      0.05  0.004  0
curtain   2      carpet  white   0.2      0.02  0.01   0
curtain   2      carpet  cream   0.2      0.02  0.01   0
curtain   2      carpet  grey    0.25     0.02  0.01   0
curtain   1      carpet  green   0.3      0.02  0.01   0
curtain   1      carpet  pastel  0.3      0.02  0.01   0
curtain   1      carpet  vivid   0.3      0.02  0.01   0
curtain   1      carpet  dark    0.4      0.02  0.01   0
curtain   1      print   cream   0.6      0.15  0.01   0
curtain   1      carpet  bright  0.3      0.02  0.01   0
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


LOOKS = np.genfromtxt(_LOOKS.splitlines(), None, skip_header=1, names=True, encoding=None)


def material(role: str, rng: np.random.Generator) -> Material:
    """Draw a material for a role of the table."""
    looks = LOOKS[LOOKS["role"] == role]
    look = looks[rng.choice(len(looks), p=looks["weight"] / looks["weight"].sum())]
    hue, saturation, value = (rng.uniform(*bounds) for bounds in PALETTES[look["palette"]])
    first = colorsys.hsv_to_rgb(hue, saturation, value)
    contrast = look["contrast"]
    factor = 1.0 + rng.choice((-1.0, 1.0) if contrast < 1 else (1.0,)) * contrast
    red, green, blue = (
        float(np.clip(c * factor + rng.normal(0, 0.02), 0, max(1, value))) for c in first
    )
    return Material(
        texture=str(look["texture"]),
        first=first,
        second=(red, green, blue),
        scale=look["scale"] * rng.uniform(0.7, 1.4),
        relief=look["relief"],
        dropout=look["dropout"],
        seed=int(rng.integers(1 << 31)),
    )


def lattice(i: np.ndarray, j: np.ndarray, seed: np.ndarray) -> np.ndarray:
    """Return a fixed random number in [0, 1) for each cell of integers i and j, and seed."""
    first, second = (cell.astype(np.int32).astype(np.uint32) for cell in (i, j))
    mixed = first * np.uint32(0x9E3779B1) ^ second * np.uint32(0x85EBCA77)
    mixed ^= seed.astype(np.uint32) * np.uint32(0xC2B2AE3D)
    mixed = (mixed ^ (mixed >> np.uint32(15))) * np.uint32(0x2C1B3C6D)
    mixed = (mixed ^ (mixed >> np.uint32(12))) * np.uint32(0x297A2D39)
    return (mixed >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def value_noise(s: np.ndarray, t: np.ndarray, seed: np.ndarray) -> np.ndarray:
    """Return smooth noise in [0, 1) with features of size 1, at the points (s, t)."""
    i, j = np.floor(s), np.floor(t)
    a, b = s - i, t - j
    a, b = a * a * (3 - 2 * a), b * b * (3 - 2 * b)
    low = lattice(i, j, seed) * (1 - a) + lattice(i + 1, j, seed) * a
    high = lattice(i, j + 1, seed) * (1 - a) + lattice(i + 1, j + 1, seed) * a
    return low * (1 - b) + high * b


def pattern(texture: str, s: np.ndarray, t: np.ndarray, seed: np.ndarray) -> np.ndarray:
    """Return how much of the second colour a texture has, (n, 1), or (n, 3) for each channel.

    `s` and `t`, (n,) float32, are the coordinates on the surface in units of the pattern's size.
    """
    i, j = np.floor(s), np.floor(t)
    blend: np.ndarray
    match texture:
        case "paint":
            blend = 0.7 * value_noise(s, t, seed) + 0.3 * value_noise(9 * s, 9 * t, seed)
        case "carpet":
            blend = 0.7 * lattice(i, j, seed) + 0.3 * value_noise(s / 25, t / 25, seed)
        case "wood":
            tone = lattice(j, j, seed)  # of the plank
            blend = 0.4 * tone + 0.6 * value_noise(3 * s + 7 * tone, 40 * t, seed)
        case "tiles":
            joint = (s - i < 0.05) | (t - j < 0.05)
            blend = np.where(joint, np.float32(1.0), 0.35 * lattice(i, j, seed))
        case "books":
            label = np.floor(4 * t) * (lattice(i, i, seed) > 0.7)
            return np.stack([lattice(i, label + 1000 * c, seed) for c in range(3)], axis=1)
        case "print":
            return np.stack([value_noise(s, t + 1000 * c, seed) for c in range(3)], axis=1)
        case "writing":
            ink = value_noise(4 * s, t, seed) > 0.8
            blend = ink & (value_noise(s / 5, t / 5, seed) > 0.45)
        case "view":
            blend = 0.5 * value_noise(s, t, seed) + 0.5 * value_noise(4 * s, 2 * t, seed)
        case "slats":
            blend = 0.8 * (t - j) + 0.2 * value_noise(s, t, seed)
        case _:
            raise ValueError(f"texture {texture!r}: expected one of the table's")
    return blend.astype(np.float32)[:, None]


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


def surface_color(material: np.ndarray, s: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Return the unlit colours (n, 3) float32, 0–1, of materials (n,), see MATERIAL, at s, t, m."""
    result = np.empty_like(material["first"])
    for texture in np.unique(material["texture"]):
        at = np.flatnonzero(material["texture"] == texture)
        here, scale = material[at], material["scale"][at]
        blend = pattern(texture, s[at] / scale, t[at] / scale, here["seed"])
        result[at] = here["first"] + blend * (here["second"] - here["first"])
    return result


@dataclass(frozen=True)
class Lighting:
    """The light of a room: lamps and windows as points, and what comes from everywhere."""

    lights: np.ndarray  # (L, 3) m
    power: np.ndarray  # (L, 3) of red, green and blue
    ambient: float
    size: tuple[float, float, float]  # of the room, m

    def shade(self, pos: np.ndarray, normal: np.ndarray) -> np.ndarray:
        """Return the light (n, 3) at points, from whichever side their normals (n, 3) show."""
        total = np.full((len(pos), 3), self.ambient)
        for light, power in zip(self.lights, self.power, strict=True):
            ray = light - pos
            distance = np.sqrt((ray**2).sum(1)) + 1e-6
            facing = np.abs((ray * normal).sum(1)) / distance
            total += np.outer((0.3 + 0.7 * facing) / (1 + 0.12 * distance**2), power)
        edges = np.sort(np.minimum(pos, np.array(self.size) - pos), axis=1)[:, 1]
        dark = 1 - 0.25 * np.exp(-np.maximum(edges, 0) / 0.2)  # in corners
        return total * dark[:, None]
