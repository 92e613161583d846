"""Figures reach MLflow and W&B as they are in metrics.jsonl, a resumed run's in the same place."""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from safetensors.torch import load_file

from pipelines import kernels
from pipelines.config import TrainConfig
from pipelines.errors import ConfigError, RunError
from pipelines.progress import SILENT, Progress
from pipelines.runs.directory import MetricsLog, Run, open_run
from pipelines.train import train
from pipelines.training import loggers
from pipelines.training.loggers import (
    Background,
    RunLog,
    TensorBoard,
    figures_of,
    flat_settings,
    open_logger,
)
from tests.ears import Ears
from tests.tiny_run import MODEL
from tests.tiny_store import write_tiny_store
from tests.tiny_training import assert_same

# MLflow's tables use what SQLAlchemy 2.1 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store") / "data"
    write_tiny_store(folder)
    return folder


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    # The package sets these; monkeypatch takes them back.
    for name in ("MLFLOW_ALLOW_FILE_STORE", "MLFLOW_DISABLE_TELEMETRY", "MLFLOW_LOGGING_LEVEL"):
        monkeypatch.setenv(name, "true")
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")


def config_for(data: Path, runs: Path, *loggers: str) -> TrainConfig:
    return TrainConfig(
        model=MODEL,
        data=data,
        runs=runs,
        name="tiny",
        epochs=10,
        max_steps=3,
        batch_size=4,
        num_points=64,
        device="cpu",
        threads=1,
        loggers=loggers,
    )


def train_in_two_parts(config: TrainConfig, progress: Progress = SILENT) -> Run:
    """Train three steps, and three more in a resumed run."""
    with kernels.use("reference"):
        folder = train(config, progress=progress).run
        train(replace(config, max_steps=6), resume=folder, progress=progress)
    return open_run(folder)


def losses(run: Run) -> list[tuple[int, float]]:
    return [(r["step"], r["loss"]) for r in run.metrics() if r["event"] == "step"]


def test_tensorboard_without_room_raises_and_prints_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    events = TensorBoard(tmp_path, 1)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
        with pytest.raises(OSError, match="File too large"):
            events.write({"train/loss": 0.5}, 1)
        events.close(None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert capfd.readouterr() == ("", "")


def test_mlflow_has_what_the_run_has(data: Path, tmp_path: Path) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    heard = Ears()
    run = train_in_two_parts(config_for(data, tmp_path / "runs", "mlflow"), heard)
    # MLflow opens its store with nothing of ours set, as it does for `mlflow ui`.
    assert "MLFLOW_ALLOW_FILE_STORE" not in os.environ
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = tracking.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("deepgcn")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == "tiny"
    assert found.info.status == "FINISHED"
    assert found.data.params["model.k"] == str(MODEL.k)
    assert found.data.params["lr"] == "0.001"
    history = client.get_metric_history(found.info.run_id, "train/loss")
    assert [(metric.step, metric.value) for metric in history] == losses(run)
    assert [step for step, _ in losses(run)] == [1, 2, 3, 4, 5, 6]
    scores = [r["val_miou"] for r in run.metrics() if r["event"] == "epoch"]
    history = client.get_metric_history(found.info.run_id, "validation/miou")
    assert [metric.value for metric in history] == scores
    told = f"mlflow: run {found.info.run_id} in {uri}; look at it: mlflow ui --backend-store-uri "
    assert f"{told}{uri}" in heard.said


def test_mlflow_takes_a_step_once_and_says_how_it_ended(data: Path, tmp_path: Path) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    config, folder = config_for(data, tmp_path / "runs", "mlflow"), tmp_path / "run"
    client = tracking.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    first = open_logger("mlflow", config, folder)
    for step in (1, 2, 3):
        first.write({"train/loss": float(step)}, step)
    first.write({"epoch/loss": 2.0}, 3)  # of a training without validation
    first.close(KeyboardInterrupt())
    (run,) = client.search_runs([client.get_experiment_by_name("deepgcn").experiment_id])
    assert run.info.status == "KILLED"
    again = open_logger("mlflow", config, folder)  # from the checkpoint after the first step
    for step in (2, 3, 4):
        again.write({"train/loss": float(step)}, step)
        again.write({"epoch/loss": 2.0}, step)
    again.close(ValueError("broken"))
    assert client.get_run(run.info.run_id).info.status == "FAILED"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [metric.step for metric in history] == [1, 2, 3, 4]
    history = client.get_metric_history(run.info.run_id, "epoch/loss")
    assert [metric.step for metric in history] == [3, 4]


def test_mlflow_where_the_variables_say(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    elsewhere = f"sqlite:///{tmp_path}/elsewhere.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", elsewhere)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    config = config_for(data, tmp_path / "runs", "mlflow")
    open_logger("mlflow", config, tmp_path / "run").close(None)
    assert tracking.MlflowClient(tracking_uri=elsewhere).get_experiment_by_name("mine")
    assert not (tmp_path / "mlflow.db").exists()


def test_mlflow_goes_on_in_the_folder_of_version_0_1(data: Path, tmp_path: Path) -> None:
    """A run that MLflow itself keeps in a file store, named in loggers.json as version 0.1 did."""
    tracking = pytest.importorskip("mlflow.tracking")
    uri, folder = (tmp_path / "mlruns").as_uri(), tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        client = tracking.MlflowClient(tracking_uri=uri)
        run = client.create_run(client.create_experiment("deepgcn")).info.run_id
    folder.mkdir()
    (folder / "loggers.json").write_text(json.dumps({"mlflow": {"id": run, "uri": uri}}))
    again = open_logger("mlflow", config_for(data, tmp_path / "runs", "mlflow"), folder)
    again.write({"train/loss": 0.5}, 7)
    again.close(None)
    assert [metric.step for metric in client.get_metric_history(run, "train/loss")] == [7]
    assert not (tmp_path / "mlflow.db").exists()


def test_a_store_that_cannot_be_opened(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nothing://here")
    with pytest.raises(RunError, match=r"--logger mlflow: cannot be opened: .*nothing"):
        open_logger("mlflow", config_for(data, tmp_path / "runs", "mlflow"), tmp_path / "run")


def test_no_file_decides_where_figures_are_sent(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    known = {"mlflow": {"id": "1", "uri": "http://127.0.0.1:9"}}
    (tmp_path / "loggers.json").write_text(json.dumps(known))
    with pytest.raises(RunError, match=r"the run names http://127.0.0.1:9; if you know it: MLFLOW"):
        open_logger("mlflow", config_for(data, tmp_path / "runs", "mlflow"), tmp_path)


def wandb_records(folder: Path) -> list[Any]:
    """The records of an offline run's file.

    Blocks of 32 KiB; in them chunks of a checksum (4 bytes), a length (2) and a kind (1: whole,
    2: first, 3: middle, 4: last) before the content, as in LevelDB's log; 7 bytes of header first.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.glob("*.wandb")
    content, place, parts, found = file.read_bytes(), 7, b"", []
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(parts)
            found.append(record)
            parts = b""
    return found


def test_wandb_without_a_key_asks_nobody(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    folder = tmp_path / "run"
    folder.mkdir()
    tracker = open_logger("wandb", config_for(data, tmp_path / "runs", "wandb"), folder)
    tracker.write({"train/loss": 0.5}, 1)
    tracker.close(None)
    (kept,) = (folder / "wandb").glob("offline-run-*")
    assert list(kept.glob("*.wandb"))
    assert f"offline, in {kept}; look at it: wandb leet {kept}, or upload" in tracker.where


def test_wandb_that_is_switched_off_says_so(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    folder = tmp_path / "run"
    folder.mkdir()
    tracker = open_logger("wandb", config_for(data, tmp_path / "runs", "wandb"), folder)
    tracker.close(None)
    assert tracker.where == "disabled by WANDB_MODE, so nothing is kept"
    assert not list(folder.rglob("*.wandb"))


def test_wandb_offline_has_what_the_run_has(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    run = train_in_two_parts(config_for(data, tmp_path / "runs", "wandb"))
    folders = sorted((run.path / "wandb").glob("offline-run-*"))
    assert len(folders) == 2  # one a process, of the same run of W&B
    found: list[tuple[int, float]] = []
    names = set()
    for folder in folders:
        for record in wandb_records(folder):
            if record.HasField("run"):
                names.add((record.run.run_id, record.run.display_name, record.run.project))
            items = {
                item.key or "/".join(item.nested_key): item.value_json
                for item in record.history.item
            }
            if "train/loss" in items:
                found.append((record.history.step.num, float(items["train/loss"])))
    assert found == losses(run)
    ((_, name, project),) = names
    assert (name, project) == ("tiny", "deepgcn")


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_missing_package_is_reported_before_anything_is_made(
    data: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf"pip install 'deepgcn\[{name}\]'"):
        train(config_for(data, tmp_path / "runs", name))
    assert not (tmp_path / "runs").exists()


def test_an_unknown_logger() -> None:
    with pytest.raises(ConfigError, match="--logger"):
        TrainConfig(loggers=("wnadb",))


def test_a_logger_that_fails_stops_nothing(tmp_path: Path) -> None:
    class Broken:
        identity: ClassVar[dict[str, str]] = {}
        where = ""

        def write(self, figures: Mapping[str, float], step: int) -> None:  # noqa: ARG002
            raise OSError("no route to host\nand more")

        def close(self, error: BaseException | None) -> None:  # noqa: ARG002
            raise AssertionError("it was taken out")

    class Kept(Broken):
        def __init__(self) -> None:
            self.steps: list[int] = []

        def write(self, figures: Mapping[str, float], step: int) -> None:  # noqa: ARG002
            self.steps.append(step)

        def close(self, error: BaseException | None) -> None:
            assert error is None

    heard, kept = Ears(), Kept()
    log = RunLog(MetricsLog(Run(tmp_path)), heard)
    log.loggers = {"broken": Broken(), "kept": kept}
    for step in (1, 2):
        log.write({"event": "step", "step": step, "loss": 0.5})
    log.close(None)
    assert len(Run(tmp_path).metrics()) == 2
    assert heard.warned == ["broken: no route to host; no more figures go there."]
    assert kept.steps == [1, 2]


def test_the_tags_of_figures() -> None:
    step = {"event": "step", "step": 3, "epoch": 1, "loss": 0.5, "lr": 1e-3}
    assert figures_of(step) == {"train/loss": 0.5, "train/lr": 1e-3}
    epoch = {"event": "epoch", "step": 3, "loss": 0.4, "val_miou": 0.2, "val_iou": [0.1]}
    assert figures_of(epoch) == {"epoch/loss": 0.4, "validation/miou": 0.2}


def test_settings_on_one_level(tmp_path: Path) -> None:
    flat = flat_settings(TrainConfig(model=MODEL, data=tmp_path))
    assert flat["model.width"] == 16
    assert flat["data"] == str(tmp_path)
    assert not any(isinstance(value, dict) for value in flat.values())


class Hanging:
    """A logger whose server never answers."""

    identity: ClassVar[dict[str, str]] = {"id": "1"}
    where = "nowhere"

    def __init__(self, answer: threading.Event) -> None:
        self.answer = answer

    def write(self, figures: Mapping[str, float], step: int) -> None:  # noqa: ARG002
        self.answer.wait()

    def close(self, error: BaseException | None) -> None:  # noqa: ARG002
        raise AssertionError("the writing before has not ended")


def test_a_logger_that_hangs_delays_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the steps nor, for long, the end; and the weights are those without it."""
    answer, heard = threading.Event(), Ears()
    monkeypatch.setattr(loggers, "check_loggers", lambda _: None)
    monkeypatch.setattr(loggers, "open_logger", lambda *_: Hanging(answer))
    monkeypatch.setattr(loggers, "CLOSING", 0.1)
    monkeypatch.setattr("pipelines.train.check_loggers", lambda _: None)
    config = config_for(data, tmp_path / "runs")
    with kernels.use("reference"):
        alone = open_run(train(replace(config, name="alone")).run)
        logged = open_run(train(replace(config, loggers=("mlflow",)), progress=heard).run)
    assert heard.warned == ["mlflow: no answer within 0.1 s; its last figures may be missing."]
    assert losses(logged) == losses(alone)
    assert_same(load_file(logged.weights("last")), load_file(alone.weights("last")))
    answer.set()


def test_a_logger_that_takes_nothing_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, heard = threading.Event(), Ears()
    monkeypatch.setattr(loggers, "open_logger", lambda *_: Hanging(answer))
    monkeypatch.setattr(loggers, "WAITING", 2)
    log = RunLog(MetricsLog(Run(tmp_path)), heard)
    log.loggers = {"mlflow": Background("mlflow", TrainConfig(), tmp_path)}
    for step in range(1, 9):
        log.write({"event": "step", "step": step, "loss": 0.5})
    log.close(None)
    assert heard.warned == ["mlflow: no answer, and 2 records wait; no more figures go there."]
    assert len(Run(tmp_path).metrics()) == 8
    answer.set()


def test_a_logger_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()
    monkeypatch.setattr(loggers, "open_logger", lambda *_: answer.wait())
    monkeypatch.setattr(loggers, "OPENING", 0.1)
    with pytest.raises(RunError, match=r"--logger wandb: no answer within 0\.1 s"):
        Background("wandb", TrainConfig(), tmp_path)
    answer.set()


def test_what_a_logger_fails_with_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Hanging):
        def write(self, figures: Mapping[str, float], step: int) -> None:  # noqa: ARG002
            raise OSError("no route to host")

    monkeypatch.setattr(loggers, "open_logger", lambda *_: Broken(threading.Event()))
    logger = Background("mlflow", TrainConfig(), tmp_path)
    logger.write({}, 1)
    logger.thread.join(10)
    with pytest.raises(OSError, match="no route"):
        logger.write({}, 2)
