"""Read PLY scans with any coordinates and colours; write any scan with its labels as PLY.

The header is checked against the size of the file before anything is allocated. Binary vertices
are memory-mapped; faces and other elements are copied. Lists of vertices are left out.

Reference:
    Greg Turk, The PLY Polygon File Format, 1994.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipelines.errors import DatasetError
from pipelines.files import atomic_write

from . import table
from .mesh import NAMES, TYPES, Element, Mesh
from .table import COLOR_NAMES, LABELLED, LONGEST_HEADER, Labels, Scan, ScanOptions, ascii_text
from .text import text_rows

EXACT = 2**53  # float64 holds whole numbers up to here
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}


@dataclass(frozen=True)
class Header:
    """What a PLY header says."""

    order: str  # of bytes: "<" or ">"; "" for text
    elements: list[Element]
    start: int  # the byte at which the data begins
    newline: bytes
    labelled: bool  # by deepgcn
    textures: list[str]  # the comments that name them


def read_ply(path: Path, options: ScanOptions) -> Scan:
    """Open a PLY file."""
    header = read_header(path)
    at = [element.name for element in header.elements].index("vertex")
    vertex, before, behind = header.elements[at], header.elements[:at], header.elements[at + 1 :]
    mesh = Mesh(
        path,
        header.order,
        header.textures,
        header.newline,
        before,
        behind,
        vertex.count,
        header.start,
    )
    if header.order:
        rows, mesh = _binary_rows(path, header, mesh, vertex)
    else:
        first = sum(element.count for element in before)
        lines = range(first, first + vertex.count)
        change = vertex.without_lists if vertex.lists else None
        kind = np.dtype(vertex.single)
        rows = text_rows(
            path, header.start, kind, vertex.count, lines, header.newline, change, options.task
        )
    return table.named_scan(
        path,
        rows,
        options,
        labelled=header.labelled,
        source=mesh,
        dropped=dict.fromkeys(vertex.lists, vertex.count),
    )


def read_header(path: Path) -> Header:
    """Read a PLY header and check that what it declares can be in the file."""
    with path.open("rb") as file:
        head = file.read(LONGEST_HEADER)
    newline = b"\r\n" if head[3:5] == b"\r\n" else head[3:4]
    lines, start = [""], 0
    if head.startswith(b"ply") and newline in (b"\n", b"\r", b"\r\n"):
        while lines[-1] != "end_header" and (end := head.find(newline, start)) >= 0:
            line, start = head[start:end], end + len(newline)
            is_utf8 = line.decode("utf-8", "ignore").encode() == line  # comments may be latin-1
            lines.append(line.decode("utf-8" if is_utf8 else "latin-1").strip())
    if lines[-1] != "end_header":
        raise DatasetError(
            f"{path}: found no PLY header (its first bytes are {head[:8]!r}), expected 'ply' … "
            f"'end_header' within {LONGEST_HEADER} bytes."
        )
    try:
        order, elements = _parse_header([line for line in lines[2:-1] if line])
    except KeyError as error:
        raise DatasetError(f"{path}: found the unknown type {error} in a PLY header.") from error
    except (ValueError, IndexError) as error:
        raise DatasetError(f"{path}: found a damaged PLY header: {error}.") from error
    _check_vertices(path, elements)
    _check_size(path, order, elements, start)
    labelled = any(line.startswith("comment") and LABELLED in line for line in lines)
    textures = [line for line in lines if line.startswith("comment TextureFile")]
    return Header(order, elements, start, newline, labelled, textures)


def _parse_header(lines: list[str]) -> tuple[str, list[Element]]:
    """Return the byte order and the elements."""
    order = None
    elements: list[Element] = []
    for line in lines:
        match line.split():
            case ["comment" | "obj_info", *_]:
                pass
            case ["format", name, "1.0"] if name in _ORDERS and order is None:
                order = _ORDERS[name]
            case ["element", name, count]:
                if int(count) < 0:
                    raise ValueError(f"{name} has the count {count}")
                elements.append(Element(name, int(count), []))
            case ["property", "list", length, item, name]:
                elements[-1].properties.append((name, [TYPES[length], TYPES[item]]))
            case ["property", kind, name]:
                elements[-1].properties.append((name, [TYPES[kind]]))
            case _:
                raise ValueError(f"the line {line[:60]!r}")
    if order is None:
        raise ValueError("no format")
    return order, elements


def _check_vertices(path: Path, elements: list[Element]) -> None:
    vertex = next((element for element in elements if element.name == "vertex"), None)
    if vertex is None:
        shown = ", ".join(element.name for element in elements) or "nothing"
        raise DatasetError(f"{path}: found the elements {shown}, expected 'vertex'.")
    if vertex.count == 0:
        raise DatasetError(f"{path}: found 0 points, expected at least one.")
    if not vertex.single:
        raise DatasetError(f"{path}: found no property of the vertices, expected x, y and z.")
    if len({name for name, _ in vertex.properties}) < len(vertex.properties):
        raise DatasetError(f"{path}: found a damaged PLY header: two properties of one name.")


def _check_size(path: Path, order: str, elements: list[Element], start: int) -> None:
    """Raise DatasetError if the elements cannot be in the file from byte `start` on."""
    needed = sum(element.least_bytes(order) for element in elements)
    shown = ", ".join(f"{element.count:,} {element.name}" for element in elements)
    # The last line of a text may end without a newline.
    table.check_rest(path, start, needed - (not order), shown)


def _binary_rows(
    path: Path, header: Header, mesh: Mesh, vertex: Element
) -> tuple[np.ndarray, Mesh]:
    """Return the rows of binary vertices, and the mesh with the bytes between which they are."""
    data = np.memmap(path, np.uint8, mode="r")
    kind = np.dtype([(name, header.order + kind) for name, kind in vertex.single])
    first = header.start
    rows: np.ndarray
    try:
        for element in mesh.before:
            first = element.end(data, first, header.order)
        stop = first + vertex.least_bytes(header.order)
        if not vertex.lists and stop <= len(data):
            rows = data[first:stop].view(kind)
        else:
            stop = vertex.end(data, first, header.order)
            parts = (
                values.view(kind)[:, 0] for _, values in vertex.walk(data, first, header.order)
            )
            rows = table.spooled(path, parts, kind)
    except ValueError as error:
        raise DatasetError(
            f"{path}: found {error}, expected {vertex.count:,} vertices.\n"
            "The file was cut off or is damaged: copy or export it again."
        ) from error
    _check_size(path, header.order, mesh.behind, stop)
    return rows, replace(mesh, first=first, stop=stop)


def write_ply(path: Path, scan: Scan, labels: Labels) -> None:
    """Write a scan of any format, in its order, with its labels, as binary PLY.

    The columns `class` (uchar, 255 for a point without label), `confidence` (float), probabilities,
    if any, and the class colour are added. A column that has such a name gets the prefix `scan_`.
    """
    flat, added = _flat_columns(scan), labels.columns()
    kept = table.kept_names(flat, (*COLOR_NAMES, *added), scan.color or ())
    columns = {kept[name]: column for name, column in flat.items()}
    kinds = [(name, _ply_kind(column.dtype)) for name, column in columns.items()]
    colors = [(name, np.dtype("u1")) for name in COLOR_NAMES]
    kind = np.dtype([*kinds, *colors, *table.column_kind(added).descr])
    mesh = scan.source if isinstance(scan.source, Mesh) else None
    if mesh is not None and mesh.order == ">":  # as in the elements that are copied
        kind = kind.newbyteorder(">")
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write(_header(len(scan), kind, labels.comments(), mesh))
        if mesh is not None:
            mesh.copy(file, before=True)
        for part, points in table.tables({**columns, **added}, kind):
            for name, values in zip(COLOR_NAMES, labels.colors(part).T, strict=True):
                points[name] = values
            file.write(points.tobytes())
            labels.task.advance(len(points))
        if mesh is not None:
            mesh.copy(file, before=False)


def write_points(path: Path, pos: np.ndarray, color: np.ndarray) -> None:
    """Write points (N, 3), metres, and colours (N, 3) uint8 as a binary PLY without labels.

    >>> write_points(Path("points.ply"), np.zeros((5, 3)), np.full((5, 3), 255, np.uint8))
    """
    floats = [(name, pos.dtype.newbyteorder("<")) for name in "xyz"]
    rows = np.empty(len(pos), np.dtype([*floats, *((name, "u1") for name in COLOR_NAMES)]))
    for axis in range(3):
        rows["xyz"[axis]], rows[COLOR_NAMES[axis]] = pos[:, axis], color[:, axis]
    with atomic_write(path) as temporary:
        temporary.write_bytes(_header(len(pos), rows.dtype) + rows.tobytes())


def _header(
    count: int, kind: np.dtype, comments: Sequence[str] = (), mesh: Mesh | None = None
) -> bytes:
    """Return the header of a binary PLY of `count` vertices of a structured type."""
    big_endian = mesh is not None and mesh.order == ">"
    lines = ["ply", f"format binary_{'big' if big_endian else 'little'}_endian 1.0"]
    lines += [f"comment {ascii_text(' '.join(comment.split()))}" for comment in comments]
    lines += mesh.comments if mesh else []
    lines += [line for element in (mesh.before if mesh else ()) for line in element.header()]
    lines.append(f"element vertex {count}")
    lines += [f"property {NAMES[kind[name].str[1:]]} {name}" for name in kind.names or ()]
    lines += [line for element in (mesh.behind if mesh else ()) for line in element.header()]
    return "\n".join([*lines, "end_header", ""]).encode("utf-8")


def _flat_columns(scan: Scan) -> dict[str, np.ndarray]:
    """Return the columns (N,) by names that PLY can hold; fields of several values are split."""
    flat: dict[str, np.ndarray] = {}
    if scan.color is not None and not set(scan.color) <= set(scan.fields):  # packed into one
        missing = scan.uncolored()
        for new, name in zip(COLOR_NAMES, scan.color, strict=True):
            values = scan.rows[name]
            # A byte has no value for a missing colour.
            flat[new] = np.where(missing, np.float32(np.nan), values) if missing.any() else values
    for name in scan.fields:
        values = scan.rows[name]
        if values.dtype.kind not in "biuf":
            continue  # text: a PLY holds numbers only
        plain = re.sub(r"[^!-~]", "_", name) or "_"
        for number, column in enumerate(values.reshape(len(scan), -1).T):
            new = plain if values.ndim == 1 else f"{plain}_{number}"
            while new in flat:
                new += "_"
            flat[new] = column
    return flat


def rounded_columns(scan: Scan) -> list[str]:
    """Return the names of integer columns that a PLY file does not hold exactly."""
    wide = [name for name in scan.fields if scan.rows[name].dtype.str[1:] in ("i8", "u8")]
    return [name for name in wide if _farthest(scan.rows[name]) > EXACT]


def _farthest(values: np.ndarray) -> int:
    return max(abs(int(values.min())), abs(int(values.max())))


def _ply_kind(kind: np.dtype) -> np.dtype:
    """Return the type in which a column is written: PLY has no 64-bit integers, and two floats."""
    if kind.kind == "b":
        return np.dtype("u1")
    if (kind.kind in "iu" and kind.itemsize == 8) or (kind.kind == "f" and kind.itemsize > 8):
        return np.dtype("<f8")
    return np.dtype("<f4") if kind == np.float16 else kind.newbyteorder("<")
