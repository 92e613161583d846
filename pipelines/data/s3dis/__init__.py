"""S3DIS: its classes, colours and areas.

Reference:
    Armeni et al., 3D Semantic Parsing of Large-Scale Indoor Spaces, CVPR 2016.
"""

from __future__ import annotations

from collections.abc import Sequence

CLASSES = (
    "ceiling",
    "floor",
    "wall",
    "beam",
    "column",
    "window",
    "door",
    "table",
    "chair",
    "sofa",
    "bookcase",
    "board",
    "clutter",
)
CLASS_COLORS = (
    (0, 255, 0),
    (0, 0, 255),
    (0, 255, 255),
    (255, 255, 0),
    (255, 0, 255),
    (100, 100, 255),
    (200, 200, 100),
    (170, 120, 200),
    (255, 0, 0),
    (200, 100, 100),
    (10, 200, 100),
    (200, 200, 200),
    (50, 50, 50),
)
PUBLISHED_ROOMS = {1: 44, 2: 40, 3: 23, 4: 49, 5: 68, 6: 48}
_SPELLINGS = {"stairs": "clutter", "staris": "clutter"}


def color_text(colors: Sequence[Sequence[int]]) -> str:
    """Return class colours as a weights file keeps them: "0-255-0 0-0-255"."""
    return " ".join("-".join(map(str, color)) for color in colors)


def parse_colors(text: str) -> tuple[tuple[int, ...], ...]:
    """Return what `color_text` was given; those of S3DIS for a file that has none."""
    if not text:
        return CLASS_COLORS
    return tuple(tuple(int(part) for part in color.split("-")) for color in text.split())


def canonical_class(name: str) -> str | None:
    """Return the class that an object file's name means; None if S3DIS has no such class.

    The release spells a class of some rooms `stairs` or `staris`: they are clutter.
    """
    name = name.lower()
    return name if name in CLASSES else _SPELLINGS.get(name)
