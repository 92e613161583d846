"""From the text of a raw room to its labelled points, with everything that had to be mended."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from pipelines.data.store import Room, make_room
from pipelines.errors import DatasetError

from . import CLASSES, canonical_class
from .raw import RawDataset, RawRoom, read_errors
from .text import Repair, check_lines, parse_points


@dataclass(frozen=True)
class RoomNotes:
    """What is worth knowing of how a room was read.

    Attributes:
        repairs: lines that were mended in memory, with file and line.
        skipped: stray files that were left out.
        renamed: a whole-room file that is not named like its room, or "".
        unknown: object files of classes outside S3DIS's, counted as clutter, by class.
        unlabelled: points of the whole-room file that no annotation has.
    """

    repairs: tuple[Repair, ...]
    skipped: tuple[str, ...]
    renamed: str
    unknown: dict[str, int]
    unlabelled: int


def read_raw_room(dataset: RawDataset, raw: RawRoom) -> tuple[Room, RoomNotes]:
    """Read one room of the raw data.

    Raises:
        DatasetError: a line that cannot be repaired with certainty, an unreadable file, or a room
            without points.
    """
    repairs: list[Repair] = []
    unknown: dict[str, int] = {}
    try:
        pos, color, label, whole_lines = _read_files(dataset, raw, repairs, unknown)
    except read_errors() as error:
        raise DatasetError(
            f"{dataset.source}: Area_{raw.area}/{raw.name} cannot be read: {error}.\n"
            "Expected readable text files; copy or download the raw data again."
        ) from error
    if not len(pos):
        raise DatasetError(
            f"{dataset.source}: Area_{raw.area}/{raw.name}: found no labelled points in "
            f"{len(raw.annotations)} annotation files, expected at least one."
        )
    room = make_room(raw.area, raw.name, rotate(pos, raw.angle), color, label)
    whole = raw.whole
    renamed = whole.name if whole and PurePosixPath(whole.name).stem != raw.name else ""
    unlabelled = max(0, whole_lines - len(pos))
    return room, RoomNotes(tuple(repairs), raw.skipped, renamed, unknown, unlabelled)


def _read_files(
    dataset: RawDataset, raw: RawRoom, repairs: list[Repair], unknown: dict[str, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Return pos (N, 3) float64, color (N, 3), label (N,) uint8 and the whole room's lines."""
    parts = []
    with dataset.reader() as open_file:
        for file in raw.annotations:
            stem = PurePosixPath(file.name).stem
            name = stem.rpartition("_")[0] or stem  # of a class's only object the number may lack
            known = canonical_class(name)
            if known is None:
                unknown[name] = unknown.get(name, 0) + 1
            with open_file(file) as stream:
                pos, color = parse_points(stream, file.name, repairs)
            label = CLASSES.index(known or "clutter")
            parts.append((pos, color, np.full(len(pos), label, np.uint8)))
        lines = 0
        if raw.whole:
            with open_file(raw.whole) as stream:
                lines = check_lines(stream, raw.whole.name, repairs)
    points = [np.concatenate(list(arrays)) for arrays in zip(*parts, strict=True)]
    return points[0], points[1], points[2], lines


def rotate(pos: np.ndarray, angle: float) -> np.ndarray:
    """Turn points (N, 3) by `angle` degrees about z, counter-clockwise seen from above."""
    if angle == 0:
        return pos
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    x, y = pos[:, 0] * cos - pos[:, 1] * sin, pos[:, 0] * sin + pos[:, 1] * cos
    return np.column_stack([x, y, pos[:, 2]])
