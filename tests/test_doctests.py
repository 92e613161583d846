"""Every example in a docstring runs and shows what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import pipelines

MODULES = [
    module.name
    for module in pkgutil.walk_packages(pipelines.__path__, "pipelines.")
    if not module.name.endswith("__main__")
]
ROUNDED = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # some write files
    found = doctest.testmod(importlib.import_module(name), optionflags=ROUNDED)
    assert found.failed == 0, "see the output above"
