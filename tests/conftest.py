"""Fixtures shared by all tests: where the real scans and the golden tensors are, if anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

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
