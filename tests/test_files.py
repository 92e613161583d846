"""A file is whole or not there."""

from __future__ import annotations

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


def test_json_keeps_letters(tmp_path: Path) -> None:
    atomic_json(tmp_path / "a.json", {"room": "Büro"})
    assert (tmp_path / "a.json").read_text() == '{\n  "room": "Büro"\n}\n'
