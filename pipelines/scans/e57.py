"""E57 scans through pye57 (extra `e57`); their labels are written as PLY.

Reference:
    ASTM E2807, Standard Specification for 3D Imaging Data Exchange. A file holds one or more
    scans, each with the pose of its scanner; the points here are in the file's common frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.errors import DatasetError
from pipelines.progress import counted

from .table import COLOR_INVALID, COLOR_NAMES, Scan, ScanOptions, spooled, watched

MOST_POINTS = 8  # for each byte: a coordinate takes a bit or more, or all points are one
CHUNK = 1 << 16  # points that the library gives at a time, each field as float64
_CARTESIAN = ("cartesianX", "cartesianY", "cartesianZ")
_SPHERICAL = ("sphericalRange", "sphericalAzimuth", "sphericalElevation")
_INVALID = ("cartesianInvalidState", "sphericalInvalidState")
_COLOR = ("colorRed", "colorGreen", "colorBlue")
_NAMES = dict(zip(_COLOR, COLOR_NAMES, strict=True))  # of columns that are not called as in E57


def read_e57(path: Path, options: ScanOptions) -> Scan:
    """Open an E57 file: the points of all its scans, one scan after the other.

    Other fields keep their names (`intensity`, `rowIndex`, `nor:normalX`, …); they are 0 in a scan
    without them, but its colour is marked as missing: `isColorInvalid` is 1. `scan` counts the
    scans. A point that the scanner marked as invalid is NaN.
    """
    with path.open("rb") as content:
        if (head := content.read(8)) != b"ASTM-E57":
            raise DatasetError(
                f"{path}: found no E57 header (its first bytes are {head!r}), expected 'ASTM-E57'."
            )
    try:
        import pye57
    except ImportError as error:
        raise DatasetError(f'{path}: E57 needs pye57: pip install "deepgcn[e57]"') from error
    try:
        with pye57.E57(str(path)) as file:
            headers = [file.get_header(number) for number in range(file.scan_count)]
            table = _table_kind(headers)
            scans = (_scan_rows(file, header, table, n) for n, header in enumerate(headers))
            points = sum(header.point_count for header in headers)
            if points > MOST_POINTS * path.stat().st_size:
                raise ValueError(f"{counted(points, 'point')} in {path.stat().st_size:,} bytes")
            parts = watched(chain.from_iterable(scans), points, path, options.task)
            rows = spooled(path, parts, table)
        if len(rows) != points:
            raise ValueError(f"{len(rows):,} of {counted(points, 'point')}")
    except (pye57.libe57.E57Exception, RuntimeError, ValueError, KeyError) as error:
        raise DatasetError(
            f"{path}: found a damaged or truncated E57 ({str(error).splitlines()[0][:150]}).\n"
            "Copy or export the scan again."
        ) from error
    names, count = table.names or (), len(headers)
    color = COLOR_NAMES if set(COLOR_NAMES) <= set(names) else None
    fields = tuple(name for name in names if name != "scan" or count > 1)
    notes = (f"{count} scans, in their common frame",) if count > 1 else ()
    return Scan(path, rows, ("x", "y", "z"), color, fields, notes, options=options)


def _table_kind(headers: list[Any]) -> np.dtype:
    """Return the structured type for the points of all scans, with the numeric fields of any."""
    found: dict[str, np.dtype] = {}
    for header in headers:
        for name, kind in _kinds(header).items():
            if name not in (*_CARTESIAN, *_SPHERICAL, *_INVALID):
                new = _NAMES.get(name, name)
                found[new] = np.promote_types(found.get(new, kind), kind)
    painted = [_kinds(header).keys() >= set(_COLOR) for header in headers]
    if any(painted) and not all(painted):
        found.setdefault(COLOR_INVALID, np.dtype("u1"))
    return np.dtype([*((name, "<f8") for name in "xyz"), *found.items(), ("scan", "<u2")])


def _kinds(header: Any) -> dict[str, np.dtype]:
    """Return the numeric fields of one scan, with types that hold the declared limits."""
    from pye57 import libe57

    found = {}
    prototype = libe57.StructureNode(header.points.prototype())
    for name in header.point_fields:
        node = prototype.get(name)
        if node.type() == libe57.E57_INTEGER:
            whole = libe57.IntegerNode(node)
            limits = (whole.minimum(), whole.maximum())
            found[name] = np.result_type(*map(np.min_scalar_type, limits))
        elif node.type() in (libe57.E57_SCALED_INTEGER, libe57.E57_FLOAT):
            is_float = node.type() == libe57.E57_FLOAT
            single = is_float and libe57.FloatNode(node).precision() == libe57.E57_SINGLE
            found[name] = np.dtype("f4" if single else "f8")
    return found


def _scan_rows(file: Any, header: Any, table: np.dtype, number: int) -> Iterator[np.ndarray]:
    """Yield the points of scan `number` in chunks, as rows of `table`."""
    kinds = _kinds(header)
    system = _CARTESIAN if kinds.keys() >= set(_CARTESIAN) else _SPHERICAL
    if not kinds.keys() >= set(system):
        raise ValueError(f"points with {', '.join(sorted(kinds))}, without coordinates")
    invalid = _INVALID[system is _SPHERICAL]
    columns = {name: _NAMES.get(name, name) for name in kinds}
    columns = {name: new for name, new in columns.items() if new in (table.names or ())}
    found, buffers = _buffers(file, {*system, *columns, *({invalid} & kinds.keys())})
    reader = header.points.reader(buffers)
    rotation, translation = header.rotation_matrix, header.translation
    while count := reader.read():
        rows = np.zeros(count, table)
        rows["scan"] = number
        if COLOR_INVALID in (table.names or ()) and not kinds.keys() >= set(_COLOR):
            rows[COLOR_INVALID] = 1
        local = np.stack([found[name][:count] for name in system], axis=1)
        if system is _SPHERICAL:
            distance, azimuth, elevation = local.T  # metres and radians
            ground, height = distance * np.cos(elevation), distance * np.sin(elevation)
            local = np.stack([ground * np.cos(azimuth), ground * np.sin(azimuth), height], axis=1)
        if invalid in found:
            local[found[invalid][:count] != 0] = np.nan
        for axis, values in enumerate((local @ rotation.T + translation).T):
            rows["xyz"[axis]] = values
        for name, new in columns.items():
            rows[new] = found[name][:count]
        yield rows


def _buffers(file: Any, names: Iterable[str]) -> tuple[dict[str, np.ndarray], Any]:
    """Return an array for each field, and the same for the library to fill."""
    from pye57 import libe57

    # Float64 holds whole numbers up to 2^53: the library takes int64 for int32.
    arrays = {name: np.empty(CHUNK, "f8") for name in names}
    buffers = libe57.VectorSourceDestBuffer()
    for name, array in arrays.items():
        buffers.append(libe57.SourceDestBuffer(file.image_file, name, array, CHUNK, True, True))
    return arrays, buffers
