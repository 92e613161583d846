"""Jobs given to a real SLURM; `make slurm-test` starts one of a single node and runs these."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.errors import ConfigError
from pipelines.launch import Job
from pipelines.launch.slurm import SlurmLauncher
from tests.launch.jobs import job, log, most_at_once, wait_for

pytestmark = pytest.mark.slurm

SUBMITTER = """
import sys
from pathlib import Path
from pipelines.launch.slurm import SlurmLauncher, SlurmOptions
from tests.slurm.test_slurm import counted
folder = Path(sys.argv[1])
launcher = SlurmLauncher(folder / "slurm", SlurmOptions(minutes=10, cpus=1, at_most=2))
for _, ended in launcher.run(counted(folder)):
    if "a" in ended:
        print("a", flush=True)
"""


def saver(name: str, folder: Path) -> Job:
    return job(name, "save", folder, name)


def counted(folder: Path) -> list[Job]:
    """Three jobs that note each time they run: two take a moment, one takes longer."""
    return [job(n, "count", folder, seconds) for n, seconds in (("a", 1), ("b", 8), ("c", 1))]


def ran(
    launcher: SlurmLauncher, jobs: list[Job], each_look: Callable[[], None] = lambda: None
) -> list[str]:
    """The names of the jobs in the order of their ends."""
    ended: list[str] = []
    for _, now in launcher.run(jobs):
        ended += now
        each_look()
    return ended


def requeue(launcher: SlurmLauncher, one: Job) -> Callable[[], None]:
    """Let SLURM take the node from a job, once, when it has begun."""
    done: list[str] = []

    def look() -> None:
        if not done and log(one) == ["begins"]:
            done.append("")
            found = subprocess.run(
                ["squeue", "--me", "--noheader", "--array", "--states=R", "--format=%i"],
                capture_output=True,
                text=True,
                check=True,
            )
            subprocess.run(["scontrol", "requeue", found.stdout.split()[0]], check=True)

    assert launcher.queued() == {}
    return look


def test_an_array_runs_a_few_at_a_time(launcher: SlurmLauncher, tmp_path: Path) -> None:
    jobs = [job(f"job{number}", "count", tmp_path, 2.0) for number in range(5)]
    jobs.insert(1, job("fails", "count", tmp_path, 0.1, 7))
    assert {*ran(launcher, jobs)} == {one.name for one in jobs}
    assert log(jobs[1]) == ["1 threads"]
    assert most_at_once(tmp_path) == 2
    assert len(list(launcher.folder.glob("submitit/*_submission.sh"))) == 1


def test_a_requeued_job_saves_and_goes_on(launcher: SlurmLauncher, tmp_path: Path) -> None:
    one = saver("job", tmp_path)
    assert ran(launcher, [one], requeue(launcher, one)) == ["job"]
    assert log(one) == ["begins", "saved", "goes on"]


@pytest.mark.slow
def test_a_job_at_its_time_limit(launcher: SlurmLauncher, tmp_path: Path) -> None:
    # SLURM gives the signal up to a minute early, so a limit of one minute passes at once.
    patient = replace(launcher, options=replace(launcher.options, minutes=1, requeues=3))
    once = replace(patient, options=replace(patient.options, requeues=0), folder=tmp_path / "once")
    going_on, ending = saver("going-on", tmp_path), saver("ending", tmp_path)
    once.submit([ending])
    assert ran(patient, [going_on]) == ["going-on"]
    assert log(going_on) == ["begins", "saved", "goes on"]
    while once.queued():
        time.sleep(0.2)
    lines = log(ending)
    assert lines[:2] == ["begins", "saved"]
    assert any(line.startswith("Error: ") and "timed-out too many" in line for line in lines)


def test_the_submitting_process_may_be_killed(launcher: SlurmLauncher, tmp_path: Path) -> None:
    submitter = subprocess.Popen(
        [sys.executable, "-c", SUBMITTER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert submitter.stdout is not None
        assert submitter.stdout.readline() == "a\n"
        assert launcher.queued().get("b") == "RUNNING"
    finally:
        submitter.send_signal(signal.SIGKILL)
        submitter.communicate()
    assert ran(launcher, counted(tmp_path)[1:2]) == ["b"]
    assert log(counted(tmp_path)[1]) == ["1 threads"], "it ran once"


def test_a_cancelled_job_saves_and_is_submitted_anew(
    launcher: SlurmLauncher, tmp_path: Path
) -> None:
    one = saver("job", tmp_path)
    launcher.submit([one])
    wait_for(one, "begins", seconds=60)
    subprocess.run(["scancel", "--me"], check=True)
    wait_for(one, "saved")
    while launcher.queued():
        time.sleep(0.2)
    assert ran(launcher, [one]) == ["job"]
    assert log(one) == ["begins", "saved", "goes on"]


def test_what_sbatch_refuses(launcher: SlurmLauncher, tmp_path: Path) -> None:
    wrong = replace(launcher, options=replace(launcher.options, partition="no-such"))
    with pytest.raises(ConfigError, match=r"sbatch refused 2 jobs: .*invalid partition"):
        ran(wrong, counted(tmp_path)[:2])
    assert not list(launcher.folder.glob("*.json"))
