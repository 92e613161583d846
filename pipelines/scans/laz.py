"""What a LAZ file declares about its compression, checked against the file.

The decompressor believes the file: a wrong number of chunks or size of a layer makes it ask for
memory that does not exist, which ends the process. So they are checked first.

Reference:
    Isenburg, LASzip: lossless compression of LiDAR data, 2013, and the LASzip source's description
    of its record (user `laszip encoded`, 22204), chunk table and layered chunks.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

RECORD = (b"laszip encoded", 22204)
LAYERED = 3  # the compressor of point formats 6 to 10
VARIABLE = 0xFFFFFFFF  # the chunk size that means: it is in the chunk table
# Layers of the items of point formats 6 to 10; an item 14 (extra bytes) has one a byte.
_LAYERS = {10: 9, 11: 1, 12: 2, 13: 1}
_EXTRA_BYTES = 14


@dataclass(frozen=True)
class Compression:
    """The LASzip record: the compressor, points a chunk, and (type, size) of a point's items."""

    compressor: int
    chunk_size: int
    items: tuple[tuple[int, int], ...]


def laz_problem(path: Path, header_bytes: int, start: int, length: int, count: int) -> str | None:
    """Return what cannot be true of a LAZ file, or None.

    Args:
        path: the file.
        header_bytes: where its records begin.
        start: where its points begin.
        length: bytes of an unpacked point.
        count: its points.
    """
    with path.open("rb") as file:
        try:
            compression = _compression(file, header_bytes, start)
            if compression is None:
                return "compressed points without the record of LASzip"
            size = file.seek(0, 2)
            return _problem(file, compression, (start, size), length, count)
        except struct.error:
            return "compressed points that are cut off"


def _compression(file: BinaryIO, header_bytes: int, start: int) -> Compression | None:
    """Find and read the LASzip record."""
    at = header_bytes
    while at + 54 <= start:
        file.seek(at)
        user, number, length = struct.unpack("<2x16sHH32x", file.read(54))
        at += 54 + length
        if user.rstrip(b"\0") == RECORD[0] and number == RECORD[1]:
            data = file.read(length)
            compressor, chunk_size, count = struct.unpack_from("<H10xI16xH", data)
            items = tuple(struct.unpack_from("<HH2x", data, 34 + 6 * item) for item in range(count))
            return Compression(compressor, chunk_size, items)
    return None


def _problem(
    file: BinaryIO, compression: Compression, place: tuple[int, int], length: int, count: int
) -> str | None:
    start, size = place
    if sum(bytes_ for _, bytes_ in compression.items) != length or not compression.items:
        return f"compressed items {compression.items} in points of {length} bytes"
    if compression.compressor not in (2, LAYERED):
        return None  # one run of points without chunks, or none that the decompressor knows
    file.seek(start)
    (table,) = struct.unpack("<q", file.read(8))
    if table == -1:  # written at the end by a program that could not go back
        file.seek(size - 8)
        (table,) = struct.unpack("<q", file.read(8))
    if not start + 8 <= table <= size - 8:
        return f"a table of chunks at byte {table:,} of {size:,}"
    file.seek(table)
    _, chunks = struct.unpack("<II", file.read(8))
    if chunks * length > table - start - 8:
        return f"{chunks:,} chunks in {table - start:,} bytes"
    if compression.chunk_size == 0 or count > chunks * compression.chunk_size:
        return f"{count:,} points in {chunks:,} chunks of {compression.chunk_size:,}"
    if compression.compressor == LAYERED:
        return _layer_problem(file, compression, (start + 8, table), chunks, length)
    return None


def _layer_problem(
    file: BinaryIO, compression: Compression, place: tuple[int, int], chunks: int, length: int
) -> str | None:
    """Walk from chunk to chunk: a whole point, the number of points, the layers' sizes, layers."""
    at, end = place
    layers = sum(
        size if kind == _EXTRA_BYTES else _LAYERS.get(kind, 0) for kind, size in compression.items
    )
    for number in range(chunks):
        file.seek(at + length)
        points, *sizes = struct.unpack(f"<{1 + layers}I", file.read(4 + 4 * layers))
        at += length + 4 + 4 * layers + sum(sizes)
        if at > end:
            return f"{points:,} points that end at byte {at:,} in chunk {number} of {chunks:,}"
    return None
