"""Processes on this machine, some at a time."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Job:
    """A command to run, and the file that its output is appended to."""

    name: str
    command: tuple[str, ...]
    log: Path
    cwd: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ended:
    """How a job ended."""

    job: Job
    returncode: int
    seconds: float
    reason: str = ""


class Launcher(Protocol):
    """A way to run jobs."""

    def run(
        self,
        jobs: Sequence[Job],
        *,
        on_start: Callable[[Job], None] | None = None,
        tick: Callable[[], None] | None = None,
    ) -> Generator[Ended, None, None]:
        """Run all jobs and yield each as it ends; closing stops those that run."""


def local_launcher(
    workers: int, devices: Sequence[str] = (), threads: int | None = None
) -> Launcher:
    """Return a launcher of at most `workers` processes at a time."""
    del devices
    return _Local(workers, threads or max(1, (os.cpu_count() or 1) // workers))


class _Local:
    def __init__(self, workers: int, threads: int) -> None:
        self.workers, self.threads = workers, threads

    def run(
        self,
        jobs: Sequence[Job],
        *,
        on_start: Callable[[Job], None] | None = None,
        tick: Callable[[], None] | None = None,
    ) -> Generator[Ended, None, None]:
        waiting = list(jobs)
        running: dict[str, tuple[Job, subprocess.Popen[bytes], float]] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self.workers:
                    job = waiting.pop(0)
                    running[job.name] = (job, self._start(job), time.monotonic())
                    if on_start:
                        on_start(job)
                time.sleep(0.2)
                if tick:
                    tick()
                for job, process, began in list(running.values()):
                    if process.poll() is not None:
                        del running[job.name]
                        yield Ended(job, process.returncode, time.monotonic() - began)
        finally:
            for _, process, _ in running.values():
                process.terminate()
            for _, process, _ in running.values():
                process.wait()

    def _start(self, job: Job) -> subprocess.Popen[bytes]:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads), **job.environment}
        with job.log.open("ab") as log:
            return subprocess.Popen(
                job.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=job.cwd,
                env=environment,
                start_new_session=True,
            )
