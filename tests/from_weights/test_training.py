"""Trainings and studies start from weights: which fit, what is new, frozen, or recorded."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plyfile import PlyData
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from deepgcn_cli.__main__ import run as deepgcn
from pipelines import load_model
from pipelines.ablate import ablate
from pipelines.config import AblateConfig, EvalConfig, ModelConfig, PredictConfig, TrainConfig
from pipelines.data.s3dis import CLASSES
from pipelines.data.store import Store
from pipelines.errors import ConfigError, RunError, WeightsError
from pipelines.evaluate import evaluate
from pipelines.model.deepgcn import DeepGCN
from pipelines.predict import predict
from pipelines.runs.directory import Run, find_runs
from pipelines.runs.weights import find_weights
from pipelines.scans.ply import write_points
from pipelines.train import train
from pipelines.training.start import check_network, resolve_start, start_config, start_from
from pipelines.weights.published import published_state
from pipelines.weights.safetensors import load_weights, read_metadata, save_weights
from tests.from_weights.helpers import config, score, two_classes
from tests.tiny_training import AtStep, assert_same, run_as


def test_a_training_starts_from_weights(store: Store, start: Path, tmp_path: Path) -> None:
    """Without a step's change: the last weights before any are those of the file."""
    run = run_as(config(store, tmp_path, start, lr=1e-30, recipe="modern"), "still")
    found, given = load_file(run.weights("last")), load_file(start)
    assert run.config.model == load_weights(start).config
    learned = {name for name in given if "running" not in name and "tracked" not in name}
    assert learned
    for name in learned:
        torch.testing.assert_close(found[name], given[name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    "network",
    [
        {"arch": "plaingcn"},
        {"arch": "resgcn", "knn_until": 2},
        {"arch": "densegcn", "layout": "paper"},
        {"arch": "densegcn", "layout": "torch"},
    ],
)
def test_layers_after_those_of_weights_have_no_effect_at_first(
    network: dict[str, Any], tmp_path: Path
) -> None:
    """Then all of them learn: each new tensor gets a gradient in the second step."""
    torch.manual_seed(0)
    source = DeepGCN(ModelConfig(**{"depth": 3, "width": 8, "k": 4, "dropout": 0.0, **network}))
    file = tmp_path / "start.safetensors"
    save_weights(file, source, metadata={"classes": " ".join(CLASSES)})
    model = DeepGCN(dataclasses.replace(source.config, depth=5))
    start_from(model, find_weights(str(file)), CLASSES)
    features = torch.rand(2, 64, 9)
    torch.testing.assert_close(
        model.eval()(features), source.eval()(features), atol=1e-5, rtol=1e-4
    )
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.1)
    target = torch.randint(len(CLASSES), (2, 64))
    for _ in range(2):
        optimizer.zero_grad()
        cross_entropy(model(features).flatten(0, 1), target.flatten()).backward()
        optimizer.step()
    new = {name: v for name, v in model.named_parameters() if name.startswith("layers.4.")}
    assert new
    assert all(v.grad is not None and v.grad.any() for name, v in new.items() if "bias" not in name)
    dgcnn = ModelConfig(arch="dgcnn", depth=3)
    with pytest.raises(ConfigError, match="depth 4 instead of 3") as error:
        check_network("it", dgcnn, dataclasses.replace(dgcnn, depth=4))
    assert "is allowed" not in str(error.value)  # its last layer is another one
    with pytest.raises(ConfigError, match="\nA --depth above 5 is allowed: more layers"):
        check_network("it", model.config, source.config)


def test_what_weights_started_from_is_in_the_file_and_in_the_scores(
    store: Store, trained: Run, start: Path, tmp_path: Path
) -> None:
    run = run_as(config(store, tmp_path, start), "tuned")
    facts = read_metadata(run.weights())
    earlier = json.loads(facts["started_from"])
    assert earlier["run"] == "tiny"
    assert earlier["sha256"] == find_weights(start).sha256
    assert store.fingerprint[:12] in earlier["trained_on"]
    assert "areas 1, 2" in facts["trained_on"]
    evaluate(EvalConfig(run_dirs=(run.path,), pictures=False, device="cpu"))
    record = run.scores("room")
    assert record is not None
    (weights,) = record["weights"]
    assert weights["started_from"]["run"] == trained.name
    report = (run.path / "eval" / "room" / "report.md").read_text()
    assert "started from start (run tiny), trained on data, areas 1, 2" in report


def test_other_classes_get_a_new_classifier(start: Path, tmp_path: Path) -> None:
    two = two_classes(tmp_path / "two")
    said = AtStep()
    tuned = config(two, tmp_path, start, lr=1e-30, max_steps=1)
    run = Run(train(tuned, progress=said).run)
    assert any(
        "13 classes is replaced by a new one of 2: floor, rest" in text for text in said.said
    )
    found, given = load_file(run.weights("last")), load_file(start)
    assert found["classifier.weight"].shape[0] == 2
    torch.testing.assert_close(
        found["fusion.linear.weight"], given["fusion.linear.weight"], atol=1e-6, rtol=1e-4
    )


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"in_channels": 6}, "in_channels 6 instead of 9"),
        ({"arch": "densegcn"}, "arch densegcn instead of resgcn"),
        ({"width": 8, "depth": 2}, "depth 2 instead of 3, width 8 instead of 16"),
    ],
)
def test_another_network_is_refused_with_the_difference(
    store: Store, start: Path, tmp_path: Path, changes: dict[str, Any], found: str
) -> None:
    model = dataclasses.replace(load_weights(start).config, **changes)
    with pytest.raises(ConfigError, match=rf"--weights {start}: .* with {found}"):
        train(config(store, tmp_path, start, model=model))
    assert not find_runs(tmp_path)


def test_a_network_of_other_points_is_refused_before_any_work(store: Store, tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    save_weights(weights, DeepGCN(ModelConfig(depth=2, width=8, k=4, in_channels=6)))
    with pytest.raises(WeightsError, match=r"points with 6 channels, expected 9"):
        train(config(store, tmp_path, weights))
    assert not find_runs(tmp_path)
    with pytest.raises(WeightsError, match=r"points with 6 channels, expected 9"):
        score(store, tmp_path, weights)
    write_points(scan := tmp_path / "s.ply", np.eye(9, 3), np.ones((9, 3), np.uint8))
    with pytest.raises(WeightsError, match=r"points with 6 channels, expected 9"):
        predict(PredictConfig(scans=(scan,), weights=(str(weights),)))


def test_frozen_layers_stay_as_they_are(store: Store, start: Path, tmp_path: Path) -> None:
    run = run_as(config(store, tmp_path, start, freeze=2, lr=0.01, recipe="modern"), "frozen")
    given = load_file(start)
    for checkpoint in ("last", "best"):
        found = load_file(run.weights(checkpoint))
        same = {name: torch.equal(value, given[name]) for name, value in found.items()}
        for name, kept in same.items():
            assert kept == name.startswith(("layers.0.", "layers.1.")), name
    with pytest.raises(ConfigError, match="at most 3, the layers of"):
        train(config(store, tmp_path, start, freeze=4))
    with pytest.raises(ConfigError, match="without --weights"):
        TrainConfig(freeze=1)


def test_layers_that_are_new_cannot_be_frozen(store: Store, start: Path, tmp_path: Path) -> None:
    deeper = dataclasses.replace(load_weights(start).config, depth=5)
    with pytest.raises(ConfigError, match=r"--freeze: found 4, expected at most 3, .* of start"):
        train(config(store, tmp_path, start, model=deeper, freeze=4))
    assert not find_runs(tmp_path)


def test_weights_halfway_from_the_start(store: Store, start: Path, tmp_path: Path) -> None:
    """The steps are those of a training without it; what is saved is the mean of both ends."""
    plain = run_as(config(store, tmp_path, start, lr=0.01), "plain")
    half = run_as(config(store, tmp_path, start, lr=0.01, extra=("wise-ft",)), "half")
    first, end = load_weights(start).state_dict(), load_weights(plain.weights("last")).state_dict()
    found = load_weights(half.weights("last")).state_dict()
    moved = 0
    for name, value in found.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, (first[name] + end[name]) / 2, rtol=1e-6, atol=1e-7)
            moved += not torch.equal(first[name], end[name])
    assert moved > 10
    assert read_metadata(half.weights("last"))["weights"] == "as trained, halfway from the start"


def test_halfway_goes_on_after_a_stop_without_its_start(
    store: Store, start: Path, tmp_path: Path
) -> None:
    """The checkpoint has the weights that the training started from."""
    mine = tmp_path / "mine.safetensors"
    shutil.copy(start, mine)
    extra = ("wise-ft", "ema")
    whole = run_as(config(store, tmp_path, mine, extra=extra, max_steps=4, epochs=2), "whole")
    stopped = run_as(config(store, tmp_path, mine, extra=extra, max_steps=2, epochs=2), "stopped")
    mine.unlink()
    longer = dataclasses.replace(stopped.config, max_steps=4)
    train(longer, resume=stopped.path)
    for name, value in load_weights(whole.weights("last")).state_dict().items():
        assert torch.equal(value, load_weights(stopped.weights("last")).state_dict()[name]), name


def test_nothing_lies_halfway_to_a_new_classifier(
    store: Store, start: Path, tmp_path: Path
) -> None:
    two = two_classes(tmp_path / "two")
    with pytest.raises(ConfigError, match=r"--with wise-ft: found the classes floor, rest"):
        train(config(two, tmp_path, start, extra=("wise-ft",)))
    deeper = load_weights(start).config
    deeper = dataclasses.replace(deeper, depth=deeper.depth + 1)
    with pytest.raises(ConfigError, match=r"--with wise-ft: found 1 layer that"):
        train(config(store, tmp_path, start, extra=("wise-ft",), model=deeper))
    with pytest.raises(ConfigError, match=r"--with wise-ft: found it without --weights"):
        TrainConfig(extra=("wise-ft",))


def test_frozen_norms_keep_their_statistics(store: Store, start: Path, tmp_path: Path) -> None:
    parts = ("frozen-norm", "ema")
    run = run_as(config(store, tmp_path, start, extra=parts, lr=0.01), "frozen-norm")
    found, given = load_file(run.weights("last")), load_file(start)
    for name, value in found.items():
        kept = ".running_" in name or name.endswith("num_batches_tracked")
        assert torch.equal(value, given[name]) == kept, name
    for wrong in ({}, {"weights": "indoor", "sync_bn": True}):
        with pytest.raises(ConfigError, match="--with frozen-norm: found it"):
            TrainConfig(extra=("frozen-norm",), **wrong)


def test_a_stopped_training_goes_on_without_the_weights(
    store: Store, start: Path, tmp_path: Path
) -> None:
    whole = run_as(config(store, tmp_path, start, freeze=1), "whole")
    part = run_as(config(store, tmp_path, start, freeze=1, max_steps=2), "part")
    start.unlink()
    train(dataclasses.replace(part.config, max_steps=4), resume=part.path)
    assert_same(load_file(part.weights("last")), load_file(whole.weights("last")))
    other = dataclasses.replace(part.config, weights="other")
    with pytest.raises(RunError, match=r"weights was .*, now other"):
        train(other, resume=part.path)


def test_two_processes_start_from_the_same_weights(
    store: Store, start: Path, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"freeze": 1, "devices": 2, "sync_bn": True, "max_steps": 2}
    run = run_as(config(store, tmp_path, start, **changes), "two")
    found, given = load_file(run.weights("last")), load_file(start)
    frozen = [name for name in given if name.startswith("layers.0.")]
    assert all(torch.equal(found[name], given[name]) for name in frozen)
    assert not torch.equal(found["fusion.linear.weight"], given["fusion.linear.weight"])


def test_weights_that_changed_since_are_noticed(store: Store, start: Path, tmp_path: Path) -> None:
    run = run_as(config(store, tmp_path, start, max_steps=1), "first")
    save_weights(start, load_weights(start), metadata={"classes": " ".join(store.classes)})
    with pytest.raises(RunError, match="found weights of the SHA-256"):
        train(dataclasses.replace(run.config, name="again", test_area=2))


def test_the_command_takes_the_network_of_the_weights(
    store: Store, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data", str(store.path), "--runs", str(tmp_path), "--name", "typed"]
    options += ["--max-steps", "1", "--num-points", "64", "--batch-size", "4", "-k", "5"]
    options += ["--knn-until", "2"]
    assert deepgcn(["train", "--weights", str(start), *options, "--quiet"]) == 0
    label = Run(tmp_path / "typed").config.model.label
    assert label == "resgcn-3 (edge, C 16, k 5, k-NN until 2)"
    assert deepgcn(["train", "--weights", str(start), "--width", "8", *options]) == 1
    assert "width 8 instead of 16" in capsys.readouterr().err
    assert deepgcn(["train", "--weights", str(start), "--depth", "2", *options]) == 1
    assert "depth 2 instead of 3" in capsys.readouterr().err


def test_a_fixed_graph_takes_the_place_of_those_that_the_weights_share(tmp_path: Path) -> None:
    file = tmp_path / "start.safetensors"
    save_weights(file, DeepGCN(ModelConfig(depth=4, width=8, k=4, knn_every=2, knn_until=3)))
    assert start_config(str(file), {"knn": "fixed"}, {}).model.graph_layers() == (0, 0, 0, 0)
    with pytest.raises(ConfigError, match="--knn-until: with --knn fixed"):
        start_config(str(file), {"knn": "fixed", "knn_until": 2}, {})


def test_a_network_that_becomes_the_published_one_does_not_stand_for_that_of_the_weights(
    tmp_path: Path,
) -> None:
    file = tmp_path / "start.safetensors"
    save_weights(file, DeepGCN(ModelConfig(depth=2)), metadata={"classes": " ".join(CLASSES)})
    assert resolve_start(start_config(str(file), {"depth": 28}, {})).model == ModelConfig()
    save_weights(file, DeepGCN(ModelConfig(k=8)), metadata={"classes": " ".join(CLASSES)})
    assert resolve_start(start_config(str(file), {"k": 16}, {})).model.k == 16
    assert resolve_start(TrainConfig(weights=str(file))).model.k == 8


def test_the_command_adds_layers_to_those_of_the_weights(
    store: Store, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data", str(store.path), "--runs", str(tmp_path), "--name", "deeper"]
    options += ["--max-steps", "1", "--num-points", "64", "--batch-size", "4", "--depth", "4"]
    assert deepgcn(["train", "--weights", str(start), *options]) == 0
    said = capsys.readouterr().err
    assert "1 layer more after its 3, without an effect at the first step" in said
    assert Run(tmp_path / "deeper").config.model.depth == 4
    assert load_model(tmp_path / "deeper").config.depth == 4
    assert deepgcn(["train", "--weights", str(start), "--with", "frozen-norm", *options]) == 1
    assert "found 1 layer that" in capsys.readouterr().err


def test_a_study_takes_weights_as_its_base(store: Store, start: Path, tmp_path: Path) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        f"base: {{weights: {start}, max-steps: 1, batch-size: 4, num-points: 64, device: cpu, "
        "threads: 1, freeze: 1}\n"
        "rows: {tuned: {}, wider: {width: 8}, nothing: {weights: null, freeze: 0}}\n"
    )
    result = ablate(AblateConfig(grid=grid, data=store.path, runs=tmp_path / "runs"))
    (table,) = result.tables
    lines = {line.name: line for line in table.lines}
    assert (result.finished, result.failed) == (2, 1)
    assert "1 frozen" in lines["tuned"].label
    assert "from nothing" in lines["nothing"].label
    assert "width 8 instead of 16" in lines["wider"].remark
    runs = {run.config.weights: run for run in find_runs(tmp_path / "runs")}
    assert set(runs) == {None, str(start)}
    assert runs[None].config.model == runs[str(start)].config.model


def released(path: Path, network: ModelConfig) -> None:
    """Weights as a release saves them, from several GPUs."""
    torch.manual_seed(0)
    state = published_state(DeepGCN(network).eval())
    torch.save({"state_dict": {f"module.{name}": v for name, v in state.items()}}, path)


@pytest.mark.parametrize(
    "network",
    [
        dataclasses.replace(ModelConfig.published("dgcnn"), width=8, fusion_channels=32, k=6),
        ModelConfig(depth=3, width=8, k=4, fusion_channels=32, layout="torch"),
    ],
    ids=["dgcnn.pytorch", "deep_gcns_torch"],
)
def test_a_classifier_of_two_classes_on_published_weights(
    network: ModelConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From a released checkpoint and labelled files to scores and a labelled scan, as typed."""
    store = two_classes(tmp_path / "own")
    monkeypatch.chdir(tmp_path)
    released(Path("model.t7"), network)
    for line in (
        f"weights import model.t7 --out base.safetensors -k {network.k}",
        f"train --weights base.safetensors --data {store.path} --name mine --max-steps 60 "
        "--epochs 100 --num-points 64 --batch-size 4 --lr 0.005 --with warm-up --threads 1",
        "eval mine --no-pictures",
        "predict own/c/office_1.csv --out labelled.ply",
    ):
        assert deepgcn([*line.split(), "--quiet"]) == 0, capsys.readouterr().err
    record = Run(Path("runs/mine")).scores("room")
    assert record is not None
    assert record["classes"] == ["floor", "rest"]
    assert record["weights"][0]["started_from"]["source"] == "model.t7"
    assert record["oa"] > 0.9, "always 'rest' gives 0.67"
    vertex = PlyData.read("labelled.ply")["vertex"]
    room = np.loadtxt("own/c/office_1.csv", delimiter=",", skiprows=1)
    assert (np.asarray(vertex["class"]) + 1 == room[:, 6]).mean() > 0.9
