"""Whether there is a SLURM to give jobs to, and how the tests use it."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path

import pytest

from pipelines.launch.slurm import SlurmLauncher, SlurmOptions


@functools.cache
def why_not() -> str | None:
    """Why no job can be given to a SLURM; None: one answers."""
    if shutil.which("sinfo") is None:
        return "no SLURM here: make slurm-test starts one"
    try:
        subprocess.run(["sinfo", "--noheader"], capture_output=True, check=True, timeout=20)
    except subprocess.SubprocessError:
        return "no SLURM answers: make slurm-test starts one"
    return None


@pytest.fixture
def launcher(tmp_path: Path) -> SlurmLauncher:
    """A launcher of small jobs on whatever SLURM answers; skips if none does."""
    if reason := why_not():
        pytest.skip(reason)
    return SlurmLauncher(tmp_path / "slurm", SlurmOptions(minutes=10, cpus=1, at_most=2))
