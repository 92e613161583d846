"""S3DIS: its classes, colours and areas.

Reference:
    Armeni et al., 3D Semantic Parsing of Large-Scale Indoor Spaces, CVPR 2016.
"""

from __future__ import annotations

from collections.abc import Sequence

_COLORS = {
    "ceiling": (0, 255, 0),
    "floor": (0, 0, 255),
    "wall": (0, 255, 255),
    "beam": (255, 255, 0),
    "column": (255, 0, 255),
    "window": (100, 100, 255),
    "door": (200, 200, 100),
    "table": (170, 120, 200),
    "chair": (255, 0, 0),
    "sofa": (200, 100, 100),
    "bookcase": (10, 200, 100),
    "board": (200, 200, 200),
    "clutter": (50, 50, 50),
}
CLASSES, CLASS_COLORS = tuple(_COLORS), tuple(_COLORS.values())
PUBLISHED_ROOMS = {1: 44, 2: 40, 3: 23, 4: 49, 5: 68, 6: 48}


def color_text(colors: Sequence[Sequence[int]]) -> str:
    """Return class colours as a weights file stores them.

    >>> color_text([(0, 255, 0), (0, 0, 255)])
    '0-255-0 0-0-255'
    """
    return " ".join("-".join(map(str, color)) for color in colors)


def parse_colors(text: str) -> tuple[tuple[int, ...], ...]:
    """Return the class colours of a text from `color_text`; S3DIS's if it is empty."""
    if not text:
        return CLASS_COLORS
    return tuple(tuple(int(part) for part in color.split("-")) for color in text.split())
