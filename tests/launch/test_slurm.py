"""What needs no SLURM: options, the batch script, what the queue says, a job as on a node.

The rest is in `tests/slurm`, against a real SLURM.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest

from pipelines.config import AblateConfig
from pipelines.config.options import options_of
from pipelines.errors import ConfigError, RunError
from pipelines.launch.slurm import SlurmLauncher, SlurmOptions

from .jobs import job, log, wait_for

# Calls a job as submitit does on a node; SIGUSR2 is submitit's, and so is what `requeue` does.
NODE = """
import signal, sys
from pathlib import Path
from pipelines.launch.slurm import SlurmCall
from tests.launch.jobs import job
call = SlurmCall(job("saver", "save", Path(sys.argv[1]), "saver"))
def requeue(*_):
    assert call.checkpoint().function == call
    sys.exit(99)
signal.signal(signal.SIGUSR2, requeue)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
call()
"""


def program(folder: Path, name: str, text: str) -> None:
    """Put a command of SLURM's into `folder` that runs the shell script `text`."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that alone is on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_without_slurm(commands: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"found no sbatch here[^|]*--launcher local"):
        next(SlurmLauncher(tmp_path, SlurmOptions()).run([job("a", "count", tmp_path, 1)]))
    assert list(commands.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("minutes", 0), ("gpus", -1), ("cpus", 0), ("memory_gb", 0), ("at_most", 0), ("requeues", -1)],
)
def test_options_are_checked(name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=f"{name}: found {value}, expected at least"):
        replace(SlurmOptions(), **{name: value})


def test_the_help_names_the_options() -> None:
    names = [each.name for each in fields(SlurmOptions) if each.name not in ("at_most", "extra")]
    assert f": {', '.join(names)}; any other" in options_of(AblateConfig)["slurm"].help


@pytest.mark.parametrize(("minutes", "seconds"), [(1, 20), (10, 60), (1440, 300)])
def test_the_time_to_save(minutes: int, seconds: int) -> None:
    assert SlurmOptions(minutes=minutes).submitit()["signal_delay_s"] == seconds


def test_one_array_is_submitted_and_found_again(commands: Path, tmp_path: Path) -> None:
    program(commands, "sbatch", f'/bin/cp "$1" {tmp_path}/script; echo Submitted batch job 5')
    program(commands, "srun", "exit 0")
    options = SlurmOptions(
        partition="gpu",
        minutes=90,
        gpus=2,
        cpus=6,
        memory_gb=32,
        at_most=3,
        extra={"account": "vision lab", "exclusive": ""},
        setup=("module load cuda",),
    )
    jobs = [job(f"job{number}", "count", tmp_path, 1) for number in range(8)]
    launcher = SlurmLauncher(tmp_path / "slurm", options)
    launcher.submit(jobs)
    (array,) = (tmp_path / "slurm").glob("*.json")
    lines = (tmp_path / "script").read_text().splitlines()
    for expected in (
        "--partition=gpu",
        "--time=90",
        "--gpus-per-node=2",
        "--cpus-per-task=6",
        "--mem=32GB",
        "--array=0-7%3",
        "--signal=USR2@300",
        "--requeue",
        "--account='vision lab'",
        "--exclusive",
        f"--job-name={array.stem}",
    ):
        assert f"#SBATCH {expected}" in lines
    (command,) = [line for line in lines if line.startswith("srun")]
    assert lines.index("export OMP_NUM_THREADS=6") < lines.index("module load cuda")
    assert lines.index("module load cuda") < lines.index(command)
    assert "--cpus-per-task=6" in command

    queue = [f"5_{number}|{array.stem}|PENDING" for number in range(1, 8)]
    queue += [f"5_0|{array.stem}|RUNNING", "7|another|RUNNING", "8|my|job|PENDING"]
    program(commands, "squeue", "\n".join(f'echo "{line}"' for line in queue))
    assert launcher.queued() == {"job0": "RUNNING", **{f"job{n}": "PENDING" for n in range(1, 8)}}
    launcher.submit([*jobs, job("new", "count", tmp_path, 1)])
    (second,) = {*(tmp_path / "slurm").glob("*.json")} - {array}
    assert json.loads(second.read_text()) == ["new"]
    assert "#SBATCH --array" not in (tmp_path / "script").read_text()


def test_a_queue_that_does_not_answer(commands: Path, tmp_path: Path) -> None:
    launcher = SlurmLauncher(tmp_path, SlurmOptions())
    assert launcher.queued() == {}, "nothing was submitted, so nothing is asked"
    (tmp_path / "deepgcn-1.json").write_text('["a"]')
    program(commands, "squeue", 'echo "slurm_load_jobs error: Unable to contact" >&2; exit 1')
    with pytest.raises(RunError, match="squeue: SLURM said: slurm_load_jobs error: Unable"):
        launcher.queued()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGUSR2, 99), (signal.SIGTERM, 130)])
def test_a_job_on_a_node_saves_and_goes_on(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    saver = job("saver", "save", tmp_path, "saver")
    process = subprocess.Popen([sys.executable, "-c", NODE, str(tmp_path)])
    wait_for(saver, "begins")
    process.send_signal(number)
    assert process.wait(20) == code, "by SIGUSR2 it is queued again, by SIGTERM SLURM does that"
    assert log(saver) == ["begins", "saved"]
    assert subprocess.run([sys.executable, "-c", NODE, str(tmp_path)]).returncode == 0
    assert log(saver) == ["begins", "saved", "goes on"]


def test_the_signal_of_the_time_limit_is_kept_from_children() -> None:
    code = (
        "import os, signal, subprocess, sys, time\n"
        "from pipelines.launch.slurm import keep_from_children\n"
        "signal.signal(signal.SIGUSR2, lambda *_: print('parent', flush=True))\n"
        "keep_from_children(signal.SIGUSR2)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1)'])\n"
        "time.sleep(0.3)\n"
        "for pid in (os.getpid(), child.pid): os.kill(pid, signal.SIGUSR2)\n"
        "time.sleep(0.1)\n"
        "print(child.wait())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["parent", "0"], done.stderr
