"""Our modules in another process: never what lies in the current folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.bench import timing
from pipelines.runtime.own_process import python_command, trainings_at_once

TAKEN = ("pipelines/__init__.py", "json.py", "runpy.py", "statistics.py")


def test_files_of_the_users_own_are_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in TAKEN:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise SystemExit('this is not a module of deepgcn')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    command = python_command("pipelines.bench.timing", '{"work": "nothing"}')
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "this is not a module of deepgcn" not in done.stderr
    assert str(Path(timing.__file__)) in done.stderr  # our own one refuses the case


def test_a_module_has_its_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "tells.py").write_text("import sys; print(__name__, sys.argv[1:])")
    monkeypatch.syspath_prepend(str(tmp_path / "a"))
    command = python_command("tells", "x y", "-c")
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said == "__main__ ['x y', '-c']\n"


@pytest.mark.parametrize(("value", "shared"), [("", 1), ("3", 3), ("0", 1), ("many", 1)])
def test_jobs_that_share_a_device(monkeypatch: pytest.MonkeyPatch, value: str, shared: int) -> None:
    monkeypatch.setenv("DEEPGCN_SHARING", value)
    assert trainings_at_once() == shared
