"""Read PTX scans, the grids of terrestrial laser scanners as text; their labels are written as PLY.

Reference:
    Leica Geosystems, Cyclone: PTX file format. One scan after the other: the numbers of columns and
    rows, the scanner's position and axes (four lines), a matrix (four lines) that multiplies row
    vectors (x, y, z, 1) from the right, then a line for each cell, column by column: x y z, the
    intensity from 0 to 1, and perhaps red, green and blue from 0 to 255. A cell without a return
    has the coordinates 0 0 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipelines.errors import DatasetError
from pipelines.progress import Task, counted

from .columns import Cut, is_count, is_data, is_number, shown, to_float
from .table import COLOR_NAMES, Scan, ScanOptions, spooled
from .text import line_blocks, parse_lines

HEAD = 10  # lines before a scan's points
_COUNTS = (4, 7)  # values of a point, without or with colour
_VALUES = ("intensity", *COLOR_NAMES)  # behind the coordinates
_ROW = np.dtype(
    [
        *((name, "<f8") for name in "xyz"),
        *((name, "<f4") for name in _VALUES),
        *(("row", "<u4"), ("column", "<u4"), ("scan", "<u2")),
    ]
)


class _Head(NamedTuple):
    """What precedes the points of a scan."""

    columns: int
    rows: int
    matrix: np.ndarray  # (4, 4) float64, multiplies (x, y, z, 1) from the right


def read_ptx(path: Path, options: ScanOptions) -> Scan:
    """Open a PTX file: the points of all its scans, in the frame that their matrices lead to.

    `row` and `column` are a point's place in its scanner's grid, `scan` counts the scans. Cells
    without a return are left out. Colours are NaN in a scan that has none, if another has some.
    """
    _check_head(path)
    sizes: list[int] = []  # cells of each scan
    counts: set[int] = set()  # of the values of a point
    rows = spooled(path, _points(path, sizes, counts, options.task), _ROW)
    empty = sum(sizes) - len(rows)
    notes: tuple[str, ...] = ()
    notes += (f"{len(sizes)} scans, in their common frame",) if len(sizes) > 1 else ()
    notes += (
        (f"{empty:,} of {counted(sum(sizes), 'cell')} without a return: left out",) if empty else ()
    )
    color = COLOR_NAMES if max(_COUNTS) in counts else None
    left_out = {*(() if color else COLOR_NAMES), *(() if len(sizes) > 1 else ("scan",))}
    fields = tuple(name for name in _ROW.names or () if name not in left_out)
    return Scan(path, rows, tuple("xyz"), color, fields, notes, options=options)


def _check_head(path: Path) -> None:
    """Raise DatasetError if the file does not begin as PTX."""
    with path.open("rb") as file:
        lines = file.read(1 << 16).removeprefix(b"\xef\xbb\xbf").splitlines()[: HEAD + 1]
    if len(lines) <= HEAD or not is_count(lines[0]) or len(lines[HEAD].split()) not in _COUNTS:
        first = shown((lines or [b""])[0])
        raise DatasetError(
            f"{path}: found no PTX header (the first line is {first}), expected {HEAD} lines of "
            "the scan's grid and pose, then points of 4 or 7 values."
        )


def _points(path: Path, sizes: list[int], counts: set[int], task: Task) -> Iterator[np.ndarray]:
    """Yield the points that have a return.

    To `sizes` each scan's number of cells is appended, to `counts` the number of their values.
    """
    head, waiting, done, cut = None, list[bytes](), 0, Cut()
    for number, block in line_blocks(path, task=task):
        lines = [line for line in block if is_data(line)]
        end = number + len(lines)
        while lines:
            if head is None or done == head.columns * head.rows:
                taken, lines = lines[: HEAD - len(waiting)], lines[HEAD - len(waiting) :]
                waiting += taken
                if len(waiting) == HEAD:
                    head, waiting, done = _head(path, number, waiting), [], 0
                    sizes.append(head.columns * head.rows)
                continue
            number = end - len(lines)
            taken, lines = lines[: sizes[-1] - done], lines[sizes[-1] - done :]
            if done == 0:
                cut = Cut(count=min(_COUNTS, key=lambda n: abs(n - len(taken[0].split()))))
                counts.add(cut.count)
            kinds = dict.fromkeys(range(cut.count), "f8")
            found = parse_lines(path, number, taken, cut, kinds) or {}
            yield _placed(found, head, done, len(sizes) - 1)
            done += len(taken)
    if waiting or head is None or done < sizes[-1]:
        missing = f"{done:,} of {counted(sizes[-1], 'cell')}" if sizes else "no cells"
        raise DatasetError(
            f"{path}: found {missing} of scan {len(sizes)}, and then the end of the file.\n"
            "The file was cut off: copy or export it again."
        )


def _head(path: Path, number: int, lines: list[bytes]) -> _Head:
    words = [line.decode("latin-1").split() for line in lines[6:]]
    matrix = [[to_float(word, ".") for word in line if is_number(word)] for line in words]
    whole = all(len(row) == 4 and all(map(math.isfinite, row)) for row in matrix)
    if not (is_count(lines[0]) and is_count(lines[1]) and whole):
        raise DatasetError(
            f"{path}: found a damaged header of a scan in or after line {number} "
            f"({shown(lines[0])}), expected the numbers of columns and rows, and a pose.\n"
            "Export the scan again."
        )
    return _Head(int(lines[0]), int(lines[1]), np.array(matrix))


def _placed(found: dict[int, np.ndarray], head: _Head, done: int, scan: int) -> np.ndarray:
    """Return the rows of cells behind the first `done` of a scan, without those without return."""
    local = np.stack([found[axis] for axis in range(3)], axis=1)
    has_return = (local != 0).any(axis=1)
    rows = np.zeros(int(has_return.sum()), _ROW)
    placed = local[has_return] @ head.matrix[:3, :3] + head.matrix[3, :3]
    for axis, name in enumerate("xyz"):
        rows[name] = placed[:, axis]
    for column, name in enumerate(_VALUES, start=3):
        with np.errstate(over="ignore"):  # infinite
            rows[name] = found[column][has_return] if column in found else np.nan
    rows["column"], rows["row"] = np.divmod(done + np.flatnonzero(has_return), head.rows)
    rows["scan"] = scan
    return rows
