"""Network folders, told by the system's list of mounts."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.runs.network_mounts import is_on_network

MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb1 /home/me/local ext4 rw 0 0
//server/share /mnt/my\\040share cifs rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("/tmp/runs", False),
        ("/home/me/runs", True),
        ("/home", True),
        ("/homes/runs", False),
        ("/home/me/local/runs", False),
        ("/mnt/my share/runs", True),
    ],
)
def test_the_nearest_mount_counts(tmp_path: Path, folder: str, expected: bool) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)
    assert is_on_network(Path(folder), mounts) is expected
    assert not is_on_network(Path(folder), tmp_path / "nothing")
