"""One process at a time, no lock outlives its process; network folders by the list of mounts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.errors import RunError
from pipelines.runs.lock import is_locked, is_on_network, lock_run

HOLD = """
import sys, time
from pathlib import Path
from pipelines.runs.lock import lock_run
with lock_run(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""

MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb1 /home/me/local ext4 rw 0 0
//server/share /mnt/my\\040share cifs rw 0 0
"""


def test_another_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert is_locked(tmp_path)
        with (
            pytest.raises(RunError, match=rf"another process .*\(process {holder.pid} on .+\)"),
            lock_run(tmp_path),
        ):
            pytest.fail("the lock was given twice")
    finally:
        holder.kill()
        holder.communicate()
    assert not is_locked(tmp_path)
    with lock_run(tmp_path):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)


def test_no_lock_without_a_file(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    assert list(tmp_path.iterdir()) == []


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
