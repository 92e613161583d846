"""One process writes a target, the other says which; nobody is hindered by what it leaves."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipelines.errors import DatasetError
from pipelines.runtime import lock
from pipelines.runtime.lock import hold_alone
from tests.ears import Ears
from tests.small_disk import on_a_small_disk

HOLD = """
import sys, time
from pathlib import Path
from pipelines.runtime.lock import hold_alone
lock = Path(sys.argv[1])
with hold_alone(lock, lock.parent, "."):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def another(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Let another process hold a lock; it is killed in the end."""
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_holder_is_named_and_its_lock_ends_with_it(tmp_path: Path) -> None:
    path = tmp_path / "out" / ".lock"
    named = r"out: another process is writing it \(process {} on .+, since 20..-.*\)\.\nWait .*\.$"
    with another(path) as holder:
        with (
            pytest.raises(DatasetError, match=named.format(holder.pid)),
            hold_alone(path, path.parent, "."),
        ):
            pytest.fail("the lock was given twice")
        assert path.is_file()
    assert path.is_file(), "it was killed, so it could not remove the file"
    with hold_alone(path, path.parent, "."):
        assert path.read_text().startswith(f"process {os.getpid()} on ")
        assert path.read_text().count("process") == 1
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_was_made_for_nothing_is_removed(tmp_path: Path) -> None:
    with hold_alone(tmp_path / "new" / ".lock", tmp_path / "new", "."):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", no_locks)
    ears, done = Ears(), False
    with hold_alone(tmp_path / ".lock", tmp_path, ".", ears):
        done = True
    assert done
    assert ears.said == [f"{tmp_path}: found no locks there; run one command at a time in it."]


def test_an_error_of_the_holder_is_its_own(tmp_path: Path) -> None:
    """As of a folder that is moved away meanwhile."""
    with (
        pytest.raises(FileNotFoundError, match="gone"),
        hold_alone(tmp_path / "lock", tmp_path, "."),
    ):
        raise FileNotFoundError("gone")
    assert list(tmp_path.iterdir()) == []


def test_a_holder_that_ends_meanwhile_takes_its_file_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who found it held must not take the lock of a file that is in nobody's way any more."""
    path = tmp_path / "lock"

    def ends_after(*_: object, **__: object) -> bool:
        monkeypatch.undo()
        return False  # and now the holder removes its file, and ends

    monkeypatch.setattr(lock, "acquire", ends_after)
    with (
        pytest.raises(DatasetError, match="another process"),
        hold_alone(path, tmp_path, "."),
    ):
        pytest.fail("the lock was given")


FULL = """
from pathlib import Path
from pipelines.runtime.lock import hold_alone
with open("fill", "wb", buffering=0) as file:
    try:
        while file.write(bytes(4096)):
            pass
    except OSError:
        pass
with hold_alone(Path(".lock"), Path("."), "."):
    print("held", Path(".lock").stat().st_size)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a small disk")
def test_on_a_full_disk_the_lock_holds_without_a_name(tmp_path: Path) -> None:
    assert on_a_small_disk(tmp_path, FULL) == "held 0"
