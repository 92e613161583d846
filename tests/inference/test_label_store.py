"""Labels that grow on disk: a stop loses little, and nothing of another making is gone on with."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines import kernels
from pipelines.config import ModelConfig
from pipelines.inference import label_store
from pipelines.inference.label_store import LabelStore, label_points
from pipelines.inference.segmentation import Draws
from pipelines.model.deepgcn import DeepGCN
from pipelines.progress import Task
from pipelines.scans.table import UNLABELLED
from tests.small_disk import on_a_small_disk

DRAWS = Draws(num_points=64, batch_size=2, seed=0)


@pytest.fixture(scope="module")
def model() -> DeepGCN:
    torch.manual_seed(0)
    return DeepGCN(ModelConfig(depth=2, width=8, k=4, fusion_channels=16)).eval()


@pytest.fixture(autouse=True)
def _as_if_large(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(label_store, "KEPT_FROM", 10)
    with kernels.use("reference"):
        yield


def scan(count: int = 1200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    pos = (rng.random((count, 3)) * np.array([3.4, 2.2, 2.0])).astype(np.float32)
    pos[[3, 70]] = np.nan
    return pos, rng.integers(0, 256, (count, 3)).astype(np.uint8)


class Stops(Task):
    """Counts points, and stops everything when a number of them is done."""

    def __init__(self, at: int = 1 << 60) -> None:
        self.at, self.done, self.first = at, 0, -1

    def advance(self, amount: float = 1, **fields: float | str) -> None:  # noqa: ARG002
        self.first = int(amount) if self.first < 0 else self.first
        self.done += int(amount)
        if self.done >= self.at:
            raise KeyboardInterrupt


def part_folder(out: Path) -> Path:
    return out.with_name(f".{out.name}.part")


def label(
    model: DeepGCN, out: Path, task: Task | None = None, made_from: str = "scan", **changes: int
) -> dict[str, np.ndarray]:
    pos, color = scan()
    draws = Draws(**{**vars(DRAWS), **changes})
    folder, origin = part_folder(out), f"{made_from} {draws}"
    store = LabelStore.open(folder, origin, len(pos), 13, probabilities=True)
    label_points([(model, draws)], pos, color, store, task or Task())
    return store.arrays


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    assert list(first) == list(second) == ["label", "confidence", "probabilities"]
    return np.array_equal(first["label"], second["label"]) and all(
        np.allclose(first[name], second[name], atol=1e-6) for name in first
    )


def test_labels_of_every_point(model: DeepGCN, tmp_path: Path) -> None:
    found = label(model, tmp_path / "out.ply")
    known = np.ones(1200, bool)
    known[[3, 70]] = False
    assert (found["label"][~known] == UNLABELLED).all()
    assert (found["confidence"][~known] == 0).all()
    np.testing.assert_allclose(found["probabilities"][known].sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(
        found["probabilities"][known].argmax(axis=1), found["label"][known]
    )
    np.testing.assert_array_equal(found["probabilities"].max(axis=1), found["confidence"])


@pytest.mark.parametrize("at", [1, 300, 900])
def test_a_stop_loses_nothing_that_was_done(model: DeepGCN, tmp_path: Path, at: int) -> None:
    whole = label(model, tmp_path / "whole.ply")
    out = tmp_path / "out.ply"
    with pytest.raises(KeyboardInterrupt):
        label(model, out, Stops(at))
    done = json.loads((part_folder(out) / "state.json").read_text())["points"]
    again = Stops()
    assert same(label(model, out, again), whole)
    assert again.first == done, "what was done before comes at once"
    assert again.done == 1198


@pytest.mark.parametrize("at", [900, 1198, 1500, 2300])
@pytest.mark.parametrize("lost", [0, 1])
def test_a_stop_between_votes_and_networks_counts_nothing_twice(
    model: DeepGCN, tmp_path: Path, at: int, lost: int
) -> None:
    """Also if it was killed after a block was added and before that was recorded."""
    torch.manual_seed(1)
    other = DeepGCN(model.config).eval()
    pos, color = scan()

    def labels(out: Path, task: Task) -> dict[str, np.ndarray]:
        store = LabelStore.open(
            part_folder(out), "scan", len(pos), 13, probabilities=False, passes=4
        )
        networks = [(model, DRAWS), (other, Draws(48, 2))]
        label_points(networks, pos, color, store, task, votes=2)
        return store.labels

    whole, out = labels(tmp_path / "whole.ply", Task()), tmp_path / "out.ply"
    with pytest.raises(KeyboardInterrupt):
        labels(out, Stops(at))
    file = part_folder(out) / "state.json"
    state = json.loads(file.read_text())
    assert state["passes"] == (at - 1) // 1198
    assert state.pop("sha256") == label_store._digest(state)
    state["blocks"] = max(0, state["blocks"] - lost)
    file.write_text(json.dumps({**state, "sha256": label_store._digest(state)}))
    found = labels(out, Task())
    assert list(found) == ["label", "confidence"]
    np.testing.assert_array_equal(found["label"], whole["label"])
    np.testing.assert_allclose(found["confidence"], whole["confidence"], atol=1e-6)


@pytest.mark.parametrize(
    ("made_from", "changes"),
    [("another scan", {}), ("scan", {"seed": 1}), ("scan", {"num_points": 32})],
)
def test_labels_of_another_making_are_not_gone_on_with(
    model: DeepGCN, tmp_path: Path, made_from: str, changes: dict[str, int]
) -> None:
    out = tmp_path / "out.ply"
    with pytest.raises(KeyboardInterrupt):
        label(model, out, Stops(600))
    again = Stops()
    found = label(model, out, again, made_from, **changes)
    assert again.first == 0
    assert same(found, label(model, tmp_path / "whole.ply", None, made_from, **changes))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"made_from": 1}'])
def test_a_damaged_state_is_begun_anew(model: DeepGCN, tmp_path: Path, content: str) -> None:
    out = tmp_path / "out.ply"
    with pytest.raises(KeyboardInterrupt):
        label(model, out, Stops(600))
    (part_folder(out) / "state.json").write_text(content)
    again = Stops()
    label(model, out, again)
    assert (again.first, again.done) == (0, 1198)


@pytest.mark.parametrize(("name", "value"), [("blocks", 99999999), ("points", 0), ("passes", 1)])
def test_a_state_that_was_changed_is_begun_anew(
    model: DeepGCN, tmp_path: Path, name: str, value: int
) -> None:
    """It would leave points without a label."""
    out = tmp_path / "out.ply"
    with pytest.raises(KeyboardInterrupt):
        label(model, out, Stops(600))
    file = part_folder(out) / "state.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), name: value}))
    again = Stops()
    assert same(label(model, out, again), label(model, tmp_path / "whole.ply"))
    assert again.first == 0


def test_a_small_scan_leaves_nothing_on_disk(
    model: DeepGCN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = label(model, tmp_path / "large.ply")
    monkeypatch.setattr(label_store, "KEPT_FROM", 1 << 30)
    assert same(label(model, tmp_path / "small.ply"), large)
    assert not part_folder(tmp_path / "small.ply").exists()


FILLS_THE_DISK = """
from pathlib import Path
from pipelines.inference.label_store import LabelStore
try:
    LabelStore.open(Path(".scan.part"), "scan", 3_000_000, 13, probabilities=False)
except OSError as error:
    print(error.strerror, list(Path.cwd().iterdir()))
"""


def test_a_disk_too_small_for_the_labels_is_an_error_and_is_left_empty(tmp_path: Path) -> None:
    assert on_a_small_disk(tmp_path, FILLS_THE_DISK) == "No space left on device []"


def test_probabilities_that_a_stopped_call_left_out_are_made_again(
    model: DeepGCN, tmp_path: Path
) -> None:
    """With them, without them, with them: the file of the first call lacks the second's blocks."""
    pos, color = scan()
    whole = label(model, tmp_path / "whole.ply")
    folder = part_folder(tmp_path / "scan.ply")

    def go(stop: int, *, probabilities: bool) -> LabelStore:
        store = LabelStore.open(folder, "scan", len(pos), 13, probabilities=probabilities)
        with suppress(KeyboardInterrupt):
            label_points([(model, DRAWS)], pos, color, store, Stops(stop))
        return store

    go(300, probabilities=True)
    go(800, probabilities=False)
    found = go(1 << 60, probabilities=True).arrays
    placed = ~np.isnan(pos[:, 0])
    np.testing.assert_allclose(found["probabilities"][placed].sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(found["label"], whole["label"])


def test_a_temporary_file_that_vanishes_is_nobody_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_store.tempfile, "gettempdir", lambda: str(tmp_path))
    (tmp_path / ".kept.part").mkdir()
    (tmp_path / ".gone.part").touch()
    lstat = Path.lstat

    def gone(path: Path) -> os.stat_result:
        if path.name == ".gone.part":
            raise FileNotFoundError(path)
        return lstat(path)

    monkeypatch.setattr(Path, "lstat", gone)
    assert label_store._kept_elsewhere() == [tmp_path / ".kept.part"]
