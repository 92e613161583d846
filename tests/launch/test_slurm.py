"""What needs no SLURM: messages, the list of submitted jobs, a command as on a node.

The rest is in `tests/slurm`, against a real SLURM.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.errors import ConfigError, RunError
from pipelines.launch import slurm_queue
from pipelines.launch.local import Job
from pipelines.launch.slurm import SlurmOptions, slurm_launcher
from pipelines.launch.slurm_ledger import Ledger, Submitted
from pipelines.launch.slurm_node import NodeJob

# Runs a NodeJob as submitit does: SIGUSR2 calls its checkpoint, which is followed by an exit.
NODE = """
import json, signal, sys
from pipelines.launch import slurm_node
from pipelines.launch.slurm_node import NodeJob
slurm_node.REQUEUE = 0.2
job = NodeJob(**json.loads(sys.argv[1]))
def requeue(*_):
    again = job.checkpoint()
    print(json.dumps([vars(again.function)["command"], again.function.process is None]))
    sys.exit(99)
signal.signal(signal.SIGUSR2, requeue)
job()
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
        slurm_launcher(SlurmOptions(tmp_path))
    assert list(commands.iterdir()) == []


def test_without_submitit(commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sbatch", "squeue", "srun"):
        program(commands, name, "exit 0")
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigError, match=r"pip install 'deepgcn\[slurm\]'"):
        slurm_launcher(SlurmOptions(tmp_path))


@pytest.mark.parametrize(
    ("name", "value"),
    [("minutes", 0), ("gpus", -1), ("cpus", 0), ("memory_gb", 0), ("at_most", 0), ("requeues", -1)],
)
def test_options_are_checked(tmp_path: Path, name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=f"{name}: found {value}, expected at least"):
        replace(SlurmOptions(tmp_path), **{name: value})


@pytest.mark.parametrize(("minutes", "seconds"), [(1, 20), (10, 60), (1440, 300)])
def test_the_time_to_save(tmp_path: Path, minutes: int, seconds: int) -> None:
    assert SlurmOptions(tmp_path, minutes=minutes).save_seconds == seconds


def test_the_batch_script(commands: Path, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    program(commands, "sbatch", f'/bin/cp "$1" {tmp_path}/script; echo Submitted batch job 5')
    for name in ("squeue", "srun"):
        program(commands, name, "exit 0")
    options = SlurmOptions(
        tmp_path,
        partition="gpu",
        minutes=90,
        gpus=2,
        cpus=6,
        memory_gb=32,
        at_most=3,
        extra={"account": "vision lab", "exclusive": ""},
        setup=("module load cuda",),
    )
    jobs = [Job(f"job{number}", ("true",), tmp_path / "log") for number in range(8)]
    submitted = slurm_launcher(options).submit(jobs)
    assert [job.id for job in submitted.values()] == [f"5_{number}" for number in range(8)]
    assert slurm_launcher(options).ledger.read() == submitted
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
        f"--job-name={submitted['job0'].submission}",
    ):
        assert f"#SBATCH {expected}" in lines
    (command,) = [line for line in lines if line.startswith("srun")]
    assert lines.index("module load cuda") < lines.index(command)
    assert "--cpus-per-task=6" in command


def test_the_queue_is_read(commands: Path) -> None:
    program(
        commands,
        "squeue",
        'echo "12_3|mine|RUNNING"; echo "12_10|mine|PENDING"; echo "7|other|RUNNING"; '
        'echo "15|single|COMPLETING"',
    )
    assert slurm_queue.queued(["mine", "single"]) == [
        slurm_queue.Queued("12_3", "mine", 3, "RUNNING"),
        slurm_queue.Queued("12_10", "mine", 10, "PENDING"),
        slurm_queue.Queued("15", "single", 0, "COMPLETING"),
    ]
    assert slurm_queue.queued([]) == []


def test_a_queue_that_does_not_answer(commands: Path) -> None:
    program(commands, "squeue", 'echo "slurm_load_jobs error: Unable to contact" >&2; exit 1')
    with pytest.raises(RunError, match="squeue: SLURM said: slurm_load_jobs error: Unable"):
        slurm_queue.queued(["mine"])
    (commands / "squeue").unlink()
    with pytest.raises(RunError, match="squeue: found no such command"):
        slurm_queue.queued(["mine"])


@pytest.mark.parametrize(
    ("scontrol", "sacct", "expected"),
    [
        ("echo JobId=1 JobState=TIMEOUT ExitCode=0:15", "exit 1", ("TIMEOUT", -15)),
        ("exit 1", "echo 'FAILED|7:0'", ("FAILED", 7)),
        ("exit 1", "echo 'CANCELLED by 0|0:0'", ("CANCELLED", 0)),
        ("exit 1", "echo 'Slurm accounting storage is disabled' >&2; exit 1", None),
        ("exit 1", "exit 0", None),
    ],
)
def test_how_a_job_ended(
    commands: Path, scontrol: str, sacct: str, expected: tuple[str, int] | None
) -> None:
    program(commands, "scontrol", scontrol)
    program(commands, "sacct", sacct)
    told = slurm_queue.outcome("1")
    assert told == (None if expected is None else slurm_queue.Outcome(*expected))


def test_the_list_of_submitted_jobs(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "folder")
    assert ledger.read() == {}
    first, second = Submitted("s", 0, ("true",), "12_0"), Submitted("s", 1, ("false",))
    with ledger.lock():
        ledger.write({"a": first, "b": second})
    assert ledger.read() == {"a": first, "b": second}
    ledger.forget("a", Submitted("later", 0, ("true",)))  # submitted again meanwhile
    assert ledger.read() == {"a": first, "b": second}
    ledger.forget("a", first)
    assert ledger.read() == {"b": second}


@pytest.mark.parametrize("text", ["", "[]", '{"version": 1}', '{"version": 1, "jobs": {"a": 5}}'])
def test_a_damaged_list(tmp_path: Path, text: str) -> None:
    ledger = Ledger(tmp_path)
    ledger.path.write_text(text)
    with pytest.raises(RunError, match=r"found a damaged list[^|]*squeue --me"):
        ledger.read()


def test_a_list_of_another_version(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.path.write_text('{"version": 2, "jobs": {}}')
    with pytest.raises(RunError, match="found version 2, not 1"):
        ledger.read()


def node(folder: Path, script: str) -> subprocess.Popen[str]:
    """Start a NodeJob in a process of its own, as on a node."""
    values = {
        "command": ["sh", "-c", script],
        "log": str(folder / "logs" / "log"),
        "cwd": str(folder),
        "environment": {"WORD": "here"},
        "end": str(folder / "ended" / "end.json"),
        "save_seconds": 10,
    }
    return subprocess.Popen(
        [sys.executable, "-c", NODE, json.dumps(values)], stdout=subprocess.PIPE, text=True
    )


def node_log(folder: Path, line: str, seconds: float = 20) -> str:
    """Return the log once it has `line`."""
    path, end = folder / "logs" / "log", time.monotonic() + seconds
    while not (path.is_file() and line in path.read_text()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
    return path.read_text()


def end_of(folder: Path) -> dict[str, object] | None:
    path = folder / "ended" / "end.json"
    return json.loads(path.read_text()) if path.is_file() else None


@pytest.mark.parametrize(("code", "exit_status"), [(0, 0), (7, 7)])
def test_a_command_on_a_node(tmp_path: Path, code: int, exit_status: int) -> None:
    (tmp_path / "ended").mkdir()
    (tmp_path / "ended" / "end.json").write_text("from before")
    process = node(tmp_path, f"echo $WORD; pwd; exit {code}")
    process.communicate()
    assert process.returncode == exit_status
    told = end_of(tmp_path)
    assert told is not None
    assert (told["returncode"], told["reason"]) == (code, "")
    assert (tmp_path / "logs" / "log").read_text() == f"here\n{tmp_path}\n"


TRAPPING = "trap 'echo saved; exit 5' TERM; echo begins; while true; do sleep 0.05; done"


def test_a_job_that_is_cancelled_tells_nothing(tmp_path: Path) -> None:
    process = node(tmp_path, TRAPPING)
    node_log(tmp_path, "begins")
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 5
    text = node_log(tmp_path, "saved")  # the shell may tell of its `sleep` in between
    assert text.startswith("begins\n")
    assert text.endswith("saved\n")
    assert end_of(tmp_path) is None


def test_a_command_that_ends_well_in_spite_of_sigterm_is_told(tmp_path: Path) -> None:
    process = node(tmp_path, TRAPPING.replace("exit 5", "exit 0"))
    node_log(tmp_path, "begins")
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 0
    told = end_of(tmp_path)
    assert told is not None
    assert told["returncode"] == 0


def test_the_signal_before_the_time_limit(tmp_path: Path) -> None:
    process = node(tmp_path, f"echo $PPID $$ > pids; {TRAPPING}")
    node_log(tmp_path, "begins")
    guard, command = (int(pid) for pid in (tmp_path / "pids").read_text().split())
    for pid in (command, guard):  # neither may die of it
        os.kill(pid, signal.SIGUSR2)
    time.sleep(0.3)
    process.send_signal(signal.SIGUSR2)
    said, _ = process.communicate()
    assert process.returncode == 99
    assert json.loads(said) == [["sh", "-c", f"echo $PPID $$ > pids; {TRAPPING}"], True]
    text = node_log(tmp_path, "saved")  # the shell may tell of its `sleep` in between
    assert text.startswith("begins\n")
    assert text.endswith("saved\n")
    assert end_of(tmp_path) is None


def test_what_submitit_raises_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = NodeJob(("true",), str(tmp_path / "log"), ".", {}, str(tmp_path / "end.json"), 10)

    def out_of_requeues() -> tuple[int, str]:
        raise RuntimeError("Job not requeued because: timed-out too many times.")

    monkeypatch.setattr(job, "run", out_of_requeues)
    with pytest.raises(RuntimeError, match="too many times"):
        job()
    told = json.loads((tmp_path / "end.json").read_text())
    assert told["returncode"] == 1
    assert told["reason"] == "Job not requeued because: timed-out too many times."
