"""A small trained run, and a scan of a room that it has not seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipelines import kernels
from pipelines.data.store import Store
from pipelines.runs.directory import Run
from pipelines.scans.ply import write_points
from tests.tiny_run import train_tiny_run
from tests.tiny_store import write_tiny_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_tiny_store(tmp_path_factory.mktemp("tiny") / "data")


@pytest.fixture(scope="module")
def trained(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train_tiny_run(store.path, tmp_path_factory.mktemp("trained"))


@pytest.fixture(autouse=True)
def _readable_kernels() -> Iterator[None]:
    with kernels.use("reference"):
        yield


@pytest.fixture(scope="module")
def points(store: Store) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first test room's points in an order of their own: pos, color, label."""
    room = store.read(store.rooms(3)[0])
    order = np.random.default_rng(0).permutation(len(room.pos))
    pos = room.pos[order].astype(np.float64) + np.array([4000.0, 300.0, 20.0])
    return pos, room.color[order], room.label[order]


@pytest.fixture
def scan(points: tuple[np.ndarray, np.ndarray, np.ndarray], tmp_path: Path) -> Path:
    path = tmp_path / "scan.ply"
    write_points(path, points[0], points[1])
    return path
