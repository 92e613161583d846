"""Whether there is a SLURM to give jobs to, and how the tests use it."""

from __future__ import annotations

import functools
import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

from pipelines.launch.slurm import SlurmOptions


@functools.cache
def why_not() -> str | None:
    """Why no job can be given to a SLURM; None: one answers."""
    if importlib.util.find_spec("submitit") is None:
        return "submitit is not installed: pip install 'deepgcn[slurm]'"
    if shutil.which("sinfo") is None:
        return "no SLURM here: make slurm-test starts one"
    try:
        subprocess.run(["sinfo", "--noheader"], capture_output=True, check=True, timeout=20)
    except subprocess.SubprocessError:
        return "no SLURM answers: make slurm-test starts one"
    return None


@pytest.fixture
def slurm_options(tmp_path: Path) -> SlurmOptions:
    """Options for small jobs on whatever SLURM answers; skips where none does."""
    if reason := why_not():
        pytest.skip(reason)
    return SlurmOptions(tmp_path / "slurm", minutes=10, cpus=1, at_most=2)
