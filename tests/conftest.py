"""Fixtures shared by all tests: where the real scans and the golden tensors are, if anywhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Test processes side by side have a core each; so have the processes that they start. It has to be
# said before PyTorch is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Compiled functions are slow the first time; the same examples in every run.
settings.register_profile("tests", deadline=None, derandomize=True)
settings.load_profile("tests")

SHARED = Path(__file__).resolve().parents[2] / "shared"


def _folder_or_skip(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"{name}: research-only data, not part of the project")
    return folder


@pytest.fixture
def real_dir() -> Path:
    """The folder of real scans and real weights; skips where it is not available."""
    return _folder_or_skip("real")


@pytest.fixture
def golden_dir() -> Path:
    """The folder of golden tensors; skips where it is not available."""
    return _folder_or_skip("golden")
