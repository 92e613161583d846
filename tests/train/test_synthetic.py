"""The train stage on synthetic rooms: without a store, resumed bit for bit, gone when killed."""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipelines import kernels
from pipelines.config import EvalConfig, PredictConfig, TrainConfig
from pipelines.data.sampler import Batch
from pipelines.data.statistics import read_summary
from pipelines.data.store import Store
from pipelines.data.synthetic import GENERATOR
from pipelines.data.synthetic.stream import VALIDATION, RoomMaker, SyntheticSampler
from pipelines.errors import ConfigError, DatasetError, ProcessLostError, RunError
from pipelines.evaluate import evaluate
from pipelines.predict import predict
from pipelines.runs.directory import Run, open_run
from pipelines.train import train
from pipelines.weights.provenance import describe
from pipelines.weights.safetensors import read_metadata
from tests.data.synthetic.test_meshes import entry, write_library
from tests.tiny_training import MODEL, AtStep, assert_same_run, go_on, run_as, send
from tests.train.test_several_processes import children, until

STEPS, EPOCH = 10, 8  # in all; of an epoch of one room


def synthetic_config(runs: Path) -> TrainConfig:
    return TrainConfig(
        model=dataclasses.replace(MODEL, dropout=0.0),
        runs=runs,
        name="run",
        synth=True,
        synth_rooms=1,
        synth_workers=1,
        scanner="laser",
        density="60-120",
        recipe="modern",
        epochs=2,
        max_steps=STEPS,
        batch_size=2,
        val_blocks=4,
        num_points=64,
        device="cpu",
        threads=1,
    )


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return synthetic_config(tmp_path / "runs")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    with kernels.use("reference"):
        return run_as(synthetic_config(tmp_path_factory.mktemp("runs")), "whole")


@pytest.mark.parametrize("step", [3, EPOCH + 1])
def test_a_stopped_run_goes_on_as_if_it_had_not(config: TrainConfig, whole: Run, step: int) -> None:
    """With another number of workers: what is drawn does not follow from who makes it."""
    listener = AtStep(step, send(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run_as(config, "run", listener)
    run = open_run(config.runs / "run")
    assert (run.state, run.status["step"]) == ("interrupted", step)
    assert listener.said[-1].startswith(f"Stopped at step {step} of {STEPS}; all is saved.")
    assert not [child for child in children(os.getpid()) if is_worker(child)]
    go_on(run, synth_workers=2)
    assert_same_run(run, whole)


def is_worker(process: int) -> bool:
    return b"spawn_main" in Path(f"/proc/{process}/cmdline").read_bytes()


def test_what_a_run_says_of_its_rooms(whole: Run) -> None:
    found = read_metadata(whole.weights("last"))
    fingerprint = whole.environment["store"]["fingerprint"]
    assert found["trained_on"] == (
        f"synthetic rooms 0 to {2 * STEPS - 1} of seed 0, generator {GENERATOR}, scanner laser, "
        f"60-120 points per m² (fingerprint {fingerprint[:12]}), recipe modern, seed 0"
    )
    assert (found["test_area"], found["fingerprint"]) == ("0", fingerprint)
    made = RoomMaker(VALIDATION, "laser", (60.0, 120.0)).make(0)  # the room that validates
    like = read_summary(found["data_statistics"])
    assert like["height"] == pytest.approx(made.pos[: made.inside, 2].max(), rel=1e-3)
    assert like["colored"] == 1
    assert "density" not in like, "of a range"
    assert describe(found).startswith("run whole, trained on synthetic rooms 0 to 19")
    config = whole.config
    assert (config.scanner, config.density, config.synth_rooms) == ("laser", "60-120", 1)
    assert config.data_text == "synthetic rooms, scanner laser, 60-120 points per m²"


def test_two_processes_learn_what_one_learns(config: TrainConfig) -> None:
    model = dataclasses.replace(config.model, knn="fixed")
    config = dataclasses.replace(
        config, model=model, sync_bn=True, recipe="paper", max_steps=3, val_fraction=0.0
    )
    runs = [run_as(config, str(devices), devices=devices) for devices in (1, 2)]
    one, two = ([r["loss"] for r in run.metrics() if r["event"] == "step"] for run in runs)
    assert two == pytest.approx(one, rel=1e-3)
    assert len(one) == 3


def test_a_killed_training_leaves_no_process(config: TrainConfig) -> None:
    options = ["--synth", "--synth-workers", "2", "--density", "60", "--epochs", "500"]
    network = ["--depth", "2", "--width", "8", "-k", "4", "--num-points", "64"]
    place = ["--runs", str(config.runs), "--name", "run", "--val-fraction", "0", "--quiet"]
    training = subprocess.Popen(
        [sys.executable, "-m", "deepgcn_cli", "train", *options, *network, *place]
    )
    metrics = config.runs / "run" / "metrics.jsonl"
    until(lambda: metrics.is_file() and metrics.stat().st_size, 120)
    begun = children(training.pid)
    assert sum(map(is_worker, begun)) == 2
    training.kill()
    training.wait()
    until(lambda: not any(Path(f"/proc/{process}").exists() for process in begun), 20)


def test_sigterm_to_all_processes_saves_and_stops(
    config: TrainConfig, whole: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As SLURM sends it: the rooms that the next step waits for are never made."""
    made = SyntheticSampler.batch

    def ended(self: SyntheticSampler, epoch: int, blocks: np.ndarray) -> Batch:
        workers = [child for child in children(os.getpid()) if is_worker(child)]
        for process in (os.getpid(), *workers):
            os.kill(process, signal.SIGTERM)
        return made(self, epoch, blocks)

    monkeypatch.setattr(SyntheticSampler, "batch", ended)
    with pytest.raises(KeyboardInterrupt):
        run_as(config, "run")
    monkeypatch.undo()
    run = open_run(config.runs / "run")
    assert (run.state, run.status["step"]) == ("interrupted", 0)
    go_on(run)
    assert_same_run(run, whole)


def test_a_lost_worker_loses_no_step(
    config: TrainConfig, whole: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = SyntheticSampler.batch
    taken = itertools.count()

    def ended(self: SyntheticSampler, epoch: int, blocks: np.ndarray) -> Batch:
        if next(taken) == 6:
            for process in filter(is_worker, children(os.getpid())):
                os.kill(process, signal.SIGKILL)
        return made(self, epoch, blocks)

    monkeypatch.setattr(SyntheticSampler, "batch", ended)
    with pytest.raises(ProcessLostError, match=r"(?s)synthetic rooms has ended.*Resume it: "):
        run_as(config, "run")
    monkeypatch.undo()
    run = open_run(config.runs / "run")
    assert 0 < run.status["step"] < EPOCH
    go_on(run)
    assert_same_run(run, whole)


def test_furniture_may_move_but_not_change(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    chair = entry(1, "Chair", "cube/cube.obj", width=45, depth=45, height=85)
    folder = write_library(tmp_path / "furniture", chair)
    (name,) = (path.stem for path in folder.glob("*.sh3f"))
    config = dataclasses.replace(config, furniture=folder, val_fraction=0.0, recipe="paper")
    run = run_as(config, "run", max_steps=1)
    assert f", furniture {name} (fingerprint " in read_metadata(run.weights())["trained_on"]
    assert run.environment["store"]["synthetic"]["credits"] == ["Ann, CC0"]
    moved = folder.rename(tmp_path / "moved")
    go_on(run, furniture=moved, max_steps=2)
    table = entry(1, "Table", "cube/cube.obj", width=90, depth=90, height=75)
    other = write_library(tmp_path / "other", table)
    with pytest.raises(RunError, match="cannot resume with other data: the run began on"):
        go_on(run, furniture=other)
    with pytest.raises(RunError, match="scanner was laser, now rgbd"):
        go_on(run, furniture=moved, scanner="rgbd")


def test_such_a_run_is_scored_on_data_that_is_named(
    whole: Run, store: Store, tmp_path: Path
) -> None:
    asked = EvalConfig(run_dirs=(whole.path,), runs=whole.path.parent, pictures=False)
    with pytest.raises(DatasetError) as error:
        evaluate(asked)
    assert str(error.value) == (
        f"{whole.path}: was trained on synthetic rooms, so it has no data of its own.\n"
        f"Say on which it is scored: deepgcn eval {whole.path} --data DIR"
    )
    (found,) = evaluate(dataclasses.replace(asked, data=store.path)).results
    assert found.scores.points == sum(room.points for room in store.rooms())
    assert found.run.parent.parent == whole.path.parent / "weights"
    (labelled,) = predict(
        PredictConfig((_scan(store, tmp_path),), whole.path, no_color_ok=True)
    ).scans
    assert labelled.points == 2400


def _scan(store: Store, folder: Path) -> Path:
    path = folder / "scan.xyz"
    pos = store.read(store.rooms(1)[0]).pos
    path.write_text("".join("{} {} {}\n".format(*row) for row in pos.tolist()))
    return path


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"data": Path("mine")}, "--data: found it with --synth, whose rooms are made during"),
        ({"test_area": 5}, "--area: found it with --synth"),
        ({"density": "many"}, "--density: found 'many', expected points per m² such as 1500"),
        ({"density": "900-500"}, "--density: found '900-500'"),
        ({"density": "0-500"}, "--density: found 0.0, expected points per m² from 1 to 1,000,000"),
        ({"scanner": "radar"}, "--scanner: found the unknown scanner 'radar'"),
    ],
)
def test_what_does_not_fit_is_refused(asked: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        TrainConfig(synth=True, **asked)  # type: ignore[arg-type]
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    "asked", [{"scanner": "rgbd"}, {"synth_rooms": 3}, {"furniture": Path("x")}]
)
def test_options_of_synthetic_rooms_need_synth(asked: dict[str, object]) -> None:
    (name,) = asked
    with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')}: found it without --synth"):
        TrainConfig(**asked)  # type: ignore[arg-type]


def test_validation_rooms_need_a_block(config: TrainConfig) -> None:
    sparse = dataclasses.replace(config, scanner="laser", density="10", name="sparse")
    with pytest.raises(ConfigError, match=r"--density 10: found no block of 1 m with 100 points"):
        train(sparse)


def test_validation_rooms_are_made_only_if_there_are_steps_to_take(config: TrainConfig) -> None:
    config = dataclasses.replace(config, recipe="paper", max_steps=1)
    run = run_as(config, "run")
    for steps, tasks in ((1, []), (2, ["Making validation rooms", "Epoch 1/1", "Validating"])):
        listener = AtStep()
        again = dataclasses.replace(run.config, max_steps=steps)
        train(again, resume=run.path, progress=listener)
        assert [name for name, _ in listener.tasks] == tasks
        assert ("already finished" in listener.said[0]) == (not tasks)
    assert run.status["best_miou"] is not None


def test_its_settings_are_kept(config: TrainConfig, whole: Run) -> None:
    with pytest.raises(ConfigError, match="--data: found it with --synth"):
        train(dataclasses.replace(whole.config, data=config.runs), resume=whole.path)
    with pytest.raises(RunError, match="synth_rooms was 1, now 3"):
        go_on(whole, synth_rooms=3)
