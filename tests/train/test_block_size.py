"""Blocks of another size than 1 m, from the training to the labels of a scan."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from plyfile import PlyData

from deepgcn_cli.__main__ import run as deepgcn
from pipelines import load_model, segment
from pipelines.config import AblateConfig, PredictConfig, TrainConfig
from pipelines.data.store import Store
from pipelines.predict import predict
from pipelines.runs.directory import Run
from pipelines.scans.ply import write_points
from pipelines.studies.plan import make_plan
from pipelines.train import open_samplers, resolve
from pipelines.weights.safetensors import read_metadata
from tests.tiny_training import AtStep, run_as

SMALL = ("--depth", "2", "--width", "8", "-k", "4", "--fusion-channels", "16", "--batch-size", "4")
SMALL += ("--num-points", "64", "--threads", "1", "--device", "cpu")


@pytest.fixture
def scan(store: Store, tmp_path: Path) -> Path:
    room = store.read(store.rooms(3)[0])
    write_points(tmp_path / "scan.ply", room.pos + np.float32(7), room.color)
    return tmp_path / "scan.ply"


def arrays(scan: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return pos (N, 3) and color (N, 3) of a PLY file."""
    vertex = PlyData.read(scan)["vertex"]
    pos, color = ([vertex[name] for name in names] for names in ("xyz", ("red", "green", "blue")))
    return np.stack(pos, axis=1), np.stack(color, axis=1)


@pytest.fixture
def two(config: TrainConfig) -> Run:
    """A run on blocks of 2 m."""
    return run_as(config, "two", block_size=2.0, max_steps=2)


def test_as_typed(
    store: Store, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def typed(*arguments: object) -> tuple[int, str]:
        code = deepgcn([*map(str, arguments)])
        shown = capsys.readouterr()
        return code, shown.out + shown.err

    runs, run = ("--runs", tmp_path / "runs"), tmp_path / "runs" / "two"
    new = ("train", "--name", "two", "--data", store.path, *runs, *SMALL, "--block-size", "2")
    code, said = typed(*new, "--max-steps", "1")
    assert code == 0, said
    assert "resgcn-2 (edge, C 8, k 4), blocks of 2 m" in said
    code, said = typed("train", "--resume", run, "--max-steps", "3", "--block-size", "1")
    assert code == 1
    assert "cannot resume with other settings: block_size was 2.0, now 1.0" in said
    code, said = typed("train", "--resume", run, "--max-steps", "3")
    assert code == 0, said
    assert Run(run).status["step"] == 3
    assert read_metadata(Run(run).weights())["block_size"] == "2"

    code, said = typed("eval", run, "--no-pictures")
    assert code == 0, said
    scores = json.loads((run / "eval" / "room" / "scores.json").read_text())
    assert scores["block_size"] == 2
    assert scores["points"] == sum(info.points for info in store.rooms(3))
    assert "blocks of 2 m" in (run / "eval" / "room" / "report.md").read_text()
    for protocol in ("block-s1", "all"):
        code, said = typed("eval", run, "--protocol", protocol)
        assert code == 1
        assert "found two with blocks of 2 m, expected blocks of 1 m" in said
        assert "--protocol room" in said
    assert "blocks of 2 m" in typed("runs", "show", run)[1]

    code, said = typed("predict", scan, "--run", run, "--device", "cpu")
    assert code == 0, said
    vertex = PlyData.read(scan.with_name("scan.labelled.ply"))["vertex"]
    expected, _ = segment(load_model(run), *arrays(scan))
    assert (np.asarray(vertex["class"]) == expected).mean() > 0.99


def test_validation_is_disjoint_and_training_overlaps(store: Store) -> None:
    small = TrainConfig(data=store.path, num_points=432, block_size=1.5)
    trained, validated = open_samplers(resolve(small, store), store)
    assert validated is not None
    # Cells reach to 2.5 m × 2 m: corners at 0, 0.5, 1 and 0, 0.5; disjoint at 0, 1.5 and 0, 1.5,
    # of which the last along y is 0.1 m of the room, with fewer than 100 points at its corner.
    assert len(trained) == 4 * 3 * 2
    assert 2 <= len(validated) <= 4


def test_weights_hand_their_blocks_on(two: Run, store: Store, tmp_path: Path) -> None:
    listener = AtStep()
    new = {"max_steps": 1, "model": two.config.model, "weights": str(two.path), "data": store.path}
    config = TrainConfig(**new, runs=tmp_path, num_points=64, batch_size=4, threads=1, device="cpu")
    assert run_as(config, "same", listener).config.block_size == 2
    assert not any("was trained on blocks" in text for text in listener.said)
    other = run_as(config, "other", listener, block_size=1.0)
    assert other.config.block_size == load_model(other.path).block_size == 1
    line = "two: was trained on blocks of 2 m; this training has blocks of 1 m"
    assert line in listener.said


def test_networks_that_label_together_keep_their_own_blocks(
    two: Run, config: TrainConfig, scan: Path
) -> None:
    one = run_as(config, "one", seed=5, max_steps=2)
    names = (str(one.path), str(two.path))
    (found,) = predict(
        PredictConfig(scans=(scan,), weights=names, device="cpu", probabilities=True)
    ).scans
    vertex = PlyData.read(found.out)["vertex"]
    each = [segment(load_model(name), *arrays(scan))[1] for name in names]
    # The mean of logits is that of log-probabilities, up to a constant of each point. A point of a
    # draw that repeats it has the sum of its logits in both.
    expected = np.exp(np.mean([np.log(p) for p in each], axis=0))
    expected /= expected.sum(axis=1, keepdims=True)
    assert (np.asarray(vertex["class"]) == expected.argmax(axis=1)).mean() > 0.99
    np.testing.assert_allclose(vertex["confidence"], expected.max(axis=1), atol=1e-3)


def test_rows_of_a_study_that_a_published_protocol_cannot_score(
    store: Store, tmp_path: Path
) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text("base: {num-points: 512, device: cpu}\nrows: {one: {}, two: {block-size: 2}}\n")
    study = {"grid": grid, "data": store.path, "runs": tmp_path / "runs"}
    rows = {row.name: row for row in make_plan(AblateConfig(**study), store).rows}
    assert rows["two"].label == "resgcn-28 (edge, C 64, k 16), blocks of 2 m"
    refused = make_plan(AblateConfig(**study, protocol="block-s05"), store)
    assert refused.row("one").config is not None
    assert str(refused.row("two").error).startswith(
        "--protocol block-s05: found two with blocks of 2 m"
    )
