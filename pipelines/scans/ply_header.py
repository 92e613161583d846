"""PLY headers: an untrusted one is checked before anything is allocated, ours are written here.

`scan_ply` reads and writes scans with them.

Reference:
    Greg Turk, The PLY Polygon File Format, 1994.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.errors import DatasetError
from pipelines.files import atomic_write
from pipelines.scans.table import LABELLED

LONGEST_HEADER = 1 << 16  # bytes
_FREE_TEXT = ("comment", "obj_info")
_TYPES = {
    "i1": "char",
    "u1": "uchar",
    "i2": "short",
    "u2": "ushort",
    "i4": "int",
    "u4": "uint",
    "f4": "float",
    "f8": "double",
}
_SIZES = {
    **dict.fromkeys(("char", "uchar", "int8", "uint8"), 1),
    **dict.fromkeys(("short", "ushort", "int16", "uint16"), 2),
    **dict.fromkeys(("int", "uint", "int32", "uint32", "float", "float32"), 4),
    **dict.fromkeys(("double", "float64"), 8),
}


@dataclass(frozen=True)
class PlyHeader:
    """What a PLY header says.

    Attributes:
        plain: the header in ASCII and without comments, as plyfile takes it.
        start: where the data begins, bytes.
        names: names that are not ASCII, by what stands for them in `plain`.
        labelled: whether deepgcn wrote the file.
    """

    plain: bytes
    start: int
    names: dict[str, str]
    labelled: bool


def read_header(path: Path) -> PlyHeader:
    """Read a PLY header and check that what it declares can be in the file.

    Comments are free text, in UTF-8 or any other encoding.

    Raises:
        DatasetError: it cannot, or the header is damaged.
    """
    with path.open("rb") as file:
        head = file.read(LONGEST_HEADER)
    lines, start = _header_lines(path, head)
    kept = [line for line in lines if line.split(None, 1)[0] not in _FREE_TEXT]
    try:
        text, elements = _parse_header(kept)
    except (ValueError, IndexError, KeyError) as error:
        raise DatasetError(f"{path}: found a damaged PLY header: {error}.") from error
    _check_vertices(path, elements)
    rest = path.stat().st_size - start
    needed = sum(count * _least_bytes(kinds, text=text) for _, count, kinds in elements)
    # The last line of a text may end without a newline.
    if needed - int(text) > rest:
        shown = ", ".join(f"{count:,} {name}" for name, count, _ in elements)
        raise DatasetError(
            f"{path}: found {rest:,} bytes after the header, expected at least {needed:,} for "
            f"{shown}.\nThe file was cut off: copy or export it again."
        )
    plain = "\n".join([*kept, ""]).encode("ascii", "backslashreplace")
    names = {
        word.encode("ascii", "backslashreplace").decode(): word
        for line in kept
        for word in line.split()
        if not word.isascii()
    }
    labelled = any(line.startswith("comment") and LABELLED in line for line in lines)
    return PlyHeader(plain, start, names, labelled)


def _header_lines(path: Path, head: bytes) -> tuple[list[str], int]:
    """Return the header's lines, the first and the last included, and where the data begins."""
    newline = b"\r\n" if head[3:5] == b"\r\n" else head[3:4]
    lines: list[str] = []
    start = 0
    if head.startswith(b"ply") and newline in (b"\n", b"\r", b"\r\n"):
        while (end := head.find(newline, start)) >= 0:
            if line := _decoded(head[start:end]):
                lines.append(line)
            start = end + len(newline)
            if lines[-1] == "end_header":
                return lines, start
    raise DatasetError(
        f"{path}: found no PLY header (its first bytes are {head[:8]!r}), expected 'ply' … "
        f"'end_header' within {LONGEST_HEADER} bytes."
    )


def _decoded(line: bytes) -> str:
    try:
        return line.decode("utf-8").strip()
    except UnicodeDecodeError:
        return line.decode("latin-1").strip()


_Elements = list[tuple[str, int, list[str]]]


def _parse_header(lines: list[str]) -> tuple[bool, _Elements]:
    """Return whether the data is text, and each element's name, count and property types."""
    is_text = True
    elements: _Elements = []
    for line in lines[1:-1]:
        words = line.split()
        if words[0] == "format":
            is_text = words[1] == "ascii"
        elif words[0] == "element":
            count = int(words[2])
            if count < 0:
                raise ValueError(f"{words[1]} has the count {count}")
            elements.append((words[1], count, []))
        elif words[0] == "property":
            elements[-1][2].append(words[1] if words[1] == "list" else _known(words[1]))
        else:
            raise ValueError(f"the line {line[:60]!r}")
    return is_text, elements


def _known(kind: str) -> str:
    if kind not in _SIZES:
        raise ValueError(f"the unknown type {kind!r}")
    return kind


def _least_bytes(kinds: list[str], *, text: bool) -> int:
    """Return the bytes that one element has at least; a list may be empty."""
    if text:
        return 2 * len(kinds)
    return sum(1 if kind == "list" else _SIZES[kind] for kind in kinds)


def _check_vertices(path: Path, elements: _Elements) -> None:
    found = {name: (count, kinds) for name, count, kinds in elements}
    if "vertex" not in found:
        shown = ", ".join(found) or "nothing"
        raise DatasetError(f"{path}: found the elements {shown}, expected 'vertex'.")
    count, kinds = found["vertex"]
    if count == 0:
        raise DatasetError(f"{path}: found 0 points, expected at least one.")
    if "list" in kinds:
        raise DatasetError(
            f"{path}: found a list among the vertex properties, expected numbers only.\n"
            "Export the scan without it."
        )


def header(count: int, rows: np.dtype, comments: Sequence[str] = ()) -> bytes:
    """Return the header of a binary PLY of `count` vertices laid out like `rows`."""
    assert rows.names is not None
    lines = ["ply", "format binary_little_endian 1.0"]
    lines += [f"comment {' '.join(comment.split())}" for comment in comments]
    lines.append(f"element vertex {count}")
    lines += [f"property {_TYPES[rows[name].str[1:]]} {name}" for name in rows.names]
    return "\n".join([*lines, "end_header", ""]).encode("ascii", "replace")


def write_points(path: Path, pos: np.ndarray, color: np.ndarray) -> None:
    """Write points (N, 3), metres, and colours (N, 3) uint8 as a binary PLY without labels."""
    names = (*"xyz", "red", "green", "blue")
    kinds = [pos.dtype.newbyteorder("<")] * 3 + [np.dtype("u1")] * 3
    rows = np.empty(len(pos), np.dtype(list(zip(names, kinds, strict=True))))
    for axis in range(3):
        rows["xyz"[axis]], rows[names[3 + axis]] = pos[:, axis], color[:, axis]
    with atomic_write(path) as temporary:
        temporary.write_bytes(header(len(pos), rows.dtype) + rows.tobytes())
