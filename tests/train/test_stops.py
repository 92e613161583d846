"""The train stage: stopping it anywhere changes nothing, and going on is refused where it would."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score

from pipelines import kernels
from pipelines.config import TrainConfig
from pipelines.data.store import Store
from pipelines.errors import RunError
from pipelines.inference.segmentation import forward
from pipelines.progress import Progress, Task
from pipelines.runs.directory import Run, open_run
from pipelines.runs.lock import lock_run
from pipelines.serialization import to_plain
from pipelines.train import open_samplers, train
from pipelines.weights.safetensors import load_weights
from tests.tiny_store import write_tiny_store
from tests.tiny_training import (
    BATCHES,
    MODEL,
    AtStep,
    assert_same,
    assert_same_run,
    go_on,
    run_as,
    send,
    training_state,
    without_times,
)


@pytest.mark.parametrize(
    ("stop", "kernel"),
    [(1, "reference"), (5, "cpu"), (BATCHES, "reference"), (BATCHES + 1, "reference")],
)
def test_stopping_by_max_steps_changes_no_step(config: TrainConfig, stop: int, kernel: str) -> None:
    # Two threads share the work of the compiled kernels: that must not show either.
    config = dataclasses.replace(config, threads=1 if kernel == "reference" else 2)
    with kernels.use(kernel):
        whole = run_as(config, "whole")
        stopped = run_as(config, "stopped", max_steps=stop)
        assert stopped.state == "finished"
        assert stopped.status["step"] == stop
        assert stopped.weights("best").is_file()
        go_on(stopped, max_steps=None)
    for part in ("model", "optimizer", "rng"):
        assert_same(training_state(stopped)[part], training_state(whole)[part])
    steps = [[r for r in without_times(x) if r["event"] == "step"] for x in (stopped, whole)]
    assert steps[0] == steps[1]
    if stop == BATCHES:  # no validation but those of whole epochs
        assert_same_run(stopped, whole)


@pytest.mark.parametrize(
    ("step", "number"),
    [
        (1, signal.SIGTERM),
        (7, signal.SIGINT),
        (BATCHES, signal.SIGTERM),
        (BATCHES + 5, signal.SIGINT),
    ],
)
def test_a_signal_stops_after_the_step_and_loses_nothing(
    config: TrainConfig, whole: Run, step: int, number: signal.Signals
) -> None:
    listener = AtStep(step, send(number))
    with pytest.raises(KeyboardInterrupt):
        run_as(config, "stopped", listener)
    run = open_run(config.runs / "stopped")
    assert (run.state, run.status["step"]) == ("interrupted", step)
    assert listener.said[-1] == (
        f"Stopped at step {step} of 24; all is saved. "
        f"Resume with: deepgcn train --resume {run.path}"
    )
    go_on(run)
    assert_same_run(run, whole)
    assert len(run.environment["resumed"]) == 1


@pytest.mark.parametrize("parts", [(), ("sgd",)])
def test_every_part_of_the_modern_recipe_goes_on_as_it_was(
    config: TrainConfig, parts: tuple[str, ...]
) -> None:
    without = ("adamw",) if parts else ()
    config = dataclasses.replace(config, recipe="modern", without=without, extra=parts, workers=2)
    whole = run_as(config, "whole")
    for step in (5, BATCHES + 1):
        with pytest.raises(KeyboardInterrupt):
            run_as(config, f"at-{step}", AtStep(step, send(signal.SIGTERM)))
        run = open_run(config.runs / f"at-{step}")
        go_on(run)
        assert_same_run(run, whole)


def test_stopped_again_and_again(config: TrainConfig, whole: Run) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_as(config, "run", AtStep(3, send(signal.SIGTERM)), workers=3)
    run = open_run(config.runs / "run")
    for step in (1, 6, 4):
        with pytest.raises(KeyboardInterrupt):
            train(run.config, resume=run.path, progress=AtStep(step, send(signal.SIGTERM)))
    assert run.status["step"] == 14
    go_on(run, workers=2)
    assert_same_run(run, whole)


def test_a_second_signal_ends_at_once(config: TrainConfig, whole: Run) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_as(config, "run", AtStep(BATCHES + 3, send(signal.SIGINT, times=2)))
    run = open_run(config.runs / "run")
    assert (run.state, run.status["step"]) == ("interrupted", BATCHES)  # the epoch's checkpoint
    go_on(run)
    assert_same_run(run, whole)


KILLED = """
import os, signal, sys
from pathlib import Path
from pipelines import kernels
from pipelines.training import loop
from pipelines.runs.directory import open_run
from pipelines.train import open_samplers, train
from pipelines.weights.safetensors import load_weights

replace, calls = os.replace, 0

def count(source, target):
    global calls
    calls += 1
    if calls == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

os.replace = count
loop.SAVE_SECONDS = 0.0
run = open_run(Path(sys.argv[1]))
with kernels.use("reference"):
    train(run.config, resume=run.path)
"""


@pytest.mark.parametrize("kills", [[1], [9, 50]])
def test_kill_while_saving_leaves_no_half_file(
    config: TrainConfig, whole: Run, kills: list[int]
) -> None:
    with pytest.raises(KeyboardInterrupt):  # a run that has not got far
        run_as(config, "run", AtStep(2, send(signal.SIGTERM)))
    run = open_run(config.runs / "run")
    for call in kills:
        command = [sys.executable, "-c", KILLED, str(run.path), str(call)]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
        assert run.state == "interrupted"
        if call > 4:  # far enough into the run to have said so
            assert run.status["state"] == "running"
        assert 2 <= torch.load(run.training_state, weights_only=True)["counters"]["step"] < 24
    go_on(run)
    assert_same_run(run, whole)


def test_kill_before_the_first_checkpoint(config: TrainConfig, whole: Run) -> None:
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from pipelines.config import TrainConfig\n"
        "from pipelines.serialization import from_plain\n"
        "import json\n"
        "from pipelines import kernels\n"
        "from pipelines.training import loop\n"
        "from pipelines.train import train\n"
        "loop.Training.save = lambda self: os.kill(os.getpid(), signal.SIGKILL)\n"
        "with kernels.use('reference'):\n"
        "    train(from_plain(TrainConfig, json.loads(sys.argv[1])))\n"
    )
    command = [sys.executable, "-c", script, json.dumps(to_plain(config))]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    run = open_run(config.runs / "run")
    assert not run.training_state.exists()
    assert len(run.metrics()) == BATCHES
    go_on(run)
    assert_same_run(run, whole)


def test_a_full_disk_ends_the_run_with_the_last_checkpoint_whole(
    config: TrainConfig, whole: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.training.loop.SAVE_SECONDS", 0.0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))

    try:
        with pytest.raises(RunError) as error:
            run_as(config, "run", AtStep(5, fill))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    run = open_run(config.runs / "run")
    assert str(error.value) == (
        f"{run.path}: cannot write: File too large. "
        f"The last checkpoint, {run.training_state}, is intact (step 4).\n"
        f"Free some space, then resume it: deepgcn train --resume {run.path}"
    )
    assert run.state == "failed"
    assert not list(run.path.rglob("*.part"))
    go_on(run)
    assert_same_run(run, whole)


def test_a_loss_that_is_not_finite_ends_the_run(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.training.loop.SAVE_SECONDS", 0.0)
    with pytest.raises(RunError) as error:
        train(dataclasses.replace(config, lr=1e36))
    run = open_run(config.runs / "run")
    where, kept, advice = str(error.value).splitlines()
    assert "the loss is nan on batch 2 of epoch 1 (blocks of Area_" in where
    assert where.endswith("after step 1.")
    assert kept == f"The last checkpoint, {run.training_state}, is intact (step 1)."
    assert "--lr" in advice
    assert run.status["state"] == "failed"
    assert run.status["error"] == str(error.value)
    saved = torch.load(run.training_state, weights_only=True)["model"]
    assert all(torch.isfinite(value).all() for value in saved.values())


def test_a_finished_run_says_so_and_longer_ones_go_on(config: TrainConfig, whole: Run) -> None:
    run = run_as(config, "run", epochs=1)
    before = run.training_state.read_bytes()
    listener = AtStep()
    result = train(run.config, resume=run.path, progress=listener)
    assert listener.said == [f"{run.path}: already finished, step 12 of 12; nothing to do."]
    assert (result.steps, result.best_miou) == (BATCHES, run.status["best_miou"])
    assert run.training_state.read_bytes() == before
    go_on(run, epochs=2)
    assert_same_run(run, whole)
    assert run.config.epochs == 2
    listener = AtStep()
    train(dataclasses.replace(run.config, epochs=1), resume=run.path, progress=listener)
    beyond = "already finished, step 24, beyond the 12 asked for; nothing to do."
    assert listener.said == [f"{run.path}: {beyond}"]


def test_a_kill_between_the_last_checkpoint_and_the_status(config: TrainConfig) -> None:
    run = Run(train(config).run)
    known = dict(run.status)
    run.update_status(state="running", step=1, epoch=0, best_miou=None)
    train(config, resume=run.path)
    for name in ("state", "step", "epoch", "best_miou", "best_epoch", "steps_total"):
        assert run.status[name] == known[name], name


def test_other_settings_or_data_are_refused_and_change_nothing(
    config: TrainConfig, tmp_path: Path
) -> None:
    run = run_as(config, "run", epochs=1)
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    for changes, said in (
        ({"batch_size": 2}, "batch_size was 4, now 2"),
        ({"model": dataclasses.replace(MODEL, k=5)}, r"model\.k was 4, now 5"),
        ({"test_area": 1}, "test_area was 3, now 1"),
    ):
        with pytest.raises(RunError, match=said):
            go_on(run, **changes)
    other = write_tiny_store(tmp_path / "other", points=700)
    with pytest.raises(RunError, match=r"other data.*7 rooms changed: Area_1/office_1, "):
        go_on(run, data=other.path)
    assert {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()} == before


def test_one_process_at_a_time(config: TrainConfig) -> None:
    run = run_as(config, "run", epochs=1)
    with (
        lock_run(run.path),
        pytest.raises(RunError, match=rf"another process .*process {os.getpid()} on"),
    ):
        go_on(run, epochs=2)


class InValidation(Progress):
    """Sends SIGTERM in the second pass of a validation, and counts the blocks that follow."""

    def __init__(self) -> None:
        self.passes: list[float] = []
        self.said: list[str] = []

    @contextmanager
    def task(self, name: str, total: float | None = None, unit: str = "") -> Iterator[Task]:  # noqa: ARG002
        task = Task()
        if name == "Validating":
            self.total = total
            task.advance = self._advance  # type: ignore[method-assign]
        yield task

    def _advance(self, amount: float = 1, **fields: float | str) -> None:  # noqa: ARG002
        self.passes.append(amount)
        if len(self.passes) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    def say(self, message: str) -> None:
        self.said.append(message)


def test_a_signal_stops_validation_after_the_pass(config: TrainConfig, whole: Run) -> None:
    """Of 12 validation blocks, less than a step's batch, two are scored."""
    listener = InValidation()
    with pytest.raises(KeyboardInterrupt):
        run_as(config, "stopped", listener)
    assert listener.passes == [1, 1]
    assert listener.total is not None
    assert listener.total > 2
    run = open_run(config.runs / "stopped")
    assert (run.state, run.status["step"]) == ("interrupted", BATCHES)
    go_on(run)
    assert_same_run(run, whole)


def test_validation_can_be_bounded(config: TrainConfig) -> None:
    """The bounded scores are those of blocks 0, 4 and 8, counted one by one."""
    listener = InValidation()
    listener.passes = [0, 0]  # no signal
    run = run_as(config, "bounded", listener, val_blocks=3, epochs=1)
    assert listener.total == 3
    assert listener.passes == [0, 0, 1, 1, 1]
    store = Store.open(config.data)
    _, sampler = open_samplers(run.config, store)
    assert sampler is not None
    chosen = [0, len(sampler) // 3, 2 * len(sampler) // 3]
    model = load_weights(run.weights("last"))
    with kernels.use("reference"):
        pairs = (
            [sampler.batch(0, [n]).label[0] for n in chosen],
            [forward(model, sampler.batch(0, [n]).features)[0].argmax(axis=-1) for n in chosen],
        )
    label, predicted = map(np.concatenate, pairs)
    expected = [
        jaccard_score(label == c, predicted == c, zero_division=0) for c in np.unique(label)
    ]
    (record,) = (r for r in run.metrics() if r["event"] == "epoch")
    assert record["val_miou"] == pytest.approx(np.mean(expected))
