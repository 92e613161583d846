"""The rooms of a data set of one's own: points, colours, and labels by property or file name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipelines.data.s3dis.rooms import RoomNotes
from pipelines.data.store import IGNORED, Room, make_room
from pipelines.errors import DatasetError, DeepGCNError, did_you_mean
from pipelines.scans import open_scan
from pipelines.scans.table import color_bytes, color_scale

from . import CustomDataset, CustomRoom

GREY = 128  # of a scan without colour


def read_custom_room(dataset: CustomDataset, room: CustomRoom) -> tuple[Room, RoomNotes]:
    """Read one room.

    Raises:
        DatasetError: a file cannot be read, has no colour or label, or a label that is not
            described.
    """
    parts = [_read_file(dataset, file) for file in room.files]
    pos, label = (np.concatenate([part[name] for part in parts]) for name in ("pos", "label"))
    if not len(pos):
        raise DatasetError(f"{room.files[0]}: found no point with coordinates in room {room.name}.")
    made = make_room(room.area, room.name, pos, _colors(parts), label)
    return made, RoomNotes((), (), "", {}, int((label == IGNORED).sum()))


def _read_file(dataset: CustomDataset, path: Path) -> dict[str, np.ndarray]:
    """Return pos (n, 3) float64 metres, label (n,) uint8 and color (n, 3), as it is in the file."""
    try:
        scan = open_scan(path, dataset.options)
        local, origin = scan.positions()
    except DatasetError:
        raise
    except DeepGCNError as error:
        raise DatasetError(str(error)) from error
    # An object of its own file may be black; a whole room is so only without colour.
    if scan.color is None or (dataset.in_name is None and scan.brightest() == 0):
        if not dataset.no_color_ok:
            raise DatasetError(
                f"{path}: found {scan.without_color()}; expected red, green, blue.\n"
                f"To take such scans as grey, write no_color_ok: true into {dataset.source}."
            )
        color = np.full((len(local), 3), GREY, np.uint8)
    else:
        color = np.stack([scan.rows[name] for name in scan.color], axis=1)
    if dataset.in_name is not None:
        label = np.full(len(local), _label_of_name(dataset, path), np.uint8)
    else:
        label = _labels_of_rows(dataset, path, scan.rows)
    known = ~np.isnan(local[:, 0])
    return {"pos": local[known] + origin, "color": color[known], "label": label[known]}


def _colors(parts: list[dict[str, np.ndarray]]) -> np.ndarray:
    """Return a room's colours (n, 3) uint8.

    Their range is that of all its files: those of a dark object alone may not tell it.
    """
    colors = [part["color"] for part in parts]
    largest = max(float(np.nan_to_num(values, posinf=0).max(initial=0)) for values in colors)
    return np.concatenate(
        [color_bytes(values, color_scale(values.dtype, largest)) for values in colors]
    )


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
    if rows.dtype[names[dataset.label.lower()]].shape:
        raise DatasetError(
            f"{path}: found several numbers a point in {dataset.label!r}, expected one label.\n"
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
