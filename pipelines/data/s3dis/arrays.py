"""Rooms of S3DIS as NumPy arrays, as the usual preparation scripts leave them.

    Area_1_office_1.npy                             (N, 7): x y z r g b label
    Area_1/office_1/{coord,color,segment}.npy       (N, 3), (N, 3) and (N,) or (N, 1)

They are read as a described data set is, with the classes of S3DIS in its order. The scripts of
PointNet, its PyTorch ports and Pointcept number them so; some others swap table with chair and sofa
with bookcase, which the arrays do not tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from pipelines.data.custom import COORDINATES, CustomDataset, scan_file
from pipelines.data.store import IGNORED
from pipelines.errors import DatasetError
from pipelines.scans.table import ScanOptions

from . import CLASS_COLORS, CLASSES, PUBLISHED_ROOMS
from .raw import RoomFiles, natural

_FILE = re.compile(r"(?:.*/)?Area_([1-6])_([^/]+)\.npy")
_FOLDER = re.compile(rf"(?:.*/)?Area_([1-6])/([^/]+)/{re.escape(COORDINATES)}")
_UNLABELLED = ("-1", "255")


def find_arrays(path: Path) -> CustomDataset | None:
    """Find the rooms in a folder or up to three below it; None: there are none."""
    whole = ScanOptions(columns="x,y,z,r,g,b,-", label="column_7")
    for pattern, name, options in (
        (_FILE, "Area_*.npy", whole),
        (_FOLDER, COORDINATES, ScanOptions(label="segment")),
    ):
        rooms = tuple(sorted(_rooms(path, pattern, name), key=lambda r: (r.area, natural(r.name))))
        for one, other in pairwise(rooms):
            if (one.area, one.name) == (other.area, other.name):
                raise DatasetError(
                    f"{path}: found {one.files[0].name} and {other.files[0].name}, expected one "
                    "file of a room.\nGive the folder of one of them."
                )
        if rooms:
            return CustomDataset(
                source=path,
                rooms=rooms,
                classes=CLASSES,
                class_colors=CLASS_COLORS,
                in_name=None,
                found={},
                values={str(n): n for n in range(len(CLASSES))}
                | dict.fromkeys(_UNLABELLED, IGNORED),
                options=options,
                no_color_ok=False,
                frame="published",
                test_area=None,
                published=sum(PUBLISHED_ROOMS.values()),
                note=f"labels are taken in the order {', '.join(CLASSES)}; another order needs a "
                "description (--dataset)",
            )
    return None


def _rooms(path: Path, pattern: re.Pattern[str], name: str) -> Iterator[RoomFiles]:
    for depth in range(4):
        for file in path.glob("*/" * depth + name):
            # The folder that is given may be an area or a room; a link, or what it leads to, is
            # called as one.
            as_given, target = path.resolve() / file.relative_to(path), file.resolve()
            if match := pattern.fullmatch(as_given.as_posix()) or pattern.fullmatch(
                target.as_posix()
            ):
                yield RoomFiles(int(match[1]), match[2], (scan_file(file),))
