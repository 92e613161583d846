"""Weights label scans as a run does: by name, several together, those in the package."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData

from deepgcn_cli.__main__ import run as deepgcn
from pipelines import load_model, segment
from pipelines.config import ModelConfig, PredictConfig
from pipelines.data import statistics
from pipelines.data.s3dis import CLASSES
from pipelines.data.store import Store
from pipelines.errors import ConfigError, RunError, WeightsError
from pipelines.inference.segmentation import vote_pos
from pipelines.model.deepgcn import DeepGCN
from pipelines.predict import predict
from pipelines.runs.directory import Run
from pipelines.runs.weights import find_weights
from pipelines.scans.ply import write_points
from pipelines.weights import catalogue
from pipelines.weights.safetensors import load_weights, read_metadata, save_weights
from tests.from_weights.helpers import config, logarithm, named
from tests.tiny_training import run_as


def test_one_way_to_name_weights(trained: Run, start: Path) -> None:
    expected = load_weights(start).state_dict()
    runs = trained.path.parent
    for given in (start, trained.path, "tiny"):
        found = find_weights(given, runs)
        assert all(torch.equal(v, expected[name]) for name, v in found.load().state_dict().items())
    with pytest.raises(WeightsError, match=r"no such name in the catalogue\. Did you mean 'tiny'"):
        find_weights("tinny", runs)
    with pytest.raises(RunError, match=r"expected a run directory"):
        find_weights(runs)
    with pytest.raises(WeightsError, match=rf"a folder that is no run.*\nDid you mean {start}\?"):
        find_weights(start.parent)
    with pytest.raises(WeightsError, match="found an empty name"):
        find_weights("", runs)
    with pytest.raises(WeightsError, match="x…: File name too long"):
        find_weights("x" * 5000, runs)


def test_the_default_weights_are_those_inside_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model()
    first = next(each for each in catalogue.catalogue() if each.url is None)
    assert (model.label, model.config.num_classes) == (first.network, len(CLASSES))
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    monkeypatch.setattr(catalogue, "EMBEDDED", tmp_path)
    with pytest.raises(WeightsError, match="No weights are inside this package"):
        load_model()


def test_votes_label_as_eval_does(store: Store, trained: Run, tmp_path: Path) -> None:
    """The labels of a room as a scan, against logits that are summed vote by vote here."""
    room = store.read(store.rooms(3)[0])
    scan = tmp_path / "scan.ply"
    write_points(scan, room.pos, room.color)
    (found,) = predict(
        PredictConfig(scans=(scan,), run=trained.path, votes=3, device="cpu", probabilities=True)
    ).scans
    model = load_model(trained.path)
    total = np.zeros((len(room.pos), 13))
    for vote in range(3):
        pos = vote_pos(room.pos, vote, 3)
        total += logarithm(segment(model, pos, room.color, seed=vote)[1])
    vertex = PlyData.read(found.out)["vertex"]
    # A draw that repeats points adds their logits up; `segment` gives those as probabilities.
    assert (np.asarray(vertex["class"]) == total.argmax(1)).mean() > 0.99
    assert 0 <= np.asarray(vertex["confidence"]).min() <= 1
    once = predict(PredictConfig(scans=(scan,), run=trained.path, device="cpu"))
    assert sum(found.areas.values()) == pytest.approx(sum(once.scans[0].areas.values()), rel=0.05)


def test_several_weights_are_averaged(
    store: Store, trained: Run, start: Path, tmp_path: Path
) -> None:
    room = store.read(store.rooms(3)[0])
    scan = tmp_path / "scan.ply"
    write_points(scan, room.pos, room.color)
    labels = {}
    for weights in ((start,), (start, trained.path)):
        options = PredictConfig(scans=(scan,), weights=tuple(map(str, weights)), device="cpu")
        (found,) = predict(options).scans
        vertex = PlyData.read(found.out)["vertex"]
        labels[len(weights)] = np.asarray(vertex["class"]), np.asarray(vertex["confidence"])
    np.testing.assert_array_equal(labels[1][0], labels[2][0])  # twice the same network
    np.testing.assert_allclose(labels[1][1], labels[2][1], atol=1e-5)
    other = tmp_path / "other.safetensors"
    save_weights(other, DeepGCN(ModelConfig(depth=2, width=8, k=4, num_classes=2)))
    with pytest.raises(ConfigError, match="Only networks of the same classes"):
        predict(PredictConfig(scans=(scan,), weights=(str(start), str(other)), device="cpu"))


def test_a_scan_unlike_the_training_is_noticed(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    statistics.of_store(store)
    network = ModelConfig(depth=2, width=8, k=4, fusion_channels=16)
    start = config(store, tmp_path, None, model=network, max_steps=1)
    run = run_as(dataclasses.replace(start, weights=None), "seen")
    known = statistics.of_rooms(store, [*store.rooms(1), *store.rooms(2)])
    assert known is not None
    recorded = json.loads(read_metadata(run.weights())["data_statistics"])
    assert recorded == statistics.summarize(known)
    room = store.read(store.rooms(3)[0])
    for every, expected in ((1, False), (12, True)):
        scan = tmp_path / f"every{every}.ply"
        write_points(scan, room.pos[::every], room.color[::every])
        assert deepgcn(["predict", str(scan), "--run", str(run.path), "--device", "cpu"]) == 0
        said = capsys.readouterr().err
        line = f"{scan}: unlike the data that seen was trained on: "
        assert (line in said) == expected
        assert ("points/m² of surface" in said) == expected


def test_each_of_several_weights_is_compared_with_the_scan(
    store: Store, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also those that share the name of a file."""
    scan, files = tmp_path / "scan.ply", []
    room = store.read(store.rooms(3)[0])
    write_points(scan, room.pos, room.color)
    for name, density in (("a", 1e6), ("b", 2e6)):
        files.append(tmp_path / name / "last.safetensors")
        files[-1].parent.mkdir()
        about = {**named(start), "data_statistics": json.dumps({"density": density})}
        save_weights(files[-1], load_weights(start), metadata=about)
    typed = [word for file in files for word in ("--weights", str(file))]
    assert deepgcn(["predict", str(scan), *typed, "--device", "cpu"]) == 0
    said = capsys.readouterr()
    for file in files:
        assert f"{scan}: unlike the data that {file} was trained on: " in said.err
    assert f"labelled by {files[0]} + {files[1]}, 1 vote\n" in said.out


def test_weights_inside_the_package_are_used_where_no_run_is(
    store: Store,
    trained: Run,
    start: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Adding some takes a file and an entry; here they have 16 bits a value."""
    room = store.read(store.rooms(3)[0])
    write_points(tmp_path / "scan.ply", room.pos, room.color)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(catalogue, "EMBEDDED", tmp_path)
    monkeypatch.setattr(catalogue, "OURS", ("better", "ours"))
    assert deepgcn(["predict", "scan.ply"]) == 1
    assert "nor weights in this package" in capsys.readouterr().err
    about = {**named(start), "trained_on": "tiny rooms", "license": "MIT"}
    save_weights(Path("ours.safetensors"), load_weights(start).half(), metadata=about)
    scored = {"data": "2 halls", "protocol": "room", "miou": 0.125, "oa": 0.5, "source": "us"}
    Path("scores.json").write_text(json.dumps({"ours": {"scores": [scored]}}))
    assert deepgcn(["weights", "list"]) == 0
    first = capsys.readouterr().out.splitlines()[1].split("  ")
    listed = [text.strip() for text in first if text]
    assert listed[:2] == ["ours", "resgcn-3"]
    assert listed[3:] == ["MIT", "embedded", "12.50 / 50.00"]
    assert load_model().config == load_model(start).config
    assert deepgcn(["predict", "scan.ply", "--device", "cpu"]) == 0
    (said,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("ours: "))
    assert "as runs has no finished run; trained on tiny rooms" in said
    assert said.endswith("deepgcn weights list")
    expected = segment(load_model(start), room.pos, room.color)[0]
    found = np.asarray(PlyData.read("scan.labelled.ply")["vertex"]["class"])
    assert (found == expected).mean() > 0.98
    result = predict(PredictConfig(scans=(Path("scan.ply"),), runs=trained.path.parent))
    assert result.weights == (trained.weights(),), "a run comes first"
