"""Jobs run a few at a time, and none outlives the process that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from pipelines.launch import Job, LocalLauncher, Worker, divide_machine
from pipelines.runtime.process import available_cores

from .jobs import is_gone, job, log, most_at_once, wait_for

PARENT = """
import signal, sys
from pathlib import Path
from pipelines.launch import LocalLauncher, Worker
from tests.launch.jobs import job
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in the background
folder = Path(sys.argv[1])
list(LocalLauncher([Worker((), 1)]).run([job("saver", "save", folder, "saver")]))
"""


def ran(jobs: list[Job], workers: list[Worker]) -> list[str]:
    """The names of the jobs in the order of their ends."""
    return [name for _, ended in LocalLauncher(workers).run(jobs) for name in ended]


def test_jobs_run_a_few_at_a_time_and_one_that_fails_stops_no_other(tmp_path: Path) -> None:
    jobs = [
        job("slow", "count", tmp_path, 2.0),
        job("fails", "count", tmp_path, 0.1, 7),
        job("killed", "die", tmp_path),
        job("last", "count", tmp_path, 0.1),
        Job("absent", "tests.launch.jobs:absent", (), tmp_path / "absent.log"),
    ]
    jobs[0].log.write_text("before\n")
    assert {*ran(jobs, divide_machine(2, threads=1))} == {one.name for one in jobs}
    assert most_at_once(tmp_path) == 2
    assert log(jobs[0]) == ["before", "1 threads"]
    assert log(jobs[2]) == []
    assert "AttributeError" in log(jobs[4])[-1]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="a system without affinity")
def test_a_job_has_its_part_of_the_machine(tmp_path: Path) -> None:
    core = available_cores()[-1]
    asks = [job(name, "tell_worker", tmp_path) for name in ("gpu", "cpu")]
    assert len(ran(asks[:1], [Worker((core,), 3, "GPU-5", 2)])) == 1
    assert log(asks[0]) == ["GPU-5 3 2", str(core), "deepgcn gpu"]
    assert len(ran(asks[1:], [Worker((), 1)])) == 1
    assert log(asks[1]) == ["none 1 1", ",".join(map(str, available_cores())), "deepgcn cpu"]


def test_the_machine_is_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.launch.available_cores", lambda: [0, 1, 2, 5])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert divide_machine(2) == [Worker((0, 1), 2, None, 2), Worker((2, 5), 2, None, 2)]
    shared = divide_machine(3, devices=("4", "GPU-5"), threads=1)
    assert [(one.device, one.sharing) for one in shared] == [("4", 2), ("GPU-5", 1), ("4", 2)]
    assert divide_machine(1, threads=5) == [Worker((), 5, None, 1)], "more threads than cores"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert divide_machine(1)[0].device == "3", "as it is in this process"


def test_closing_lets_jobs_save_and_kills_those_that_do_not_end(tmp_path: Path) -> None:
    saver, deaf = job("saver", "save", tmp_path, "saver"), job("deaf", "ignore", tmp_path)
    with closing(LocalLauncher([Worker((), 1)] * 2, grace=1.0).run([saver, deaf])) as updates:
        assert set(next(updates)[0]) == {"saver", "deaf"}
        wait_for(saver, "begins")
        wait_for(deaf, "begins")
        began = time.monotonic()
    assert 1.0 <= time.monotonic() - began < 10
    assert log(saver) == ["begins", "saved"]
    assert all(is_gone(int(pid)) for pid in (tmp_path / "pids").read_text().split())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_jobs_end_with_the_process_that_started_them(
    tmp_path: Path, number: signal.Signals
) -> None:
    saver = job("saver", "save", tmp_path, "saver")
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(saver, "begins")
        os.killpg(parent.pid, number)  # as Ctrl-C does
        parent.wait(20)
    finally:
        parent.kill()
        parent.wait()
    wait_for(saver, "saved")
