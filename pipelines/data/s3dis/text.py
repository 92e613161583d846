"""The text of S3DIS: lines `x y z r g b`, parsed exactly, fast, and repaired where that is certain.

Well-formed lines go through a compiled parser. It stops at any other line, which then goes through
a careful one in Python: a control byte 0x10–0x19 is the digit (byte − 0x10) that a bad disk block
lost, 0x00 is a space; everything else that is not six numbers is refused with file and line.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numba import njit

from pipelines.errors import DatasetError

CHUNK = 1 << 24  # bytes of text in memory at a time
LONGEST_LINE = 4096  # bytes; a line of S3DIS has about 40
SHORTEST_LINE = 12  # bytes: six digits, each with a space or the newline
_CONTROL = bytes([*range(9), 11, 12, *range(14, 32)])  # all below space but tab, newline, return
_POWERS = 10.0 ** np.arange(23)


@dataclass(frozen=True)
class Repair:
    """One line that was mended in memory.

    Attributes:
        file: path within the dataset.
        line: 1-based.
        found: what stood there, control bytes as \\x00.
        repaired: what it was read as.
    """

    file: str
    line: int
    found: str
    repaired: str


@njit(cache=True, nogil=True)
def _parse_lines(text, pos, color, row, start, powers):
    """Parse well-formed lines from byte `start` on into row `row` and the following.

    Returns (rows, start, lines): the next free row, the first byte not parsed (the end of `text`,
    or the beginning of a line for the careful parser), and how many lines were passed.
    """
    size = len(text)
    lines = 0
    while start < size:
        at = start
        column = 0
        while True:
            while at < size and (text[at] == 32 or text[at] == 9):
                at += 1
            if at >= size or text[at] == 10 or text[at] == 13:
                break
            if column == 6:
                return row, start, lines
            negative = text[at] == 45
            if negative:
                at += 1
            mantissa = np.int64(0)
            digits = 0
            decimals = -1
            while at < size:
                byte = text[at]
                if 48 <= byte <= 57:
                    mantissa = mantissa * 10 + (byte - 48)
                    digits += 1
                    if decimals >= 0:
                        decimals += 1
                elif byte == 46 and decimals < 0:
                    decimals = 0
                else:
                    break
                at += 1
            if digits == 0 or digits > 15:
                return row, start, lines
            if at < size and text[at] != 32 and text[at] != 9 and text[at] != 10 and text[at] != 13:
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
        if at < size and text[at] == 13:
            at += 1
        if at < size and text[at] != 10:
            return row, start, lines
        if column == 6:
            row += 1
        elif column != 0:
            return row, start, lines
        lines += 1
        start = at + 1
    return row, size, lines


def parse_points(
    stream: BinaryIO, file: str, repairs: list[Repair]
) -> tuple[np.ndarray, np.ndarray]:
    """Read all points of an open text file.

    Args:
        stream: the text.
        file: its name for messages.
        repairs: receives what was mended.

    Returns:
        pos (n, 3) float64, metres, and color (n, 3) uint8.

    Raises:
        DatasetError: a line cannot be read or repaired with certainty.
    """
    parts, line = [], 1
    for text in _chunks(stream, file):
        pos, color, line = _parse_chunk(text, file, line, repairs)
        parts.append((pos, color))
    if not parts:
        return np.empty((0, 3)), np.empty((0, 3), np.uint8)
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


def _parse_chunk(
    text: bytes, file: str, line: int, repairs: list[Repair]
) -> tuple[np.ndarray, np.ndarray, int]:
    """Parse text that begins with line number `line`; return points and the next line's number."""
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
    return pos[:row].copy(), color[:row].copy(), line


def careful_line(raw: bytes, file: str, line: int, repairs: list[Repair]) -> list[float]:
    """Read one irregular line, repairing control bytes; return its six numbers.

    Raises:
        DatasetError: the line is not six numbers with colours 0 to 255, even after repair.
    """
    mended = repair_bytes(raw)
    shown = raw.rstrip(b"\r")[:80].decode("latin-1").encode("unicode_escape").decode()
    values = _six_numbers(mended)
    if values is None:
        raise DatasetError(
            f"{file}:{line}: found {shown!r}, expected six numbers x y z r g b, colours 0–255.\n"
            "It cannot be repaired with certainty: correct the line in a copy of the raw data."
        )
    if mended != raw:
        repairs.append(Repair(file, line, shown, mended.decode("latin-1").strip()))
    return values


def repair_bytes(raw: bytes) -> bytes:
    """Return a line with bytes 0x10–0x19 as the digits 0–9 and 0x00 as a space."""
    digits = bytes(range(0x10, 0x1A))
    return raw.translate(bytes.maketrans(b"\0" + digits, b" 0123456789"))


def _six_numbers(text: bytes) -> list[float] | None:
    try:
        values = [float(word) for word in text.split()]
    except ValueError:
        return None
    if len(values) != 6 or not all(math.isfinite(value) for value in values) or b"_" in text:
        return None
    if any(value < 0 or value > 255 or value != int(value) for value in values[3:]):
        return None
    return values


def check_lines(stream: BinaryIO, file: str, repairs: list[Repair]) -> int:
    """Look through a whole-room file for control bytes; return its number of lines.

    Its points are not needed (labels come from the annotations), so only lines with a control byte
    are parsed.

    Raises:
        DatasetError: such a line cannot be repaired with certainty.
    """
    count = 0
    for text in _chunks(stream, file):
        lines, damaged = _look_through(np.frombuffer(text, np.uint8))
        if damaged:
            for number, raw in enumerate(text.split(b"\n"), start=count + 1):
                if raw.translate(None, _CONTROL) != raw:
                    careful_line(raw, file, number, repairs)
        count += lines + (not text.endswith(b"\n"))
    return count


@njit(cache=True, nogil=True)
def _look_through(text):
    """Return how many newlines and how many control bytes a text has."""
    lines = 0
    control = 0
    for byte in text:
        lines += byte == 10
        control += byte < 32
        control -= (byte == 9) | (byte == 10) | (byte == 13)
    return lines, control
