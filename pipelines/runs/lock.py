"""Locks between processes, and which file systems are on a network."""

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
from pipelines.files import naming

try:
    import fcntl
except ImportError:  # not a POSIX system: no locks
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
HELD = (errno.EWOULDBLOCK, errno.EACCES)
MOUNTS = Path("/proc/self/mounts")
# SQLite's write-ahead log needs memory that its users share, so all must be on one machine.
NETWORK_FILE_SYSTEMS = {
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph", "afs"),
    *("fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "orangefs", "panfs", "wekafs"),
}


@contextmanager
def lock_run(path: Path) -> Iterator[None]:
    """Hold the lock of the run directory `path` within a `with` block.

    The system drops the lock when its process ends, however it ends, so a lock is never stale;
    the file stays behind and names the last holder. RunError: another process holds it.
    """
    file = path / LOCK
    with hold_lock(file, shared=False, seconds=0.5) as held:  # `is_locked` holds it for a moment
        if not held:
            holder = file.read_text(encoding="utf-8").strip()
            raise RunError(
                f"{path}: another process is training this run ({holder}).\n"
                "Wait for it, stop it, or start another run: deepgcn train"
            )
        with naming(file):
            file.write_text(f"{_this_process()}\n", encoding="utf-8")
        yield


def was_locked_here(path: Path) -> bool:
    """Return whether this process was the last to hold the lock of the run directory `path`."""
    try:
        return (path / LOCK).read_text(encoding="utf-8").strip() == _this_process()
    except OSError:
        return False


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock of the run directory `path`."""
    try:
        with (path / LOCK).open(encoding="utf-8") as file:
            return not _acquire(file, shared=True)
    except (FileNotFoundError, PermissionError):  # another user's run: rely on its status
        return False


@contextmanager
def hold_lock(path: Path, *, shared: bool, seconds: float) -> Iterator[bool]:
    """Hold a lock on a file, created if missing; yield False if others held it for `seconds`."""
    with path.open("a", encoding="utf-8") as file:
        end = time.monotonic() + seconds
        while not (held := _acquire(file, shared=shared)) and time.monotonic() < end:
            time.sleep(0.01)
        yield held


def _this_process() -> str:
    return f"process {os.getpid()} on {platform.node()}"


def _acquire(file: IO[str], *, shared: bool = False) -> bool:
    """Take the lock, shared or exclusive, until `file` is closed; False: another process has it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        # On a file system without locks (ENOLCK, ENOTSUP) training must work, too.
        return error.errno not in HELD
    return True


def is_on_network(folder: Path, mounts: Path = MOUNTS) -> bool:
    """Return whether `folder` is on a network file system; False if the system doesn't say."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    where = folder.resolve()
    kinds = {0: ""}
    for _, point, kind, *_ in (line.split() for line in lines):
        path = Path(point.replace("\\040", " "))
        if path == where or path in where.parents:
            kinds[len(path.parts)] = kind  # of two mounts at one place the later counts
    return kinds[max(kinds)] in NETWORK_FILE_SYSTEMS
