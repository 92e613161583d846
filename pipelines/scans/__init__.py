"""Read scans of any format, and write them again with a label for each point.

Every writer keeps all points in the order of the file, and the scan's other columns, and writes the
names of the classes into the file. Any scan can also be written as PLY. A format is a module with
a reader, and a writer if it can hold labels, and has an entry in `_FORMATS`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipelines.errors import ConfigError, DatasetError, did_you_mean

from .e57 import read_e57
from .las import read_las, write_las
from .numpy import read_npy, read_npz, write_npz
from .pcd import read_pcd, write_pcd
from .ply import read_ply, write_ply
from .ptx import read_ptx
from .table import UNLABELLED, Labels, Scan, ScanOptions
from .text import read_text, write_text

__all__ = ["FORMATS", "Labels", "Scan", "ScanOptions"]

RESULT = ".labelled"  # precedes the suffix in a result's name
SIMILAR = 0.7  # likeness of a suffix to one that may be meant; `.tif` is no slip for `.txt`
TRIAL = 1000  # points that are written before labelling begins
Reader = Callable[[Path, ScanOptions], Scan]
Writer = Callable[[Path, Scan, Labels], None]


@dataclass(frozen=True)
class Format:
    """A scan format."""

    suffixes: tuple[str, ...]  # of its files, in lower case
    read: Reader
    write: Writer | None = None  # None if the format cannot hold labels
    labels_as: str = ".ply"  # the suffix of the labelled scan if there is no `write`
    unnamed: bool = False  # columns can be without names, so `--columns` applies


_TEXT = (".xyz", ".xyzrgb", ".txt", ".csv", ".pts", ".asc")
_FORMATS = (
    Format((".ply",), read_ply, write_ply),
    Format((".pcd",), read_pcd, write_pcd),
    Format((".las", ".laz"), read_las, write_las),
    Format((".e57",), read_e57),
    Format((".ptx",), read_ptx),
    Format(_TEXT, read_text, write_text, unnamed=True),
    Format((".npy",), read_npy, labels_as=".npz", unnamed=True),
    Format((".npz",), read_npz, write_npz, unnamed=True),
)
_EXPORT = "Export it as E57, LAS or PLY from the program that wrote it."
_OTHERS = {  # formats whose names are like those of others, and what to do
    **dict.fromkeys((".gz", ".bz2", ".xz", ".zst", ".zip", ".7z", ".rar"), "Unpack it first."),
    **dict.fromkeys((".pth", ".pt"), "It is of PyTorch: save its arrays as NPZ."),
    **dict.fromkeys((".pkl", ".pickle"), "Pickles are never read: save its arrays as NPZ."),
    **dict.fromkeys((".h5", ".hdf5", ".hdf", ".mat"), "Save its arrays as NPZ."),
    **dict.fromkeys((".xls", ".xlsx", ".ods", ".parquet", ".feather"), "Save it as CSV."),
    **dict.fromkeys((".obj", ".stl", ".off", ".glb", ".gltf"), "Sample points on it, as PLY."),
    **dict.fromkeys((".splat", ".ksplat", ".spz"), "It is of splats: export its points as PLY."),
    **dict.fromkeys((".rcp", ".rcs", ".fls", ".lsproj", ".imp", ".zfs", ".bin", ".dp"), _EXPORT),
}
FORMATS = {suffix: form for form in _FORMATS for suffix in form.suffixes}


def _results(path: Path) -> tuple[str, ...]:
    """Return the suffixes that a labelled scan can have, the default first."""
    suffix = path.suffix.lower()
    if path.is_dir() or suffix not in FORMATS:
        return (".ply",)
    found = FORMATS[suffix]
    own = (suffix, *found.suffixes) if found.write else ()
    return tuple(dict.fromkeys((*own, found.labels_as, ".ply")))


def check_format(path: Path, out: Path | None = None) -> None:
    """Raise ConfigError if by the names a scan cannot be read, or its labels written to `out`."""
    if (suffix := path.suffix.lower()) not in FORMATS and not path.is_dir():
        advice = did_you_mean(suffix, FORMATS, least=SIMILAR)
        advice = f" {_OTHERS[suffix]}" if suffix in _OTHERS else advice
        raise ConfigError(
            f"{path}: found the format {path.suffix or 'without a suffix'!r}.{advice}\n"
            f"Expected one of: {', '.join(FORMATS)}, or a room folder of S3DIS."
        )
    if out is not None and out.name.lower().endswith(".copc.laz"):
        raise ConfigError(
            f"{out}: found the name of a COPC file, which labels cannot be written as; expected "
            f"plain LAZ: {out.name[: -len('.copc.laz')]}.laz"
        )
    if out is not None and out.suffix.lower() not in _results(path):
        raise ConfigError(
            f"{out}: found the format {out.suffix or 'without a suffix'!r} for the labels of "
            f"{path.name}, expected one of: {', '.join(_results(path))}."
        )


def without_results(paths: Iterable[Path], pattern: str) -> list[Path]:
    """Leave out the results of `predict`, unless the pattern that was matched names them.

    Results are labelled scans, and pages and pictures, such as a.labelled.csv.html.
    """

    def is_result(path: Path) -> bool:
        shown = path.suffix in (".html", ".png") and Path(path.stem).stem.endswith(RESULT)
        return shown or path.stem.endswith(RESULT)

    return [path for path in paths if RESULT in pattern or not is_result(path)]


def labelled_name(path: Path, suffix: str | None = None) -> str:
    """Return the result's name (`room.labelled.las`), in another format with its `suffix`."""
    stem = path.resolve().name if path.is_dir() else path.stem.removesuffix(".copc")
    chosen = _results(path)[0] if suffix is None else f".{suffix.lower().lstrip('.')}"
    return f"{stem}{RESULT}{chosen}"


def open_scan(
    path: Path, options: ScanOptions | None = None, *, folder: Reader | None = None
) -> Scan:
    """Open a scan of any format; `folder` reads one that is a folder, as a room of S3DIS.

    Raises ConfigError if the format is unknown or an option does not fit it, DatasetError if the
    scan, or the package that reads it, is missing, or the scan is damaged or without points.
    """
    options = options or ScanOptions()
    check_format(path)
    if not path.exists():
        raise DatasetError(f"{path}: found no file there, expected a scan.")
    if path.is_dir() and folder is None:
        raise DatasetError(f"{path}: found a folder, expected the file of a scan.")
    found = Format((), folder) if path.is_dir() and folder else FORMATS[path.suffix.lower()]
    if options.columns is not None and not found.unnamed:
        unnamed = (suffix for suffix, form in FORMATS.items() if form.unnamed)
        raise ConfigError(
            f"--columns: found {options.columns!r} for {path.name}, whose columns have names; "
            f"expected it for these only: {', '.join(unnamed)}."
        )
    try:
        size = None if path.is_dir() else path.stat().st_size
        return replace(found.read(path, options), size=size)
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be read ({error.strerror or error}).\nCheck the file and its rights."
        ) from error


def write_labelled(path: Path, scan: Scan, labels: Labels) -> None:
    """Write a scan with its labels, completely or not at all, in the format of the suffix."""
    check_format(scan.path, path)
    write = FORMATS[path.suffix.lower()].write
    assert write is not None
    if scan.size is not None and (size := scan.path.stat().st_size) != scan.size:
        raise DatasetError(
            f"{scan.path}: found {size:,} bytes, expected {scan.size:,} as when it was read.\n"
            "It has changed meanwhile: label it again."
        )
    write(path, scan, labels)


def try_writing(
    path: Path,
    scan: Scan,
    classes: Sequence[str],
    class_colors: Sequence[Sequence[int]],
    *,
    probabilities: bool,
) -> None:
    """Write the scan's first points with made-up labels beside `path`, and remove them again.

    So what cannot be written is found before the scan is labelled. Raises what `write_labelled`
    raises, and OSError if nothing can be written there.
    """
    count = min(TRIAL, len(scan))
    table = np.full((count, len(classes)), 1 / len(classes), np.float32) if probabilities else None
    label = (np.arange(count) % (len(classes) + 1)).astype(np.uint8)
    label[label == len(classes)] = UNLABELLED
    labels = Labels(label, np.full(count, 0.5, np.float32), classes, class_colors, table)
    path.parent.mkdir(parents=True, exist_ok=True)
    trial = path.with_name(f".{path.name}-trial")
    shutil.rmtree(trial, ignore_errors=True)  # of a call that was killed
    try:
        trial.mkdir()
        write_labelled(trial / path.name, replace(scan, rows=scan.rows[:count]), labels)
    finally:
        shutil.rmtree(trial, ignore_errors=True)
