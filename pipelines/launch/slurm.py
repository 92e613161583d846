"""Run jobs on a SLURM cluster as one array job, which outlives this process.

submitit writes the batch script, and requeues jobs that reach their time limit. Which jobs are
still in the queue is read from `squeue`; submitit would use `sacct`, which needs accounting.
"""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.config.options import Bounds
from pipelines.errors import ConfigError, RunError
from pipelines.files import atomic_json
from pipelines.progress import counted
from pipelines.runtime.lock import hold_lock
from pipelines.runtime.process import module_path

from . import Job, Names, Updates

TICK = 1.0  # seconds between two updates
FIRST_QUERY, LAST_QUERY = 2.0, 30.0  # seconds between two queries of the queue, at first and later
ANSWER = 60.0  # seconds for a busy controller to answer
UNKNOWN = 3600.0  # seconds without an answer of SLURM after which to give up
PREFIX = "deepgcn-"


@dataclass(frozen=True)
class SlurmOptions:
    """How jobs run on a cluster; None: the cluster's default."""

    partition: str | None = None
    minutes: int = 24 * 60  # the time limit of one job, which saves before it and is queued again
    gpus: int = 0  # per job
    cpus: int = 4  # per job; also its OMP_NUM_THREADS
    memory_gb: int | None = None  # per job
    at_most: int = 16  # jobs that run at a time
    requeues: int = 10  # how often a job may reach its time limit and resume
    # Other options of sbatch by their long names, {"account": "vision"}; "" for a flag.
    extra: Mapping[str, str] = field(default_factory=dict)
    setup: tuple[str, ...] = ()  # shell lines that the node runs first, ("module load cuda",)

    def __post_init__(self) -> None:
        least = {"minutes": 1, "gpus": 0, "cpus": 1, "memory_gb": 1, "at_most": 1, "requeues": 0}
        for name, bound in least.items():
            if (value := getattr(self, name)) is not None:
                Bounds(bound).check(f"SLURM option {name}", value)

    def submitit(self) -> dict[str, object]:
        """Return the options as submitit names them."""
        return {
            "partition": self.partition,
            "time": self.minutes,
            "gpus_per_node": self.gpus or None,
            "cpus_per_task": self.cpus,
            # From 22.05 on srun does not take this from sbatch.
            "srun_args": [f"--cpus-per-task={self.cpus}"],
            "mem": f"{self.memory_gb}GB" if self.memory_gb else None,
            "array_parallelism": self.at_most,
            # How long before its time limit a job is asked to save: a tenth of it, 20 to 300 s.
            "signal_delay_s": max(20, min(300, 6 * self.minutes)),
            "setup": [
                "export PYTHONSAFEPATH=1",
                f"export PYTHONPATH={shlex.quote(module_path())}",
                f"export OMP_NUM_THREADS={self.cpus}",
                *self.setup,
            ],
            "additional_parameters": {
                "requeue": True,
                **{option: value or True for option, value in self.extra.items()},
            },
        }


@dataclass(frozen=True)
class SlurmLauncher:
    """Submits jobs as one array, and watches them.

    The jobs stay in SLURM when the iterator is closed or this process ends. A later run with the
    same jobs finds those in the queue by the files that name the jobs of each array
    (deepgcn-3f9c2a71.json), and submits only the others.
    """

    folder: Path  # for the record of what was submitted; on a file system that the nodes share
    options: SlurmOptions

    def run(self, jobs: Sequence[Job]) -> Updates:
        """Run all jobs and yield an update about once a second."""
        for command in ("sbatch", "squeue", "srun"):
            if shutil.which(command) is None:
                raise ConfigError(
                    f"SLURM: found no {command} here, expected a login node of a SLURM cluster.\n"
                    "Start it there, or run the jobs on this machine: --launcher local"
                )
        self.submit(jobs)
        yield from self._watch([job.name for job in jobs])

    def _watch(self, names: Sequence[str]) -> Updates:
        """Yield an update about once a second until no job is in the queue."""
        waiting = dict.fromkeys(names, False)  # name → whether it was missing last time
        running: Names = ()
        began = answered = time.monotonic()
        next_query = began
        while waiting:
            ended: Names = ()
            if (now := time.monotonic()) >= next_query:
                next_query = now + min(LAST_QUERY, max(FIRST_QUERY, (now - began) / 20))
                try:
                    found = self.queued()
                except RunError as error:
                    if now - answered > UNKNOWN:
                        how = "The jobs stay in SLURM; the same command finds them again."
                        raise RunError(f"{error}\n{how}") from None
                else:
                    answered = now
                    running = tuple(name for name in waiting if found.get(name) == "RUNNING")
                    ended = tuple(n for n, missing in waiting.items() if missing and n not in found)
                    waiting = {name: name not in found for name in waiting if name not in ended}
            yield running, ended
            time.sleep(TICK)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Submit the jobs that are not in the queue."""
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        self.folder.mkdir(parents=True, exist_ok=True)
        with hold_lock(self.folder / ".lock", shared=False, seconds=2 * ANSWER) as held:
            if not held:
                raise RunError(
                    f"{self.folder}: another process has been submitting jobs of this study for "
                    f"{2 * ANSWER:g} s. Run the same command again."
                )
            queued = self.queued()
            new = [job for job in jobs if job.name not in queued]
            if not new:
                return
            name = f"{PREFIX}{uuid.uuid4().hex[:12]}"
            written = self.folder / f"{name}.json"
            atomic_json(written, [job.name for job in new])
            place = self.folder.absolute() / "submitit"
            executor = submitit.SlurmExecutor(place, max_num_timeout=self.options.requeues)
            try:
                executor.update_parameters(job_name=name, **self.options.submitit())
                executor.submit_array([SlurmCall(job) for job in new])
            except (FailedJobError, FailedSubmissionError) as error:
                written.unlink()
                said = " ".join(str(error).split())
                raise ConfigError(
                    f"SLURM: sbatch refused {counted(len(new), 'job')}: {said}"
                ) from None

    def queued(self) -> dict[str, str]:
        """Return the states ("PENDING", "RUNNING", …) of the jobs in the queue, by name."""
        arrays = self.folder.glob(f"{PREFIX}*.json")
        jobs = {path.stem: json.loads(path.read_text("utf-8")) for path in arrays}
        if not jobs:
            return {}
        command = ["squeue", "--me", "--noheader", "--array", "--format=%i|%j|%T"]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=True, timeout=ANSWER
            )
        except subprocess.TimeoutExpired:
            raise RunError(f"squeue: found no answer from SLURM in {ANSWER:g} s.") from None
        except subprocess.CalledProcessError as error:
            said = (error.stderr.strip() or f"exit status {error.returncode}").splitlines()[0]
            raise RunError(f"squeue: SLURM said: {said}") from None
        found = {}
        for line in done.stdout.splitlines():
            # "12_3", its array's name, "RUNNING"; others' names may have a bar.
            number, _, rest = line.partition("|")
            array, _, state = rest.rpartition("|")
            if array in jobs:
                found[jobs[array][int(number.partition("_")[2] or 0)]] = state
        return found


@dataclass(frozen=True)
class SlurmCall:
    """What a job's process runs on a node: the job, stopped in time to save and be requeued."""

    job: Job

    def __call__(self) -> None:
        """Call the job and exit with its code."""
        requeue = signal.getsignal(signal.SIGUSR2)
        stopped: list[int] = []

        def stop(number: int, frame: object) -> None:  # noqa: ARG001
            stopped.append(number)
            signal.raise_signal(signal.SIGTERM)

        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # submitit ignores it
        signal.signal(signal.SIGUSR2, stop)
        keep_from_children(signal.SIGUSR2)
        code = self.job.call()
        if code and stopped and callable(requeue):
            try:
                requeue(signal.SIGUSR2, None)  # calls `checkpoint` and exits
            except RuntimeError as error:  # it was queued again too often
                print(f"Error: {error}", file=sys.stderr)  # noqa: T201
                raise
        if code:
            sys.exit(code)

    def checkpoint(self) -> Any:
        """Return what to run when the job starts again; everything is saved by now."""
        from submitit.core.utils import DelayedSubmission

        return DelayedSubmission(self)


def keep_from_children(number: int) -> None:
    """Block a signal, which would kill them, in the child processes started from now on."""
    threading.Thread(target=threading.Event().wait, daemon=True).start()  # receives the signal
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
