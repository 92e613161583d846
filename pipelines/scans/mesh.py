"""Elements of a PLY file, of which the vertices are one and faces may be another.

An element with lists, as the corners of a face, has rows of different lengths: they are walked
through one by one, in compiled code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numba import njit

from pipelines.errors import DatasetError

from .columns import shown
from .table import chunks
from .text import line_blocks

NAMES = {
    **{"i1": "char", "u1": "uchar", "i2": "short", "u2": "ushort"},
    **{"i4": "int", "u4": "uint", "f4": "float", "f8": "double"},
}
TYPES = {name: kind for kind, own in NAMES.items() for name in (own, np.dtype(kind).name)}


@dataclass(frozen=True)
class Element:
    """The elements of one name, such as the vertices."""

    name: str
    count: int
    properties: list[tuple[str, list[str]]]  # names and types; a list has two, length and item

    @property
    def single(self) -> list[tuple[str, str]]:
        """The names and types of the properties that are no lists."""
        return [(name, kinds[0]) for name, kinds in self.properties if len(kinds) == 1]

    @property
    def lists(self) -> list[str]:
        """The names of the properties that are lists."""
        return [name for name, kinds in self.properties if len(kinds) == 2]

    def least_bytes(self, order: str) -> int:
        """Return the fewest bytes they can take: empty lists, and text values of one character."""
        sizes = [np.dtype(kinds[0]).itemsize if order else 2 for _, kinds in self.properties]
        return self.count * sum(sizes)

    def header(self) -> list[str]:
        """Return the lines that declare them."""
        lines = [f"element {self.name} {self.count}"]
        for name, kinds in self.properties:
            is_list = "list " if len(kinds) == 2 else ""
            lines.append(f"property {is_list}{' '.join(NAMES[kind] for kind in kinds)} {name}")
        return lines

    def walk(self, data: np.ndarray, start: int, order: str) -> Iterator[tuple[int, np.ndarray]]:
        """Yield chunks: the byte behind each, and its values that are in no list, (n, bytes) uint8.

        The elements begin at byte `start` of data (n,) uint8. Raises ValueError if they go on
        behind its end, or a list has a negative length.
        """
        kinds = [[np.dtype(kind) for kind in kinds] for _, kinds in self.properties]
        sizes = np.array([first.itemsize for first, *_ in kinds], np.int64)
        items = np.array([item[0].itemsize if item else 0 for _, *item in kinds], np.int64)
        signed = np.array([first.kind == "i" for first, *_ in kinds], np.bool_)
        width = int(sizes[items == 0].sum())
        for part in chunks(self.count):
            out = np.empty((part.stop - part.start, width), np.uint8)
            start = _walk(data, start, sizes, items, signed, order == ">", out)
            if start < 0:
                raise ValueError(f"{self.name} behind the end of the file")
            yield start, out

    def end(self, data: np.ndarray, start: int, order: str) -> int:
        """Return the byte behind them; ValueError as of `walk`."""
        if not self.lists:
            return start + self.least_bytes(order)
        return max((stop for stop, _ in self.walk(data, start, order)), default=start)

    def without_lists(self, line: bytes) -> bytes:
        """Return a line of text with the words of properties that are no lists."""
        words, kept, at = line.split(), [], 0
        for _, kinds in self.properties:
            if at < len(words) and len(kinds) == 1:
                kept.append(words[at])
            elif at < len(words):
                at += int(words[at]) if words[at].isdigit() else len(words)
            at += 1
        # A line of another length is refused where the numbers are parsed.
        return b" ".join(kept) if at == len(words) else line

    def packed(self, line: bytes) -> bytes:
        """Return the little-endian bytes of one of them from a line of text."""
        words, found = iter(line.split()), []
        for _, kinds in self.properties:
            count = 1
            for kind in kinds:
                number = float if kind[0] == "f" else int
                values = [number(next(words)) for _ in range(count)]
                found.append(np.array(values, f"<{kind}").tobytes())
                count = int(values[0]) if values else 0
        return b"".join(found)


@njit(cache=True, nogil=True)
def _walk(
    data: Any, at: Any, sizes: Any, items: Any, signed: Any, big_endian: Any, out: Any
) -> Any:
    """Copy values of one element a row into `out`, past lists; return the byte behind, or -1."""
    for row in range(len(out)):
        filled = 0
        for n in range(len(sizes)):
            size = sizes[n]
            if at + size > len(data):
                return -1
            if items[n] == 0:
                for byte in range(size):
                    out[row, filled + byte] = data[at + byte]
                filled += size
                at += size
            else:
                length = 0
                for byte in range(size):
                    place = byte if big_endian else size - 1 - byte
                    length = length * 256 + int(data[at + place])
                if signed[n] and length >= 2 ** (8 * size - 1):
                    return -1
                at += size + length * items[n]
    return at if at <= len(data) else -1


@dataclass(frozen=True)
class Mesh:
    """What a PLY file holds besides its vertices."""

    path: Path
    order: str  # of bytes: "<" or ">"; "" for text
    comments: list[str]  # lines that name the textures
    newline: bytes
    before: list[Element]  # and behind the vertices
    behind: list[Element]
    vertices: int
    start: int  # the first byte of data, of the vertices, and behind them; of text only the first
    first: int = 0
    stop: int = 0

    def copy(self, file: BinaryIO, *, before: bool) -> None:
        """Write the elements before or behind the vertices; those of a text as little-endian."""
        elements = self.before if before else self.behind
        if not self.order:
            skipped = 0 if before else sum(item.count for item in self.before) + self.vertices
            self._pack(file, elements, skipped)
        elif elements:
            start, stop = (self.start, self.first) if before else (self.stop, None)
            rest = np.memmap(self.path, np.uint8, mode="r")[start:stop]
            for part in chunks(len(rest)):
                file.write(rest[part].tobytes())

    def _pack(self, file: BinaryIO, elements: list[Element], skipped: int) -> None:
        blocks = line_blocks(self.path, self.start, self.newline)
        lines = islice((line for _, found in blocks for line in found), skipped, None)
        for element in elements:
            for line in islice(lines, element.count):
                try:
                    file.write(element.packed(line))
                except (ValueError, OverflowError, StopIteration) as error:
                    raise DatasetError(
                        f"{self.path}: found {shown(line)} as a {element.name}, expected "
                        f"{', '.join(name for name, _ in element.properties)}.\n"
                        "Export the scan again."
                    ) from error
