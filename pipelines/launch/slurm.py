"""The launcher for a SLURM cluster: one array job, which the submitting process may leave.

submitit writes the batch script and queues a job again that was pre-empted or reached its time
limit (`slurm_node`); what became of the jobs is asked of SLURM itself (`slurm_queue`), because
submitit asks only `sacct`, which needs accounting.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipelines.config.options import COUNT, Bounds
from pipelines.errors import ConfigError, RunError

from . import slurm_queue
from .local import TICK, Ended, Job, check_jobs
from .slurm_ledger import Ledger, Submitted
from .slurm_node import NodeJob
from .slurm_watch import Watch, key, look


@dataclass(frozen=True)
class SlurmOptions:
    """How jobs run on a cluster.

    Attributes:
        folder: for the list of submitted jobs and their output; on a file system that the nodes
            share. Jobs of the same folder and name are the same job.
        partition: None: the cluster's default.
        minutes: the time limit of one job, after which it saves and is queued again.
        gpus: per job.
        cpus: per job; also its OMP_NUM_THREADS.
        memory_gb: per job; None: the cluster's default.
        at_most: jobs that run at a time.
        requeues: how often a job may reach its time limit and go on.
        extra: other options of sbatch by their long names, {"account": "vision"}; "" for a flag.
        setup: shell lines to run on the node first, ("module load cuda",).
    """

    folder: Path
    partition: str | None = None
    minutes: int = 24 * 60
    gpus: int = 0
    cpus: int = 4
    memory_gb: int | None = None
    at_most: int = 16
    requeues: int = 10
    extra: Mapping[str, str] = field(default_factory=dict)
    setup: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("minutes", "cpus", "at_most"):
            COUNT.check(f"SLURM option {name}", getattr(self, name))
        for name in ("gpus", "requeues"):
            Bounds(0).check(f"SLURM option {name}", getattr(self, name))
        if self.memory_gb is not None:
            COUNT.check("SLURM option memory_gb", self.memory_gb)

    @property
    def save_seconds(self) -> int:
        """How long before its time limit a job is asked to save: a tenth of it, 20 to 300 s."""
        return max(20, min(300, 6 * self.minutes))


def slurm_launcher(options: SlurmOptions) -> SlurmLauncher:
    """Return the launcher that gives jobs to SLURM.

    Raises:
        ConfigError: SLURM's commands or submitit are missing; says what to do.
    """
    for command in ("sbatch", "squeue", "srun"):
        if shutil.which(command) is None:
            raise ConfigError(
                f"SLURM: found no {command} here, expected a login node of a SLURM cluster.\n"
                "Start it there, or run the jobs on this machine: --launcher local"
            )
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise ConfigError(
            "SLURM: the package submitit is missing. Install it: pip install 'deepgcn[slurm]'"
        ) from None
    return SlurmLauncher(options)


@dataclass(frozen=True)
class SlurmLauncher:
    """Gives jobs to SLURM as one array, and watches them.

    The jobs go on when the iterator is closed and when this process ends. Running the same jobs
    again comes back to those in the queue, tells of those that ended meanwhile, and submits only
    the others: never had, cancelled, or lost with their node.
    """

    options: SlurmOptions

    @property
    def ledger(self) -> Ledger:
        """The list of submitted jobs."""
        return Ledger(self.options.folder.absolute())

    def run(
        self,
        jobs: Sequence[Job],
        *,
        on_start: Callable[[Job], None] | None = None,
        tick: Callable[[], None] | None = None,
    ) -> Iterator[Ended]:
        """Run all jobs; see `Launcher.run`.

        Raises:
            ConfigError: sbatch refuses the jobs.
            RunError: SLURM does not answer, or has a job of the same name with another command.
        """
        check_jobs(jobs)
        return self._run(jobs, on_start or (lambda _: None), tick or (lambda: None))

    def states(self) -> dict[str, str]:
        """Return SLURM's states ("PENDING", "RUNNING", …) of the jobs in the queue, by name.

        Raises:
            RunError: SLURM does not answer.
        """
        jobs = self.ledger.read()
        found = look(jobs.values())
        return {name: found[key(job)].state for name, job in jobs.items() if key(job) in found}

    def cancel(self, names: Iterable[str]) -> list[str]:
        """Cancel those of the named jobs that are in the queue; return their names.

        A training that is running saves first. The next run submits them anew.

        Raises:
            RunError: SLURM does not answer.
        """
        jobs = self.ledger.read()
        chosen = {name: jobs[name] for name in names if name in jobs}
        found = look(chosen.values())
        cancelled = {name: job for name, job in chosen.items() if key(job) in found}
        slurm_queue.cancel(found[key(job)].id for job in cancelled.values())
        for name, job in cancelled.items():
            self.ledger.forget(name, job)
        return list(cancelled)

    def _run(
        self, jobs: Sequence[Job], on_start: Callable[[Job], None], tick: Callable[[], None]
    ) -> Iterator[Ended]:
        submitted = self.submit(jobs)
        watch = Watch(self.ledger, {job.name: (job, submitted[job.name]) for job in jobs})
        while True:
            for name in watch.look():
                on_start(watch.jobs[name][0])
            for ended in watch.collect():
                if ended.job.name not in watch.started and ended.seconds:
                    on_start(ended.job)  # it was over before anybody looked
                self.ledger.forget(ended.job.name, submitted[ended.job.name])
                yield ended
            if not watch.jobs:
                return
            tick()
            time.sleep(TICK)

    def submit(self, jobs: Sequence[Job]) -> dict[str, Submitted]:
        """Give SLURM the jobs that it does not have; return all of them by name.

        Raises:
            ConfigError: sbatch refuses the jobs.
            RunError: SLURM does not answer, or has a job of the same name with another command.
        """
        with self.ledger.lock():
            before = self.ledger.read()
            found = look(before.values())
            had: dict[str, Submitted] = {}
            for job in jobs:
                if (known := before.get(job.name)) is None:
                    continue
                queued = found.get(key(known))
                if queued is not None and known.command != job.command:
                    raise RunError(
                        f"job {job.name}: SLURM still has it with another command "
                        f"(job {queued.id}, {queued.state}).\n"
                        f"Wait for it, or cancel it: scancel {queued.id}"
                    )
                ended = self.ledger.end_of(known).is_file() and known.command == job.command
                if queued is not None or ended:
                    had[job.name] = replace(known, id=queued.id if queued else known.id)
            new = [job for job in jobs if job.name not in had]
            array = self._submit_array(new, {**before, **had}) if new else {}
            self.ledger.write({**before, **had, **array})
        return {**had, **array}

    def _submit_array(
        self, jobs: Sequence[Job], others: Mapping[str, Submitted]
    ) -> dict[str, Submitted]:
        """Submit one array; it is written down first, so that no death of this process loses it."""
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        name = f"deepgcn-{uuid.uuid4().hex[:12]}"
        array = {job.name: Submitted(name, index, job.command) for index, job in enumerate(jobs)}
        self.ledger.write({**others, **array})
        executor = submitit.SlurmExecutor(
            self.ledger.folder / "submitit", max_num_timeout=self.options.requeues
        )
        try:
            executor.update_parameters(**self._parameters(name))
            ids = executor.submit_array([self._node_job(job, array[job.name]) for job in jobs])
        except (FailedJobError, FailedSubmissionError) as error:
            self.ledger.write(dict(others))
            said = " ".join(str(error).split())
            raise ConfigError(f"SLURM: sbatch refused {len(jobs)} jobs: {said}") from None
        return {
            job.name: replace(array[job.name], id=given.job_id)
            for job, given in zip(jobs, ids, strict=True)
        }

    def _parameters(self, name: str) -> dict[str, object]:
        """Return the options as submitit names them."""
        options = self.options
        extra = {option: value or True for option, value in options.extra.items()}
        chosen = {
            "partition": options.partition,
            "gpus_per_node": options.gpus or None,
            "mem": f"{options.memory_gb}GB" if options.memory_gb else None,
            "setup": list(options.setup) or None,
        }
        return {
            "job_name": name,
            "time": options.minutes,
            "cpus_per_task": options.cpus,
            # From 22.05 on srun does not take this from sbatch.
            "srun_args": [f"--cpus-per-task={options.cpus}"],
            "array_parallelism": options.at_most,
            "signal_delay_s": options.save_seconds,
            "additional_parameters": {"requeue": True, **extra},
            **{option: value for option, value in chosen.items() if value is not None},
        }

    def _node_job(self, job: Job, submitted: Submitted) -> NodeJob:
        return NodeJob(
            command=job.command,
            log=str(job.log.absolute()),
            cwd=str((job.cwd or Path()).absolute()),
            environment={"OMP_NUM_THREADS": str(self.options.cpus), **job.environment},
            end=str(self.ledger.end_of(submitted)),
            save_seconds=self.options.save_seconds,
        )
