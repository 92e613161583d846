"""Training that is killed, stopped or short of disk: whole files at every moment, nothing lost."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipelines import kernels
from pipelines.config import TrainConfig
from pipelines.data.store import Store
from pipelines.runs.directory import Run, create_run, open_run
from pipelines.runtime.device import describe_environment
from pipelines.train import describe_store, resolve, train
from tests.tiny_store import write_tiny_store
from tests.tiny_training import BATCHES, assert_same_run, tiny_config

# Forks a child for each line of JSON, the arguments of `deepgcn`; so imports take their time once.
# Answers with the child's number and, when it has ended, with its exit code and what it said.
COMMANDS = """
import json, os, sys
import pipelines.train, safetensors.torch, torch._dynamo, torch.utils.tensorboard
from deepgcn_cli.__main__ import run
from pipelines import kernels
from pipelines.training import loop

for line in sys.stdin:
    said, says = os.pipe()
    pid = os.fork()
    if not pid:
        os.dup2(says, 1)
        os.dup2(says, 2)
        loop.SAVE_SECONDS = 0.05  # some steps are saved, some are lost
        code = 70
        try:
            with kernels.use("reference"):
                code = run(json.loads(line))
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(says)
    print(pid, flush=True)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with os.fdopen(said) as text:
        print(json.dumps([code, text.read()]), flush=True)
"""


class Commands:
    """Runs `deepgcn` commands, one at a time, in processes that can be killed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = 0

    def start(self, *arguments: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(arguments) + "\n")
        self._process.stdin.flush()
        self.pid = int(self._answer())

    def end(self) -> tuple[int, str]:
        """Wait for the command; return its exit code and what it said."""
        code, said = json.loads(self._answer())
        return code, said

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@pytest.fixture
def commands() -> Iterator[Commands]:
    command = [sys.executable, "-c", COMMANDS]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        yield Commands(process)


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    """The modern recipe, so that there is a weight average to lose, for five epochs."""
    store = write_tiny_store(tmp_path / "data")
    config = tiny_config(store, tmp_path / "runs")
    return dataclasses.replace(config, recipe="modern", epochs=5, workers=2, test_area=3)


def whole_run(config: TrainConfig) -> Run:
    """Return the run that was never disturbed."""
    with kernels.use("reference"):
        return open_run(train(dataclasses.replace(config, name="whole")).run)


def begin(config: TrainConfig) -> Run:
    """Return a run that has been made and not yet gone on with."""
    store = Store.open(config.data)
    config = resolve(config, store)
    environment = describe_environment(torch.device("cpu"))
    return create_run(config, environment={**environment, **describe_store(config, store)})


def read_all(run: Run) -> int:
    """Read every file of a run, as somebody else might at any time; return the steps seen."""
    assert run.config.recipe == "modern"
    assert run.status["state"] in ("running", "interrupted", "failed")
    assert run.environment["store"]
    if run.training_state.is_file():
        state = torch.load(run.training_state, weights_only=True)
        assert state["average"] is not None
    for checkpoint in ("last", "best"):
        if run.checkpoint_path(checkpoint).is_file():
            assert load_file(run.checkpoint_path(checkpoint))
    records = run.metrics()
    steps = [record["step"] for record in records if record["event"] == "step"]
    assert steps == list(range(1, len(steps) + 1))
    return len(records)


def wait_for_records(run: Run, count: int) -> None:
    """Read the run's files over and over until there are so many records."""
    limit = time.monotonic() + 120
    while read_all(run) < count:
        assert time.monotonic() < limit, "no step in two minutes"
        time.sleep(0.02)


def go_on_until(commands: Commands, run: Run, records: int, seconds: float) -> None:
    """Resume a run, and return a little after so many records were added."""
    wanted = len(run.metrics()) + records
    commands.start("train", "--resume", str(run.path), "--quiet")
    wait_for_records(run, wanted)
    time.sleep(seconds)


def finish(commands: Commands, run: Run) -> None:
    """Resume a run undisturbed."""
    commands.start("train", "--resume", str(run.path), "--quiet")
    code, said = commands.end()
    assert code == 0, said


def checkpoint_step(run: Run) -> int:
    """Return the step that the run would resume from; 0 without a checkpoint."""
    if not run.training_state.is_file():
        return 0
    return int(torch.load(run.training_state, weights_only=True)["counters"]["step"])


@pytest.mark.slow
def test_kill_at_random_times_loses_only_steps_since_the_checkpoint(
    commands: Commands, config: TrainConfig
) -> None:
    rng = random.Random(0)
    run, whole = begin(config), whole_run(config)
    reached = [0]
    for _ in range(12):
        go_on_until(commands, run, rng.randint(1, 4), rng.uniform(0, 0.04))
        os.kill(commands.pid, signal.SIGKILL)
        code, _ = commands.end()
        if code == 0:
            break  # the training ended before the kill
        assert code == -signal.SIGKILL
        assert run.state == "interrupted"
        read_all(run)
        reached.append(checkpoint_step(run))
    assert len(reached) > 4, "the training ended before most kills"
    assert reached == sorted(reached), "a checkpoint was lost"
    assert 0 < reached[-1] < 5 * BATCHES, "the kills fell outside the training"
    finish(commands, run)
    assert_same_run(run, whole)
    assert not list(run.path.rglob("*.part"))


@pytest.mark.slow
def test_signals_at_random_times_lose_nothing(commands: Commands, config: TrainConfig) -> None:
    rng = random.Random(1)
    run, whole = begin(config), whole_run(config)
    for number in (signal.SIGTERM, signal.SIGINT) * 3:
        go_on_until(commands, run, rng.randint(1, 5), rng.uniform(0, 0.04))
        os.kill(commands.pid, number)
        code, said = commands.end()
        assert code == 130, said
        assert f"deepgcn train --resume {run.path}" in said
        assert run.status["state"] == "interrupted"
        steps = [record for record in run.metrics() if record["event"] == "step"]
        assert checkpoint_step(run) == len(steps) == run.status["step"]
    finish(commands, run)
    assert_same_run(run, whole)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux")
def test_a_disk_that_fills_up_anywhere_keeps_the_last_checkpoint(
    commands: Commands, config: TrainConfig
) -> None:
    run, whole = begin(config), whole_run(config)
    size = whole.training_state.stat().st_size
    weights = whole.weights("last").stat().st_size
    assert 1000 < weights < size
    # What does not fit any more: a record, the status, the weights, the state.
    for limit in (0, 100, 2000, weights - 1, size - 1):
        go_on_until(commands, run, 3, 0.0)
        while not run.training_state.is_file():  # three steps may take less than SAVE_SECONDS
            time.sleep(0.01)
        resource.prlimit(commands.pid, resource.RLIMIT_FSIZE, (limit, limit))
        code, said = commands.end()
        assert code == 1, said
        *warnings, error, advice = said.splitlines()  # events may be what does not fit first
        assert all(w.startswith("Warning: TensorBoard: ") for w in warnings), said
        assert error.startswith(f"Error: {run.path}: cannot write: File too large. ")
        step = checkpoint_step(run)
        last = f"The last checkpoint, {run.training_state}, is intact (step {step})."
        assert error.endswith(last)
        assert advice.endswith(f"resume it: deepgcn train --resume {run.path}")
        read_all(run)
        assert not list(run.path.rglob("*.part"))
    finish(commands, run)
    assert_same_run(run, whole)
