"""PLY scans: reading whatever carries coordinates and colour, writing labels beside it.

plyfile reads the data (binary files as a memory map); here the header, which is untrusted, is
checked against the file's size first, and the vertex properties get their meaning.

Reference:
    Greg Turk, The PLY Polygon File Format, 1994.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DatasetError
from ..files import atomic_write

LONGEST_HEADER = 1 << 16  # bytes
CHUNK = 1 << 20  # points copied at a time
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
_POSITION = (("x", "y", "z"), ("px", "py", "pz"), ("posx", "posy", "posz"))
_COLOR = (
    ("scan_red", "scan_green", "scan_blue"),  # what `write_labelled` keeps of a scan's own colour
    ("red", "green", "blue"),
    ("r", "g", "b"),
    ("diffuse_red", "diffuse_green", "diffuse_blue"),
    ("scalar_red", "scalar_green", "scalar_blue"),
)


@dataclass(frozen=True)
class PlyScan:
    """A scan as it stands in its file.

    Attributes:
        path: the file.
        vertex: (N,) structured array of all vertex properties, in the file's order; a memory map
            of a binary file.
        position: the names of the three coordinate properties.
        color: the names of the three colour properties, or None.
        dropped: elements that are not vertices, with their counts; they are not kept.
    """

    path: Path
    vertex: np.ndarray
    position: tuple[str, ...]
    color: tuple[str, ...] | None
    dropped: dict[str, int]

    def __len__(self) -> int:
        return len(self.vertex)


def read_ply(path: Path) -> PlyScan:
    """Open a PLY file.

    Raises:
        DatasetError: the file is missing, no PLY, truncated, without points, or its vertices have
            no coordinates or a list property.
    """
    from plyfile import PlyData, PlyParseError

    if not path.is_file():
        raise DatasetError(f"{path}: found no file there, expected a PLY scan.")
    check_header(path)
    try:
        data = PlyData.read(str(path), mmap="r")
    except (PlyParseError, ValueError, OSError, IndexError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"{path}: found a damaged or truncated PLY ({str(error).splitlines()[0]}).\n"
            "Export or copy the scan again."
        ) from error
    vertex = next(element for element in data.elements if element.name == "vertex").data
    position = _find(vertex.dtype.names, _POSITION)
    if position is None:
        raise DatasetError(
            f"{path}: found the vertex properties {', '.join(vertex.dtype.names)}; "
            "expected coordinates x, y, z."
        )
    dropped = {element.name: element.count for element in data.elements if element.name != "vertex"}
    return PlyScan(path, vertex, position, _find(vertex.dtype.names, _COLOR), dropped)


def _find(names: Sequence[str], sets: Sequence[tuple[str, ...]]) -> tuple[str, ...] | None:
    """Return the first set of names that all occur, as they are spelled, whatever their case."""
    spelled = {name.lower(): name for name in names}
    for wanted in sets:
        if all(name in spelled for name in wanted):
            return tuple(spelled[name] for name in wanted)
    return None


def check_header(path: Path) -> None:
    """Check that what a PLY header declares can be in the file, before anything is allocated.

    Raises:
        DatasetError: it cannot, or the header is damaged.
    """
    with path.open("rb") as file:
        head = file.read(LONGEST_HEADER)
    end = head.find(b"end_header")
    if not head.startswith(b"ply") or end < 0:
        raise DatasetError(
            f"{path}: found no PLY header (its first bytes are {head[:8]!r}), expected 'ply' … "
            f"'end_header' within {LONGEST_HEADER} bytes."
        )
    try:
        text, elements = _parse_header(head[:end].decode("ascii"))
    except (UnicodeDecodeError, ValueError, IndexError, KeyError) as error:
        raise DatasetError(f"{path}: found a damaged PLY header: {error}.") from error
    _check_vertices(path, elements)
    rest = path.stat().st_size - end
    needed = sum(count * _least_bytes(kinds, text=text) for _, count, kinds in elements)
    if needed > rest:
        shown = ", ".join(f"{count:,} {name}" for name, count, _ in elements)
        raise DatasetError(
            f"{path}: found {rest:,} bytes after the header, expected at least {needed:,} for "
            f"{shown}.\nThe file was cut off: copy or export it again."
        )


_Elements = list[tuple[str, int, list[str]]]


def _parse_header(text: str) -> tuple[bool, _Elements]:
    """Return whether the data is text, and each element's name, count and property types."""
    is_text = True
    elements: _Elements = []
    for line in text.splitlines():
        words = line.split()
        if not words or words[0] in ("ply", "comment", "obj_info"):
            continue
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


def chunks(count: int) -> Iterator[slice]:
    """Yield slices of at most CHUNK points that cover `count`."""
    for start in range(0, count, CHUNK):
        yield slice(start, min(start + CHUNK, count))


def positions(scan: PlyScan) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates relative to their minimum (N, 3) float32, and that minimum float64.

    Points far from the origin keep their precision: the difference is taken in float64. A point
    with a NaN or infinite coordinate is NaN in the result.
    """
    columns = [scan.vertex[name] for name in scan.position]
    origin = np.array([_least(column) for column in columns])
    local = np.empty((len(scan), 3), np.float32)
    for part in chunks(len(scan)):
        for axis, column in enumerate(columns):
            local[part, axis] = column[part].astype(np.float64) - origin[axis]
    local[~np.isfinite(local).all(axis=1)] = np.nan
    return local, origin


def _least(column: np.ndarray) -> float:
    """Return the smallest finite number of a column; 0 if it has none."""
    best = np.inf
    for part in chunks(len(column)):
        values = column[part].astype(np.float64)
        best = min(best, float(np.min(values, initial=np.inf, where=np.isfinite(values))))
    return best if np.isfinite(best) else 0.0


def colors(scan: PlyScan) -> np.ndarray | None:
    """Return the colours (N, 3) uint8, or None for a scan without.

    The range follows from the type and the largest value: bytes are 0–255, floats up to 1 are
    0–1, anything above 255 is 0–65535.
    """
    if scan.color is None:
        return None
    columns = [scan.vertex[name] for name in scan.color]
    largest = max(float(np.nanmax(column)) for column in columns)
    scale = color_scale(columns[0].dtype, largest)
    found = np.empty((len(scan), 3), np.uint8)
    for part in chunks(len(scan)):
        for axis, column in enumerate(columns):
            values = np.nan_to_num(column[part].astype(np.float64)) * scale
            found[part, axis] = np.clip(np.rint(values), 0, 255)
    return found


def color_scale(kind: np.dtype, largest: float) -> float:
    """Return the factor that takes a colour channel to 0–255."""
    if kind.kind == "f" and largest <= 1:
        return 255.0
    return 255 / 65535 if largest > 255 else 1.0


def write_labelled(
    path: Path,
    scan: PlyScan,
    label: np.ndarray,
    confidence: np.ndarray,
    classes: Sequence[str],
    class_colors: Sequence[Sequence[int]],
) -> None:
    """Write the scan's vertices, in their order, with their labels, as binary PLY.

    Added are `class` (uchar, 255 for a point without label), `confidence` (float, 0 to 1) and the
    class colour as `red`, `green`, `blue`. Every property of the scan is kept; one whose name is
    taken gets `scan_` in front. Written in chunks, whole or not at all.
    """
    added = ("red", "green", "blue", "class", "confidence")
    kept = _kept_names(scan.vertex.dtype.names or (), added)
    fields = [(kept[name], scan.vertex.dtype[name].newbyteorder("<")) for name in kept]
    fields += [(name, np.dtype("u1")) for name in added[:4]] + [("confidence", np.dtype("<f4"))]
    rows = np.dtype(fields)
    palette = np.full((256, 3), 128, np.uint8)
    palette[: len(class_colors)] = np.asarray(class_colors, np.uint8)
    comments = ["labelled by deepgcn; class 255 is a point without label"]
    comments += [f"class {number} {name}" for number, name in enumerate(classes)]
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write(header(len(scan), rows, comments))
        for part in chunks(len(scan)):
            table = np.empty(part.stop - part.start, rows)
            for name, new in kept.items():
                table[new] = scan.vertex[name][part]
            table["class"], table["confidence"] = label[part], confidence[part]
            for channel, name in enumerate(added[:3]):
                table[name] = palette[label[part], channel]
            file.write(table.tobytes())


def _kept_names(names: Sequence[str], added: Sequence[str]) -> dict[str, str]:
    """Return the name that each of the scan's properties has in the result."""
    kept: dict[str, str] = {}
    for name in names:
        new = name
        while new in added or new in kept.values() or (new != name and new in names):
            new = f"scan_{new}"
        kept[name] = new
    return kept


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
