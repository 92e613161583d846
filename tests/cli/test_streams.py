"""Closed streams and encodings that hold little: no result is lost for them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DEEPGCN = f"{sys.executable} -m deepgcn_cli"


def shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a shell command in a folder."""
    where = {"PYTHONPATH": os.pathsep.join(sys.path), **environment}
    return subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=folder,
        env={**os.environ, **where},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams(closed: str, tmp_path: Path) -> None:
    done = shell(f"{DEEPGCN} synth raw --areas 1 --rooms 1 --density 50 {closed}", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert ("raw: 1 room," in done.stdout) is closed.startswith("2")
    assert ("Next:" in done.stderr) is (closed == ">&-")
    assert (tmp_path / "raw/Area_1").is_dir()


def test_a_table_with_signs_that_stdout_does_not_hold(tmp_path: Path) -> None:
    done = shell(f"{DEEPGCN} presets", tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "\\u2020" in done.stdout  # the dagger
    assert "resgcn-28" in done.stdout


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_in_any_encoding(encoding: str, tmp_path: Path) -> None:
    name = "größer − \udcff"  # its last byte is no UTF-8
    done = shell(
        f"{sys.executable} -c 'import sys; from deepgcn_cli import display, streams; "
        'streams.make_streams_usable(); display.print_json("gr\\xf6\\xdfer \\u2212 \\udcff")\'',
        tmp_path,
        PYTHONIOENCODING=f"{encoding}:strict",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == name
