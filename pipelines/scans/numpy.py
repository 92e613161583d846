"""Read NumPy scans, NPY and NPZ; write labelled NPZ.

An NPY file holds a structured array with named fields, or a plain one (N, columns ≥ 3). An NPZ file
holds such an array, or coordinates (N, 3) and perhaps colours (N, 3) under the names below. Pickled
objects are never read; sizes are checked before anything is allocated.
"""

from __future__ import annotations

import io
import math
import shutil
import struct
import tokenize
import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from pipelines.errors import ConfigError, DatasetError
from pipelines.files import ZIP_ERRORS, atomic_write, check_apart
from pipelines.progress import counted

from . import table
from .columns import COLUMN_NAMES, given_roles, guessed_roles
from .table import COLOR_NAMES, Labels, Scan, ScanOptions

POSITIONS = ("pos", "xyz", "points", "positions", "coords", "coord", "vertices", "data", "scan")
COLORS = ("color", "colors", "rgb", "colour", "colours")
SAMPLE = 1000  # points from which the columns of a plain array are guessed
LONGEST_HEADER = 1 << 14  # bytes
_BAD_ARCHIVE = (*ZIP_ERRORS, struct.error, ValueError, OverflowError)
_BAD_HEADER = (ValueError, TypeError, SyntaxError, tokenize.TokenError, MemoryError, RecursionError)


def read_npy(path: Path, options: ScanOptions) -> Scan:
    """Open an NPY file."""
    return _scan_of(path, f"{path}", _mapped(path), options)


def _mapped(path: Path, least: int = 3) -> np.ndarray:
    """Return an array of `least` or more columns as rows, memory-mapped."""
    with path.open("rb") as file:
        header = _header(f"{path}", file.read(LONGEST_HEADER), path.stat().st_size, least)
    return _rows(path, header, np.memmap(path, np.uint8, "r")[header.start :])


def read_arrays(path: Path, options: ScanOptions) -> Scan:
    """Open a folder with a file for each array that an NPZ file would hold: coord.npy, …"""
    stored = {file.stem: file for file in path.glob("*.npy")}
    return _joined_arrays(path, stored, lambda name, least: _mapped(stored[name], least), options)


def read_npz(path: Path, options: ScanOptions) -> Scan:
    """Open an NPZ file; its arrays are unpacked into a spool."""
    try:
        with zipfile.ZipFile(path) as archive:
            check_apart(archive)
            stored = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}

            def unpacked(name: str, least: int) -> np.ndarray:
                return _unpacked(path, archive, stored[name], least=least)

            return _joined_arrays(path, stored, unpacked, options)
    except _BAD_ARCHIVE as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DatasetError:
    return DatasetError(
        f"{path}: found a damaged NPZ ({str(error)[:100]}), expected a ZIP of .npy arrays.\n"
        "Copy or save the scan again."
    )


def _joined_arrays(
    path: Path,
    stored: Collection[str],
    load: Callable[[str, int], np.ndarray],
    options: ScanOptions,
) -> Scan:
    """Return the scan of the arrays under known names; `load` takes one of at least n columns."""
    position = next((name for name in POSITIONS if name in stored), None)
    if position is None:
        raise DatasetError(
            f"{path}: found the arrays {', '.join(stored)[:200] or 'nothing'}; expected "
            f"coordinates under one of: {', '.join(POSITIONS)}."
        )
    rows = load(position, 3)
    scan = _scan_of(path, f"{path}: {position}", rows, options)
    color = next((name for name in COLORS if name in stored), None)
    is_guess = options.columns is None and (rows.dtype.names or ())[:1] == ("column_1",)
    if color is not None and (scan.color is None or is_guess):
        scan = _joined(scan, COLOR_NAMES, load(color, 3), color)
        scan = replace(scan, color=COLOR_NAMES)
    label = options.label
    if label is not None and label in stored and label not in (position, color, *scan.fields):
        scan = _joined(scan, (label,), load(label, 1), label)
    return scan


def _joined(scan: Scan, names: Sequence[str], columns: np.ndarray, array: str) -> Scan:
    """Return the scan with the columns of another array, under new names; alpha is left out."""
    found = columns.dtype.names or ()
    counts = (3, 4) if names == COLOR_NAMES else (1,)
    if len(columns) != len(scan) or len(found) not in counts:
        raise DatasetError(
            f"{scan.path}: found the array {array} of {counted(len(columns), 'row')} of "
            f"{counted(len(found), 'number')}; expected {counted(len(scan), 'row')} of "
            f"{len(names)}."
        )
    sources = {name: scan.rows[name] for name in scan.fields if name not in names}
    sources |= {new: columns[old] for new, old in zip(names, found, strict=False)}
    return replace(scan, rows=table.spooled_columns(scan.path, sources), fields=tuple(sources))


def _unpacked(
    path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, *, least: int = 3
) -> np.ndarray:
    """Return an array of the archive as rows of `least` or more columns, through a spool."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise zipfile.BadZipFile(f"{info.filename} is compressed as type {info.compress_type}")
    where = f"{path}: {info.filename}"
    with archive.open(info) as stream:
        head = stream.read(LONGEST_HEADER)
        header = _header(where, head, info.file_size, least)
        parts = chain([head[header.start :]], iter(lambda: stream.read(table.CHUNK), b""))
        content = table.spooled(path, (np.frombuffer(part, "u1") for part in parts), np.dtype("u1"))
    if len(content) < info.file_size - header.start:
        raise DatasetError(f"{where}: found it cut off.\nCopy or save the scan again.")
    return _rows(path, header, content)


class _Header(NamedTuple):
    """What the header of an array says."""

    kind: np.dtype  # of a row, structured
    by_column: bool  # whether the values are stored column by column
    start: int  # the byte at which they begin


def _header(where: str, head: bytes, size: int, least: int = 3) -> _Header:
    """Read the header of an array of `size` bytes in all, and check that it describes them."""
    stream = io.BytesIO(head)  # of bounded size, so a length that lies allocates nothing
    lib = np.lib.format
    try:
        version = lib.read_magic(stream)
        if version not in ((1, 0), (2, 0), (3, 0)):
            raise ValueError(f"its version is {version}")
        # 3.0 differs from 2.0 in the encoding of field names only.
        read = lib.read_array_header_1_0 if version == (1, 0) else lib.read_array_header_2_0
        shape, fortran, kind = read(stream, max_header_size=LONGEST_HEADER)
    except _BAD_HEADER as error:
        raise DatasetError(
            f"{where}: found no NPY array ({str(error)[:120]!r}).\n"
            "Save it with numpy.save or numpy.savez."
        ) from error
    if kind.hasobject or min(shape, default=0) < 0:
        raise DatasetError(
            f"{where}: found an array of Python objects, expected numbers (objects are never "
            "loaded).\nSave it with a numeric dtype."
        )
    start = stream.tell()
    needed = math.prod((kind.itemsize, *shape))
    if needed != size - start:
        raise DatasetError(
            f"{where}: found {size - start:,} bytes after the header, expected {needed:,} for "
            f"{kind.name} of shape {shape}.\nCopy or save the scan again."
        )
    if kind.names and len(shape) == 1:
        return _Header(kind, by_column=False, start=start)
    columns = 1 if least == len(shape) == 1 else shape[1] if len(shape) == 2 else 0
    if kind.kind not in "biuf" or not least <= columns < 1000:
        raise DatasetError(
            f"{where}: found {kind.name} of shape {shape}, expected numbers "
            f"(N, {least} or more) or a structured array (N,) with fields x, y, z."
        )
    row = np.dtype([(f"column_{number}", kind) for number in range(1, columns + 1)])
    return _Header(row, fortran and len(shape) == 2, start)


def _rows(path: Path, header: _Header, content: np.ndarray) -> np.ndarray:
    """Return the values of an array, given as bytes, as rows of a structured type."""
    if not header.by_column:
        return content.view(header.kind)
    names = header.kind.names or ()
    columns = content.view(header.kind[0]).reshape(len(names), -1)
    return table.spooled_columns(path, dict(zip(names, columns, strict=True)))


def _scan_of(path: Path, where: str, rows: np.ndarray, options: ScanOptions) -> Scan:
    """Give the columns their roles."""
    names = rows.dtype.names or ()
    if names[:1] != ("column_1",):
        if options.columns is not None:
            raise ConfigError(
                f"--columns: found {options.columns!r} for {where}, whose fields have names, "
                "expected it for text files and plain arrays only."
            )
        return table.named_scan(path, rows, options)
    if options.columns is not None:
        roles, how = given_roles(path, options.columns, len(names)), "as given"
    else:
        spread = rows[:: max(1, len(rows) // SAMPLE)]
        sample = [spread[name].astype(np.float64) for name in names]
        roles, how = guessed_roles(np.stack(sample, axis=1)), "detected"
    new = {name: COLUMN_NAMES.get(r, r) for name, r in zip(names, roles, strict=True) if r != "-"}
    kind = np.dtype([(new.get(name, name), rows.dtype[name]) for name in names])
    color, notes = COLOR_NAMES if "r" in roles else None, (f"columns {','.join(roles)} ({how})",)
    named = kind.names or ()
    return Scan(path, rows.view(kind), tuple("xyz"), color, named, notes, options=options)


def write_npz(path: Path, scan: Scan, labels: Labels) -> None:
    """Write the arrays of the scan's file and the labels as NPZ.

    Added are `class` uint8 (255 for a point without label), `confidence` float32, `classes` (their
    names, in order), `frame` (text), and `probabilities` (N, C) float32 if there are any. An array
    of the scan whose name is taken gets `scan_` in front; that of an NPY file is `points`.
    """
    added = {
        "class": labels.label,
        "confidence": labels.confidence,
        "classes": np.array(list(labels.classes)),
        "frame": np.array(labels.frame),
        "probabilities": labels.probabilities,
    }
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        try:
            for name, stream in _arrays(scan.path, added):
                with stream, archive.open(f"{name}.npy", "w", force_zip64=True) as copy:
                    shutil.copyfileobj(stream, copy, 1 << 22)
        except _BAD_ARCHIVE as error:  # in an array that labelling did not need
            raise _damaged(scan.path, error) from error
        for name, array in added.items():
            if array is not None:
                with archive.open(f"{name}.npy", "w", force_zip64=True) as copy:
                    np.lib.format.write_array(copy, array, allow_pickle=False)


def _arrays(source: Path, added: Collection[str]) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield the name in the result and the bytes of each of the file's arrays."""
    if source.suffix.lower() == ".npy":
        yield "points", source.open("rb")
        return
    with zipfile.ZipFile(source) as archive:
        stored = {name.removesuffix(".npy"): name for name in archive.namelist()}
        for name, new in table.kept_names(stored, added).items():
            yield new, archive.open(stored[name])
