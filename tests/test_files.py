"""A file is whole or not there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.files import atomic_json, atomic_text, atomic_write


def test_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    atomic_text(path, "first, longer")
    atomic_text(path, "second")
    assert path.read_text() == "second"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_a_failure_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    atomic_text(path, "old")

    def fail() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_was_writing_goes_with_the_next_write(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from pipelines.files import atomic_write\n"
        "with atomic_write(Path(sys.argv[1])) as path:\n"
        "    path.write_text('half')\n"
        "    os.kill(os.getpid(), 9) if sys.argv[2] == 'kill' else (print(path), input())\n"
    )
    path = tmp_path / "a.txt"
    command = [sys.executable, "-c", code, str(path)]
    subprocess.run([*command, "kill"], check=False)
    (left,) = tmp_path.iterdir()
    elsewhere = tmp_path / ".a.txt.00000000-1.part"  # on another computer
    elsewhere.touch()
    with subprocess.Popen(
        [*command, "wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as busy:
        assert busy.stdout is not None
        begun = Path(busy.stdout.readline().strip())
        atomic_text(path, "whole")
        assert not left.exists()
        assert {*tmp_path.iterdir()} == {path, elsewhere, begun}
        busy.communicate("\n")
    assert busy.returncode == 0
    assert str(os.getpid()) not in begun.name


def test_json_keeps_letters(tmp_path: Path) -> None:
    atomic_json(tmp_path / "a.json", {"room": "Büro"})
    assert (tmp_path / "a.json").read_text() == '{\n  "room": "Büro"\n}\n'
