"""An HDF5 file that cannot be written whole is an error; reading one needs no locks."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipelines.data.hdf5 import _Disk, atomic_hdf5, open_hdf5

# For each limit a process of its own, which says what was raised, and ends as any other.
LIMITED = """
import os, resource, sys
from pathlib import Path
from pipelines.data.store import write_rooms
from tests.tiny_store import tiny_room

rooms = [tiny_room(1, number, 200) for number in (1, 2)]
write_rooms(Path("whole.h5"), rooms)
for limit in range(0, os.path.getsize("whole.h5") + 499, 500):
    if not os.fork():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            write_rooms(Path("room.h5"), rooms)
        except OSError as error:
            os.write(1, f"{error} ".encode())
        sys.exit()
    code = os.waitstatus_to_exitcode(os.wait()[1])
    print(limit, code, *sorted(os.listdir()), flush=True)
"""


def test_every_size_that_a_full_disk_leaves_is_an_error_without_a_crash(tmp_path: Path) -> None:
    tree = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", LIMITED]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": tree}, capture_output=True, text=True, check=True
    )
    *short, enough = done.stdout.splitlines()
    assert len(short) > 20
    for number, line in enumerate(short):
        refused = f"[Errno 27] File too large: 'room.h5' {500 * number} 0 whole.h5"
        assert line == refused, done.stderr
    assert enough.endswith(" 0 room.h5 whole.h5")
    assert (tmp_path / "room.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert done.stderr == ""


def test_a_file_is_read_whatever_locks_say(tmp_path: Path) -> None:
    with atomic_hdf5(tmp_path / "a.h5") as file:
        file.create_dataset("data", data=[1, 2, 3])
    with (tmp_path / "a.h5").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with open_hdf5(tmp_path / "a.h5") as file:
            assert list(file["data"]) == [1, 2, 3]


def test_hdf5_may_let_go_after_the_file_is_closed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As when a signal ends the work: nothing is said of it."""
    disk = _Disk(tmp_path / "a.h5", "w+b")
    file = h5py.File(disk, "w")
    file["a"] = np.zeros(1000)
    disk.close()
    file.close()
    assert capfd.readouterr().err == ""
