"""Read a room folder of S3DIS as a scan.

A room `office_1` holds `office_1.txt`, or only its objects, `Annotations/*.txt`; all have lines
`x y z r g b`. Damaged bytes are repaired as in preparation; the classes in the names of the files
are ignored.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipelines.errors import DatasetError
from pipelines.scans.table import COLOR_NAMES, Scan, ScanOptions, spooled

from .rooms import Repair, parse_points

_ROWS = np.dtype([(name, "<f8") for name in "xyz"] + [(name, "u1") for name in COLOR_NAMES])


def read_room(path: Path, options: ScanOptions) -> Scan:
    """Open a room folder: the whole room's file, or else its objects in the order of their names.

    Raises:
        DatasetError: it holds neither, or a line that cannot be repaired with certainty.
    """
    whole = path / f"{path.resolve().name}.txt"
    files = [whole] if whole.is_file() else sorted((path / "Annotations").glob("*.txt"))
    if not files:
        raise DatasetError(
            f"{path}: found a folder without {whole.name} and Annotations/*.txt, expected a room "
            f"of S3DIS.\nName the scans in it, or a pattern: '{path}/*.ply'"
        )
    repairs: list[Repair] = []
    rows = spooled(path, (_read_file(file, repairs) for file in files), _ROWS)
    notes = [f"read from {whole.name if whole in files else f'{len(files)} objects'}"]
    notes += [f"{item.file}:{item.line}: mended {item.found!r}" for item in repairs]
    names = _ROWS.names or ()
    return Scan(path, rows, names[:3], names[3:], names, tuple(notes), options=options)


def _read_file(file: Path, repairs: list[Repair]) -> np.ndarray:
    with file.open("rb") as stream:
        pos, color = parse_points(stream, str(file), repairs)
    table = np.empty(len(pos), _ROWS)
    for axis, name in enumerate("xyz"):
        table[name], table[COLOR_NAMES[axis]] = pos[:, axis], color[:, axis]
    return table
