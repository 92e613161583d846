"""Many commands, a few at a time: what a launcher is, and the one for this machine.

    jobs = [Job("a", python_command("deepgcn_cli", "train", …), log=Path("a.log"))]
    with closing(local_launcher(2).run(jobs)) as ends:
        for ended in ends:
            ...

The other launcher is `pipelines.launch.slurm`.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pipelines.errors import ConfigError

from . import process_guard as guard

GRACE = 60.0  # seconds that a training has, when asked to stop, to end its step and save
TICK = 1.0  # seconds between two calls of `tick`
SHARING = "DEEPGCN_SHARING"  # tells a job how many jobs have its device's memory together


@dataclass(frozen=True)
class Job:
    """One command to run.

    Attributes:
        name: unique among the jobs of a launch; a plain file name.
        command: the program and its arguments. It may be run again after it was stopped, so it has
            to go on with what it began.
        log: where its output goes, after what is there already.
        cwd: the folder to run in; None: this process's.
        environment: variables added to this process's.
    """

    name: str
    command: tuple[str, ...]
    log: Path
    cwd: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ended:
    """How a job ended.

    Attributes:
        job: the job.
        returncode: the command's; negative: the signal that ended it.
        seconds: how long it ran.
        reason: why it ended, where the launcher knows more than the return code says.
    """

    job: Job
    returncode: int
    seconds: float
    reason: str = ""


class Launcher(Protocol):
    """A way to run many jobs."""

    def run(
        self,
        jobs: Sequence[Job],
        *,
        on_start: Callable[[Job], None] | None = None,
        tick: Callable[[], None] | None = None,
    ) -> Iterator[Ended]:
        """Run all jobs; yield each as it ends, in the order of ending.

        Args:
            jobs: with different names.
            on_start: called when a job starts.
            tick: called about once a second while jobs run.

        Raises:
            ConfigError: two jobs have the same name, or a name is not a plain file name.
        """
        ...


def local_launcher(
    workers: int, devices: Sequence[str] = (), threads: int | None = None
) -> LocalLauncher:
    """Return the launcher that runs `workers` jobs at a time on this machine.

    Args:
        workers: jobs at a time.
        devices: GPUs as CUDA_VISIBLE_DEVICES names them, given to the workers in turn; none: CPU.
        threads: CPU threads of a job; None: the cores divided by the workers.

    Raises:
        ConfigError: `workers` or `threads` is less than 1.
    """
    for flag, value in (("--workers", workers), ("--threads", threads)):
        if value is not None and value < 1:
            raise ConfigError(f"{flag}: found {value}, expected at least 1.")
    return LocalLauncher(cpu_shares(workers, devices, threads))


@dataclass(frozen=True)
class Share:
    """A worker's part of the machine.

    Attributes:
        cores: the CPUs that it stays on; none: all.
        threads: for OMP_NUM_THREADS.
        device: for CUDA_VISIBLE_DEVICES; None: left as it is.
        sharing: workers that have the memory of the device, or of the machine, together.
    """

    cores: tuple[int, ...]
    threads: int
    device: str | None = None
    sharing: int = 1

    def environment(self) -> dict[str, str]:
        """Return the variables that keep a job to its share."""
        variables = {"OMP_NUM_THREADS": str(self.threads), SHARING: str(self.sharing)}
        if self.device is not None:
            variables["CUDA_VISIBLE_DEVICES"] = self.device
        return variables


def cpu_shares(workers: int, devices: Sequence[str], threads: int | None) -> list[Share]:
    """Divide the cores that this process may use among workers.

    Each has cores of its own; none is kept to any where the workers' threads are more than cores.
    """
    cores = available_cores()
    each = threads or max(1, len(cores) // workers)
    enough = each * workers <= len(cores)
    given = [devices[worker % len(devices)] if devices else None for worker in range(workers)]
    return [
        Share(
            cores=tuple(cores[worker * each : (worker + 1) * each]) if enough else (),
            threads=each,
            device=device,
            sharing=given.count(device),
        )
        for worker, device in enumerate(given)
    ]


def trainings_at_once() -> int:
    """Return how many jobs, this one included, a launcher has put on this one's device."""
    value = os.environ.get(SHARING, "")
    return max(1, int(value)) if value.isdecimal() else 1


def available_cores() -> list[int]:
    """Return the numbers of the CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def check_jobs(jobs: Sequence[Job]) -> None:
    """Raise ConfigError unless names are different plain file names and folders are there."""
    seen: set[str] = set()
    for job in jobs:
        if job.name in ("", ".", "..") or Path(job.name).name != job.name:
            raise ConfigError(f"job {job.name!r}: expected a name without slashes.")
        if job.name in seen:
            raise ConfigError(f"job {job.name!r}: found two of this name, expected one.")
        seen.add(job.name)
        if job.cwd is not None and not job.cwd.is_dir():
            raise ConfigError(f"job {job.name!r}: found no folder {job.cwd} to run it in.")


@dataclass
class Running:
    """A job that runs, under its guard (see `guard`)."""

    job: Job
    share: Share
    process: subprocess.Popen[bytes]
    began: float

    def stop(self) -> None:
        """Ask the guard to end the job; the same happens when this process is killed."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def ended(self) -> Ended:
        """Return how the job ended, once its guard has closed its output."""
        assert self.process.stdout is not None
        told = self.process.stdout.read().decode().strip()
        self.process.stdout.close()
        self.stop()
        status = self.process.wait()
        seconds = time.monotonic() - self.began
        if not told:
            return Ended(self.job, status or 1, seconds, "the process that watched it was killed")
        code, _, reason = told.partition(" ")
        return Ended(self.job, int(code), seconds, reason)


@dataclass(frozen=True)
class LocalLauncher:
    """Runs as many jobs at a time as there are shares.

    A job and all its children end when the iterator is closed, and when this process is killed:
    by SIGTERM, and by SIGKILL `grace` seconds later.
    """

    shares: Sequence[Share]
    grace: float = GRACE

    def run(
        self,
        jobs: Sequence[Job],
        *,
        on_start: Callable[[Job], None] | None = None,
        tick: Callable[[], None] | None = None,
    ) -> Iterator[Ended]:
        """Run all jobs; see `Launcher.run`. Close the iterator to stop what runs."""
        check_jobs(jobs)
        return self._run(deque(jobs), on_start or (lambda _: None), tick or (lambda: None))

    def _run(
        self, waiting: deque[Job], on_start: Callable[[Job], None], tick: Callable[[], None]
    ) -> Iterator[Ended]:
        free = deque(self.shares)
        ticked = time.monotonic()
        with selectors.DefaultSelector() as running:
            try:
                while waiting or running.get_map():
                    while waiting and free:
                        started = self._start(waiting.popleft(), free.popleft())
                        running.register(started.process.stdout, selectors.EVENT_READ, started)  # type: ignore[arg-type]
                        on_start(started.job)
                    due = ticked + TICK - time.monotonic()
                    for key, _ in running.select(max(0.0, due)):
                        running.unregister(key.fileobj)
                        free.append(key.data.share)
                        yield key.data.ended()
                    if time.monotonic() - ticked >= TICK:
                        ticked = time.monotonic()
                        tick()
            finally:
                stop_all([key.data for key in running.get_map().values()])

    def _start(self, job: Job, share: Share) -> Running:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        cores = ",".join(map(str, share.cores)) or "-"
        program = [sys.executable, "-I", "-S", guard.__file__, str(self.grace), cores]
        with job.log.open("ab") as log:
            process = subprocess.Popen(
                [*program, *job.command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=job.cwd,
                env={**os.environ, **share.environment(), **job.environment},
                start_new_session=True,  # Ctrl-C is for this process, which then stops the jobs
            )
        return Running(job, share, process, time.monotonic())


def stop_all(running: Sequence[Running]) -> None:
    """Stop jobs and wait for their ends."""
    for job in running:
        job.stop()
    for job in running:
        job.ended()
