"""Trainings of seconds, what can be done at one of their steps, and how two runs compare."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from pipelines.config import ModelConfig, TrainConfig
from pipelines.data.store import Store
from pipelines.progress import SILENT, Progress, Task
from pipelines.runs.directory import Run, open_run
from pipelines.train import TrainResult, train

MODEL = ModelConfig(depth=3, width=8, k=4, fusion_channels=32)
BATCHES = 12  # of an epoch: 4 training rooms of 4 × 3 blocks, 4 a batch
TIMES = ("seconds", "data_wait", "blocks_per_second")


def tiny_config(store: Store, runs: Path) -> TrainConfig:
    return TrainConfig(
        model=MODEL,
        data=store.path,
        runs=runs,
        name="run",
        epochs=2,
        batch_size=4,
        num_points=64,
        device="cpu",
        threads=1,
    )


def run_as(config: TrainConfig, name: str, progress: Progress = SILENT, **changes: Any) -> Run:
    """Train under another name and return the run."""
    config = dataclasses.replace(config, name=name, **changes)
    return open_run(train(config, progress=progress).run)


def go_on(run: Run, **changes: Any) -> TrainResult:
    """Resume a run with its own configuration."""
    return train(dataclasses.replace(run.config, **changes), resume=run.path)


class AtStep(Progress):
    """Does something when a number of steps is done, and notes what is said.

    With several devices it works in rank 0: what happens there does not come back.
    """

    def __init__(self, step: int = 0, action: Callable[[], object] = bool) -> None:
        self.step, self.action = step, action
        self.steps = 0
        self.said: list[str] = []
        self.tasks: list[tuple[str, float | None]] = []
        self.fields: list[dict[str, float | str]] = []

    @contextmanager
    def task(self, name: str, total: float | None = None, unit: str = "") -> Iterator[Task]:  # noqa: ARG002
        self.tasks.append((name, total))
        task = Task()
        if name.startswith("Epoch"):
            task.advance = self._advance  # type: ignore[method-assign]
        yield task

    def _advance(self, amount: float = 1, **fields: float | str) -> None:
        if not fields:
            return
        self.fields.append({"amount": amount, **fields})
        self.steps += 1
        if self.steps == self.step:
            self.action()

    def say(self, message: str) -> None:
        self.said.append(message)


def send(number: signal.Signals, times: int = 1) -> Callable[[], None]:
    def action() -> None:
        for _ in range(times):
            os.kill(os.getpid(), number)

    return action


def training_state(run: Run) -> dict[str, Any]:
    """Return the checkpoint's content without times."""
    state = torch.load(run.training_state, weights_only=True)
    del state["counters"]["seconds"]
    return state


def without_times(run: Run) -> list[dict[str, Any]]:
    return [{n: v for n, v in r.items() if n not in TIMES} for r in run.metrics()]


def assert_same(found: Any, expected: Any, where: str = "state") -> None:
    """Compare nested values, tensors bit for bit."""
    if isinstance(expected, dict):
        assert list(found) == list(expected), where
        for name in expected:
            assert_same(found[name], expected[name], f"{where}.{name}")
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), where
    else:
        assert found == expected, where


def assert_same_run(found: Run, expected: Run) -> None:
    """Compare two runs bit for bit: state, weights, metrics, status."""
    assert_same(training_state(found), training_state(expected))
    for checkpoint in ("last", "best"):
        weights = load_file(found.weights(checkpoint))
        assert_same(weights, load_file(expected.weights(checkpoint)), checkpoint)
    assert without_times(found) == without_times(expected)
    for name in ("state", "step", "epoch", "best_miou", "best_epoch"):
        assert found.status[name] == expected.status[name]
