"""The watch over submitted jobs: which have started, which have ended, and how."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator

from pipelines.errors import RunError

from . import slurm_queue
from .local import Ended, Job
from .slurm_ledger import Ledger, Submitted

FIRST_LOOK, LAST_LOOK = 2.0, 30.0  # seconds between two looks at the queue, at first and later
LATE_FILES = 30.0  # seconds that a shared file system may take to show a node's file
UNKNOWN = 3600.0  # seconds without an answer of SLURM after which to give up
# States in which SLURM ended a job, so that the node tells nothing.
KILLED = (
    "CANCELLED",
    "TIMEOUT",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "DEADLINE",
    "BOOT_FAIL",
    "PREEMPTED",
)


def key(job: Submitted) -> tuple[str, int]:
    """Return what tells a job in SLURM's queue: its array's name and its place in it."""
    return job.submission, job.index


def look(jobs: Iterable[Submitted]) -> dict[tuple[str, int], slurm_queue.Queued]:
    """Return what the queue has of some jobs, by their keys.

    Raises:
        RunError: SLURM does not answer.
    """
    found = slurm_queue.queued({job.submission for job in jobs})
    return {(job.name, job.index): job for job in found}


class Watch:
    """Looks for the starts and ends of submitted jobs.

    Attributes:
        jobs: those that have not ended, by name.
    """

    def __init__(self, ledger: Ledger, jobs: dict[str, tuple[Job, Submitted]]) -> None:
        self.ledger, self.jobs = ledger, jobs
        self.started: set[str] = set()
        self.gone: dict[str, float] = {}  # when a job was first not in the queue
        self.began = self.answered = time.monotonic()
        self.next_look = 0.0

    def look(self) -> list[str]:
        """Ask for the queue if it is time; return the names of the jobs that have started.

        Raises:
            RunError: SLURM has not answered for an hour.
        """
        now = time.monotonic()
        if now < self.next_look:
            return []
        self.next_look = now + min(LAST_LOOK, max(FIRST_LOOK, (now - self.began) / 20))
        try:
            found = look(submitted for _, submitted in self.jobs.values())
        except RunError as error:
            if now - self.answered < UNKNOWN:
                return []
            raise RunError(f"{error}\nThe jobs go on; come back with the same command.") from None
        self.answered = now
        begun = []
        for name, (_, submitted) in self.jobs.items():
            queued = found.get(key(submitted))
            if queued is None:
                self.gone.setdefault(name, now)
                continue
            self.gone.pop(name, None)
            if queued.state == "RUNNING" and name not in self.started:
                self.started.add(name)
                begun.append(name)
        return begun

    def collect(self) -> Iterator[Ended]:
        """Yield the jobs that have ended, and forget them."""
        for name, (job, submitted) in list(self.jobs.items()):
            if (ended := self._ended(job, submitted)) is not None:
                del self.jobs[name]
                yield ended

    def _ended(self, job: Job, submitted: Submitted) -> Ended | None:
        path = self.ledger.end_of(submitted)
        if path.is_file():
            told = json.loads(path.read_text(encoding="utf-8"))
            return Ended(job, int(told["returncode"]), float(told["seconds"]), str(told["reason"]))
        if job.name not in self.gone:
            return None
        outcome = slurm_queue.outcome(submitted.id) if submitted.id else None
        unclear = outcome is None or outcome.state not in KILLED
        if unclear and time.monotonic() - self.gone[job.name] < LATE_FILES:
            return None  # the command has ended and its file is on its way, or it is queued again
        state = outcome.state if outcome else "gone from the queue"
        code = outcome.returncode if outcome else 0
        return Ended(job, code or 1, 0.0, f"SLURM job {submitted.id}: {state}")
