"""Files in a zip, inflated by ISA-L where it is installed: more than twice as fast as zlib.

Half of the time that it takes to prepare S3DIS from its zip would go into zlib's inflate.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from types import ModuleType
from typing import BinaryIO, cast

PIECE = 1 << 18  # compressed bytes read at a time
LOCAL_HEADER = 30  # bytes, before the name and the extra field
ENCRYPTED = 1  # bit of an entry's flags


def _inflate_module() -> ModuleType | None:
    try:
        from isal import isal_zlib
    except ImportError:  # no wheel for this platform
        return None
    return isal_zlib


_isal = _inflate_module()


def open_entry(archive: zipfile.ZipFile, name: str) -> BinaryIO:
    """Open an entry to be read once from start to end; only `read(size)` is needed of it.

    Raises:
        KeyError: there is no such entry.
        zipfile.BadZipFile: its header is damaged.
    """
    info = archive.getinfo(name)
    deflated = info.compress_type == zipfile.ZIP_DEFLATED and not info.flag_bits & ENCRYPTED
    if _isal is None or not deflated or archive.filename is None:
        return cast("BinaryIO", archive.open(info))
    return cast("BinaryIO", InflatedEntry(Path(archive.filename), info, _isal))


class InflatedEntry:
    """A deflated entry as a stream; size and checksum are checked when its end is read."""

    def __init__(self, path: Path, info: zipfile.ZipInfo, inflate: ModuleType) -> None:
        self._info, self._inflate = info, inflate
        self._stream = inflate.decompressobj(-15)  # raw deflate, as in a zip
        self._file = path.open("rb")
        try:
            self._skip_header()
        except BaseException:
            self._file.close()
            raise
        self._left, self._rest = info.compress_size, b""
        self._size = self._checksum = 0

    def _skip_header(self) -> None:
        self._file.seek(self._info.header_offset)
        header = self._file.read(LOCAL_HEADER)
        if len(header) < LOCAL_HEADER or not header.startswith(b"PK\3\4"):
            raise zipfile.BadZipFile(f"Bad magic number for file header of {self._info.filename}")
        name, extra = (int.from_bytes(header[n : n + 2], "little") for n in (26, 28))
        self._file.seek(name + extra, 1)

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes, none at the end.

        Raises:
            zlib.error: the data is damaged.
            zipfile.BadZipFile: the size or the checksum is not what the zip says.
            EOFError: the zip ends within the entry.
        """
        while not self._stream.eof:
            piece = self._rest or self._next_piece()
            try:
                text: bytes = self._stream.decompress(piece, size)
            except self._inflate.error as error:
                raise zlib.error(str(error)) from error
            if not piece and not text and not self._stream.eof:
                raise EOFError(f"{self._info.filename} ends too early")
            self._rest = self._stream.unconsumed_tail
            self._size += len(text)
            if self._size > self._info.file_size:
                raise zipfile.BadZipFile(f"{self._info.filename} is longer than the zip says")
            self._checksum = self._inflate.crc32(text, self._checksum)
            if text:
                return text
        if (self._size, self._checksum) != (self._info.file_size, self._info.CRC):
            raise zipfile.BadZipFile(f"Bad CRC-32 or size of {self._info.filename}")
        return b""

    def _next_piece(self) -> bytes:
        piece = self._file.read(min(PIECE, self._left))
        self._left -= len(piece)
        return piece

    def __enter__(self) -> InflatedEntry:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
