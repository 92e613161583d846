"""Locks between processes: one process at a time in a run directory, and locks on other files."""

from __future__ import annotations

import errno
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pipelines.errors import RunError

try:
    import fcntl
except ImportError:  # not a POSIX system: nothing keeps two processes apart
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
HELD = (errno.EWOULDBLOCK, errno.EACCES)


@contextmanager
def lock_run(path: Path) -> Iterator[None]:
    """Hold the lock of the run directory `path` within a `with` block.

    The system drops the lock when its process ends, however it ends, so a lock is never stale;
    the file that stays behind says who had it last.

    Raises:
        RunError: another process holds it; says which, and where.
    """
    with (path / LOCK).open("a+", encoding="utf-8") as file:
        if not _acquire_soon(file):
            file.seek(0)
            raise RunError(
                f"{path}: another process is training this run ({file.read().strip()}).\n"
                "Wait for it, stop it, or start a run of your own: deepgcn train"
            )
        file.truncate(0)
        file.write(f"{_this_process()}\n")
        file.flush()
        yield


def was_locked_here(path: Path) -> bool:
    """Whether this process is the last one that held the lock of the run directory `path`."""
    try:
        return (path / LOCK).read_text(encoding="utf-8").strip() == _this_process()
    except OSError:
        return False


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of the run directory `path`."""
    lock = path / LOCK
    if not lock.is_file():
        return False
    try:
        with lock.open("r", encoding="utf-8") as file:
            return not _acquire(file, shared=True)
    except PermissionError:
        return False  # somebody else's run; its status is all there is to go by


@contextmanager
def hold_lock(path: Path, *, shared: bool, seconds: float) -> Iterator[bool]:
    """Hold a lock on the file `path`, made if it is not there, within a `with` block.

    Yields whether it is held; False after `seconds` in which others held it.
    """
    with path.open("a", encoding="utf-8") as file:
        end = time.monotonic() + seconds
        while not (held := _acquire(file, shared=shared)) and time.monotonic() < end:
            time.sleep(0.01)
        yield held


def _this_process() -> str:
    return f"process {os.getpid()} on {platform.node()}"


def _acquire_soon(file: IO[str]) -> bool:
    """Take the lock, trying for half a second: a look at it (`is_locked`) holds it for a moment."""
    for _ in range(5):
        if _acquire(file):
            return True
        time.sleep(0.1)
    return False


def _acquire(file: IO[str], *, shared: bool = False) -> bool:
    """Take the lock, shared or exclusive, until `file` is closed; False: somebody has it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        # A file system without locks (ENOLCK, ENOTSUP) must not keep anybody from training.
        return error.errno not in HELD
    return True
