"""E57 scans through pye57 (extra `e57`); their labels are written as PLY.

Reference:
    ASTM E2807, Standard Specification for 3D Imaging Data Exchange. A file holds one or more
    scans, each with the pose of its scanner; the points here are in the file's common frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DatasetError
from .scan_table import CHUNK, COLOR_NAMES, Scan, ScanOptions, Spool

_CARTESIAN = ("cartesianX", "cartesianY", "cartesianZ")
_SPHERICAL = ("sphericalRange", "sphericalAzimuth", "sphericalElevation")
_COLOR = ("colorRed", "colorGreen", "colorBlue")
_ROWS = np.dtype(
    [(name, "<f8") for name in "xyz"]
    + [(name, "<u2") for name in COLOR_NAMES]
    + [("intensity", "<f4"), ("scan", "<u2")]
)


def read_e57(path: Path, options: ScanOptions) -> Scan:
    """Open an E57 file: the points of all its scans, one scan after the other.

    `scan` counts the scans from 0. A point that the scanner marked as invalid is NaN.

    Raises:
        DatasetError: pye57 is missing, or the file is no E57, damaged or without points.
    """
    with path.open("rb") as file:
        if (head := file.read(8)) != b"ASTM-E57":
            raise DatasetError(
                f"{path}: found no E57 header (its first bytes are {head!r}), expected 'ASTM-E57'."
            )
    try:
        import pye57
    except ImportError as error:
        raise DatasetError(f'{path}: E57 needs pye57: pip install "deepgcn[e57]"') from error
    failures = (pye57.libe57.E57Exception, RuntimeError, ValueError, KeyError)
    try:
        with pye57.E57(str(path)) as file_of_scans, Spool(path, _ROWS) as spool:
            headers = [file_of_scans.get_header(n) for n in range(file_of_scans.scan_count)]
            for number, header in enumerate(headers):
                for table in _scan_rows(file_of_scans, header):
                    table["scan"] = number
                    spool.append(table)
            rows = spool.rows()
            names = {name for header in headers for name in header.point_fields}
            count = len(headers)
    except failures as error:
        raise DatasetError(
            f"{path}: found a damaged or truncated E57 ({str(error).splitlines()[0][:150]}).\n"
            "Copy or export the scan again."
        ) from error
    color = COLOR_NAMES if names.issuperset(_COLOR) else None
    fields = [*"xyz", *(color or ())]
    fields += ["intensity"] if "intensity" in names else []
    fields += ["scan"] if count > 1 else []
    notes = (f"{count} scans, in their common frame",) if count > 1 else ()
    return Scan(path, rows, ("x", "y", "z"), color, tuple(fields), notes, options=options)


def _scan_rows(file: Any, header: Any) -> Iterator[np.ndarray]:
    """Yield the points of one scan in chunks."""
    present = set(header.point_fields)
    system = _CARTESIAN if present.issuperset(_CARTESIAN) else _SPHERICAL
    if not present.issuperset(system):
        raise ValueError(f"points with {', '.join(sorted(present))}, without coordinates")
    invalid = system[0].removesuffix("X").removesuffix("Range") + "InvalidState"
    wanted = [*system, *(name for name in (*_COLOR, "intensity", invalid) if name in present)]
    found, buffers = _buffers(file, wanted)
    reader = header.points.reader(buffers)
    rotation, translation = header.rotation_matrix, header.translation
    while count := reader.read():
        rows = np.zeros(count, _ROWS)
        local = np.stack([found[name][:count] for name in system], axis=1)
        local = _cartesian(local) if system is _SPHERICAL else local
        if invalid in found:
            local[found[invalid][:count] != 0] = np.nan
        for axis, values in enumerate((local @ rotation.T + translation).T):
            rows["xyz"[axis]] = values
        for new, name in zip((*COLOR_NAMES, "intensity"), (*_COLOR, "intensity"), strict=True):
            if name in found:
                rows[new] = found[name][:count]
        yield rows


def _buffers(file: Any, names: list[str]) -> tuple[dict[str, np.ndarray], Any]:
    """Return an array for each field, and the same for the library to fill."""
    from pye57 import libe57

    arrays, buffers = {}, libe57.VectorSourceDestBuffer()
    for name in names:
        kind = "u2" if name in _COLOR else "i1" if name.endswith("State") else "f8"
        arrays[name] = np.empty(CHUNK, kind)
        buffers.append(
            libe57.SourceDestBuffer(file.image_file, name, arrays[name], CHUNK, True, True)
        )
    return arrays, buffers


def _cartesian(spherical: np.ndarray) -> np.ndarray:
    """Return range, azimuth and elevation (n, 3), metres and radians, as x, y, z."""
    distance, azimuth, elevation = spherical.T
    ground = distance * np.cos(elevation)
    return np.stack(
        [ground * np.cos(azimuth), ground * np.sin(azimuth), distance * np.sin(elevation)], axis=1
    )
