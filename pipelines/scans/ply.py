"""PLY scans: whatever carries coordinates and colour in, labelled PLY out.

plyfile reads the data (binary files as a memory map), after `ply.read_header` has compared the
header with the file's size.

Reference:
    Greg Turk, The PLY Polygon File Format, 1994.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pipelines.errors import DatasetError
from pipelines.files import atomic_write
from pipelines.scans.ply_header import PlyHeader, header, read_header

from .table import (
    COLOR_NAMES,
    Labels,
    Scan,
    ScanOptions,
    chunks,
    find_color,
    find_position,
    kept_names,
    single_fields,
)


def read_ply(path: Path, options: ScanOptions) -> Scan:
    """Open a PLY file.

    Raises:
        DatasetError: the file is no PLY, truncated, without points, or its vertices have no
            coordinates or a list property.
    """
    from plyfile import PlyData, PlyParseError

    facts = read_header(path)
    try:
        with path.open("rb") as file:
            data = PlyData.read(_PlainStream(file, facts), mmap="r")
    except (PlyParseError, ValueError, OSError, IndexError, OverflowError) as error:
        raise DatasetError(
            f"{path}: found a damaged or truncated PLY ({str(error).splitlines()[0]}).\n"
            "Export or copy the scan again."
        ) from error
    vertex = next(element for element in data.elements if element.name == "vertex").data
    names = tuple(facts.names.get(name, name) for name in vertex.dtype.names)
    rows = _renamed(vertex, names)
    single = single_fields(rows.dtype)
    return Scan(
        path,
        rows,
        find_position(path, single),
        find_color(single, labelled=facts.labelled),
        names,
        dropped={item.name: item.count for item in data.elements if item.name != "vertex"},
        options=options,
    )


class _PlainStream(io.BufferedIOBase):
    """An open PLY file whose header is read as `PlyHeader.plain`: plyfile takes ASCII only."""

    def __init__(self, file: BinaryIO, facts: PlyHeader) -> None:
        self._file, self._header = file, facts.plain
        self._file.seek(facts.start)

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        if not self._header:
            return self._file.read(-1 if size is None else size)
        piece, self._header = self._header[:size], self._header[size:]
        return piece

    read1 = read

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def fileno(self) -> int:
        return self._file.fileno()


def _renamed(rows: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    kinds = [rows.dtype[name] for name in rows.dtype.names or ()]
    return rows.view(np.dtype(list(zip(names, kinds, strict=True))))


def write_ply(path: Path, scan: Scan, labels: Labels) -> None:
    """Write a scan of any format, in its order, with its labels, as binary PLY.

    Added are `class` (uchar, 255 for a point without label), `confidence` (float, 0 to 1), the
    probabilities if there are any, and the class colour as `red`, `green`, `blue`. Every column of
    the scan is kept; one whose name is taken gets `scan_` in front. Written in chunks, whole or
    not at all.
    """
    added = labels.columns()
    flat = _flat_columns(scan)
    kept = kept_names(list(flat), (*COLOR_NAMES, *added))
    fields = [(kept[name], _ply_kind(_column(scan.rows[:1], flat[name]).dtype)) for name in flat]
    rows = np.dtype([*fields, *((name, np.dtype("u1")) for name in COLOR_NAMES), *added.items()])
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write(header(len(scan), rows, labels.comments()))
        for part in chunks(len(scan)):
            table = np.empty(part.stop - part.start, rows)
            for name, new in kept.items():
                table[new] = _column(scan.rows[part], flat[name])
            for name, values in labels.part(part).items():
                table[name] = values
            for name, values in zip(COLOR_NAMES, labels.colors(part).T, strict=True):
                table[name] = values
            file.write(table.tobytes())


_Column = tuple[str, int | None]


def _flat_columns(scan: Scan) -> dict[str, _Column]:
    """Return PLY names for the columns; a column of several numbers becomes several.

    Colours that the scan packs into one number come first, one by one.
    """
    flat: dict[str, _Column] = {}
    if scan.color is not None and not set(scan.color) <= set(scan.fields):
        flat = {plain: (name, None) for plain, name in zip(COLOR_NAMES, scan.color, strict=True)}
    for name in scan.fields:
        if scan.rows.dtype[name].base.kind not in "biuf":
            continue  # text: a PLY holds numbers only
        plain = "".join(c if c.isascii() and c.isprintable() and c != " " else "_" for c in name)
        size = int(np.prod(scan.rows.dtype[name].shape))
        numbers = [None] if scan.rows.dtype[name].shape == () else range(size)
        for number in numbers:
            new = plain or "_"
            new = new if number is None else f"{new}_{number}"
            while new in flat:
                new += "_"
            flat[new] = (name, number)
    return flat


def _column(rows: np.ndarray, column: _Column) -> np.ndarray:
    name, number = column
    return rows[name] if number is None else rows[name].reshape(len(rows), -1)[:, number]


def _ply_kind(kind: np.dtype) -> np.dtype:
    """Return the type in which a column is written: PLY has no 64-bit integers and no half."""
    if kind.kind == "b":
        return np.dtype("u1")
    if kind.kind in "iu" and kind.itemsize == 8:
        return np.dtype("<f8")
    return np.dtype("<f4") if kind == np.float16 else kind.newbyteorder("<")
