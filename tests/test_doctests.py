"""Every example in a docstring runs and shows what it says.

Examples of the stages find a store of three areas in `data` and a run of two steps in `runs/tiny`.
"""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import shutil
from pathlib import Path

import pytest

import pipelines
from tests.tiny_run import train_tiny_run
from tests.tiny_store import write_tiny_store

MODULES = [
    "pipelines",
    *(
        module.name
        for module in pkgutil.walk_packages(pipelines.__path__, "pipelines.")
        if not module.name.endswith("__main__")
    ),
]
ROUNDED = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_tiny_store(Path("data"), points=400)
        train_tiny_run(Path("data"), Path("runs"), max_steps=2)
    return folder


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)  # some write files
    module = importlib.import_module(name)
    if name.count(".") < 2 or name == "pipelines.studies.sixfold":  # the stages
        shutil.copytree(request.getfixturevalue("trained"), tmp_path, dirs_exist_ok=True)
    found = doctest.testmod(module, optionflags=ROUNDED)
    assert found.failed == 0, "see the output above"
