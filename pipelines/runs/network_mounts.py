"""Which folders are on a network, where SQLite's write-ahead log must not be used."""

from __future__ import annotations

from pathlib import Path

# A write-ahead log needs memory that its users share, so all of them have to be on one machine.
NETWORK = {
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph", "afs"),
    *("fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "orangefs", "panfs", "wekafs"),
}
MOUNTS = Path("/proc/self/mounts")


def is_on_network(folder: Path, mounts: Path = MOUNTS) -> bool:
    """Whether several machines may see `folder`; False where the system does not tell."""
    try:
        text = mounts.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    where = folder.resolve()
    kinds = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) > 2:
            point = Path(fields[1].replace("\\040", " "))
            if point == where or point in where.parents:
                kinds[len(point.parts)] = fields[2]  # of two at one place the later one counts
    return bool(kinds) and kinds[max(kinds)] in NETWORK
