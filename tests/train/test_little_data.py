"""Training on a single scan, on everything, and without validation."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines import load_model
from pipelines.config import EvalConfig, PrepareConfig, TrainConfig
from pipelines.data.store import Store
from pipelines.errors import RunError
from pipelines.evaluate import evaluate
from pipelines.prepare import prepare
from pipelines.runs.directory import Run
from pipelines.studies.sixfold import six_fold
from pipelines.train import open_samplers, train
from pipelines.training import loop
from pipelines.training.steps import Accumulation
from tests.tiny_training import AtStep, run_as, tiny_config

ROOMS = "{classes: [floor, wall], areas: {1: [hall.csv]}, label: kind}"


@pytest.fixture
def hall(tmp_path: Path) -> TrainConfig:
    """A training on one labelled scan: a floor of 6 × 2 m and a wall along it."""
    rng = np.random.default_rng(0)
    floor, wall = rng.random((4000, 3)) * (6, 2, 0.1), rng.random((4000, 3)) * (6, 0.1, 2.5)
    rows = np.column_stack(
        [np.vstack([floor, wall]), rng.integers(1, 256, (8000, 3)), np.repeat([0, 1], 4000)]
    )
    np.savetxt(tmp_path / "hall.csv", rows, "%.3f", ",", header="x,y,z,r,g,b,kind", comments="")
    (tmp_path / "rooms.yaml").write_text(ROOMS)
    data = tmp_path / "data"
    result = prepare(PrepareConfig(dataset=tmp_path / "rooms.yaml", data=data))
    assert result.test_area == 0, "the only area is trained on"
    return dataclasses.replace(tiny_config(Store.open(data), tmp_path / "runs"), name=None)


def test_one_scan_is_enough(hall: TrainConfig) -> None:
    listener = AtStep()
    run = Run(train(hall, progress=listener).run)
    assert listener.said[0] == (
        "Area_1/hall is the only room to train on: its blocks beyond x = 5 m from its edge "
        "validate, which have 17 % of its points."
    )
    assert run.status["best_miou"] > 0
    assert run.name.startswith("resgcn-3-all-")
    samplers = open_samplers(run.config, Store.open(hall.data))
    seen = [
        np.concatenate([s.sample(0, block)[0][:, 6] for block in range(len(s))])
        for s in samplers
        if s is not None
    ]
    # Positions along x, divided by the room's 6 m.
    assert (seen[0].max() * 6 <= 5, seen[1].min() * 6 >= 5 - 1e-5) == (True, True)
    with pytest.raises(RunError, match=f"no test area: .*\n.*eval --weights {run.path} --data"):
        evaluate(EvalConfig(run_dirs=(run.path,)))
    with pytest.raises(RunError, match="no test area"):
        six_fold(EvalConfig(run_dirs=(run.path,)))


def test_a_step_takes_no_more_at_once_than_an_epoch_has(
    hall: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else halving it, where memory runs out, would change nothing at first."""
    sizes: list[int] = []

    def accumulation(size: int, *options: Any, **more: Any) -> Accumulation:
        sizes.append(size)
        return Accumulation(size, *options, **more)

    monkeypatch.setattr(loop, "Accumulation", accumulation)
    run = Run(train(dataclasses.replace(hall, batch_size=64)).run)
    trained, _ = open_samplers(run.config, Store.open(hall.data))
    assert sizes == [len(trained)]


def test_without_validation_the_last_weights_are_the_result(
    config: TrainConfig, store: Store
) -> None:
    listener = AtStep()
    everything = dataclasses.replace(config, val_fraction=0, test_area=0, name="everything")
    result = train(everything, progress=listener)
    run = Run(result.run)
    assert "the last weights will be the result" in listener.said[0]
    trained, validation = open_samplers(run.config, store)
    assert (len(trained.rooms), validation, result.best_miou) == (len(store.rooms()), None, None)
    assert [r["event"] for r in run.metrics()].count("epoch") == run.config.epochs
    assert not run.checkpoint_path("best").exists()
    assert run.weights() == run.weights("last")
    load_model(run.path)


def test_what_is_scored_without_validation_is_the_last(config: TrainConfig) -> None:
    run = run_as(config, "last", val_fraction=0)
    (scored,) = evaluate(EvalConfig(run_dirs=(run.path,), pictures=False)).results
    assert scored.report.values["checkpoint"] == "last"
    known = run.scores("room")
    six_fold(EvalConfig(run_dirs=(run.path,), pictures=False), train_missing=True)
    assert run.scores("room") == known, "scored before"
