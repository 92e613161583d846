"""Where a run's figures go beside metrics.jsonl: TensorBoard always, trackers if asked for.

An event log is anything with `write(figures, step)` and `close(error)`; `trackers` has those of
MLflow and Weights & Biases. metrics.jsonl is the truth, so a log that fails stops nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from pipelines.config import TrainConfig
from pipelines.progress import Progress

from .trackers import open_tracker


class EventLog(Protocol):
    """One place that figures go to."""

    def write(self, figures: Mapping[str, float], step: int) -> None:
        """Write the figures of a step, by their tags: "train/loss", "validation/miou"."""

    def close(self, error: BaseException | None) -> None:
        """End with the training, or with what ended it."""


class TensorBoard:
    """TensorBoard events in a folder; earlier events from `step` on no longer count."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # half a second to import

        self.writer = SummaryWriter(str(folder), purge_step=step)

    def write(self, figures: Mapping[str, float], step: int) -> None:
        """Write scalars."""
        for tag, value in figures.items():
            self.writer.add_scalar(tag, value, step)

    def close(self, error: BaseException | None) -> None:  # noqa: ARG002
        """Close the file."""
        self.writer.close()


class Events:
    """All event logs of a run.

    Attributes:
        logs: by name; one that fails is taken out, and `progress` is told once.
    """

    def __init__(self, progress: Progress) -> None:
        self.logs: dict[str, EventLog] = {}
        self.progress = progress

    def write(self, record: Mapping[str, Any]) -> None:
        """Write the figures of a record of metrics.jsonl to every log."""
        figures, step = figures_of(record), int(record["step"])
        for name, log in list(self.logs.items()):
            try:
                log.write(figures, step)
            except Exception as error:
                self.progress.warn(f"{_failed(name, error)}; no more figures go there.")
                del self.logs[name]

    def close(self, error: BaseException | None) -> None:
        """Close every log."""
        for name, log in self.logs.items():
            try:
                log.close(error)
            except Exception as failure:
                self.progress.warn(f"{_failed(name, failure)}; its last figures may be missing.")


@contextmanager
def open_events(
    config: TrainConfig, run: Path, tensorboard: Path, *, step: int, progress: Progress
) -> Iterator[Events]:
    """Open the event logs of a run within a `with` block.

    Args:
        config: whose `loggers` are opened beside TensorBoard.
        run: the run directory.
        tensorboard: the folder of TensorBoard's events.
        step: the first step that will be written.
        progress: told what is logged where, and of logs that fail.

    Raises:
        RunError: a tracker cannot be opened.
    """
    events = Events(progress)
    try:
        events.logs["TensorBoard"] = TensorBoard(tensorboard, step)
        for name in config.loggers:
            tracker = open_tracker(name, config, run)
            events.logs[name] = tracker
            progress.say(f"{name}: {tracker.where}")
        yield events
    except BaseException as error:
        events.close(error)
        raise
    else:
        events.close(None)


def figures_of(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of a record of metrics.jsonl, grouped by the kind of event."""
    group = {"step": "train", "epoch": "validation"}[record["event"]]
    return {
        name.replace("val_", "validation/") if name.startswith("val_") else f"{group}/{name}": value
        for name, value in record.items()
        if isinstance(value, float)
    }


def _failed(name: str, error: Exception) -> str:
    return f"{name}: {(str(error) or type(error).__name__).splitlines()[0]}"
