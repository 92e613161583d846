"""Write files whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from glob import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

from .errors import ConfigError

UNFINISHED = ".part"
# What reading a damaged zip can raise. A RuntimeError (NotImplementedError is one) is of an entry
# that is encrypted, or packed in a way that is not known.
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, UnicodeDecodeError)
ZIP_HEADER = 30  # bytes before an entry's name and content
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it into place if the block succeeds.

    The content is on disk before the rename, so a crash leaves the old file or the new one, never
    half of one. If the block fails, the temporary file is removed and the old one stays. A link in
    the place of `path` is replaced, and what it leads to stays as it is. An OSError without a
    file's name, as a full disk raises it, gets that of `path`.

    >>> with atomic_write(Path("notes.txt")) as temporary:
    ...     size = temporary.write_text("done")
    >>> Path("notes.txt").read_text()
    'done'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_of_ended(path.parent, path.name)
    temporary = path.with_name(f".{path.name}.{_here()}-{os.getpid()}{UNFINISHED}")
    if os.path.lexists(temporary):  # a link, perhaps, which would lead what is written elsewhere
        temporary.unlink()
    try:
        with naming(path):
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@cache
def _here() -> str:
    """Return 8 digits for this computer: others may write to the same file system.

    Containers may share its name, but not its numbers of processes.
    """
    name = platform.node()
    with suppress(OSError):  # Linux only
        name += os.readlink("/proc/self/ns/pid")
    return f"{zlib.crc32(name.encode()):08x}"


def remove_of_ended(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes of this computer had begun to write in `folder`.

    All of it, or of the file `name`. What others are writing there now stays.
    """
    if sys.platform == "win32":  # where a signal of 0 would end the process that it asks for
        return
    wanted = "*" if name is None else escape(name)
    for left in folder.glob(f".{wanted}.{_here()}-*{UNFINISHED}"):
        process = left.name.removesuffix(UNFINISHED).rpartition("-")[2]
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            left.unlink(missing_ok=True)
        except (ValueError, OverflowError, PermissionError):
            pass  # it is not ours, or another user's process is at it


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError that leaves a `with` block without a file's name have that of `path`.

    >>> with naming(Path("notes.txt")):
    ...     raise OSError(errno.ENOSPC, "No space left on device")
    Traceback (most recent call last):
    OSError: [Errno 28] No space left on device: 'notes.txt'
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def check_place(path: Path, flag: str, *, folder: bool = False) -> None:
    """Raise ConfigError, naming the option, if something is in the way of a file or `folder`.

    Called before long work, so that its result can be written.

    >>> check_place(Path("."), "--out")
    Traceback (most recent call last):
    pipelines.errors.ConfigError: --out .: found a folder, expected a file....
    """
    there = next((place for place in (path, *path.parents) if os.path.exists(place)), None)
    if there is None or (there == path and not there.is_dir() and not folder):
        return
    if there == path and not folder:
        raise ConfigError(f"{flag} {path}: found a folder, expected a file.\nGive another path.")
    if not there.is_dir():
        found = "a file" if there == path else f"the file {there}"
        raise ConfigError(f"{flag} {path}: found {found}, expected a folder.\nGive another path.")


def is_zip(path: Path) -> bool:
    """Return whether a file is a zip, perhaps a damaged one.

    >>> is_zip(Path("."))
    False
    """
    try:
        return zipfile.is_zipfile(path)
    except (zipfile.BadZipFile, ValueError):  # as of one on several disks
        return True


def check_apart(archive: zipfile.ZipFile) -> None:
    """Raise BadZipFile if entries share bytes, as when kilobytes stand for petabytes, or have none.

    >>> with zipfile.ZipFile("a.zip", "w") as archive:
    ...     archive.writestr("a.txt", "1")
    ...     check_apart(archive)
    """
    entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
    if entries and entries[0].header_offset < 0:
        raise zipfile.BadZipFile(f"{entries[0].filename!r:.80} begins before the file")
    for entry, behind in pairwise(entries):
        size = ZIP_HEADER + len(entry.filename) + entry.compress_size
        if entry.header_offset + size > behind.header_offset:
            raise zipfile.BadZipFile(f"{entry.filename!r:.80} and {behind.filename!r:.80} overlap")


def remove_unfinished(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes were writing in `folder`, all of it or of the file `name`.

    Nobody may be writing it now.

    >>> size = Path(f".notes.txt.7{UNFINISHED}").write_text("half")
    >>> remove_unfinished(Path("."))
    """
    wanted = "*" if name is None else f"{escape(name)}.*"
    for temporary in folder.glob(f".{wanted}{UNFINISHED}"):
        temporary.unlink(missing_ok=True)


def sha256_of(*paths: Path) -> str:
    """Return the SHA-256 of files, one after the other, as 64 hexadecimal digits.

    >>> size = Path("notes.txt").write_bytes(b"abc")
    >>> sha256_of(Path("notes.txt"))[:8]
    'ba7816bf'
    """
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as opened:
            while chunk := opened.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def atomic_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write `content`, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def atomic_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all: `atomic_text(Path("a.txt"), "one line\\n")`.

    Bytes of a file's name that are no UTF-8 are written as JSON reads them, such as `\\udcff`.
    """
    atomic_bytes(path, text.encode(errors="backslashreplace"))


def atomic_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    atomic_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
