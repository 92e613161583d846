"""Locks between processes: one file, held by one process, which names itself in it.

The system drops a lock when its process ends, however it ends, so none is ever stale.
"""

from __future__ import annotations

import errno
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO

from pipelines.errors import DatasetError
from pipelines.progress import SILENT, Progress

try:
    import fcntl
except ImportError:  # not a POSIX system: no locks
    fcntl = None  # type: ignore[assignment]

HELD = (errno.EWOULDBLOCK, errno.EACCES)


@contextmanager
def hold_alone(
    path: Path, target: Path, advice: str, progress: Progress = SILENT
) -> Iterator[None]:
    """Hold the lock file `path` within a `with` block that writes `target`, and then remove it.

    Where the file system has no locks, that is said, and the block runs all the same.

    Raises:
        DatasetError: another process holds it, which the error names; it ends with `advice`.
        OSError: the file cannot be created.
    """
    made = not path.parent.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with _opened(path) as (file, held):
        if held is False:
            holder = file.read().strip() or "it has not said which"
            raise DatasetError(
                f"{target}: another process is writing it ({holder}).\n"
                f"Wait until it has finished{advice}"
            )
        if held is None:
            progress.say(f"{path.parent}: found no locks there; run one command at a time in it.")
        with suppress(OSError):  # a full disk: the lock holds without a name
            file.truncate(0)
            text = f"{this_process()}, since {datetime.now():%Y-%m-%d %H:%M:%S}\n"
            os.write(file.fileno(), text.encode())  # a buffer would fail again when it is closed
        try:
            yield
        finally:
            with suppress(OSError):  # a file that stays behind hinders nobody
                path.unlink()  # while it is held: who waits for it opens a new one
                if made:
                    path.parent.rmdir()  # unless something was written


@contextmanager
def hold_lock(
    path: Path, *, shared: bool, seconds: float, wait: Callable[[], object] = lambda: None
) -> Iterator[bool]:
    """Hold a lock on a file, created if missing; yield False if others held it for `seconds`.

    `wait` is called once if they hold it now.
    """
    with open_lock(path, "a") as file:
        end = time.monotonic() + seconds
        if (held := acquire(file, shared=shared)) is False:
            wait()
        while held is False and time.monotonic() < end:
            time.sleep(0.01)
            held = acquire(file, shared=shared)
        yield held is not False


def open_lock(path: Path, mode: str) -> IO[str]:
    """Open a lock file; OSError: a link is in its place, so that another file would be changed."""
    try:
        return open(path, mode, encoding="utf-8", opener=_open_no_link)
    except OSError as error:
        if error.errno == errno.ELOOP and path.is_symlink():
            reason = f"found a link in the place of the lock file {path.name}; remove it"
            raise OSError(errno.ELOOP, reason, str(path)) from None
        raise


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def acquire(file: IO[str], *, shared: bool = False) -> bool | None:
    """Take the lock of an open file until it is closed.

    False: another process has it. None: the file system, or the computer, has no locks (as with
    ENOLCK and ENOTSUP).
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in HELD else None
    return True


def this_process() -> str:
    """Return what a lock file says of its holder: process 7 on mine."""
    return f"process {os.getpid()} on {platform.node()}"


@contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[str], bool | None]]:
    """Open a lock file and take its lock, which `acquire` describes.

    The file must be in place once it is locked: its last holder may have removed it meanwhile.
    """
    while True:
        with open_lock(path, "a+") as file:
            held = acquire(file)
            in_place = False
            with suppress(FileNotFoundError):
                in_place = os.path.samestat(os.fstat(file.fileno()), os.stat(path))
            if in_place:
                file.seek(0)
                yield file, held
                return
