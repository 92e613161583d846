"""Any scan in, the same scan with labels out.

    suffix                          read by       labels are written as
    .ply                            scan_ply      PLY
    .pcd                            scan_pcd      PCD
    .las .laz                       scan_las      LAS or LAZ
    .e57                            scan_e57      PLY
    .xyz .xyzrgb .txt .csv .pts .asc  scan_text    the same lines, longer
    .npy .npz                       scan_numpy    NPZ
    a room folder of S3DIS          scan_s3dis    PLY

Any scan's labels can be written as PLY, too. Every writer keeps every point, in the file's order,
and the scan's other columns, and writes the classes' names into the file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipelines.errors import ConfigError, DatasetError, did_you_mean

from .e57 import read_e57
from .las import read_las, write_las
from .numpy import read_npy, read_npz, write_npz
from .pcd import read_pcd, write_pcd
from .ply import read_ply, write_ply
from .s3dis import read_room
from .table import Labels, Scan, ScanOptions
from .text import read_text, write_text

__all__ = ["FORMATS", "Labels", "Scan", "ScanOptions"]

_LAS = (".las", ".laz")
_TEXT = (".xyz", ".xyzrgb", ".txt", ".csv", ".pts", ".asc")
FORMATS: dict[str, Callable[[Path, ScanOptions], Scan]] = {
    ".ply": read_ply,
    ".pcd": read_pcd,
    **dict.fromkeys(_LAS, read_las),
    ".e57": read_e57,
    **dict.fromkeys(_TEXT, read_text),
    ".npy": read_npy,
    ".npz": read_npz,
}
_WRITERS: dict[str, Callable[[Path, Scan, Labels], None]] = {
    ".ply": write_ply,
    ".pcd": write_pcd,
    **dict.fromkeys(_LAS, write_las),
    **dict.fromkeys(_TEXT, write_text),
    ".npz": write_npz,
}
# What the labels of a scan can be written as; the first is the usual one.
_RESULTS = {
    ".ply": (".ply",),
    ".pcd": (".pcd", ".ply"),
    ".las": (*_LAS, ".ply"),
    ".laz": (".laz", ".las", ".ply"),
    **{suffix: (suffix, *(s for s in _TEXT if s != suffix), ".ply") for suffix in _TEXT},
    ".npy": (".npz", ".ply"),
    ".npz": (".npz", ".ply"),
}
RESULT = ".labelled"  # stands before the suffix of a result's name
_PLAIN = (*_TEXT, ".npy", ".npz")  # what `columns` is for


def _suffix(path: Path) -> str:
    return "" if path.is_dir() else path.suffix.lower()


def check_format(path: Path, out: Path | None = None) -> None:
    """Check by the names alone that a scan can be read, and its labels be written to `out`.

    Raises:
        ConfigError: the format is not known, or cannot be written from this one.
    """
    suffix = _suffix(path)
    if suffix not in FORMATS and not path.is_dir():
        raise ConfigError(
            f"{path}: found the format {path.suffix or 'without a suffix'!r}."
            f"{did_you_mean(path.suffix, FORMATS)}\nExpected one of: {', '.join(FORMATS)}, or a "
            "room folder of S3DIS."
        )
    results = _RESULTS.get(suffix, (".ply",))
    if out is not None and out.suffix.lower() not in results:
        raise ConfigError(
            f"{out}: found the format {out.suffix or 'without a suffix'!r} for the labels of "
            f"{path.name}, expected one of: {', '.join(results)}."
        )


def labelled_name(path: Path, suffix: str | None = None) -> str:
    """Return the name of the result: `room.las` becomes `room.labelled.las`.

    `suffix` names another format than the usual one, with or without its dot.
    """
    stem = path.resolve().name if path.is_dir() else path.stem
    if suffix is not None:
        return f"{stem}{RESULT}.{suffix.lower().lstrip('.')}"
    return f"{stem}{RESULT}{_RESULTS.get(_suffix(path), ('.ply',))[0]}"


def open_scan(path: Path, options: ScanOptions | None = None) -> Scan:
    """Open a scan of any format.

    Raises:
        ConfigError: the format is not known, or an option does not fit it.
        DatasetError: the scan is missing, damaged, without points or without coordinates, or the
            package that reads it is missing.
    """
    options = options or ScanOptions()
    check_format(path)
    if not path.exists():
        raise DatasetError(f"{path}: found no file there, expected a scan.")
    if options.columns is not None and _suffix(path) not in _PLAIN:
        raise ConfigError(
            f"--columns: found {options.columns!r} for {path.name}, whose columns have names; "
            f"expected it for these only: {', '.join(_PLAIN)}."
        )
    try:
        return read_room(path, options) if path.is_dir() else FORMATS[_suffix(path)](path, options)
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be read ({error.strerror or error}).\nCheck the file and its rights."
        ) from error


def write_labelled(path: Path, scan: Scan, labels: Labels) -> None:
    """Write a scan with its labels, whole or not at all; the suffix of `path` says the format.

    Raises:
        ConfigError: the scan cannot be written so.
        OSError: the disk is full or the folder cannot be written.
    """
    check_format(scan.path, path)
    _WRITERS[path.suffix.lower()](path, scan, labels)
