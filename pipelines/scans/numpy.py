"""NumPy scans: NPY and NPZ in, NPZ out.

An NPY file holds a structured array with named fields, or a plain one (N, columns ≥ 3). An NPZ file
holds such an array, or coordinates (N, 3) and perhaps colours (N, 3) under the names below. Pickled
objects are never read; sizes are checked before anything is allocated.
"""

from __future__ import annotations

import ast
import operator
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from pipelines.errors import ConfigError, DatasetError
from pipelines.files import atomic_write

from .columns import given_roles, guessed_roles
from .table import (
    COLOR_NAMES,
    Labels,
    Scan,
    ScanOptions,
    Spool,
    chunks,
    find_color,
    find_position,
    kept_names,
    single_fields,
)

POSITIONS = ("pos", "xyz", "points", "positions", "coords", "coord", "vertices", "data", "scan")
COLORS = ("color", "colors", "rgb", "colour", "colours")
SAMPLE = 1000  # points from which the columns of a plain array are guessed
LONGEST_HEADER = 1 << 14  # bytes
_BAD_ARCHIVE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError),
    *(ValueError, OverflowError),
)
_NAMES = {"r": "red", "g": "green", "b": "blue"}


@dataclass(frozen=True)
class Member:
    """What the header of one array says: its type, shape, order, and where its numbers begin."""

    kind: np.dtype
    shape: tuple[int, ...]
    fortran: bool
    start: int

    @property
    def size(self) -> int:
        """The bytes of the numbers."""
        size = self.kind.itemsize
        for length in self.shape:
            size *= length
        return size


def read_npy(path: Path, options: ScanOptions) -> Scan:
    """Open an NPY file.

    Raises:
        ConfigError: `options.columns` does not fit.
        DatasetError: it is no NPY, holds objects, is cut off, or has no coordinates.
    """
    with path.open("rb") as file:
        member = _header(str(path), file)
    found = path.stat().st_size - member.start
    _check_size(str(path), member, found)
    order = "F" if member.fortran else "C"
    array = _mapped(path, member.kind, member.start, member.shape, order)
    return _scan_of(path, str(path), _as_rows(path, array), options)


def read_npz(path: Path, options: ScanOptions) -> Scan:
    """Open an NPZ file; its arrays are unpacked into a spool.

    Raises:
        ConfigError: `options.columns` does not fit.
        DatasetError: it is no NPZ, damaged, or has no coordinates.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_archive(path, archive, options)
    except _BAD_ARCHIVE as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DatasetError:
    return DatasetError(
        f"{path}: found a damaged NPZ ({str(error)[:100]}), expected a ZIP of .npy arrays.\n"
        "Copy or save the scan again."
    )


def _read_archive(path: Path, archive: zipfile.ZipFile, options: ScanOptions) -> Scan:
    stored = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    position = next((name for name in POSITIONS if name in stored), None)
    if position is None:
        raise DatasetError(
            f"{path}: found the arrays {', '.join(stored)[:200] or 'nothing'}; expected "
            f"coordinates under one of: {', '.join(POSITIONS)}."
        )
    rows = _unpacked(path, archive, stored[position])
    scan = _scan_of(path, f"{path}: {position}", rows, options)
    color = next((name for name in COLORS if name in stored), None)
    if color is not None and scan.color is None:
        scan = _joined(scan, COLOR_NAMES, _unpacked(path, archive, stored[color]), color)
        scan = replace(scan, color=COLOR_NAMES)
    label = options.label
    if label in stored and label not in (position, color, *scan.fields):
        scan = _joined(scan, (label,), _unpacked(path, archive, stored[label], least=1), label)
    return scan


def _joined(scan: Scan, names: Sequence[str], columns: np.ndarray, array: str) -> Scan:
    """Return the scan with the first columns of another array besides, under new names.

    Raises:
        DatasetError: the array has another number of rows, or too few or many columns.
    """
    found = columns.dtype.names or ()
    if len(columns) != len(scan) or len(found) not in (len(names), len(names) + 1):
        raise DatasetError(
            f"{scan.path}: found the array {array} of {len(columns):,} rows of {len(found)} "
            f"numbers; expected {len(scan):,} rows of {len(names)}."
        )
    fields = [(name, scan.rows.dtype[name]) for name in scan.fields if name not in names]
    source = dict(zip(names, found, strict=False))
    kind = np.dtype([*fields, *((name, columns.dtype[source[name]]) for name in names)])
    with Spool(scan.path, kind) as spool:
        for part in chunks(len(scan)):
            table = np.empty(part.stop - part.start, kind)
            for name, _ in fields:
                table[name] = scan.rows[name][part]
            for name in names:
                table[name] = columns[source[name]][part]
            spool.append(table)
        return replace(scan, rows=spool.rows(), fields=tuple(kind.names or ()))


def _unpacked(
    path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, *, least: int = 3
) -> np.ndarray:
    """Return an array of the archive as rows of `least` or more numbers, through a spool."""
    where = f"{path}: {info.filename}"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise zipfile.BadZipFile(f"{info.filename} is compressed as type {info.compress_type}")
    with archive.open(info) as stream:
        member = _header(where, stream)
        _check_size(where, member, info.file_size - member.start)
        kind = _row_kind(where, member.kind, member.shape, least)
        if not member.fortran:
            return _streamed(path, where, stream, kind, member.shape[0])
        numbers = _streamed(path, where, stream, member.kind, member.size // member.kind.itemsize)
    return _as_rows(path, numbers.reshape(member.shape, order="F"), least)


def _streamed(path: Path, where: str, stream: IO[bytes], kind: np.dtype, count: int) -> np.ndarray:
    with Spool(path, kind) as spool:
        for part in chunks(count):
            wanted = (part.stop - part.start) * kind.itemsize
            content = stream.read(wanted)
            if len(content) < wanted:
                raise DatasetError(f"{where}: found it cut off.\nCopy or save the scan again.")
            spool.append(np.frombuffer(content, kind))
        return spool.rows()


def _header(where: str, stream: IO[bytes]) -> Member:
    """Read the header of an array.

    Raises:
        DatasetError: it is none, too long, or of pickled objects.
    """
    try:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0), (3, 0)):
            raise ValueError(f"its version is {version}")
        length = int.from_bytes(stream.read(2 if version == (1, 0) else 4), "little")
        if length > LONGEST_HEADER:
            raise ValueError(f"its header has {length:,} bytes")
        facts = ast.literal_eval(stream.read(length).decode("latin-1").strip())
        shape, fortran = tuple(map(operator.index, facts["shape"])), bool(facts["fortran_order"])
        kind = np.lib.format.descr_to_dtype(facts["descr"])
        start = stream.tell()
    except (ValueError, TypeError, SyntaxError, KeyError, MemoryError, RecursionError) as error:
        raise DatasetError(
            f"{where}: found no NPY array ({str(error)[:120]!r}).\n"
            "Save it with numpy.save or numpy.savez."
        ) from error
    if kind.hasobject or min(shape, default=0) < 0:
        raise DatasetError(
            f"{where}: found an array of Python objects, expected numbers (objects are never "
            "loaded).\nSave it with a numeric dtype."
        )
    return Member(kind, shape, fortran, start)


def _check_size(where: str, member: Member, found: int) -> None:
    if member.size != found:
        raise DatasetError(
            f"{where}: found {found:,} bytes after the header, expected {member.size:,} for "
            f"{member.kind.name} of shape {member.shape}.\nCopy or save the scan again."
        )


def _mapped(
    path: Path, kind: np.dtype, start: int, shape: tuple[int, ...], order: Any
) -> np.ndarray:
    if 0 in shape or kind.itemsize == 0:
        return np.empty(shape, kind)
    return np.memmap(path, kind, mode="r", offset=start, shape=shape, order=order)


def _row_kind(where: str, kind: np.dtype, shape: Sequence[int], least: int = 3) -> np.dtype:
    """Return the structured type of a row.

    Raises:
        DatasetError: the array is neither structured (N,) nor numbers (N, `least` or more).
    """
    if kind.names is not None and len(shape) == 1:
        return kind
    if least == 1 and len(shape) == 1:
        shape = (*shape, 1)
    if kind.names is None and kind.kind in "biuf" and len(shape) == 2 and least <= shape[1] < 1000:
        return np.dtype([(f"column_{number}", kind) for number in range(shape[1])])
    raise DatasetError(
        f"{where}: found {kind.name} of shape {tuple(shape)}, "
        f"expected numbers (N, {least} or more) or a structured array (N,) with fields x, y, z."
    )


def _as_rows(path: Path, array: np.ndarray, least: int = 3) -> np.ndarray:
    kind = _row_kind(str(path), array.dtype, array.shape, least)
    if array.dtype.names is not None:
        return array
    if array.flags.c_contiguous:
        return array.view(kind).reshape(len(array))
    with Spool(path, kind) as spool:
        for part in chunks(len(array)):
            spool.append(np.ascontiguousarray(array[part]).view(kind).reshape(-1))
        return spool.rows()


def _scan_of(path: Path, where: str, rows: np.ndarray, options: ScanOptions) -> Scan:
    """Give the columns their meaning."""
    names = rows.dtype.names or ()
    if names[:1] != ("column_0",):
        if options.columns is not None:
            raise ConfigError(
                f"--columns: found {options.columns!r} for {where}, whose fields have names, "
                "expected it for text files and plain arrays only."
            )
        single = single_fields(rows.dtype)
        position = find_position(path, single)
        return Scan(path, rows, position, find_color(single), names, options=options)
    if options.columns is not None:
        roles, how = given_roles(path, options.columns, len(names)), "as told"
    else:
        sample = rows[:SAMPLE]
        values = np.stack([sample[name].astype(np.float64) for name in names], axis=1)
        roles, how = guessed_roles(values), "detected"
    named = tuple(
        name if role == "-" else _NAMES.get(role, role)
        for name, role in zip(names, roles, strict=True)
    )
    kind = np.dtype(list(zip(named, (rows.dtype[name] for name in names), strict=True)))
    color = COLOR_NAMES if "red" in named else None
    notes = (f"columns {','.join(roles)} ({how})",)
    return Scan(path, rows.view(kind), tuple("xyz"), color, named, notes, options=options)


def write_npz(path: Path, scan: Scan, labels: Labels) -> None:
    """Write the arrays of the scan's file and the labels as NPZ.

    Added are `class` uint8 (255 for a point without label), `confidence` float32, `classes` (the
    names, in the order of the labels), and `probabilities` (N, classes) float32 if there are any.
    An array of the scan whose name is taken gets `scan_` in front; that of an NPY file is
    `points`.

    Raises:
        DatasetError: an array of the scan is damaged.
    """
    with (
        atomic_write(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED, allowZip64=True) as archive,
    ):
        try:
            _copy_arrays(scan.path, archive)
        except _BAD_ARCHIVE as error:  # in an array that labelling did not need
            raise _damaged(scan.path, error) from error
        arrays = {
            "class": labels.label,
            "confidence": labels.confidence,
            "classes": np.array(list(labels.classes)),
        }
        if labels.probabilities is not None:
            arrays["probabilities"] = labels.probabilities
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, array, allow_pickle=False)


def _copy_arrays(source: Path, archive: zipfile.ZipFile) -> None:
    """Copy the scan's own arrays, byte by byte."""
    for name, stream in _arrays(source):
        with stream, archive.open(f"{name}.npy", "w", force_zip64=True) as copy:
            shutil.copyfileobj(stream, copy, 1 << 22)


def _arrays(source: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield the name in the result and the content of each of the file's arrays."""
    if source.suffix.lower() == ".npy":
        yield "points", source.open("rb")
        return
    with zipfile.ZipFile(source) as archive:
        stored = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        added = ("class", "confidence", "classes", "probabilities")
        for name, new in kept_names(list(stored), added).items():
            yield new, archive.open(stored[name])
