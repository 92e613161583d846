"""A training on two processes: started, stopped, killed and gone on with."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from pipelines import kernels
from pipelines.config import TrainConfig
from pipelines.data.store import Store
from pipelines.errors import ConfigError, RunError
from pipelines.runs.directory import Run, open_run
from pipelines.runs.lock import was_locked_here
from pipelines.train import train
from pipelines.weights.safetensors import load_weights
from tests.tiny_training import AtStep, assert_same_run, go_on, run_as, tiny_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def config(store: Store, tmp_path: Path) -> TrainConfig:
    return two_processes(store, tmp_path / "runs")


@pytest.fixture(scope="module")
def whole(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on two processes that was never stopped."""
    with kernels.use("reference"):
        return run_as(two_processes(store, tmp_path_factory.mktemp("runs")), "whole")


def two_processes(store: Store, runs: Path) -> TrainConfig:
    """A training with batches of 5, 5, 5, 5, … and 3 blocks: no part is half of one."""
    config = dataclasses.replace(tiny_config(store, runs), batch_size=5, devices=2, sync_bn=True)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, dropout=0.0))


def children(process: int) -> list[int]:
    """The processes that a process has started."""
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def workers(launcher: int) -> list[int]:
    """The ranks that a process has started, in order; multiprocessing starts a helper, too."""
    return [
        child
        for child in children(launcher)
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def signal_rank_1(number: int) -> None:
    os.kill(workers(os.getppid())[1], number)


def signal_launcher(number: int) -> None:
    os.kill(os.getppid(), number)


def losses(run: Run) -> list[float]:
    return [record["loss"] for record in run.metrics() if record["event"] == "step"]


def until(fact: Callable[[], object], seconds: float) -> None:
    """Wait for a fact."""
    end = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


def test_two_processes_learn_what_one_learns(config: TrainConfig) -> None:
    """In float32, on fixed graphs: a dynamic one magnifies rounding, on any number of processes."""
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, knn="fixed"))
    one, two = run_as(config, "one", devices=1), run_as(config, "two")
    assert losses(two) == pytest.approx(losses(one), rel=1e-3)
    epochs = [[r for r in run.metrics() if r["event"] == "epoch"] for run in (two, one)]
    for found, expected in zip(*epochs, strict=True):
        # Some of the few hundred points lie on the border of two classes.
        assert found["val_iou"] == pytest.approx(expected["val_iou"], abs=0.02)
    assert load_weights(two.weights("best")).config == config.model
    # With synchronised norms their number may change on the way.
    mixed = run_as(config, "mixed", devices=1, epochs=1)
    go_on(mixed, devices=2, epochs=2)
    assert losses(mixed) == pytest.approx(losses(one), rel=1e-3)


@pytest.mark.parametrize(
    ("target", "number"),
    [
        (signal_launcher, signal.SIGINT),
        (signal_rank_1, signal.SIGTERM),
    ],
)
def test_a_signal_to_any_process_stops_all_after_the_step(
    config: TrainConfig, whole: Run, target: Callable[[int], None], number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        run_as(config, "run", AtStep(3, partial(target, number)))
    assert not workers(os.getpid())
    assert signal.getsignal(number) is before
    run = open_run(config.runs / "run")
    assert was_locked_here(run.path)  # so that the command line finds it
    # The signal may reach the process while it computes a step after.
    assert (run.state, run.status["step"] in range(3, 7)) == ("interrupted", True)
    assert len(losses(run)) == run.status["step"]
    go_on(run)
    assert_same_run(run, whole)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_job_with_the_last_checkpoint_whole(
    config: TrainConfig, whole: Run, rank: int
) -> None:
    with pytest.raises(RunError) as error:
        run_as(config, "run", AtStep(13, partial(kill_rank, rank)))
    assert not workers(os.getpid())
    run = open_run(config.runs / "run")
    assert str(error.value) == (
        f"{run.path}: process {rank} of 2 was killed (SIGKILL). "
        f"The last checkpoint, {run.training_state}, is intact (step 10).\n"
        f"Resume it: deepgcn train --resume {run.path}"
    )
    assert (run.state, run.status["error"]) == ("failed", str(error.value))
    go_on(run)
    assert_same_run(run, whole)


def kill_rank(rank: int) -> None:
    os.kill(workers(os.getppid())[rank], signal.SIGKILL)


def command_line(config: TrainConfig, *more: str) -> list[str]:
    options = ["--depth", "3", "--width", "8", "-k", "4", "--dropout", "0", "--batch-size", "5"]
    places = ["--data", str(config.data), "--runs", str(config.runs), "--name", "run"]
    rest = ["--num-points", "64", "--device", "cpu", "--epochs", "2", "--sync-bn"]
    return ["-m", "deepgcn_cli", "train", *options, *places, *rest, *more]


def start(command: list[str], **environment: object) -> subprocess.Popen[str]:
    variables = {"PYTHONPATH": ROOT, "OMP_NUM_THREADS": 1, **environment}
    return subprocess.Popen(
        [sys.executable, *command],
        env={**os.environ, **{name: str(value) for name, value in variables.items()}},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def begun(config: TrainConfig) -> bool:
    metrics = config.runs / "run" / "metrics.jsonl"
    return metrics.is_file() and b"\n" in metrics.read_bytes()


def test_workers_save_and_end_when_their_launcher_is_killed(config: TrainConfig) -> None:
    launcher = start(command_line(config, "--devices", "2", "--epochs", "500"))
    until(lambda: begun(config), 120)
    ranks = workers(launcher.pid)
    launcher.kill()
    until(lambda: not any(Path(f"/proc/{rank}").exists() for rank in ranks), 30)
    launcher.communicate()
    run = open_run(config.runs / "run")
    assert (run.state, len(losses(run))) == ("interrupted", run.status["step"])


@pytest.mark.skipif(sys.version_info < (3, 11), reason="needs PYTHONSAFEPATH")
def test_workers_import_nothing_from_the_current_folder(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("socket", "pickle", "runpy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not a module of deepgcn')")
    monkeypatch.chdir(tmp_path)
    assert run_as(config, "run", max_steps=1).state == "finished"


@pytest.mark.slow
def test_srun_starts_the_same_training(config: TrainConfig) -> None:
    """With the variables that srun sets, on one machine that stands for two nodes."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    job = {
        "SLURM_JOB_ID": port - 20_000 if 20_000 <= port < 40_000 else 1234,
        "SLURM_STEP_NUM_TASKS": 2,
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_LOCALID": 0,
    }
    tasks = [start(command_line(config), **job, SLURM_PROCID=rank) for rank in range(2)]
    results = [task.communicate() for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0]
    assert "20 steps" in results[0][0]
    assert results[1] == ("", "")  # rank 0 alone speaks
    run = open_run(config.runs / "run")
    assert run.config.devices == 2
    with kernels.use(None):  # as the command line does
        assert_same_run(run_as(run.config, "launched"), run)


@pytest.mark.slow
def test_torchrun_ends_when_a_process_is_killed(config: TrainConfig) -> None:
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    job = start(
        [*command, *command_line(config)[0:2], *command_line(config)[2:], "--epochs", "500"]
    )
    until(lambda: begun(config), 120)
    os.kill(children(job.pid)[1], signal.SIGKILL)
    began = time.monotonic()
    _, said = job.communicate(timeout=60)
    assert job.returncode != 0
    assert time.monotonic() - began < 30
    assert "another process of the 2 of this training ended or does not answer" in said
    assert f"Resume it: deepgcn train --resume {config.runs / 'run'}" in said


def test_another_number_of_processes_is_another_training(config: TrainConfig) -> None:
    run = run_as(config, "run", devices=1, sync_bn=False, epochs=1)
    with pytest.raises(RunError, match="devices was 1, now 2"):
        go_on(run, devices=2)


def test_more_processes_than_blocks_are_refused(config: TrainConfig) -> None:
    with pytest.raises(ConfigError, match="--devices: found 6 with batches of 5"):
        dataclasses.replace(config, devices=6)


def test_a_run_that_cannot_begin_leaves_no_process(config: TrainConfig) -> None:
    (config.runs / "run").mkdir(parents=True)
    (config.runs / "run" / "something").touch()
    with pytest.raises(RunError, match="exists already"):
        train(config)
    assert not workers(os.getpid())


def test_a_folder_that_is_no_run_is_left_alone(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(RunError, match=r"found no config\.json"):
        train(config, resume=tmp_path / "mine")
    assert (tmp_path / "mine" / "file").is_file()
