"""Read and write LAS and LAZ scans, versions 1.2 to 1.4, with laspy (extra `las`).

The labelled scan is the same file, point for point, with more dimensions. laspy and its
decompressor believe what a file declares and ask for that much memory, which ends the process: so
headers and tables of compressed chunks are checked against the file first.

Reference:
    ASPRS, LAS Specification 1.4 – R15, 2019: header, variable length records, extra bytes.
    Isenburg, LASzip: lossless compression of LiDAR data, 2013, and the LASzip source's description
    of its record, chunk table and layered chunks.
"""

from __future__ import annotations

import errno
import re
import struct
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pipelines.errors import DatasetError
from pipelines.files import DISK_FULL, atomic_write
from pipelines.progress import counted

from . import table
from .table import CHUNK, COLOR_NAMES, LABELLED, Labels, Scan, ScanOptions

LONGEST_NAME = 32  # bytes, of an extra dimension
MOST_ELEMENTS = 3  # of an extra dimension that a record describes
USER_DEFINED = 64  # the first classification that the specification leaves to its users
UNCLASSIFIED = 1
_OURS = ("deepgcn", 1)  # user and number of the record with the names of the classes
_REPLACED = (_OURS, ("laszip encoded", 22204), ("LASF_Spec", 4))  # the last is of extra dimensions
_COPC = "copc"  # user of the records of an octree, which holds for the points as they were written
_WAVEFORMS = ("LASF_Spec", 65535)
_WKT, _GEO_KEYS = 2112, 34735  # numbers of the records of the coordinate system
_FEET = re.compile(rb'UNIT\s*\[\s*"[^"]*(?:foot|feet|ft)[^"]*"\s*,\s*([0-9.]+)', re.IGNORECASE)
_GROUND_UNIT, _HEIGHT_UNIT = 3076, 4099  # keys of GeoTIFF
_FOOT = {9002: 0.3048, 9003: 1200 / 3937}  # their values: metres
_KEPT = (  # of the header
    *("file_source_id", "global_encoding", "uuid", "system_identifier", "creation_date"),
    *("generating_software", "offsets", "scales", "extra_header_bytes", "extra_vlr_bytes"),
)
_DISK = (*DISK_FULL, errno.EROFS, errno.EACCES)
_POINT_BYTES = (20, 28, 26, 34, 57, 63, 30, 36, 38, 59, 67)  # of the point formats 0 to 10
_CHUNKED, _LAYERED = 2, 3  # compressors of the point formats 0 to 5, and 6 to 10
# Layers of the items of point formats 6 to 10; an item 14 (extra bytes) has one for each byte.
_LAYERS = {10: 9, 11: 1, 12: 2, 13: 1}
_EXTRA_BYTES = 14


def read_las(path: Path, options: ScanOptions) -> Scan:
    """Open a LAS or LAZ file."""
    _check_header(path)
    with _opened(path) as reader:
        kind = _columns(reader.header.point_format)
        names = kind.names or ()
        columns = ({name: p[name] for name in names} for p in reader.chunk_iterator(CHUNK))
        chunks = (chunk for each in columns for _, chunk in table.tables(each, kind))
        with np.errstate(over="ignore", invalid="ignore"):  # infinite coordinates become NaN
            parts = table.watched(chunks, reader.header.point_count, path, options.task)
            rows = table.spooled(path, parts, kind)
        if len(rows) != reader.header.point_count:
            raise _damaged(path, f"{len(rows):,} of {counted(reader.header.point_count, 'point')}")
        is_copc = any(item.user_id == _COPC for item in reader.header.vlrs)
        notes = _about_feet(path) if options.scale == 1 else ()
    color = COLOR_NAMES if set(COLOR_NAMES) <= set(names) else None
    notes += ("COPC; labelled as plain LAZ, without the records of its octree",) if is_copc else ()
    return Scan(path, rows, ("x", "y", "z"), color, names, notes, options=options)


def _columns(form: Any) -> np.dtype:
    """Return the columns: coordinates, then all dimensions of the point format by laspy's names."""
    found: list[tuple[Any, ...]] = [(axis, "f8") for axis in "xyz"]
    for item in form.dimensions:
        if item.name not in {*"XYZ", *"xyz"}:  # one named like a coordinate is out of reach
            base = "u1" if item.dtype is None else item.dtype.base  # a few bits are a whole byte
            shape = () if item.num_elements == 1 else (item.num_elements,)
            found.append((item.name, "f8" if item.is_scaled else base, shape))
    return np.dtype(found)


def _check_header(path: Path) -> None:
    """Check that what a LAS header declares can be in the file, before anything is allocated."""
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
        f"points of {counted(length, 'byte')}": kind <= 10 and length < _POINT_BYTES[kind],
        "a scale of 0 or no number": not all(np.isfinite(scales)) or 0 in scales[:3],
        f"points that begin at byte {start:,} of {size:,}": not header_bytes <= start <= size,
        f"{counted(records, 'record')} in {start:,} bytes": records * 54
        > max(0, start - header_bytes),
        f"{counted(more, 'record')} behind the points": more * 60 > max(0, size - later),
        f"{counted(count, 'point')} of {length} bytes in {size - start:,} bytes": not packed
        and count * length > size - start,
    }
    for found, is_wrong in problems.items():
        if is_wrong:
            raise _damaged(path, found)


def _check_chunks(file: BinaryIO, header: Any, file_size: int) -> None:
    """Raise ValueError if a LAZ file's chunks contradict its header, as read by laspy."""
    if not (records := header.vlrs.get("LasZipVlr")):
        raise ValueError("compressed points without the record of LASzip")
    record, length = records[0].record_data, header.point_format.size
    start, count = header.offset_to_point_data, header.point_count
    try:
        compressor, chunk_size, number = struct.unpack_from("<H10xI16xH", record)
        items = [struct.unpack_from("<HH2x", record, 34 + 6 * item) for item in range(number)]
        if sum(size for _, size in items) != length or not items:
            raise ValueError(f"compressed items {tuple(items)} in points of {length} bytes")
        if compressor not in (_CHUNKED, _LAYERED):
            return  # one run of points without chunks, or unknown to the decompressor
        (index,) = _unpacked(file, start, "<q")
        if index == -1:  # the writer could not seek, so it is at the end of the file
            (index,) = _unpacked(file, file_size - 8, "<q")
        if not start + 8 <= index <= file_size - 8:
            raise ValueError(f"a table of chunks at byte {index:,} of {file_size:,}")
        (chunks,) = _unpacked(file, index + 4, "<I")
        if chunks * length > index - start - 8:
            raise ValueError(f"{counted(chunks, 'chunk')} in {index - start:,} bytes")
        if chunk_size == 0 or count > chunks * chunk_size:
            raise ValueError(
                f"{counted(count, 'point')} in {counted(chunks, 'chunk')} of {chunk_size:,}"
            )
        layers = sum(size if kind == _EXTRA_BYTES else _LAYERS.get(kind, 0) for kind, size in items)
        # A layered chunk: a whole point, the number of points, the layers' sizes, the layers.
        at, head = start + 8, length + 4 + 4 * layers
        for number in range(chunks if compressor == _LAYERED else 0):
            count, *sizes = _unpacked(file, at + length, f"<{1 + layers}I")
            at += head + sum(sizes)
            if at > index:
                where = f"that end at byte {at:,} in chunk {number} of {chunks:,}"
                raise ValueError(f"{counted(count, 'point')} {where}")
    except struct.error:
        raise ValueError("compressed points that are cut off") from None


def _unpacked(file: BinaryIO, at: int, form: str) -> tuple[Any, ...]:
    """Return the values at byte `at` of a file."""
    file.seek(at)
    return struct.unpack(form, file.read(struct.calcsize(form)))


def _damaged(path: Path, found: str) -> DatasetError:
    return DatasetError(
        f"{path}: found a damaged or truncated LAS: {found}.\nCopy or export the scan again."
    )


def _unwritable(path: Path, found: str) -> DatasetError:
    return DatasetError(f"{path}: cannot be written as LAS: {found}.")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a file with laspy, with its failures as errors of the scan."""
    try:
        import laspy
        import lazrs  # noqa: F401
    except ImportError as error:
        raise DatasetError(
            f'{path}: LAS and LAZ need laspy and lazrs: pip install "deepgcn[las]"'
        ) from error
    with _failures(path, _damaged):
        with path.open("rb") as file:
            header = laspy.LasHeader.read_from(file)
            if header.are_points_compressed:
                _check_chunks(file, header, path.stat().st_size)
        with laspy.open(path, laz_backend=laspy.LazBackend.Lazrs) as reader:
            yield reader


@contextmanager
def _failures(path: Path, wording: Callable[[Path, str], DatasetError]) -> Iterator[None]:
    """Raise what laspy and its compressor raise as an error of ours."""
    import laspy
    import lazrs

    failures: tuple[type[Exception], ...] = (
        *(laspy.errors.LaspyException, lazrs.LazrsError, struct.error, ValueError, OSError),
        *(RuntimeError, LookupError, AttributeError, TypeError, OverflowError, MemoryError),
    )
    try:
        yield
    except BaseException as error:
        # A full disk under the result does not mean that the scan is damaged.
        if isinstance(error, OSError) and error.errno in _DISK:
            raise
        # A panic of the decompressor has no class that could be imported.
        if not isinstance(error, failures) and type(error).__name__ != "PanicException":
            raise
        found = "a size beyond all memory" if isinstance(error, MemoryError) else repr(error)
        raise wording(path, str(error)[:150].split("\n")[0] or found) from error


def write_las(path: Path, scan: Scan, labels: Labels) -> None:
    """Write the scan's points, in their order, with their labels, as LAS or LAZ by its suffix.

    Extra dimensions are added: `class` (255 for a point without label), `confidence` and the
    probabilities if there are any. Point formats 6 to 10 also get the label as `classification`,
    64 + class (1, unclassified, without label and from class 192 on), and keep their own as
    `scan_classification`; formats 0 to 5 have no room for it, and keep theirs. The names of the
    classes are a record of user `deepgcn`, number 1. All other records stay, byte for byte, but
    those of an octree (COPC).
    """
    import laspy

    with _opened(scan.path) as reader, atomic_write(path) as temporary:
        records, behind = _records(scan.path, reader.header)
        with _failures(path, _unwritable):
            header, kept = _new_header(reader.header, records, labels)
            how = {"mode": "w", "do_compress": path.suffix.lower() == ".laz", "closefd": True}
            # "ignore" keeps the bytes of texts that are not ASCII, as the format has them.
            with laspy.open(temporary, header=header, encoding_errors="ignore", **how) as writer:
                for part, points in _first_points(scan, reader):
                    writer.write_points(_labelled(points, header, kept, labels, part))
                    labels.task.advance(len(points))
                _write_behind(writer, behind)


def _first_points(scan: Scan, reader: Any) -> Iterator[tuple[slice, Any]]:
    """Yield the points of a scan, the first of its file, in chunks."""
    start, size = 0, min(CHUNK, len(scan))
    with _failures(scan.path, _damaged):
        for points in reader.chunk_iterator(size):
            if start + len(points) > len(scan):
                return
            yield slice(start, start + len(points)), points
            start += len(points)


def _records(path: Path, header: Any) -> tuple[list[Any], list[Any]]:
    """Return the records before and behind the points that stay, as they are in the file.

    laspy's own list has those that it understands rewritten.
    """
    with path.open("rb") as file:
        start, _, count = _unpacked(file, 94, "<HII")
        before = _records_at(file, start, count, "<2x16sHH32s")
        if header.version.minor >= 4:
            at, count = header.start_of_first_evlr, header.number_of_evlrs
        else:  # 1.3 has one at most, of the waveforms
            at = header.start_of_waveform_data_packet_record
            count = int(header.global_encoding.waveform_data_packets_internal and at > 0)
        return before, _records_at(file, at, count, "<2x16sHQ32s")


def _about_feet(path: Path) -> tuple[str, ...]:
    """Say that the coordinate system is in feet, if records before the points do."""
    ground, heights = 0.0, 0.0
    with path.open("rb") as file:
        start, _, count = _unpacked(file, 94, "<HII")
        records = _records_at(file, start, count, "<2x16sHH32s")
    for item in records:
        if item.record_id == _WKT:
            units = [
                [float(size) for size in _FEET.findall(part)]
                for part in re.split(rb"VERT_?(?:CS|CRS)", item.record_data, maxsplit=1)
            ]
            ground = max([ground, *units[0]])
            heights = max([heights, *(units[1] if len(units) > 1 else ())])
        elif item.record_id == _GEO_KEYS:
            keys = np.frombuffer(item.record_data[: len(item.record_data) // 8 * 8], "<u2")
            found = {int(key): int(value) for key, *_, value in keys.reshape(-1, 4)[1:]}
            ground = max(ground, _FOOT.get(found.get(_GROUND_UNIT, 0), 0.0))
            heights = max(heights, _FOOT.get(found.get(_HEIGHT_UNIT, 0), 0.0))
    if ground:
        return (f"its coordinate system is in feet, taken as metres: --scale {ground:.10g}",)
    return ("its heights are in feet, its ground is not: bring both to metres",) if heights else ()


def _records_at(file: BinaryIO, at: int, count: int, form: str) -> list[Any]:
    import laspy

    found, size = list[Any](), file.seek(0, 2)
    for _ in range(count):
        user, number, length, description = _unpacked(file, at, form)
        at += struct.calcsize(form) + length
        if at > size:
            raise ValueError(f"a record that ends at byte {at:,} of {size:,}")
        user = user.split(b"\0")[0].decode()
        if user != _COPC and (user, number) not in _REPLACED:
            found.append(laspy.VLR(user, number, description.split(b"\0")[0], file.read(length)))
    return found


def _write_behind(writer: Any, records: list[Any]) -> None:
    """Write records behind the points, and where the waveforms among them begin."""
    if not records:
        return
    writer.point_writer.done()  # once only: it writes the table of chunks
    writer.done, start = True, writer.dest.tell()
    type(writer.header.vlrs)(records).write_to(
        writer.dest, as_extended=True, encoding_errors="ignore"
    )
    if writer.header.version.minor >= 4:
        writer.header.start_of_first_evlr, writer.header.number_of_evlrs = start, len(records)
    for item in records:
        if (item.user_id, item.record_id) == _WAVEFORMS:
            writer.header.start_of_waveform_data_packet_record = start
        start += 60 + len(item.record_data)


def _new_header(old: Any, records: list[Any], labels: Labels) -> tuple[Any, dict[str, str]]:
    """Return the result's header, and the name in it of each of the scan's extra dimensions."""
    import laspy

    added = {name: column.dtype for name, column in labels.columns().items()}
    if old.point_format.id >= 6:
        added["scan_classification"] = np.dtype("u1")
    extra = list(old.point_format.extra_dimensions)
    kept = _short_names(table.kept_names([item.name for item in extra], list(added)), added)
    # 1.2 is the oldest that laspy writes all formats in; points of 1.0 and 1.1 look the same in it.
    version = laspy.header.Version(1, max(2, old.version.minor))
    header = laspy.LasHeader(version=version, point_format=old.point_format.id)
    for name in _KEPT:
        setattr(header, name, getattr(old, name))
    header.vlrs.extend(records)
    dimensions: list[tuple[Any, ...]] = [
        (kept[item.name], item.dtype, item.description, item.offsets, item.scales, item.no_data)
        for item in extra
        if item.num_elements <= MOST_ELEMENTS
    ]
    for item in extra:
        if item.num_elements > MOST_ELEMENTS:  # bytes that no record describes
            names = (_numbered(kept[item.name], n) for n in range(item.num_elements))
            dimensions += [(name, np.dtype("u1")) for name in names]
    header.add_extra_dims([laspy.ExtraBytesParams(*item) for item in (*dimensions, *added.items())])
    text = "\n".join(labels.comments()).encode()
    header.vlrs.append(laspy.VLR(*_OURS, LABELLED, text[:65535]))
    return header, kept


def _short_names(kept: dict[str, str], added: Collection[str]) -> dict[str, str]:
    """Return the names in the result, all different and of at most 32 bytes, as the format has."""
    short: dict[str, str] = {}
    for name, new in kept.items():
        start = new.encode()[: LONGEST_NAME - 4].decode("utf-8", "ignore")
        tries = chain([new], (f"{start}_{number}" for number in count(2)))
        taken = {*short.values(), *added}
        short[name] = next(t for t in tries if len(t.encode()) <= LONGEST_NAME and t not in taken)
    return short


def _numbered(name: str, number: int) -> str:
    return f"{name}_{number + 1}"


def _labelled(points: Any, header: Any, kept: dict[str, str], labels: Labels, part: slice) -> Any:
    """Return one chunk of the result's points."""
    import laspy

    new = laspy.ScaleAwarePointRecord.zeros(len(points), header=header)
    for name in points.array.dtype.names:
        values, target = points.array[name], kept.get(name, name)
        if target in new.array.dtype.names:
            new.array[target] = values
        else:
            for number, column in enumerate(values.T):
                new.array[_numbered(target, number)] = column
    for name, values in labels.columns().items():
        new.array[name] = values[part]
    if header.point_format.id >= 6:
        new.array["scan_classification"] = points.array["classification"]
        label = labels.label[part]
        user = label.astype(np.uint16) + USER_DEFINED
        none = (label == 255) | (user > 255)  # the format has a byte
        new.array["classification"] = np.where(none, UNCLASSIFIED, user).astype(np.uint8)
    return new
