"""Run jobs on this machine, a few at a time, each on its own cores or GPU.

A job's process has its own session, so that Ctrl-C reaches only the process that started it. It
stops when that process releases a lock, which also happens if the process is killed.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.runtime.own_process import SHARING, module_path

from . import Job, JobUpdate, Updates

if TYPE_CHECKING:
    from submitit import LocalExecutor

GRACE = 60.0  # seconds that a training has, when asked to stop, to end its step and save
TICK = 0.2  # seconds between two updates
NO_LIMIT = 60 * 24 * 366  # minutes; submitit has a time limit of two minutes otherwise


@dataclass(frozen=True)
class Worker:
    """A part of the machine that runs one job at a time."""

    cores: tuple[int, ...]  # the CPUs that its jobs are bound to; empty: all
    threads: int  # for OMP_NUM_THREADS
    device: str | None = None  # for CUDA_VISIBLE_DEVICES; None: not set
    sharing: int = 1  # workers that share the memory of the device (or of the machine)


def divide_machine(
    workers: int, devices: Sequence[str] = (), threads: int | None = None
) -> list[Worker]:
    """Divide the cores and GPUs (as CUDA_VISIBLE_DEVICES names them) among workers.

    GPUs are assigned in turn. Each worker is bound to its own cores, unless the workers have more
    threads than there are cores. By default the cores are divided evenly.

    >>> [worker.device for worker in divide_machine(3, devices=("0", "1"))]
    ['0', '1', '0']
    """
    cores = available_cores()
    each = threads or max(1, len(cores) // workers)
    enough = each * workers <= len(cores)
    visible = devices or (os.environ.get("CUDA_VISIBLE_DEVICES"),)
    given = [visible[number % len(visible)] for number in range(workers)]
    return [
        Worker(
            cores=tuple(cores[number * each : (number + 1) * each]) if enough else (),
            threads=each,
            device=device,
            sharing=given.count(device),
        )
        for number, device in enumerate(given)
    ]


def available_cores() -> list[int]:
    """Return the numbers of the CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


@dataclass(frozen=True)
class LocalLauncher:
    """Runs as many jobs at a time as there are workers.

    When the iterator is closed, or this process ends in any way, running jobs get SIGTERM, and
    after `grace` seconds they and their children are killed.
    """

    workers: Sequence[Worker]
    grace: float = GRACE

    def run(self, jobs: Sequence[Job]) -> Updates:
        """Run all jobs and yield updates. Close the iterator to stop running jobs."""
        import fcntl

        import submitit

        waiting, free = deque(jobs), deque(self.workers)
        running: dict[str, tuple[Any, Worker, Job]] = {}
        with tempfile.TemporaryDirectory(prefix="deepgcn-") as folder:
            executor = submitit.LocalExecutor(folder)
            executor.update_parameters(timeout_min=NO_LIMIT)
            alive = (Path(folder) / "alive").open("w")
            fcntl.flock(alive, fcntl.LOCK_EX)
            try:
                while waiting or running:
                    while waiting and free:
                        job, worker = waiting.popleft(), free.popleft()
                        call = LocalCall(job, worker, alive.name, self.grace)
                        running[job.name] = (_submit(executor, call), worker, job)
                    time.sleep(TICK)
                    ended = [name for name, (process, *_) in running.items() if process.done()]
                    for name in ended:
                        process, worker, job = running.pop(name)
                        free.append(worker)
                        _keep_failed_start(process, job)
                    yield JobUpdate(tuple(running), tuple(ended))
            finally:
                alive.close()
                while not all(process.done() for process, *_ in running.values()):
                    time.sleep(TICK)


def _submit(executor: LocalExecutor, call: LocalCall) -> Any:
    """Start a process for a job, with the variables that it needs before its first import."""
    from submitit.core.utils import environment_variables

    variables = {
        "OMP_NUM_THREADS": str(call.worker.threads),
        SHARING: str(call.worker.sharing),
        "PYTHONPATH": module_path(),
        "PYTHONSAFEPATH": "1",  # no modules of the current folder, from Python 3.11 on
    }
    # On Ctrl-C, submitit's own process, which is the job's parent, would kill the job.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with environment_variables(**variables):
            return executor.submit(call)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _keep_failed_start(process: Any, job: Job) -> None:
    """Append the traceback to the log if the process failed before it called the job."""
    said = process.stderr() or ""
    if "Traceback" in said:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("a", encoding="utf-8") as log:
            log.write(said)


@dataclass(frozen=True)
class LocalCall:
    """What a job's process runs."""

    job: Job
    worker: Worker
    alive: str  # a file that is locked as long as the job may run
    grace: float  # seconds between SIGTERM and SIGKILL

    def __call__(self) -> None:
        """Call the job on its part of the machine and exit with its code."""
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # submitit ignores it
        threading.Thread(target=self.stop_in_time, daemon=True).start()
        if self.worker.cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, self.worker.cores)
        if self.worker.device is None:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # submitit hides all GPUs
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.worker.device
        if code := self.job.call():
            sys.exit(code)

    def stop_in_time(self) -> None:
        """Stop this process once the lock is released, and kill its group after `grace` seconds."""
        import fcntl

        with open(self.alive) as file:
            fcntl.flock(file, fcntl.LOCK_SH)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(self.grace)
        os.killpg(0, signal.SIGKILL)
