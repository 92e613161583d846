"""Read and write LAS and LAZ scans, versions 1.2 to 1.4, with laspy (extra `las`).

The points are read once, in chunks, into a spool of coordinates and all dimensions. The labelled
scan is the same file, point for point, with more dimensions. laspy and its decompressor believe
what a file declares, and ask for memory that does not exist, which ends the process: so headers
and the tables of compressed chunks are checked against the file first.

Reference:
    ASPRS, LAS Specification 1.4 – R15, 2019: header, variable length records, extra bytes.
    Isenburg, LASzip: lossless compression of LiDAR data, 2013, and the LASzip source's description
    of its record, chunk table and layered chunks.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pipelines.errors import DatasetError
from pipelines.files import DISK_FULL, atomic_write

from .table import CHUNK, COLOR_NAMES, LABELLED, Labels, Scan, ScanOptions, kept_names, spooled

USER_DEFINED = 64  # the first classification that the specification leaves to its users
UNCLASSIFIED = 1
# User and number of records: ours with the names of the classes, of LASzip, of extra dimensions.
_OURS, _LASZIP, _EXTRA = ("deepgcn", 1), ("laszip encoded", 22204), ("LASF_Spec", 4)
_DISK = (*DISK_FULL, errno.EROFS, errno.EACCES)
_POINT_BYTES = (20, 28, 26, 34, 57, 63, 30, 36, 38, 59, 67)  # of the point formats 0 to 10
_CHUNKED, _LAYERED = 2, 3  # compressors of the point formats 0 to 5, and 6 to 10
# Layers of the items of point formats 6 to 10; an item 14 (extra bytes) has one for each byte.
_LAYERS = {10: 9, 11: 1, 12: 2, 13: 1}
_EXTRA_BYTES = 14


def read_las(path: Path, options: ScanOptions) -> Scan:
    """Open a LAS or LAZ file.

    Raises:
        DatasetError: laspy is missing, or the file is no LAS, damaged, cut off or without points.
    """
    check_header(path)
    with _opened(path) as reader:
        kind = _columns(reader.header.point_format)
        names = kind.names or ()
        tables = (_table(points, kind) for points in reader.chunk_iterator(CHUNK))
        rows = spooled(path, tables, kind)
        if len(rows) != reader.header.point_count:
            raise _damaged(path, f"{len(rows):,} of {reader.header.point_count:,} points")
    color = COLOR_NAMES if set(COLOR_NAMES) <= set(names) else None
    return Scan(path, rows, ("x", "y", "z"), color, names, options=options)


def _columns(form: Any) -> np.dtype:
    """Return the columns: coordinates, then all dimensions of the point format.

    They have laspy's names, under which it gives scaled dimensions as their values. An extra
    dimension that is called like a coordinate cannot be read so.
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


def _table(points: Any, kind: np.dtype) -> np.ndarray:
    table = np.empty(len(points), kind)
    with np.errstate(over="ignore", invalid="ignore"):  # infinite coordinates become NaN
        for name in kind.names or ():
            table[name] = points[name]
    return table


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
        with path.open("rb") as file:
            found = _laz_problem(file, _Points(header_bytes, start, length, count, size))
    if found is not None:
        raise _damaged(path, found)


@dataclass(frozen=True)
class _Points:
    """Say where the points of a LAS file are, in bytes, and how many."""

    records: int  # where the records before the points begin
    start: int  # where the points begin
    length: int  # of an uncompressed point
    count: int
    size: int  # of the file


def _laz_problem(file: BinaryIO, points: _Points) -> str | None:
    """Return what cannot be true of a LAZ file's compression, or None."""
    try:
        record = _laszip_record(file, points)
        if record is None:
            return "compressed points without the record of LASzip"
        compressor, chunk_size, number = struct.unpack_from("<H10xI16xH", record)
        items = [struct.unpack_from("<HH2x", record, 34 + 6 * item) for item in range(number)]
        if sum(size for _, size in items) != points.length or not items:
            return f"compressed items {tuple(items)} in points of {points.length} bytes"
        if compressor not in (_CHUNKED, _LAYERED):
            return None  # one run of points without chunks, or unknown to the decompressor
        table = _chunk_table(file, points)
        if not points.start + 8 <= table <= points.size - 8:
            return f"a table of chunks at byte {table:,} of {points.size:,}"
        file.seek(table + 4)
        (chunks,) = struct.unpack("<I", file.read(4))
        if chunks * points.length > table - points.start - 8:
            return f"{chunks:,} chunks in {table - points.start:,} bytes"
        if chunk_size == 0 or points.count > chunks * chunk_size:
            return f"{points.count:,} points in {chunks:,} chunks of {chunk_size:,}"
        return (
            _layer_problem(file, points, items, table, chunks) if compressor == _LAYERED else None
        )
    except struct.error:
        return "compressed points that are cut off"


def _laszip_record(file: BinaryIO, points: _Points) -> bytes | None:
    """Return the content of the LASzip record: compressor, points a chunk, items of a point."""
    at = points.records
    while at + 54 <= points.start:
        file.seek(at)
        user, number, length = struct.unpack("<2x16sHH32x", file.read(54))
        if (user.rstrip(b"\0").decode("latin-1"), number) == _LASZIP:
            return file.read(length)
        at += 54 + length
    return None


def _chunk_table(file: BinaryIO, points: _Points) -> int:
    """Return the byte at which the table of chunks begins."""
    for at in (points.start, points.size - 8):
        file.seek(at)
        (table,) = struct.unpack("<q", file.read(8))
        if table != -1:  # -1: the writer could not seek, so it is at the end of the file
            break
    return int(table)


def _layer_problem(
    file: BinaryIO, points: _Points, items: list[tuple[Any, ...]], table: int, chunks: int
) -> str | None:
    """Walk from chunk to chunk: a whole point, the number of points, the layers' sizes, layers."""
    layers = sum(size if kind == _EXTRA_BYTES else _LAYERS.get(kind, 0) for kind, size in items)
    at = points.start + 8
    for number in range(chunks):
        file.seek(at + points.length)
        count, *sizes = struct.unpack(f"<{1 + layers}I", file.read(4 + 4 * layers))
        at += points.length + 4 + 4 * layers + sum(sizes)
        if at > table:
            return f"{count:,} points that end at byte {at:,} in chunk {number} of {chunks:,}"
    return None


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
        # A full disk under the result does not mean that the scan is damaged.
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

    with _opened(scan.path) as reader, atomic_write(path) as temporary:
        header, kept = _new_header(reader.header, labels)
        compress = path.suffix.lower() == ".laz"
        with laspy.open(
            temporary, mode="w", header=header, do_compress=compress, closefd=True
        ) as writer:
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

    added = {name: column.dtype for name, column in labels.columns().items()}
    if old.point_format.id >= 6:
        added["scan_classification"] = np.dtype("u1")
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
        item for item in old.vlrs if (item.user_id, item.record_id) not in (_OURS, _EXTRA, _LASZIP)
    )
    names = ("description", "offsets", "scales", "no_data")
    header.add_extra_dims(
        [
            laspy.ExtraBytesParams(
                kept[item.name], item.dtype, **{name: getattr(item, name) for name in names}
            )
            for item in extra
        ]
        + [laspy.ExtraBytesParams(name=name, type=kind) for name, kind in added.items()]
    )
    text = "\n".join(labels.comments()).encode()
    header.vlrs.append(laspy.VLR(*_OURS, LABELLED, text[:65535]))
    return header, kept


def _labelled(points: Any, header: Any, kept: dict[str, str], labels: Labels, part: slice) -> Any:
    """Return the result's points of one chunk."""
    import laspy

    new = laspy.ScaleAwarePointRecord.zeros(len(points), header=header)
    for name in points.array.dtype.names:
        new.array[kept.get(name, name)] = points.array[name]
    for name, values in labels.columns().items():
        new.array[name] = values[part]
    if header.point_format.id >= 6:
        new.array["scan_classification"] = points.array["classification"]
        label = labels.label[part]
        user = label.astype(np.uint16) + USER_DEFINED
        new.array["classification"] = np.where(label == 255, UNCLASSIFIED, user).astype(np.uint8)
    return new
