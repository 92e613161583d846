"""Blocks that are thinned by voxels, from the training to the labels of a scan."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from plyfile import PlyData

from deepgcn_cli.__main__ import run as deepgcn
from pipelines import load_model, segment
from pipelines.config import ModelConfig, TrainConfig
from pipelines.data.sampler import BlockSampler
from pipelines.data.store import Store
from pipelines.errors import ConfigError
from pipelines.model.deepgcn import DeepGCN
from pipelines.runs.directory import Run
from pipelines.scans.ply import write_points
from pipelines.weights.safetensors import blocks_metadata, read_metadata, save_weights
from tests.tiny_training import AtStep, run_as

VOXEL = 0.2  # m; the store's blocks have about 300 voxels of this side


@pytest.fixture
def thinned(config: TrainConfig) -> Run:
    """A run on thinned blocks."""
    return run_as(config, "thinned", voxel=VOXEL, max_steps=2)


def test_a_block_gives_at_most_one_point_of_a_voxel(store: Store) -> None:
    sampler = BlockSampler(store, store.rooms(), 16, 0, voxel=VOXEL)
    for block in range(0, len(sampler), 5):
        features, _ = sampler.sample(0, block)
        room = next(r for r in store.rooms() if sampler.name_of(0, block).endswith(r.name))
        extent = store.read(room).extent
        cells = np.floor(features[:, 6:9] * extent / VOXEL + 1e-4).astype(int)
        assert len({tuple(cell) for cell in cells}) >= 15  # rounding can join two


def test_weights_carry_it_and_scores_name_it(
    thinned: Run, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert thinned.config.voxel == load_model(thinned.path).voxel == VOXEL
    assert read_metadata(thinned.weights())["voxel"] == "0.2"
    assert deepgcn(["eval", str(thinned.path), "--no-pictures"]) == 0
    assert "voxels of 0.2 m" in capsys.readouterr().out
    scores = json.loads((thinned.path / "eval" / "room" / "scores.json").read_text())
    assert scores["voxel"] == VOXEL
    assert scores["points"] == sum(info.points for info in store.rooms(3))  # all are labelled
    assert deepgcn(["eval", str(thinned.path), "--protocol", "block-s1"]) == 1
    assert "found thinned with blocks of 1 m and voxels of 0.2 m" in capsys.readouterr().err
    assert (
        deepgcn(["train", "--resume", str(thinned.path), "--max-steps", "3", "--voxel", "0"]) == 1
    )
    assert "voxel was 0.2, now 0.0" in capsys.readouterr().err

    room = store.read(store.rooms(3)[0])
    write_points(tmp_path / "scan.ply", room.pos, room.color)
    assert deepgcn(["predict", str(tmp_path / "scan.ply"), "--run", str(thinned.path)]) == 0
    vertex = PlyData.read(tmp_path / "scan.labelled.ply")["vertex"]
    expected, _ = segment(load_model(thinned.path), room.pos, room.color)
    assert (np.asarray(vertex["class"]) == expected).mean() > 0.99


def test_a_training_from_weights_has_theirs(thinned: Run, store: Store, tmp_path: Path) -> None:
    listener = AtStep()
    new = {"max_steps": 1, "weights": str(thinned.path), "data": store.path, "num_points": 64}
    config = TrainConfig(
        **new, model=thinned.config.model, runs=tmp_path, batch_size=4, threads=1, device="cpu"
    )
    assert run_as(config, "same", listener).config.voxel == VOXEL
    assert run_as(config, "other", listener, voxel=0.0).config.voxel == 0
    line = "thinned: was trained on voxels of 0.2 m; this training has voxels of 0 m"
    assert line in listener.said


@pytest.mark.parametrize("voxel", [-0.1, 1e-9, 0.6, float("nan")])
def test_sides_out_of_bounds(voxel: float) -> None:
    expected = r"--voxel: found .*, expected 0, or metres from 0.001 to 0.5\."
    with pytest.raises(ConfigError, match=expected):
        TrainConfig(voxel=voxel)


@pytest.mark.parametrize("voxel", [0.001, 0.04, 1 / 30, 0.5])
def test_weights_keep_every_digit(voxel: float, tmp_path: Path) -> None:
    model = DeepGCN(ModelConfig(depth=2, width=8, k=4))
    path = tmp_path / "model.safetensors"
    save_weights(path, model, metadata=blocks_metadata(64, 1.0, voxel))
    assert load_model(path).voxel == voxel
