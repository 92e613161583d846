"""Read PCD scans (ASCII, binary and compressed); write labelled binary PCD.

Reference:
    The PCD (Point Cloud Data) file format, version 0.7, Point Cloud Library. Colours are packed
    into one 4-byte field `rgb` or `rgba` as 0xAARRGGBB, or have fields of their own.
    Marc Lehmann, LibLZF, the compression: a control byte below 32 begins a run of literals; any
    other is a copy of 3 to 264 bytes from up to 8192 bytes back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from pipelines.errors import DatasetError
from pipelines.files import atomic_write
from pipelines.progress import Task, counted

from . import table
from .table import COLOR_NAMES, LABELLED, LONGEST_HEADER, Labels, Scan, ScanOptions
from .text import text_rows

LARGEST_ROW = 1 << 16  # bytes
LARGEST_RATIO = 88  # of LZF: three bytes can stand for a copy of 264
ENCODINGS = ("ascii", "binary", "binary_compressed")
_PACKED = ("scan_rgb", "scan_rgba", "rgb", "rgba")


@dataclass(frozen=True)
class Header:
    """What a PCD header says."""

    kind: np.dtype  # structured, of a row; padding fields `_` are holes in it
    filled: np.dtype  # the same with every field, as ASCII and compressed files hold them
    count: int
    size: tuple[int, int]  # width and height
    viewpoint: str
    encoding: str  # one of ENCODINGS
    start: int  # the byte at which the data begins
    labelled: bool  # by deepgcn

    def packed(self) -> str | None:
        """Return the field that packs the scan's colour, if there is one."""
        for name in _PACKED[:2] if self.labelled else _PACKED:
            kind = self.kind[name] if name in (self.kind.names or ()) else np.dtype("V0")
            if kind.shape == () and kind.itemsize == 4:
                return name
        return None


def read_pcd(path: Path, options: ScanOptions) -> Scan:
    """Open a PCD file."""
    header = _read_header(path)
    rows: np.ndarray = np.empty(0, header.kind)
    if header.encoding == "ascii":
        rows = _read_ascii(path, header, options.task)
    elif header.encoding == "binary_compressed":
        rows = _decompress(path, header)
    elif header.count:
        rows = np.memmap(path, header.kind, mode="r", offset=header.start, shape=(header.count,))
    scan = table.named_scan(path, rows, options, labelled=header.labelled, source=header)
    packed = header.packed()
    if not packed or (scan.color and scan.color[0].lower().startswith("scan_")):
        return scan
    # The same rows, with names for the packed colour and its bytes.
    fields = {name: item[:2] for name, item in (rows.dtype.fields or {}).items()}
    color = tuple(f"{packed}.{channel}" for channel in COLOR_NAMES)
    offset = fields[packed][1]
    fields |= {name: (np.dtype("u1"), offset + 2 - n) for n, name in enumerate(color)}
    whole = f"{packed}.bits"
    fields[whole] = (np.dtype("<u4"), offset)
    formats, offsets = zip(*fields.values(), strict=True)
    view = {"names": list(fields), "formats": formats, "offsets": offsets}
    kind = np.dtype({**view, "itemsize": rows.dtype.itemsize})  # type: ignore[call-overload]
    return replace(scan, rows=rows.view(kind), color=color, packed=whole)


def _read_header(path: Path) -> Header:
    """Read a PCD header and check that what it declares can be in the file."""
    with path.open("rb") as file:
        head = file.read(LONGEST_HEADER)
    words: dict[str, list[str]] = {}
    start, labelled = 0, False
    while "DATA" not in words and (end := head.find(b"\n", start)) >= 0:
        line = head[start:end].decode("latin-1").strip()
        start = end + 1
        labelled |= line.startswith("#") and LABELLED in line
        if line and not line.startswith("#"):
            words[line.split()[0].upper()] = line.split()[1:]
    if not {"FIELDS", "SIZE", "TYPE", "DATA"} <= words.keys():
        raise DatasetError(
            f"{path}: found no PCD header (its first bytes are {head[:8]!r}), expected FIELDS, "
            f"SIZE, TYPE … DATA within {LONGEST_HEADER} bytes."
        )
    try:
        header = _parse_header(words, start, labelled)
    except (ValueError, IndexError, KeyError) as error:
        raise DatasetError(
            f"{path}: found a damaged PCD header ({error}), expected VERSION, FIELDS, SIZE, TYPE, "
            "COUNT, WIDTH, HEIGHT, POINTS and DATA.\nExport the scan again."
        ) from error
    least = {
        "ascii": header.count * 2 * len(header.filled.names or ()) - 1,
        "binary": header.count * header.filled.itemsize,
        "binary_compressed": 8,
    }[header.encoding]
    table.check_rest(path, start, least, counted(header.count, "point"))
    return header


def _parse_header(words: dict[str, list[str]], start: int, labelled: bool) -> Header:
    names = words["FIELDS"]
    counts = [int(word) for word in words.get("COUNT", ["1"] * len(names))]
    if not len(names) == len(words["SIZE"]) == len(words["TYPE"]) == len(counts):
        raise ValueError("FIELDS, SIZE, TYPE and COUNT differ in length")
    kinds = list(map(_field_kind, words["TYPE"], words["SIZE"], counts))
    if sum(kind.itemsize for kind in kinds) > LARGEST_ROW:
        raise ValueError(f"points of more than {LARGEST_ROW} bytes")
    filled = np.dtype(list(zip(_unique(names), kinds, strict=True)))
    used = [new for new, name in zip(filled.names or (), names, strict=True) if name != "_"]
    width, height = int(words["WIDTH"][0]), int(words.get("HEIGHT", ["1"])[0])
    count = int(words["POINTS"][0]) if "POINTS" in words else width * height
    if min(width, height, count) < 0 or width * height != count:
        raise ValueError(f"WIDTH {width} × HEIGHT {height}, but POINTS {count}")
    encoding = words["DATA"][0].lower()
    if encoding not in ENCODINGS:
        raise ValueError(f"DATA {encoding!r}, not one of {', '.join(ENCODINGS)}")
    viewpoint = " ".join(words.get("VIEWPOINT", ["0", "0", "0", "1", "0", "0", "0"]))
    size = (width, height)
    return Header(filled[used], filled, count, size, viewpoint, encoding, start, labelled)


def _field_kind(letter: str, size: str, count: int) -> np.dtype:
    if f"{letter.upper()}{size}" not in {"F4", "F8", *(a + b for a in "IU" for b in "1248")}:
        raise ValueError(f"the unknown type {letter} of size {size}")
    if not 1 <= count <= LARGEST_ROW:
        raise ValueError(f"COUNT {count}")
    return np.dtype((f"<{letter.lower()}{size}", () if count == 1 else (count,)))


def _unique(names: list[str]) -> list[str]:
    """Append a number to each name that occurred before."""
    found: list[str] = []
    for name in names:
        new, number = name, 1
        while new in found:
            new, number = f"{name}_{number}", number + 1
        found.append(new)
    return found


def _decompress(path: Path, header: Header) -> np.ndarray:
    """Decompress the fields, which a compressed file holds one after the other."""
    packed, size = map(int, np.memmap(path, "<u4", mode="r", offset=header.start, shape=(2,)))
    rest = path.stat().st_size - header.start - 8
    expected = header.count * header.filled.itemsize
    if size != expected or packed > rest or size > LARGEST_RATIO * packed:
        raise DatasetError(
            f"{path}: found {rest:,} bytes that declare {packed:,} compressed and {size:,} plain "
            f"bytes, expected {expected:,} plain bytes for {counted(header.count, 'point')}.\n"
            "The file is damaged or cut off: copy or export it again."
        )
    if size == 0:
        return np.empty(0, header.kind)
    source = np.memmap(path, np.uint8, mode="r", offset=header.start + 8, shape=(packed,))
    # Zeros are written first: a map of a file that is too large for the disk ends the process.
    zeros = (np.zeros(part.stop - part.start, np.uint8) for part in table.chunks(size))
    plain = table.spooled(path, zeros, np.dtype(np.uint8), writable=True)
    if lzf_decompress(source, plain) != size:
        raise DatasetError(
            f"{path}: found damaged compressed data.\nCopy or export the scan again."
        )
    columns, start = {}, 0
    for name in header.filled.names or ():
        kind = header.filled[name]
        column = plain[start : start + header.count * kind.itemsize].view(kind.base)
        columns[name] = column.reshape(header.count, *kind.shape)
        start += header.count * kind.itemsize
    return table.spooled_columns(path, columns).view(header.kind)


@njit(cache=True, nogil=True)
def lzf_decompress(packed: Any, out: Any) -> Any:
    """Decompress (n,) uint8 into `out` (m,) uint8; return the bytes written, -1 if damaged."""
    read = written = 0
    while read < len(packed):
        control = int(packed[read])
        read += 1
        if control < 32:
            length = control + 1
            if read + length > len(packed) or written + length > len(out):
                return -1
            out[written : written + length] = packed[read : read + length]
            read += length
        else:
            length = (control >> 5) + 2
            if length == 9 and read < len(packed):
                length += int(packed[read])
                read += 1
            if read >= len(packed):
                return -1
            start = written - ((control & 31) << 8) - int(packed[read]) - 1
            read += 1
            if start < 0 or written + length > len(out):
                return -1
            for offset in range(length):  # one by one: a copy may overlap itself
                out[written + offset] = out[start + offset]
        written += length
    return written


def _read_ascii(path: Path, header: Header, task: Task) -> np.ndarray:
    packed, filled = header.packed(), header.filled
    if packed is None:
        rows = text_rows(path, header.start, filled, header.count, task=task)
        return _used(header, rows)
    # A packed colour is written as an integer or as a float, whatever its type.
    wide = np.dtype([(n, np.dtype("f8") if n == packed else filled[n]) for n in filled.names or ()])
    rows = text_rows(path, header.start, wide, header.count, task=task)
    kinds = {name: rows.dtype[name] for name in filled.names or ()}
    filled = np.dtype(list((kinds | {packed: filled[packed]}).items()))

    def narrow(points: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            found = points.astype(filled)
        found[packed] = _packed_bits(points[packed]).view(filled[packed])
        return found

    parts = (narrow(rows[part]) for part in table.chunks(len(rows)))
    return _used(header, table.spooled(path, parts, filled))


def _used(header: Header, rows: np.ndarray) -> np.ndarray:
    """Return rows with all fields as rows of those that are no padding."""
    return rows.view(rows.dtype[list(header.kind.names or ())])


def _packed_bits(values: np.ndarray) -> np.ndarray:
    """Return packed colours (n,) uint32 from text, (n,) float64."""
    # Some programs write the four bytes as an integer, others as the float of the same bytes,
    # which is below 1e-37 or NaN for every colour.
    finite = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    if np.any(np.abs(finite) >= 1):
        bits = (finite.astype(np.int64) & 0xFFFFFFFF).astype(np.uint32)
    else:
        bits = values.astype(np.float32).view(np.uint32)
    return np.where(np.isfinite(values), bits, np.uint32(table.NO_COLOR))


def write_pcd(path: Path, scan: Scan, labels: Labels) -> None:
    """Write the scan's points, in their order, with their labels, as binary PCD.

    Added are `class` (255 for a point without label), `confidence`, probabilities if there are any,
    and the class colour as packed `rgb`. A field with such a name already gets `scan_` in front.
    """
    header: Header = scan.source
    added = labels.columns()
    kept = table.kept_names(scan.fields, ("rgb", *added), scan.color or ())
    columns = {new: scan.rows[name] for name, new in kept.items()}
    kind = np.dtype(
        [*table.column_kind(columns).descr, ("rgb", "<u4"), *table.column_kind(added).descr]
    )
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write(_header(header, kind, labels.comments()))
        for part, points in table.tables({**columns, **added}, kind):
            color = labels.colors(part).astype("<u4")
            points["rgb"] = color @ np.array([1 << 16, 1 << 8, 1], "<u4")
            file.write(points.tobytes())
            labels.task.advance(len(points))


def _header(header: Header, kind: np.dtype, comments: list[str]) -> bytes:
    names = kind.names or ()
    bases = [kind[name].base for name in names]
    # PCL looks for `rgb` as a float whose bytes are the colour.
    types = ["F" if n == "rgb" else base.kind.upper() for n, base in zip(names, bases, strict=True)]
    lines = ["# .PCD v0.7 - Point Cloud Data file format"]
    lines += [f"# {' '.join(comment.split())}" for comment in comments]
    lines += ["VERSION 0.7", f"FIELDS {' '.join(names)}"]
    lines += [f"SIZE {' '.join(str(base.itemsize) for base in bases)}", f"TYPE {' '.join(types)}"]
    lines.append("COUNT " + " ".join(str(int(np.prod(kind[name].shape))) for name in names))
    lines += ["WIDTH {}\nHEIGHT {}".format(*header.size), f"VIEWPOINT {header.viewpoint}"]
    lines += [f"POINTS {header.count}", "DATA binary", ""]
    return "\n".join(lines).encode("utf-8")
