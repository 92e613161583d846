"""One row and seed of a study in a process of its own: train, or go on with that, and score."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from pipelines.config import TrainConfig
from pipelines.errors import ConfigError
from pipelines.progress import SILENT, Progress
from pipelines.runs.directory import Run
from pipelines.runs.lock import is_locked
from pipelines.runs.resume import FREE
from pipelines.runtime.device import cpu_threads
from pipelines.sixfold import scores_of
from pipelines.train import train

from .gather import STARTED, cell_name
from .matching import KnownRuns, free_name
from .study_file import Plan, load_plan, seeded

POLL = 5.0  # seconds between two looks at a run that another process is training


def ablate_job(study: Path, row: str, seed: int, *, progress: Progress = SILENT) -> Path:
    """Bring a row and seed of the study in a file to its end, from wherever it is.

    A finished run with these settings is scored, an unfinished one gone on with; else a new one is
    trained. While another process trains it, this one waits. Does nothing the second time.

    Returns:
        The run directory.

    Raises:
        ConfigError: the row does not exist or cannot be trained.
        RunError: the study file is missing or damaged, or the run fails.
        DatasetError: the store is missing or broken.
    """
    progress.say(f"{STARTED}{row}, seed {seed}")
    plan = load_plan(study)
    planned = plan.row(row)
    if planned.config is None:
        raise ConfigError(planned.error)
    config = seeded(planned, seed)
    wanted = f"{plan.name}-{cell_name(row, seed)}"
    run = _trained(config, wanted, plan, progress)
    options = dataclasses.replace(plan.evaluation, data=config.data)
    with cpu_threads(config.threads):
        scores_of(options, plan.protocol, run, progress)
    return run.path


def _trained(config: TrainConfig, wanted: str, plan: Plan, progress: Progress) -> Run:
    run = _match(config, plan, progress)
    if run is None:
        name = free_name(config.runs, wanted)
        return Run(train(dataclasses.replace(config, name=name), progress=progress).run)
    if run.state == "finished":
        progress.say(f"{run.path}: trained before")
        return run
    progress.say(f"{run.path}: {run.state}; going on with it")
    # The run's own settings, which are those of the row, with what the row says of the rest.
    free = {name: getattr(config, name) for name in FREE if name != "name"}
    own = dataclasses.replace(run.config, **free)
    return Run(train(own, resume=run.path, progress=progress).run)


def _match(config: TrainConfig, plan: Plan, progress: Progress) -> Run | None:
    """Return the run with these settings, once no other process is training it."""
    said = False
    while True:
        run = KnownRuns(config.runs).match(config, plan.fingerprint)
        if run is None or not is_locked(run.path):
            return run
        if not said:
            progress.say(f"{run.path}: another process is training it; waiting")
            said = True
        time.sleep(POLL)
