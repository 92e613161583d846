"""Disks that are full: of two mebibytes, or with a limit to the size of a file.

Only a disk that is full shows that files are written before they are mapped.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MOUNT = 'mount -t tmpfs -o size=2m none "$1" && cd "$1" && exec "$2" -c "$3"'


def on_a_small_disk(folder: Path, program: str) -> str:
    """Return what a Python program prints whose working and temporary folder is a disk of 2 MiB.

    The disk is one of its process alone. Skips the test where users may not mount.
    """
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("needs unshare, of util-linux")
    alone = [unshare, "--user", "--map-root-user", "--mount"]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system lets no user have mounts of their own")
    tree = str(Path(__file__).parent.parent)
    done = subprocess.run(
        [*alone, "sh", "-c", MOUNT, "sh", str(folder), sys.executable, program],
        env={**os.environ, "TMPDIR": str(folder), "PYTHONPATH": tree},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.returncode}: {done.stderr}"
    return done.stdout.strip()


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writing more than `size` bytes into one file fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
