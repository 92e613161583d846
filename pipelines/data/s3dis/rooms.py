"""From the text of a raw room to its labelled points, with everything that was repaired.

Well-formed lines `x y z r g b` go through a compiled parser. It stops at any other line, which then
goes through a careful one in Python: a control byte 0x10–0x19 is the digit (byte − 0x10) that a bad
disk block lost, 0x00 is a space; everything else that is not six numbers is refused with file and
line.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np
from numba import njit

from pipelines.data.store import IGNORED, Room, make_room
from pipelines.errors import DatasetError
from pipelines.progress import counted
from pipelines.scans.numpy import POSITIONS, read_arrays
from pipelines.scans.table import COLOR_NAMES, Scan, ScanOptions, spooled

from . import CLASSES
from .classes import SPELLINGS, class_name
from .raw import READ_ERRORS, RawDataset, RoomFiles, is_copy, opened

CHUNK = 1 << 24  # bytes of text in memory at a time
LONGEST_LINE = 4096  # bytes; a line of S3DIS has about 40
SHORTEST_LINE = 12  # bytes: six digits, each with a space or the newline
SCAN_ROWS = np.dtype([(name, "<f8") for name in "xyz"] + [(name, "u1") for name in COLOR_NAMES])
_CONTROL = bytes([*range(9), 11, 12, *range(14, 32)])  # all below space but tab, newline, return
_DIGITS = bytes.maketrans(bytes([0, *range(0x10, 0x1A)]), b" 0123456789")  # as repaired
_POWERS = 10.0 ** np.arange(23)
SPACE, TAB, NEWLINE, RETURN, MINUS, POINT, ZERO, NINE = (ord(char) for char in " \t\n\r-.09")


@dataclass(frozen=True)
class Repair:
    """One line that was repaired in memory."""

    file: str  # path within the data set
    line: int  # 1-based
    found: str  # its text, control bytes as \\x00
    repaired: str  # the text that was read instead


@dataclass
class RoomNotes:
    """What a reader noticed in a room."""

    repairs: list[Repair] = field(default_factory=list)
    skipped: tuple[str, ...] = ()  # copies of objects that were left out
    renamed: str = ""  # a whole-room file that is not named like its room
    # The objects and points of unknown classes, by the class.
    unknown: dict[str, dict[str, int]] = field(default_factory=dict)
    unlabelled: int = 0  # points of the whole-room file that no annotation has
    unplaced: int = 0  # points without coordinates, which are left out
    uncolored: int = 0  # points without colour, which is filled in
    uncolored_stray: int = 0  # of these, those outside of the room's frame
    black: int = 0  # points that are exactly black, as some programs write for no colour
    stray: int = 0  # points outside of the room's frame
    # The longest side of each object, m, by the name of its class.
    objects: dict[str, list[float]] = field(default_factory=dict)


def read_raw_room(dataset: RawDataset, raw: RoomFiles) -> tuple[Room, RoomNotes]:
    """Read one room of the raw data."""
    whole = raw.whole.name if raw.whole else ""
    renamed = whole if PurePosixPath(whole).stem != raw.name else ""
    notes = RoomNotes(skipped=raw.skipped, renamed=renamed)
    try:
        pos, color, label, lines = _read_files(dataset, raw, notes)
    except READ_ERRORS as error:
        raise DatasetError(
            f"{dataset.source}: Area_{raw.area}/{raw.name} cannot be read: {error}.\n"
            "Expected readable text files; copy or download the raw data again."
        ) from error
    if not len(pos):
        raise DatasetError(
            f"{dataset.source}: Area_{raw.area}/{raw.name}: found no labelled points in "
            f"{len(raw.files)} annotation files, expected at least one."
        )
    notes.unlabelled = max(0, lines - len(pos))
    return make_room(raw.area, raw.name, rotate(pos, raw.angle or 0.0), color, label), notes


def _read_files(
    dataset: RawDataset, raw: RoomFiles, notes: RoomNotes
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Return pos (N, 3) float64, color (N, 3), label (N,) uint8 and the whole room's lines."""
    parts, lines = [], 0
    with opened(dataset.source) as open_file:
        for file in raw.files:
            with open_file(file.name) as stream:
                pos, color = parse_points(stream, file.name, notes.repairs)
            known = SPELLINGS.get((name := class_name(file)).lower())
            if known is None:
                counts = notes.unknown.setdefault(name, {"objects": 0, "points": 0})
                counts["objects"] += 1
                counts["points"] += len(pos)
            elif len(pos):
                sides = pos.max(axis=0) - pos.min(axis=0)
                notes.objects.setdefault(known, []).append(float(sides.max()))
            ignored = known is None and dataset.unknown == "ignore"
            label = IGNORED if ignored else CLASSES.index(known or "clutter")
            parts.append((pos, color, np.full(len(pos), label, np.uint8)))
        if raw.whole:
            with open_file(raw.whole.name) as stream:
                lines = check_lines(stream, raw.whole.name, notes.repairs)
    pos, color, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return pos, color, labels, lines


def open_room(path: Path, options: ScanOptions) -> Scan:
    """Open a room folder as a scan: its arrays, the whole room's file, or its objects in order.

    A room `office_1` holds `office_1.txt`, or only its objects, `Annotations/*.txt`; the classes in
    their names are ignored.
    """
    if any((path / f"{name}.npy").is_file() for name in POSITIONS):
        return read_arrays(path, options)
    whole = path / f"{path.resolve().name}.txt"
    files, copies = [whole], 0
    if not whole.is_file():
        found = sorted((path / "Annotations").glob("*.txt"))
        found = [file for file in found if not file.name.startswith(".")]
        files = [file for file in found if not is_copy(file.name, [other.name for other in found])]
        copies = len(found) - len(files)
    if not files:
        raise DatasetError(
            f"{path}: found a folder without {whole.name} and Annotations/*.txt, expected a room "
            "of S3DIS, or coord.npy and color.npy.\n"
            f"Name the scans in it, or a pattern: '{path}/*.ply'"
        )
    repairs: list[Repair] = []
    rows = spooled(path, (_scan_rows(file, repairs) for file in files), SCAN_ROWS)
    notes = [f"read from {whole.name if whole in files else f'{len(files)} objects'}"]
    if copies:
        notes.append(f"{counted(copies, 'copied object')} left out")
    notes += [f"{item.file}:{item.line}: repaired {item.found!r}" for item in repairs]
    names = SCAN_ROWS.names or ()
    return Scan(path, rows, names[:3], names[3:], names, tuple(notes), options=options)


def _scan_rows(file: Path, repairs: list[Repair]) -> np.ndarray:
    with file.open("rb") as stream:
        pos, color = parse_points(stream, str(file), repairs)
    table = np.empty(len(pos), SCAN_ROWS)
    for name, column in zip((*"xyz", *COLOR_NAMES), (*pos.T, *color.T), strict=True):
        table[name] = column
    return table


def rotate(pos: np.ndarray, angle: float) -> np.ndarray:
    """Rotate points (N, 3) by `angle` degrees about z, counter-clockwise seen from above."""
    if angle == 0:
        return pos
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    x, y = pos[:, 0] * cos - pos[:, 1] * sin, pos[:, 0] * sin + pos[:, 1] * cos
    return np.column_stack([x, y, pos[:, 2]])


def parse_points(
    stream: BinaryIO, file: str, repairs: list[Repair]
) -> tuple[np.ndarray, np.ndarray]:
    """Return pos (n, 3) float64, metres, and color (n, 3) uint8 of an open text file.

    Each repaired line is appended to `repairs`; messages name `file`.
    """
    parts, line = [(np.empty((0, 3)), np.empty((0, 3), np.uint8))], 1
    for text in _chunks(stream, file):
        data = np.frombuffer(text, np.uint8)
        most = len(text) // SHORTEST_LINE + 1
        pos, color = np.empty((most, 3)), np.empty((most, 3), np.uint8)
        row = start = 0
        while start < len(text):
            row, start, passed = _parse_lines(data, pos, color, row, start, _POWERS)
            line += passed
            if start < len(text):
                end = text.find(b"\n", start)
                end = len(text) if end < 0 else end
                values = careful_line(text[start:end], file, line, repairs)
                pos[row], color[row] = values[:3], values[3:]
                row, line, start = row + 1, line + 1, end + 1
        parts.append((pos[:row].copy(), color[:row].copy()))
    return np.concatenate([p for p, _ in parts]), np.concatenate([c for _, c in parts])


def _chunks(stream: BinaryIO, file: str) -> Iterator[bytes]:
    """Yield the text in chunks that end with a line."""
    rest = b""
    while read := stream.read(CHUNK):
        text = rest + read
        end = text.rfind(b"\n") + 1
        if end == 0 and len(text) > LONGEST_LINE:
            raise DatasetError(
                f"{file}: found a line of more than {LONGEST_LINE} bytes, "
                "expected text lines 'x y z r g b'."
            )
        rest = text[end:]
        if end:
            yield text[:end]
    if rest:
        yield rest


@njit(cache=True, nogil=True)
def _parse_lines(text, pos, color, row, start, powers):
    """Parse well-formed lines from byte `start` on into row `row` and the following.

    Returns (row, start, lines): the next free row, the first byte not parsed (the end of `text`, or
    the beginning of a line for the careful parser), and how many lines were parsed. All in one
    function: with another one for a number it takes twice as long.
    """
    size, lines = len(text), 0
    while start < size:
        at, column = start, 0
        while True:
            while at < size and (text[at] == SPACE or text[at] == TAB):
                at += 1
            if at >= size or text[at] == NEWLINE or text[at] == RETURN:
                break
            if column == 6:
                return row, start, lines
            negative = text[at] == MINUS
            if negative:
                at += 1
            mantissa, digits, decimals = np.int64(0), 0, -1
            while at < size:
                byte = text[at]
                if ZERO <= byte <= NINE:
                    mantissa = mantissa * 10 + (byte - ZERO)
                    digits += 1
                    if decimals >= 0:
                        decimals += 1
                elif byte == POINT and decimals < 0:
                    decimals = 0
                else:
                    break
                at += 1
            if digits == 0 or digits > 15:
                return row, start, lines
            if at < size and text[at] not in (SPACE, TAB, NEWLINE, RETURN):
                return row, start, lines
            # Below 2^53 the quotient of two exact doubles is the correctly rounded number.
            value = float(mantissa)
            if decimals > 0:
                value = value / powers[decimals]
            if negative:
                value = -value
            if column < 3:
                pos[row, column] = value
            else:
                if value < 0.0 or value > 255.0 or value != np.floor(value):
                    return row, start, lines
                color[row, column - 3] = np.uint8(value)
            column += 1
        if at < size and text[at] == RETURN:
            at += 1
        if at < size and text[at] != NEWLINE:
            return row, start, lines
        if column == 6:
            row += 1
        elif column != 0:
            return row, start, lines
        lines += 1
        start = at + 1
    return row, size, lines


def careful_line(raw: bytes, file: str, line: int, repairs: list[Repair]) -> list[float]:
    """Read one irregular line, repairing control bytes; return its six numbers."""
    repaired = raw.translate(_DIGITS)
    shown = raw.rstrip(b"\r")[:80].decode("latin-1").encode("unicode_escape").decode()
    try:
        values = [float(word) for word in repaired.split()]
    except ValueError:
        values = []
    finite = len(values) == 6 and b"_" not in repaired and all(map(math.isfinite, values))
    if not finite or any(value < 0 or value > 255 or value != int(value) for value in values[3:]):
        raise DatasetError(
            f"{file}:{line}: found {shown!r}, expected six numbers x y z r g b, colours 0–255.\n"
            "It cannot be repaired with certainty: correct the line in a copy of the raw data."
        )
    if repaired != raw:
        repairs.append(Repair(file, line, shown, repaired.decode("latin-1").strip()))
    return values


def check_lines(stream: BinaryIO, file: str, repairs: list[Repair]) -> int:
    """Return the number of lines of a whole-room file; parse only those with a control byte.

    Its points are not needed, because labels come from the annotations.
    """
    count = 0
    for text in _chunks(stream, file):
        lines, damaged = _count_lines(np.frombuffer(text, np.uint8))
        if damaged:
            for number, raw in enumerate(text.split(b"\n"), start=count + 1):
                if raw.translate(None, _CONTROL) != raw:
                    careful_line(raw, file, number, repairs)
        count += lines + (not text.endswith(b"\n"))
    return count


@njit(cache=True, nogil=True)
def _count_lines(text):
    """Return how many newlines and how many control bytes a text has."""
    lines = control = 0
    for byte in text:
        lines += byte == NEWLINE
        control += byte < SPACE
        control -= (byte == TAB) | (byte == NEWLINE) | (byte == RETURN)
    return lines, control
