"""MLflow and Weights & Biases, for `--logger`: parameters once, figures at every step and epoch.

`runs/<name>/loggers.json` says which of a tracker's runs belongs to this run, so that a resumed run
goes on in the same one. Both work without a network: MLflow writes to the folder `mlruns` beside
the runs unless MLFLOW_TRACKING_URI says otherwise, W&B to the run directory without an API key or
with WANDB_MODE=offline.
"""

from __future__ import annotations

import importlib.util
import json
import os
import time
import uuid
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pipelines.config import LOGGERS, TrainConfig
from pipelines.config.options import check_choice
from pipelines.errors import ConfigError, RunError
from pipelines.files import atomic_json
from pipelines.serialization import to_plain

RUNS_OF_LOGGERS = "loggers.json"
PROJECT = "deepgcn"  # MLflow's experiment and W&B's project unless their variables name another
FLUSH = 2.0  # seconds that figures may wait for the next request to an MLflow server


def check_loggers(names: Collection[str]) -> None:
    """Check that the packages of some loggers are there, without importing them.

    Raises:
        ConfigError: one is missing; says what to install.
    """
    for name in names:
        check_choice("logger", name, LOGGERS, flag="--logger")
        try:
            missing = importlib.util.find_spec(name) is None
        except ValueError:  # how find_spec tells of a module without a file
            missing = False
        if missing:
            raise ConfigError(
                f"--logger {name}: its package is missing.\n"
                f"Install it: pip install 'deepgcn[{name}]'"
            )


def open_tracker(name: str, config: TrainConfig, run: Path) -> MLflow | WeightsAndBiases:
    """Open the tracker `name` for the run in the directory `run`.

    Raises:
        RunError: it does not work; says what it said.
    """
    path = run / RUNS_OF_LOGGERS
    try:
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        kind: type[MLflow | WeightsAndBiases] = MLflow if name == "mlflow" else WeightsAndBiases
        tracker = kind(config, run, known.get(name, {}))
    except Exception as error:
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise RunError(
            f"--logger {name}: cannot be opened: {said}\n"
            "Mend that, or go on without it; metrics.jsonl has every figure."
        ) from error
    atomic_json(path, {**known, name: tracker.identity})
    return tracker


def flat_settings(config: TrainConfig) -> dict[str, Any]:
    """Return the configuration as one level: {"model.k": 16, "lr": 0.001, …}."""
    flat: dict[str, Any] = {}
    for name, value in to_plain(config).items():
        inner = value if isinstance(value, dict) else None
        flat.update({f"{name}.{key}": v for key, v in inner.items()} if inner else {name: value})
    return flat


class MLflow:
    """A run of MLflow.

    Attributes:
        identity: what finds the run again: its id, and the store that has it.
        where: for people.
    """

    def __init__(self, config: TrainConfig, run: Path, known: Mapping[str, Any]) -> None:
        store = (config.runs.parent / "mlruns").absolute().as_uri()
        uri = os.environ.get("MLFLOW_TRACKING_URI") or str(known.get("uri", store))
        # The folder is in maintenance, and the only store that needs no server and no database.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient(tracking_uri=uri)
        self.waiting: list[Any] = []
        self.flushed = time.monotonic()
        self.last: dict[str, int] = {}  # the last step that has each group of figures
        if known.get("id") and known.get("uri") == uri:
            self.id = str(known["id"])
            self.client.update_run(self.id, status="RUNNING")
            for tag in ("train/loss", "validation/miou"):
                steps = [found.step for found in self.client.get_metric_history(self.id, tag)]
                self.last[tag.partition("/")[0]] = max(steps, default=-1)
        else:
            self.id = self.client.create_run(self._experiment(), run_name=run.name).info.run_id
            settings = flat_settings(config)
            params = [Param(name, str(value)) for name, value in settings.items()]
            self.client.log_batch(self.id, params=params)
        self.identity = {"id": self.id, "uri": uri}
        self.where = f"run {self.id} in {uri}"

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self.client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self.client.create_experiment(name))

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
        """Send what waits."""
        waiting, self.waiting = self.waiting, []
        self.flushed = time.monotonic()
        if waiting:
            self.client.log_batch(self.id, metrics=waiting)

    def close(self, error: BaseException | None) -> None:
        """Send what waits, and end the run as finished, killed or failed."""
        self.flush()
        stopped = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        self.client.set_terminated(self.id, "FINISHED" if error is None else stopped)


class WeightsAndBiases:
    """A run of Weights & Biases; see `MLflow` for the attributes."""

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
        place = self.run.url if mode == "online" else f"{mode}, in {run}/wandb"
        self.where = f"run {self.run.id}, {place}"

    def write(self, figures: Mapping[str, float], step: int) -> None:
        """Add the figures of a step; W&B leaves out a step that is before its last one."""
        self.run.log(dict(figures), step=step)

    def close(self, error: BaseException | None) -> None:
        """End the run."""
        self.run.finish(exit_code=0 if error is None else 1)
