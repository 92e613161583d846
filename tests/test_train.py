"""The train stage: what a run leaves, and that stopping it anywhere changes nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import jaccard_score

from pipelines import kernels
from pipelines.config import ModelConfig, TrainConfig, to_plain
from pipelines.data.sampler import Batch, BlockSampler
from pipelines.data.store import Store
from pipelines.errors import ConfigError, RunError
from pipelines.model.weights import load_weights, read_metadata
from pipelines.progress import SILENT, Progress, Task
from pipelines.results.lock import lock_run
from pipelines.results.runs import Run, latest_finished, open_run
from pipelines.runtime.loop import Pace, Step
from pipelines.train import TrainResult, open_samplers, train
from pipelines.training import shown
from tests.tiny_store import write_tiny_store

MODEL = ModelConfig(depth=3, width=8, k=4, fusion_channels=32)
BATCHES = 12  # of an epoch: 4 training rooms of 4 × 3 blocks, 4 a batch
TIMES = ("seconds", "data_wait", "blocks_per_second")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_tiny_store(tmp_path_factory.mktemp("tiny") / "data")


@pytest.fixture(autouse=True)
def _readable_kernels() -> Iterator[None]:
    with kernels.use("eager"):  # compiling the others would take most of the time
        yield


@pytest.fixture
def config(store: Store, tmp_path: Path) -> TrainConfig:
    return tiny_config(store, tmp_path / "runs")


@pytest.fixture(scope="module")
def whole(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that was never stopped."""
    with kernels.use("eager"):
        return run_as(tiny_config(store, tmp_path_factory.mktemp("runs")), "whole")


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
    """Does something when a number of steps is done, and notes what is said."""

    def __init__(self, step: int = 0, action: Callable[[], None] = lambda: None) -> None:
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


def miou_of(run: Run, validation: BlockSampler) -> float:
    """Return the mIoU of the last weights, computed apart from the stage."""
    model = load_weights(run.weights("last"))
    label, guess = [], []
    for block in range(len(validation)):
        features, its_label = validation.sample(0, block)
        with torch.no_grad():
            guess.append(model(torch.from_numpy(features)[None])[0].argmax(-1).numpy())
        label.append(its_label)
    return float(jaccard_score(np.concatenate(label), np.concatenate(guess), average="macro"))


def test_a_run_says_its_length_from_the_first_step_on(config: TrainConfig) -> None:
    """So that a study's bar knows how far its runs are before their first checkpoint."""
    found: list[dict[str, Any]] = []
    runs = config.runs
    look = AtStep(1, lambda: found.append(json.loads(next(runs.glob("*/status.json")).read_text())))
    train(config, progress=look)
    assert (found[0]["state"], found[0]["steps_total"]) == ("running", 2 * BATCHES)


def test_a_run_leaves_what_it_promises(config: TrainConfig, store: Store) -> None:
    result = train(config)
    run = open_run(result.run)
    assert run == latest_finished(config.runs)
    resolved = dataclasses.replace(config, test_area=3, lr=1e-3)  # the store's fold, Adam's rate
    assert run.config == resolved
    assert run.environment["store"]["fingerprint"] == store.fingerprint
    assert run.environment["packages"]["torch"] == torch.__version__
    assert run.environment["threads"] == 1
    assert (result.steps, result.epochs) == (2 * BATCHES, 2)
    assert result.blocks_per_second > 0
    assert 0 <= result.data_wait < 1
    status = run.status
    assert (status["state"], status["step"], status["steps_total"]) == ("finished", 24, 24)
    events = [record["event"] for record in run.metrics()]
    assert events == (["step"] * BATCHES + ["epoch"]) * 2
    assert [r["step"] for r in run.metrics() if r["event"] == "step"] == list(range(1, 25))
    assert {r["lr"] for r in run.metrics() if r["event"] == "step"} == {1e-3}
    assert load_weights(run.weights("best")).config == MODEL
    facts = read_metadata(run.weights("last"))
    assert (facts["num_points"], facts["step"], facts["test_area"]) == ("64", "24", "3")
    assert facts["classes"].split() == list(store.classes)


def test_batch_norm_follows_the_recipe(config: TrainConfig) -> None:
    run = run_as(config, "one", max_steps=1)
    tracked = load_file(run.weights("last"))
    mean = tracked["fusion.norm.running_mean"]
    other = load_file(
        run_as(
            config, "torch", max_steps=1, model=dataclasses.replace(MODEL, layout="torch")
        ).weights("last")
    )["fusion.norm.running_var"]
    # One step from (0, 1): momentum 0.5 halves the 1 of the variance, momentum 0.1 keeps 0.9.
    assert mean.abs().max() > 0
    assert (tracked["fusion.norm.running_var"] >= 0.5).all()
    assert tracked["fusion.norm.running_var"].min() < 0.9
    assert (other >= 0.9).all()


def test_the_loss_goes_down_and_the_classes_are_learned(config: TrainConfig) -> None:
    run = run_as(config, "longer", epochs=6, num_points=128)
    losses = [record["loss"] for record in run.metrics() if record["event"] == "step"]
    assert np.mean(losses[-BATCHES:]) < 0.25 * np.mean(losses[:3])
    assert run.status["best_miou"] > 0.7


def test_the_test_area_is_never_looked_at(config: TrainConfig, store: Store) -> None:
    for area in store.areas:
        held_out = dataclasses.replace(config, test_area=area)
        for sampler in open_samplers(held_out, store):
            assert area not in {room.area for room in sampler.rooms}


def test_best_is_the_first_of_the_highest(config: TrainConfig) -> None:
    run = run_as(config, "rough", epochs=5, lr=0.003)
    scores = [record["val_miou"] for record in run.metrics() if record["event"] == "epoch"]
    assert any(later < earlier for earlier, later in pairwise(scores))  # or this tests nothing
    best = int(np.argmax(scores)) + 1
    assert run.status["best_epoch"] == best
    assert run.status["best_miou"] == max(scores)
    until_then = run_as(config, "until", epochs=best, lr=0.003)
    weights = load_file(run.weights("best"))
    assert_same(weights, load_file(until_then.weights("last")))
    assert int(read_metadata(run.weights("best"))["step"]) == best * BATCHES


def test_validation_scores_are_those_of_the_saved_weights(
    config: TrainConfig, store: Store
) -> None:
    run = run_as(config, "one", epochs=1)
    _, validation = open_samplers(run.config, store)
    assert run.metrics()[-1]["val_miou"] == pytest.approx(miou_of(run, validation), abs=1e-12)


@pytest.mark.parametrize(
    ("stop", "kernel"), [(1, "eager"), (5, "cpu"), (BATCHES, "eager"), (BATCHES + 1, "eager")]
)
def test_stopping_by_max_steps_changes_no_step(config: TrainConfig, stop: int, kernel: str) -> None:
    # Two threads share the work of the compiled kernels: that must not show either.
    config = dataclasses.replace(config, threads=1 if kernel == "eager" else 2)
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
        f"Stopped at step {step} of 24; all is saved. Go on with: deepgcn train --resume {run.path}"
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


def test_the_average_is_what_is_validated_and_saved(config: TrainConfig, store: Store) -> None:
    config = dataclasses.replace(config, extra=("ema",))
    run = run_as(config, "run", epochs=1)
    state = training_state(run)
    for checkpoint in ("last", "best"):
        weights = load_file(run.weights(checkpoint))
        assert_same(weights, {name: state["average"][name] for name in weights})
        assert len(weights) == len(state["average"])
    assert not torch.equal(
        state["model"]["classifier.weight"], state["average"]["classifier.weight"]
    )
    assert read_metadata(run.weights("best"))["weights"] == "average"
    _, validation = open_samplers(run.config, store)
    assert run.metrics()[-1]["val_miou"] == pytest.approx(miou_of(run, validation), abs=1e-12)
    # The steps are those of a run without it: the average looks on.
    plain = run_as(config, "plain", epochs=1, extra=())
    for part in ("model", "optimizer", "rng"):
        assert_same(state[part], training_state(plain)[part])
    assert training_state(plain)["average"] is None
    assert read_metadata(plain.weights("best"))["weights"] == "as trained"


def test_parts_of_the_sampling_reach_the_training_blocks_alone(
    config: TrainConfig, store: Store
) -> None:
    def epochs(*extra: str) -> list[list[np.ndarray]]:
        changed = dataclasses.replace(config, test_area=3, extra=extra)
        return [[s.sample(e, 0)[0] for e in (0, 1)] for s in open_samplers(changed, store)]

    for extra, differ in (((), False), (("resample",), True), (("jitter",), True)):
        training, validation = epochs(*extra)
        assert np.array_equal(*training) != differ
        assert np.array_equal(*validation)
    balanced, validation = open_samplers(
        dataclasses.replace(config, test_area=3, extra=("balance",)), store
    )
    assert max(balanced.order(0)) >= len(balanced)
    assert max(validation.order(0)) == len(validation) - 1


def test_gpu_memory_is_shown_where_there_is_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 5 * 2**29)  # noqa: ARG005
    batch = Batch(np.zeros((1, 1, 9)), np.zeros((1, 1)), (0,))
    figures = shown(Step(0.5, 1e-3, batch, 1.0, 0.0), Pace(), torch.device("cuda"))
    assert figures["GPU memory"] == "2.5 GiB"


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
from pipelines import kernels, training
from pipelines.results.runs import open_run
from pipelines.train import train

replace, calls = os.replace, 0

def count(source, target):
    global calls
    calls += 1
    if calls == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

os.replace = count
training.SAVE_SECONDS = 0.0
run = open_run(Path(sys.argv[1]))
with kernels.use("eager"):
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
        "from pipelines.config import TrainConfig, from_plain\n"
        "import json\n"
        "from pipelines import kernels, training\n"
        "from pipelines.train import train\n"
        "training.Training.save = lambda self: os.kill(os.getpid(), signal.SIGKILL)\n"
        "with kernels.use('eager'):\n"
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
    monkeypatch.setattr("pipelines.training.SAVE_SECONDS", 0.0)
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
        f"The last checkpoint, {run.training_state}, is whole (step 4).\n"
        f"Make room, then go on with it: deepgcn train --resume {run.path}"
    )
    assert run.state == "failed"
    assert not list(run.path.rglob("*.part"))
    go_on(run)
    assert_same_run(run, whole)


def test_a_loss_that_is_not_finite_ends_the_run(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.training.SAVE_SECONDS", 0.0)
    with pytest.raises(RunError) as error:
        train(dataclasses.replace(config, lr=1e36))
    run = open_run(config.runs / "run")
    where, kept, advice = str(error.value).splitlines()
    assert "the loss is nan on batch 2 of epoch 1 (blocks of Area_" in where
    assert where.endswith("after step 1.")
    assert kept == f"The last checkpoint, {run.training_state}, is whole (step 1)."
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


def test_what_cannot_work_leaves_no_run(config: TrainConfig) -> None:
    with pytest.raises(ConfigError, match=r"--area: found 5, expected an area .*: 1, 2, 3\."):
        train(dataclasses.replace(config, test_area=5))
    with pytest.raises(RunError, match="found no run there"):
        train(config, resume=config.runs / "nothing")
    assert not config.runs.exists()


def test_progress_hears_facts_and_figures(config: TrainConfig) -> None:
    listener = AtStep()
    train(config, progress=listener)
    assert "resgcn-3 (edge, C 8, k 4)" in listener.said[0]
    assert "test area 3; 4 training rooms (48 blocks); 1 validation room;" in listener.said[0]
    assert "cpu, 1 thread" in listener.said[0]
    assert [line.split(":")[0] for line in listener.said[1:]] == ["Epoch 1/2", "Epoch 2/2"]
    epochs = [task for task in listener.tasks if task[0].startswith("Epoch")]
    assert epochs == [("Epoch 1/2", 48), ("Epoch 2/2", 48)]
    assert sum(float(fields["amount"]) for fields in listener.fields) == 96
    assert set(listener.fields[0]) == {"amount", "loss", "lr", "blocks/s", "data wait"}
    assert "lr 0.001, seed 0" in listener.said[0]


def test_tensorboard_shows_the_metrics(config: TrainConfig) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = run_as(config, "run", epochs=1)
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    steps = [record for record in run.metrics() if record["event"] == "step"]
    shown = events.Scalars("train/loss")
    assert [event.step for event in shown] == [record["step"] for record in steps]
    assert [e.value for e in shown] == pytest.approx([record["loss"] for record in steps])
    assert [e.value for e in events.Scalars("validation/miou")] == pytest.approx(
        [run.status["best_miou"]]
    )


def test_threads_are_given_back(config: TrainConfig) -> None:
    before = torch.get_num_threads()
    train(dataclasses.replace(config, max_steps=1))
    assert torch.get_num_threads() == before
