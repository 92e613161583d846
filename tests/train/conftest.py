"""A tiny store, a training of two epochs on it, and that training done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import kernels
from pipelines.config import TrainConfig
from pipelines.data.store import Store
from pipelines.runs.directory import Run
from tests.tiny_store import write_tiny_store
from tests.tiny_training import run_as, tiny_config


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_tiny_store(tmp_path_factory.mktemp("tiny") / "data")


@pytest.fixture(autouse=True)
def _readable_kernels() -> Iterator[None]:
    with kernels.use("reference"):  # compiling the others would take most of the time
        yield


@pytest.fixture
def config(store: Store, tmp_path: Path) -> TrainConfig:
    return tiny_config(store, tmp_path / "runs")


@pytest.fixture(scope="module")
def whole(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that was never stopped."""
    with kernels.use("reference"):
        return run_as(tiny_config(store, tmp_path_factory.mktemp("runs")), "whole")
