"""LAS and LAZ scans, versions 1.2 to 1.4, through laspy (extra `las`).

The points are read once, in chunks, into a spool of coordinates and colours. The result is the
same file, point for point, with three or more dimensions added.

Reference:
    ASPRS, LAS Specification 1.4 – R15, 2019: header, variable length records, extra bytes.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.errors import DatasetError
from pipelines.files import DISK_FULL, atomic_write

from .laz import RECORD as LAZ_RECORD
from .laz import laz_problem
from .table import CHUNK, COLOR_NAMES, LABELLED, Labels, Scan, ScanOptions, Spool, kept_names

USER_DEFINED = 64  # the first classification that the specification leaves to its users
UNCLASSIFIED = 1
RECORD = ("deepgcn", 1)  # user and record ID of the names of the classes
_DISK = (*DISK_FULL, errno.EROFS, errno.EACCES)
# Bytes of a point in each format 0 to 10.
_POINT_BYTES = (20, 28, 26, 34, 57, 63, 30, 36, 38, 59, 67)


def read_las(path: Path, options: ScanOptions) -> Scan:
    """Open a LAS or LAZ file.

    Raises:
        DatasetError: laspy is missing, or the file is no LAS, damaged, cut off or without points.
    """
    check_header(path)
    with _opened(path) as reader:
        kind = _columns(reader.header.point_format)
        names = kind.names or ()
        with Spool(path, kind) as spool:
            for points in reader.chunk_iterator(CHUNK):
                table = np.empty(len(points), kind)
                with np.errstate(over="ignore", invalid="ignore"):  # infinite is no place: NaN
                    for name in names:
                        table[name] = points[name]
                spool.append(table)
            rows = spool.rows()
        if len(rows) != reader.header.point_count:
            raise _damaged(path, f"{len(rows):,} of {reader.header.point_count:,} points")
    color = COLOR_NAMES if set(COLOR_NAMES) <= set(names) else None
    return Scan(path, rows, ("x", "y", "z"), color, names, options=options)


def _columns(form: Any) -> np.dtype:
    """Return the columns: coordinates, then all dimensions of the point format.

    They have laspy's names, by which it gives scaled ones as their values. An extra dimension that
    is called like a coordinate cannot be had so.
    """
    coordinates = {*"XYZ", *"xyz"}
    kinds = [(item.name, _kind(item)) for item in form.dimensions if item.name not in coordinates]
    return np.dtype([*((axis, np.dtype("f8")) for axis in "xyz"), *kinds])


def _kind(dimension: Any) -> np.dtype:
    """Return the type of a dimension's values; a few bits are a whole byte."""
    base: np.dtype = np.dtype("u1") if dimension.dtype is None else dimension.dtype.base
    base = np.dtype("f8") if dimension.is_scaled else base
    count = dimension.num_elements
    return base if count == 1 else np.dtype((base, (count,)))


def check_header(path: Path) -> None:
    """Check that what a LAS header declares can be in the file, before anything is allocated.

    Raises:
        DatasetError: it cannot, or the header is damaged.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(375)
    if not head.startswith(b"LASF") or len(head) < 227:
        raise DatasetError(
            f"{path}: found no LAS header (its first bytes are {head[:8]!r}), expected 'LASF' and "
            "at least 227 bytes."
        )
    minor = head[25]
    header_bytes, start, records, kind, length, count = struct.unpack_from("<HIIBHI", head, 94)
    scales = struct.unpack_from("<6d", head, 131)
    later, more = 0, 0
    if minor >= 4 and len(head) == 375:
        later, more, count = struct.unpack_from("<QIQ", head, 235)
    packed, kind = bool(kind & 0xC0), kind & 0x3F
    problems = {
        f"version {head[24]}.{minor}, expected 1.0 to 1.4": head[24] != 1 or minor > 4,
        f"point format {kind}, expected 0 to 10": kind > 10,
        f"points of {length} bytes": kind <= 10 and length < _POINT_BYTES[kind],
        "a scale of 0 or no number": not all(np.isfinite(scales)) or 0 in scales[:3],
        f"points that begin at byte {start:,} of {size:,}": not header_bytes <= start <= size,
        f"{records:,} records in {start:,} bytes": records * 54 > max(0, start - header_bytes),
        f"{more:,} records behind the points": more * 60 > max(0, size - later),
        f"{count:,} points of {length} bytes in {size - start:,} bytes": not packed
        and count * length > size - start,
    }
    found = next((text for text, wrong in problems.items() if wrong), None)
    if found is None and packed:
        found = laz_problem(path, header_bytes, start, length, count)
    if found is not None:
        raise _damaged(path, found)


def _damaged(path: Path, found: str) -> DatasetError:
    return DatasetError(
        f"{path}: found a damaged or truncated LAS: {found}.\nCopy or export the scan again."
    )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a file with laspy, with its failures as errors of the scan."""
    try:
        import laspy
        import lazrs
    except ImportError as error:
        raise DatasetError(
            f'{path}: LAS and LAZ need laspy and lazrs: pip install "deepgcn[las]"'
        ) from error
    failures: tuple[type[Exception], ...] = (
        *(laspy.errors.LaspyException, lazrs.LazrsError, struct.error, ValueError, OSError),
        *(RuntimeError, LookupError, AttributeError, TypeError, OverflowError),
    )
    try:
        with laspy.open(path, laz_backend=laspy.LazBackend.Lazrs) as reader:
            yield reader
    except BaseException as error:
        # A full disk under the result is not the scan's damage.
        if isinstance(error, OSError) and error.errno in _DISK:
            raise
        # A panic of the decompressor has no class that could be imported.
        if not isinstance(error, failures) and type(error).__name__ != "PanicException":
            raise
        raise _damaged(path, str(error)[:150].split("\n")[0] or "no header") from error


def write_las(path: Path, scan: Scan, labels: Labels) -> None:
    """Write the scan's points, in their order, with their labels, as LAS or LAZ by its suffix.

    Extra dimensions are added: `class` (255 for a point without label), `confidence` and the
    probabilities if there are any. Point formats 6 to 10 also get the label as `classification`,
    64 + class (the first values left to users; 1, unclassified, without label), and keep their
    own as `scan_classification`; formats 0 to 5 have no room for it, and keep theirs. The names of
    the classes are a record of user `deepgcn`, number 1. All else stays as it is.
    """
    import laspy

    with _opened(scan.path) as reader:
        header, kept = _new_header(reader.header, labels)
        with atomic_write(path) as temporary:
            writer = laspy.open(
                temporary,
                mode="w",
                header=header,
                do_compress=path.suffix.lower() == ".laz",
                closefd=True,
            )
            with writer:
                start = 0
                for points in reader.chunk_iterator(CHUNK):
                    part = slice(start, start + len(points))
                    writer.write_points(_labelled(points, header, kept, labels, part))
                    start = part.stop
                if header.version.minor >= 4 and reader.evlrs:
                    writer.write_evlrs(reader.evlrs)


def _new_header(old: Any, labels: Labels) -> tuple[Any, dict[str, str]]:
    """Return the result's header, and the name in it of each of the scan's extra dimensions."""
    import laspy

    added = labels.columns()
    overwrites = old.point_format.id >= 6
    if overwrites:
        added = {**added, "scan_classification": np.dtype("u1")}
    extra = list(old.point_format.extra_dimensions)
    kept = kept_names([item.name for item in extra], list(added))
    # 1.2 is the oldest that laspy writes all formats in; points of 1.0 and 1.1 look the same in it.
    version = laspy.header.Version(1, max(2, old.version.minor))
    header = laspy.LasHeader(version=version, point_format=old.point_format.id)
    for name in (
        *("file_source_id", "global_encoding", "uuid", "system_identifier", "creation_date"),
        *("generating_software", "offsets", "scales", "extra_header_bytes", "extra_vlr_bytes"),
    ):
        setattr(header, name, getattr(old, name))
    header.vlrs.extend(
        item for item in old.vlrs if (item.user_id, item.record_id) not in (RECORD, _EXTRA, _LAZ)
    )
    header.add_extra_dims(
        [
            laspy.ExtraBytesParams(
                name=kept[item.name],
                type=item.dtype,
                description=item.description,
                offsets=item.offsets,
                scales=item.scales,
                no_data=item.no_data,
            )
            for item in extra
        ]
        + [laspy.ExtraBytesParams(name=name, type=kind) for name, kind in added.items()]
    )
    text = "\n".join(labels.comments()).encode()
    header.vlrs.append(laspy.VLR(RECORD[0], RECORD[1], LABELLED, text[:65535]))
    return header, kept


_EXTRA = ("LASF_Spec", 4)
_LAZ = (LAZ_RECORD[0].decode(), LAZ_RECORD[1])


def _labelled(points: Any, header: Any, kept: dict[str, str], labels: Labels, part: slice) -> Any:
    """Return the result's points of one chunk."""
    import laspy

    new = laspy.ScaleAwarePointRecord.zeros(len(points), header=header)
    for name in points.array.dtype.names:
        new.array[kept.get(name, name)] = points.array[name]
    for name, values in labels.part(part).items():
        new.array[name] = values
    if header.point_format.id >= 6:
        new.array["scan_classification"] = points.array["classification"]
        label = labels.label[part]
        user = label.astype(np.uint16) + USER_DEFINED
        new.array["classification"] = np.where(label == 255, UNCLASSIFIED, user).astype(np.uint8)
    return new
