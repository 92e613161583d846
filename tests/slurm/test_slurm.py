"""Jobs given to a real SLURM; `make slurm-test` starts one of a single node and runs these."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.errors import ConfigError, RunError
from pipelines.launch.local import Ended, Job
from pipelines.launch.slurm import SlurmLauncher, SlurmOptions, slurm_launcher
from tests.tiny_store import write_tiny_store

pytestmark = pytest.mark.slurm

# Works until SIGTERM comes and saves then; started again, it goes on and ends.
SAVER = """
import signal, sys, time
from pathlib import Path
saved = Path(sys.argv[1])
def save(*_):
    saved.write_text("saved")
    print("saved", flush=True)
    sys.exit(130)
if saved.exists():
    print("goes on", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
print("begins", flush=True)
time.sleep(120)
"""
SUBMITTER = """
import sys
from pathlib import Path
from pipelines.launch.slurm import SlurmOptions, slurm_launcher
from tests.slurm.test_slurm import counted
folder = Path(sys.argv[1])
options = SlurmOptions(folder / "slurm", minutes=10, cpus=1, at_most=2)
for ended in slurm_launcher(options).run(counted(folder)):
    print(ended.job.name, flush=True)
"""
TRAIN = """
data, runs = "{data}", "{runs}"
import signal, subprocess, sys, time
from pathlib import Path
from pipelines import kernels
from pipelines.config import TrainConfig
from pipelines.progress import Progress
from pipelines.runs.directory import Run
from pipelines.train import train
from tests.tiny_run import MODEL
class Printed(Progress):
    def say(self, message):
        print(message, flush=True)
config = TrainConfig(model=MODEL, data=Path(data), runs=Path(runs), name="run", epochs=1000,
    max_steps={steps}, batch_size=4, num_points=128, device="cpu", threads=1)
folder = Path(runs) / "run"
with kernels.use("reference"):
    if folder.is_dir():
        train(config, resume=folder, progress=Printed())
    else:
        train(config, progress=Printed())
"""


def shell(name: str, script: str, folder: Path) -> Job:
    return Job(name, ("sh", "-c", script), folder / "logs" / f"{name}.log")


def saver(name: str, folder: Path) -> Job:
    command = (sys.executable, "-c", SAVER, str(folder / f"{name}.saved"))
    return Job(name, command, folder / "logs" / f"{name}.log")


def counted(folder: Path) -> list[Job]:
    """Three jobs that note each time they run: two take a moment, one takes longer."""
    return [
        shell(name, f"echo {name} >> {folder}/ran; sleep {seconds}", folder)
        for name, seconds in (("a", 1), ("b", 6), ("c", 1))
    ]


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.2)


def log(job: Job) -> list[str]:
    return job.log.read_text().splitlines()


def id_of(launcher: SlurmLauncher, name: str) -> str:
    job = launcher.ledger.read()[name].id
    assert job is not None
    return job


def test_an_array_runs_a_few_at_a_time(slurm_options: SlurmOptions, tmp_path: Path) -> None:
    script = f"echo + >> {tmp_path}/events; sleep 2; echo - >> {tmp_path}/events"
    jobs = [shell(f"job{number}", script, tmp_path) for number in range(5)]
    jobs.insert(1, shell("fails", "echo $OMP_NUM_THREADS; exit 7", tmp_path))
    started: list[str] = []
    ticks: list[float] = []
    launcher = slurm_launcher(slurm_options)
    ends = list(
        launcher.run(
            jobs,
            on_start=lambda job: started.append(job.name),
            tick=lambda: ticks.append(time.monotonic()),
        )
    )
    assert {end.job.name: (end.returncode, end.reason) for end in ends} == {
        **{f"job{number}": (0, "") for number in range(5)},
        "fails": (7, ""),
    }
    assert sorted(started) == sorted(job.name for job in jobs)
    assert ticks[1] - ticks[0] == pytest.approx(1, abs=0.8)
    assert log(jobs[1]) == ["1"]
    running, most = 0, 0
    for event in (tmp_path / "events").read_text().split():
        running += 1 if event == "+" else -1
        most = max(most, running)
    assert most == 2
    assert len(list((slurm_options.folder / "submitit").glob("*_submission.sh"))) == 1
    assert launcher.ledger.read() == {}


def test_a_requeued_job_saves_and_goes_on(slurm_options: SlurmOptions, tmp_path: Path) -> None:
    launcher = slurm_launcher(slurm_options)
    job, other = saver("job", tmp_path), shell("other", "echo done", tmp_path)
    requeued: list[str] = []

    def tick() -> None:
        if not requeued and job.log.is_file() and log(job) == ["begins"]:
            requeued.append(id_of(launcher, "job"))
            subprocess.run(["scontrol", "requeue", requeued[0]], check=True)

    ends = list(launcher.run([job, other], tick=tick))
    assert [(end.job.name, end.returncode) for end in ends] == [("other", 0), ("job", 0)]
    assert log(job) == ["begins", "saved", "goes on"]


@pytest.mark.slow
def test_a_job_at_its_time_limit(slurm_options: SlurmOptions, tmp_path: Path) -> None:
    # SLURM gives the signal up to a minute early, so a limit of one minute passes at once.
    patient = slurm_launcher(replace(slurm_options, minutes=1, requeues=3))
    once = slurm_launcher(replace(slurm_options, minutes=1, requeues=0, folder=tmp_path / "once"))
    going_on, ending = saver("going-on", tmp_path), saver("ending", tmp_path)
    once.submit([ending])
    (end,) = patient.run([going_on])
    assert (end.returncode, end.reason) == (0, "")
    assert log(going_on) == ["begins", "saved", "goes on"]
    (end,) = once.run([ending])
    assert end.returncode == 1
    assert "timed-out too many times" in end.reason
    assert log(ending) == ["begins", "saved"]  # a later launch goes on from what was saved


def test_the_submitting_process_may_be_killed(slurm_options: SlurmOptions, tmp_path: Path) -> None:
    launcher = slurm_launcher(slurm_options)
    submitter = subprocess.Popen(
        [sys.executable, "-c", SUBMITTER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert submitter.stdout is not None
        assert submitter.stdout.readline() == "a\n"
        wait_for(lambda: launcher.states().get("b") == "RUNNING")
    finally:
        submitter.send_signal(signal.SIGKILL)
        submitter.communicate()
    wait_for(lambda: set(launcher.states()) == {"b"})  # c ends while nobody watches
    ends = list(launcher.run(counted(tmp_path)[1:]))
    assert {end.job.name: end.returncode for end in ends} == {"b": 0, "c": 0}
    assert sorted((tmp_path / "ran").read_text().split()) == ["a", "b", "c"]


def test_a_death_between_submitting_and_writing_down(
    slurm_options: SlurmOptions, tmp_path: Path
) -> None:
    launcher = slurm_launcher(slurm_options)
    jobs = counted(tmp_path)
    launcher.submit(jobs)
    path = launcher.ledger.path
    values = json.loads(path.read_text())
    for job in values["jobs"].values():
        job["id"] = None
    path.write_text(json.dumps(values))
    assert {end.job.name for end in launcher.run(jobs)} == {"a", "b", "c"}
    assert sorted((tmp_path / "ran").read_text().split()) == ["a", "b", "c"]


def test_cancelled_jobs_are_told_and_submitted_anew(
    slurm_options: SlurmOptions, tmp_path: Path
) -> None:
    launcher = slurm_launcher(replace(slurm_options, at_most=1))
    job, other = saver("job", tmp_path), saver("other", tmp_path)
    asked: list[str] = []

    def tick() -> None:
        if not asked and job.log.is_file() and log(job) == ["begins"]:
            assert launcher.states() == {"job": "RUNNING", "other": "PENDING"}
            asked.extend(launcher.cancel(["job", "other", "never-heard-of"]))

    ends = list(launcher.run([job, other], tick=tick))
    assert sorted(asked) == ["job", "other"]
    assert all(end.returncode != 0 and "CANCELLED" in end.reason for end in ends)
    assert {end.job.name for end in ends} == {"job", "other"}
    assert log(job) == ["begins", "saved"]
    (end,) = launcher.run([job])
    assert end.returncode == 0
    assert log(job) == ["begins", "saved", "goes on"]


def test_what_sbatch_refuses(slurm_options: SlurmOptions, tmp_path: Path) -> None:
    launcher = slurm_launcher(replace(slurm_options, partition="no-such"))
    with pytest.raises(ConfigError, match=r"sbatch refused 2 jobs: .*invalid partition"):
        list(launcher.run(counted(tmp_path)[:2]))
    assert launcher.ledger.read() == {}


def test_another_command_of_the_same_name(slurm_options: SlurmOptions, tmp_path: Path) -> None:
    launcher = slurm_launcher(slurm_options)
    launcher.submit([saver("job", tmp_path)])
    other = shell("job", "true", tmp_path)
    with pytest.raises(RunError, match=r"another command[^|]*scancel \d+"):
        launcher.submit([other])
    launcher.cancel(["job"])
    wait_for(lambda: not launcher.states())
    ends: list[Ended] = list(launcher.run([other]))
    assert ends[0].returncode == 0


@pytest.mark.slow
def test_a_training_that_is_requeued_goes_on(slurm_options: SlurmOptions, tmp_path: Path) -> None:
    write_tiny_store(tmp_path / "data")
    code = TRAIN.format(data=tmp_path / "data", runs=tmp_path / "runs", steps=100)
    job = Job("train", (sys.executable, "-c", code), tmp_path / "train.log")
    launcher = slurm_launcher(slurm_options)
    metrics = tmp_path / "runs" / "run" / "metrics.jsonl"
    requeued: list[str] = []

    def tick() -> None:
        if not requeued and metrics.is_file() and len(metrics.read_bytes().splitlines()) > 20:
            requeued.append(id_of(launcher, "train"))
            subprocess.run(["scontrol", "requeue", requeued[0]], check=True)

    (end,) = launcher.run([job], tick=tick)
    text = job.log.read_text()
    assert end.returncode == 0, text
    assert "all is saved" in text
    steps = [
        record
        for line in metrics.read_text().splitlines()
        if (record := json.loads(line))["event"] == "step"
    ]
    assert [record["step"] for record in steps] == list(range(1, 101))
