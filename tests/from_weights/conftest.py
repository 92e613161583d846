"""A network trained for seconds, and its weights as a file alone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import kernels
from pipelines.data.store import Store
from pipelines.runs.directory import Run
from tests.tiny_run import train_tiny_run
from tests.tiny_store import write_tiny_store


@pytest.fixture(autouse=True)
def _readable_kernels() -> Iterator[None]:
    with kernels.use("reference"):
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_tiny_store(tmp_path_factory.mktemp("tiny") / "data", points=400)


@pytest.fixture(scope="module")
def trained(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train_tiny_run(store.path, tmp_path_factory.mktemp("trained"), max_steps=40)


@pytest.fixture
def start(trained: Run, tmp_path: Path) -> Path:
    """The trained run's weights as a file alone."""
    return Path(shutil.copy(trained.weights(), tmp_path / "start.safetensors"))
