"""The lock of a run, and which file systems are on a network."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.errors import TakenError
from pipelines.files import naming
from pipelines.runtime.lock import acquire, hold_lock, open_lock, this_process

LOCK = ".lock"
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
    the file stays behind and names the last holder. TakenError: another process holds it.
    """
    file = path / LOCK
    with hold_lock(file, shared=False, seconds=0.5) as held:  # `is_locked` holds it for a moment
        if not held:
            holder = file.read_text(encoding="utf-8").strip()
            raise TakenError(
                f"{path}: another process is training this run ({holder}).\n"
                "Wait for it, stop it, or start another run: deepgcn train"
            )
        with naming(file):
            file.write_text(f"{this_process()}\n", encoding="utf-8")
        yield


def was_locked_here(path: Path) -> bool:
    """Return whether this process was the last to hold the lock of the run directory `path`."""
    try:
        return (path / LOCK).read_text(encoding="utf-8").strip() == this_process()
    except OSError:
        return False


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock of the run directory `path`."""
    try:
        with open_lock(path / LOCK, "r") as file:
            return acquire(file, shared=True) is False
    except OSError as error:
        if isinstance(error, (FileNotFoundError, PermissionError)) or error.errno == errno.ELOOP:
            return False  # another user's run, or none of ours: rely on its status
        raise


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
