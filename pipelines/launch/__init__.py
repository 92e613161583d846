"""Run many functions, each in its own process: here on this machine, in `slurm` on a cluster.

Both launchers pass a `Job` to submitit, which pickles it into a folder of this user and unpickles
it in the new process. A job holds plain values only. Nothing else is ever unpickled: results are
read from the files that a job writes.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from pipelines.runtime.process import SHARING, available_cores, module_path

if TYPE_CHECKING:
    from submitit import LocalExecutor

GRACE = 60.0  # seconds that a training has, when asked to stop, to end its step and save
TICK = 0.2  # seconds between two updates
NO_LIMIT = 60 * 24 * 366  # minutes; submitit has a time limit of two minutes otherwise


@dataclass(frozen=True)
class Job:
    """A function to call in a process of its own; stopped and called again, it resumes its work."""

    name: str  # unique among the jobs of a study
    function: str  # "package.module:name", imported in the new process; it returns an exit code
    arguments: tuple[Any, ...]  # plain values
    log: Path  # the file that all output is appended to
    command: tuple[str, ...] = ()  # what the process says that it runs; submitit's is temporary

    def call(self) -> int:
        """Call the function with all output in the log, and return its exit code."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            os.dup2(log.fileno(), sys.stdout.fileno())
            os.dup2(log.fileno(), sys.stderr.fileno())
        if self.command:
            sys.argv = [*self.command]
        module, _, name = self.function.partition(":")
        return int(getattr(importlib.import_module(module), name)(*self.arguments))


Names: TypeAlias = tuple[str, ...]
# The jobs that are running, and those that ended since the last update; closing stops local jobs.
Updates: TypeAlias = Generator[tuple[Names, Names], None, None]


@dataclass(frozen=True)
class Worker:
    """A part of this machine that runs one job at a time."""

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
    """
    cores = available_cores()
    each = threads or max(1, len(cores) // workers)
    enough = each * workers <= len(cores)
    visible = devices or (os.environ.get("CUDA_VISIBLE_DEVICES"),)
    given = [visible[number % len(visible)] for number in range(workers)]
    parts = [tuple(cores[n * each : (n + 1) * each]) if enough else () for n in range(workers)]
    return [Worker(p, each, d, given.count(d)) for p, d in zip(parts, given, strict=True)]


@dataclass(frozen=True)
class LocalLauncher:
    """Runs as many jobs at a time as there are workers, each on its own cores or GPU.

    Ctrl-C does not reach jobs: each has a session of its own. When the iterator is closed, or this
    process ends in any way, they get SIGTERM; after `grace` seconds they and their children are
    killed.
    """

    workers: Sequence[Worker]
    grace: float = GRACE

    def run(self, jobs: Sequence[Job]) -> Updates:
        """Run all jobs and yield updates. Close the iterator to stop running jobs."""
        import fcntl

        import submitit

        waiting, free = deque(jobs), deque(self.workers)
        running: dict[str, tuple[Any, LocalCall]] = {}
        with tempfile.TemporaryDirectory(prefix="deepgcn-") as folder:
            executor = submitit.LocalExecutor(folder)
            executor.update_parameters(timeout_min=NO_LIMIT)
            alive = (Path(folder) / "alive").open("w")
            fcntl.flock(alive, fcntl.LOCK_EX)
            try:
                while waiting or running:
                    while waiting and free:
                        call = LocalCall(waiting.popleft(), free.popleft(), alive.name, self.grace)
                        running[call.job.name] = (_submit(executor, call), call)
                    time.sleep(TICK)
                    ended = [name for name, (process, _) in running.items() if process.done()]
                    for process, call in map(running.pop, ended):
                        free.append(call.worker)
                        _log_failed_start(process, call.job)
                    yield tuple(running), tuple(ended)
            finally:
                alive.close()
                while not all(process.done() for process, _ in running.values()):
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


def _log_failed_start(process: Any, job: Job) -> None:
    """Append the traceback to the log if the process failed before it called the job."""
    if "Traceback" in (errors := process.stderr() or ""):
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("a", encoding="utf-8") as log:
            log.write(errors)


@dataclass(frozen=True)
class LocalCall:
    """What a job's process runs. It stops when the process that started it releases a lock."""

    job: Job
    worker: Worker
    alive: str  # the file that is locked as long as the job may run
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
