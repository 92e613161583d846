"""How a process's work on a run begins and ends, as its directory tells it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from pipelines.config import TrainConfig
from pipelines.errors import RunError
from pipelines.files import DISK_FULL, atomic_json, remove_unfinished

from .directory import CHECKPOINTS, ENVIRONMENT, Run, resume_command, save_config


def reopen(run: Run, config: TrainConfig, environment: Mapping[str, Any]) -> None:
    """Note that another process goes on with the run, with what `config` and `environment` say.

    The first process's environment stays; the later ones' follow under "resumed". What a killed
    process was writing is removed: the caller holds the run's lock, so nobody else writes there.
    """
    for folder in (run.path, run.path / CHECKPOINTS):
        remove_unfinished(folder)
    first = run.environment
    resumed = [*first.get("resumed", []), dict(environment)]
    atomic_json(run.path / ENVIRONMENT, {**first, "resumed": resumed})
    save_config(run, config)
    run.update_status(state="running", error=None)


@contextmanager
def record_outcome(run: Run) -> Iterator[None]:
    """Note in the run's status how the work in a `with` block ended, unless it just ended.

    Raises:
        RunError: the disk is full; says what is left.
    """
    try:
        yield
    except KeyboardInterrupt:
        run.update_status(state="interrupted")
        raise
    except Exception as error:
        with suppress(OSError):  # the disk may be full; what happened is raised below
            run.update_status(state="failed", error=str(error))
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise RunError(
                f"{run.path}: cannot write: {error.strerror}. {last_checkpoint(run)}\n"
                f"Make room, then go on with it: {resume_command(run.path)}"
            ) from error
        raise


def last_checkpoint(run: Run) -> str:
    """Return a sentence about the checkpoint that the run would go on from."""
    if not run.training_state.is_file():
        return "There is no checkpoint yet."
    # Not the status's step: what could not be written may be the status after the checkpoint.
    from pipelines.training.checkpoint import saved_step  # imports PyTorch

    step = saved_step(run.training_state)
    return f"The last checkpoint, {run.training_state}, is whole (step {step})."
