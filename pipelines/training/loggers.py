"""Log a run's figures: metrics.jsonl and TensorBoard always, MLflow and W&B if asked for.

metrics.jsonl has every figure, so a logger that fails does not stop the training. `loggers.json` in
the run directory names its runs in MLflow and W&B, so that a resumed run continues in the same
ones. Both work without a network: MLflow writes to the database `mlflow.db` beside the runs unless
MLFLOW_TRACKING_URI says otherwise, W&B to the run directory without an API key or with
WANDB_MODE=offline.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shlex
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from queue import Full, Queue
from typing import Any

from pipelines.config import TrainConfig
from pipelines.errors import ConfigError, RunError
from pipelines.files import atomic_json
from pipelines.progress import Progress
from pipelines.runs.directory import TENSORBOARD, MetricsLog, Run
from pipelines.serialization import to_plain

LOGGER_RUNS = "loggers.json"
DATABASE = ("sqlalchemy", "alembic")  # with which MLflow writes to a database
LOCAL = ("sqlite:", "file:")  # how MLflow's addresses of files begin
PROJECT = "deepgcn"  # MLflow's experiment and W&B's project unless their variables name another
EVENTS = "events.out.tfevents"  # how the name of a file of TensorBoard's begins
OPENING, CLOSING = 60.0, 30.0  # seconds that MLflow or W&B have to open and to end
WAITING = 10_000  # records that may wait for a logger that does not answer
FLUSH = 2.0  # seconds that figures may wait for the next request to an MLflow server


class RunLog:
    """metrics.jsonl and the loggers of a run; one that fails gives a warning and is dropped."""

    def __init__(self, metrics: MetricsLog, progress: Progress) -> None:
        self.metrics, self.progress = metrics, progress
        self.loggers: dict[str, Logger | Background] = {}  # by their names for people

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a record to metrics.jsonl and send its figures to every logger."""
        self.metrics.append(dict(record))
        figures, step = figures_of(record), int(record["step"])
        for name, logger in list(self.loggers.items()):
            try:
                logger.write(figures, step)
            except Exception as error:
                self.progress.warn(f"{name}: {_reason(error)}; no more figures go there.")
                del self.loggers[name]

    def close(self, error: BaseException | None) -> None:
        """Close every logger and metrics.jsonl."""
        for name, logger in self.loggers.items():
            try:
                logger.close(error)
            except Exception as failure:
                self.progress.warn(f"{name}: {_reason(failure)}; its last figures may be missing.")
        self.metrics.close()


@contextmanager
def open_log(
    config: TrainConfig, run: Run, progress: Progress, *, records: int, step: int
) -> Iterator[RunLog]:
    """Open metrics.jsonl, TensorBoard and the `loggers` of `config` in a `with` block.

    The first `records` lines of metrics.jsonl stay; the rest is from steps that will be repeated,
    from `step` on.

    RunError: a logger cannot be opened.
    """
    error: BaseException | None = None
    log = RunLog(MetricsLog(run, keep=records), progress)
    try:
        log.loggers["TensorBoard"] = TensorBoard(run.path / TENSORBOARD, step)
        for name in config.loggers:
            with progress.task(f"Opening {name}"):  # a new database takes several seconds
                log.loggers[name] = opened = Background(name, config, run.path)
            progress.say(f"{name}: {opened.where}")
        yield log
    except BaseException as found:
        error = found
        raise
    finally:
        log.close(error)


def figures_of(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of a record of metrics.jsonl by their tags.

    The loss of an epoch is the mean of its steps'.

    >>> figures_of({"event": "step", "step": 3, "loss": 0.5})
    {'train/loss': 0.5}
    >>> figures_of({"event": "epoch", "step": 3, "loss": 0.5, "val_miou": 0.4})
    {'epoch/loss': 0.5, 'validation/miou': 0.4}
    """
    group = "train" if record["event"] == "step" else "epoch"
    return {
        name.replace("val_", "validation/") if name.startswith("val_") else f"{group}/{name}": value
        for name, value in record.items()
        if isinstance(value, float)
    }


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def check_loggers(names: Collection[str]) -> None:
    """Check that the packages of some loggers are installed, or raise ConfigError."""
    for name in names:
        needed = (name, *DATABASE) if name == "mlflow" else (name,)
        if not all(map(importlib.util.find_spec, needed)):
            raise ConfigError(
                f"--logger {name}: its packages are missing ({', '.join(needed)}).\n"
                f"Install it: pip install 'deepgcn[{name}]'"
            )


def open_logger(name: str, config: TrainConfig, run: Path) -> Logger:
    """Open MLflow or W&B for the run in the directory `run`, or raise RunError with its message."""
    path = run / LOGGER_RUNS
    try:
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        kind: type[MLflow | WeightsAndBiases] = MLflow if name == "mlflow" else WeightsAndBiases
        logger = kind(config, run, known.get(name, {}))
    except Exception as error:
        raise RunError(
            f"--logger {name}: cannot be opened: {_reason(error)}\n"
            "Fix that, or continue without it; metrics.jsonl has every figure."
        ) from error
    atomic_json(path, {**known, name: logger.identity})
    return logger


class Background:
    """MLflow or W&B in a thread of its own, so that a server which does not answer delays no step.

    RunError: it cannot be opened, or not within OPENING seconds.
    """

    def __init__(self, name: str, config: TrainConfig, run: Path) -> None:
        self.where = ""
        self.failure: Exception | None = None
        self.opened = threading.Event()
        self.calls: Queue[Callable[[Logger], None] | None] = Queue(WAITING)
        self.thread = threading.Thread(target=self._serve, args=(name, config, run), daemon=True)
        self.thread.start()
        if not self.opened.wait(OPENING):
            raise RunError(
                f"--logger {name}: no answer within {OPENING:g} s.\n"
                "See that its server can be reached, or continue without it; metrics.jsonl has "
                "every figure."
            )
        if self.failure is not None:
            raise self.failure

    def _serve(self, name: str, config: TrainConfig, run: Path) -> None:
        """Open the logger, and make the calls that come."""
        try:
            logger = open_logger(name, config, run)
            self.where = logger.where
            self.opened.set()
            while (call := self.calls.get()) is not None:
                call(logger)
        except Exception as error:
            self.failure = error
        finally:
            self.opened.set()

    def _call(self, call: Callable[[Logger], None] | None) -> None:
        if self.failure is not None:
            raise self.failure
        try:
            self.calls.put_nowait(call)
        except Full:
            raise TimeoutError(f"no answer, and {WAITING:,} records wait") from None

    def write(self, figures: Mapping[str, float], step: int) -> None:
        """Let the thread write; raise why an earlier call has failed."""
        self._call(lambda logger: logger.write(figures, step))

    def close(self, error: BaseException | None) -> None:
        """Let the thread end the logger, and wait for that; TimeoutError: longer than CLOSING."""
        self._call(lambda logger: logger.close(error))
        self._call(None)
        self.thread.join(CLOSING)
        if self.failure is not None:
            raise self.failure
        if self.thread.is_alive():
            raise TimeoutError(f"no answer within {CLOSING:g} s")


def flat_settings(config: TrainConfig) -> dict[str, Any]:
    """Return the configuration as one level: {"model.k": 16, "lr": 0.001, …}."""
    settings = to_plain(config)
    model = {f"model.{name}": value for name, value in settings.pop("model").items()}
    return {**model, **settings}


class TensorBoard:
    """TensorBoard events in a folder; earlier events from `step` on no longer count.

    PyTorch's SummaryWriter writes in a thread of its own, which prints a traceback when the disk
    is full. Here a failure to write is raised where it happens.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.identity: dict[str, str] = {}
        self.where = str(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads files in the order of their names, also if the clock was set back.
        begun = [name.split(".")[3] for name in os.listdir(folder) if name.startswith(EVENTS)]
        now = max(int(time.time()), *(int(each) + 1 for each in begun if each.isdecimal()), 0)
        name = f"{EVENTS}.{now}.{platform.node()}.{time.time_ns()}"
        # Unbuffered: an event is written whole and at once.
        self.file = RecordWriter((folder / name).open("wb", buffering=0))
        self._write(file_version="brain.Event:2")
        self._write(step=step, session_log=SessionLog(status=SessionLog.START))

    def _write(self, **event: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self.file.write(Event(wall_time=time.time(), **event).SerializeToString())

    def write(self, figures: Mapping[str, float], step: int) -> None:
        """Write scalars."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in figures.items()]
        self._write(step=step, summary=Summary(value=values))

    def close(self, error: BaseException | None) -> None:  # noqa: ARG002
        """Close the file."""
        self.file.close()


class MLflow:
    """A run of MLflow, found again by its id and its store."""

    def __init__(self, config: TrainConfig, run: Path, known: Mapping[str, Any]) -> None:
        place = config.runs.parent.absolute()
        uri = os.environ.get("MLFLOW_TRACKING_URI") or str(
            known.get("uri", f"sqlite:///{place.as_posix()}/mlflow.db")
        )
        asked = os.environ.get("MLFLOW_TRACKING_URI") == uri
        if not asked and not uri.startswith(LOCAL):  # no file decides where figures are sent
            raise ValueError(f"the run names {uri}; if you know it: MLFLOW_TRACKING_URI={uri}")
        if uri == known.get("uri") and uri.startswith("file:"):  # a run of version 0.1 goes on
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # stderr has the progress bars
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient(tracking_uri=uri)
        self.waiting: list[Any] = []
        self.flushed = time.monotonic()
        self.last: dict[str, int] = {}  # the last step that has each group of figures
        if known.get("id") and known.get("uri") == uri:
            self.id = str(known["id"])
            self.client.update_run(self.id, status="RUNNING")
            for tag in ("train/loss", "epoch/loss", "validation/miou"):
                steps = [metric.step for metric in self.client.get_metric_history(self.id, tag)]
                self.last[tag.partition("/")[0]] = max(steps, default=-1)
        else:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            found = self.client.get_experiment_by_name(name)
            # A database holds no files; without a folder for them MLflow takes the current one.
            files = (place / "mlartifacts").as_uri() if uri.startswith("sqlite:") else None
            experiment = (
                found.experiment_id if found else self.client.create_experiment(name, files)
            )
            self.id = self.client.create_run(str(experiment), run_name=run.name).info.run_id
            params = [Param(name, str(value)) for name, value in flat_settings(config).items()]
            self.client.log_batch(self.id, params=params)
        self.identity = {"id": self.id, "uri": uri}
        look = f"; look at it: mlflow ui --backend-store-uri {shlex.quote(uri)}"
        look = look if uri.startswith(LOCAL) else ""
        self.where = f"run {self.id} in {uri}{look}"

    def write(self, figures: Mapping[str, float], step: int) -> None:
        """Add the figures of a step, unless the run has them from before it was resumed."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self.waiting += [
            Metric(tag, value, now, step)
            for tag, value in figures.items()
            if step > self.last.get(tag.partition("/")[0], -1)
        ]
        if time.monotonic() - self.flushed > FLUSH or len(self.waiting) > 500:
            self.flush()

    def flush(self) -> None:
        """Send the figures that wait."""
        waiting, self.waiting = self.waiting, []
        self.flushed = time.monotonic()
        if waiting:
            self.client.log_batch(self.id, metrics=waiting)

    def close(self, error: BaseException | None) -> None:
        """Send the last figures, and end the run as finished, killed or failed."""
        self.flush()
        stopped = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        self.client.set_terminated(self.id, "FINISHED" if error is None else stopped)


class WeightsAndBiases:
    """A run of Weights & Biases, found again by its id."""

    def __init__(self, config: TrainConfig, run: Path, known: Mapping[str, Any]) -> None:
        import wandb

        mode: Any = os.environ.get("WANDB_MODE")
        if not mode:  # without an API key `init` would ask for one
            mode = "online" if wandb.login(prompt=False, verify=False) else "offline"
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            id=str(known.get("id") or uuid.uuid4().hex[:12]),
            resume="allow",
            dir=str(run),
            config=flat_settings(config),
            mode=mode,
            allow_val_change=True,
            settings=wandb.Settings(silent=True, console="off"),  # stderr has the progress bars
        )
        self.identity = {"id": self.run.id}
        self.where = f"run {self.run.id}, {self.run.url}"
        if self.run.disabled:
            self.where = "disabled by WANDB_MODE, so nothing is kept"
        elif self.run.offline:
            folder = shlex.quote(str(Path(self.run.dir).parent))
            self.where = (
                f"run {self.run.id}, offline, in {folder}; "
                f"look at it: wandb leet {folder}, or upload it: wandb sync {folder}"
            )

    def write(self, figures: Mapping[str, float], step: int) -> None:
        """Add the figures of a step; W&B leaves out a step that is before its last one."""
        self.run.log(dict(figures), step=step)

    def close(self, error: BaseException | None) -> None:
        """End the run."""
        self.run.finish(exit_code=0 if error is None else 1)


# Each has `write` (figures by their tags, "train/loss", and the step), `close` (with what ended the
# training, or None), `identity` (finds its run again) and `where` (for people).
Logger = TensorBoard | MLflow | WeightsAndBiases
