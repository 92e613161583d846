"""The rooms of a data set of one's own: points, colours, and labels by property or file name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DatasetError, DeepGCNError, did_you_mean
from .custom import CustomDataset, CustomRoom
from .rooms import RoomNotes
from .scans import open_scan
from .store import IGNORED, Room, make_room

GREY = 128  # of a scan without colour


def read_custom_room(dataset: CustomDataset, room: CustomRoom) -> tuple[Room, RoomNotes]:
    """Read one room.

    Raises:
        DatasetError: a file cannot be read, has no colour or label, or a label that is not
            described.
    """
    parts = [_read_file(dataset, file) for file in room.files]
    pos, color, label = (np.concatenate(list(arrays)) for arrays in zip(*parts, strict=True))
    if not len(pos):
        raise DatasetError(f"{room.files[0]}: found no point with coordinates in room {room.name}.")
    made = make_room(room.area, room.name, pos, color, label)
    return made, RoomNotes((), (), "", {}, int((label == IGNORED).sum()))


def _read_file(dataset: CustomDataset, path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pos (n, 3) float64 metres, color (n, 3) uint8 and label (n,) uint8."""
    try:
        scan = open_scan(path, dataset.options)
        local, origin = scan.positions()
        color = scan.colors()
    except DatasetError:
        raise
    except DeepGCNError as error:
        raise DatasetError(str(error)) from error
    if color is None:
        if not dataset.no_color_ok:
            raise DatasetError(
                f"{path}: found no colour, expected red, green and blue.\n"
                f"To take such scans as grey, write no_color_ok: true into {dataset.source}."
            )
        color = np.full((len(local), 3), GREY, np.uint8)
    if dataset.in_name is not None:
        label = np.full(len(local), _label_of_name(dataset, path), np.uint8)
    else:
        label = _labels_of_rows(dataset, path, scan.rows)
    known = ~np.isnan(local[:, 0])
    return local[known] + origin, color[known], label[known]


def _label_of_name(dataset: CustomDataset, path: Path) -> int:
    assert dataset.in_name is not None
    match = dataset.in_name.search(path.stem)
    value = str(match.group(1)) if match else ""
    if value not in dataset.values:
        shown = repr(value) if value else "nothing"
        raise DatasetError(
            f"{path}: found the label {shown} in its name, expected one of: "
            f"{', '.join(dataset.values)}.\nDescribe it under values or ignore in {dataset.source}."
        )
    return dataset.values[value]


def _labels_of_rows(dataset: CustomDataset, path: Path, rows: np.ndarray) -> np.ndarray:
    names = {name.lower(): name for name in rows.dtype.names or ()}
    if dataset.label.lower() not in names:
        raise DatasetError(
            f"{path}: found the columns {', '.join(names.values())[:200]}; expected the label "
            f"{dataset.label!r}.{did_you_mean(dataset.label, names.values())}\n"
            f"Correct label in {dataset.source}."
        )
    found, places = np.unique(rows[names[dataset.label.lower()]], return_inverse=True)
    meant = np.empty(len(found), np.uint8)
    for number, value in enumerate(found):
        text = _text(value)
        if text not in dataset.values:
            count = int((places == number).sum())
            raise DatasetError(
                f"{path}: found the label {text} ({count:,} points), expected one of: "
                f"{', '.join(dataset.values)}.\n"
                f"Describe it under values or ignore in {dataset.source}."
            )
        meant[number] = dataset.values[text]
    return meant[places.reshape(-1)]


def _text(value: Any) -> str:
    """Return a label as it is written in a description: whole numbers without a point."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, (float, np.floating)):
        return str(int(value)) if float(value).is_integer() else str(float(value))
    return str(value)
