"""Closed streams and encodings that hold little: no result is lost for them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deepgcn_cli.errors import exit_code
from pipelines.errors import DeepGCNError

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


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux")
@pytest.mark.parametrize(
    ("command", "where", "code"),
    [
        ("runs show none", "2>/dev/full", 1),
        ("runs lst", "2>/dev/full", 2),
        ("--version", "2>/dev/full", 0),
        ("--version", ">/dev/full", 1),
        ("--version", ">/dev/full 2>&1", 1),
    ],
)
def test_a_stream_on_a_full_disk(command: str, where: str, code: int, tmp_path: Path) -> None:
    """The exit code is that of the command; no message is worth a traceback."""
    done = shell(f"{DEEPGCN} {command} {where}", tmp_path)
    assert done.returncode == code, done.stderr
    said = "Error: standard output: the disk is full.\nFree some space, then run it again.\n"
    assert done.stderr == (said if where == ">/dev/full" else "")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 114 MiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate"),
    ],
)
def test_memory_that_runs_out(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(lambda: fail(error)) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"Error: memory ran out: {error}\nGive it more (a limit may be that of")
    assert "Traceback" not in said


def test_stderr_that_is_lost_meanwhile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        monkeypatch.setattr(sys, "stderr", log)
        log.close()
        assert exit_code(lambda: fail(DeepGCNError("one"))) == 1
        assert exit_code(lambda: fail(ZeroDivisionError("two"))) == 1


def fail(error: Exception) -> int:
    raise error
