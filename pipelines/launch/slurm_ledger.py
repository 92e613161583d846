"""jobs.json: which jobs were given to SLURM, so that nobody gives them to it again.

    {"version": 1, "jobs": {NAME: {"submission": "deepgcn-3f9c2a71", "index": 3, "id": "12_3",
                                   "command": […]}}}

A job is written down before it is submitted, without an id, and again with the id that it got: of a
process that was killed in between, SLURM knows the job by the submission's name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from pipelines.errors import RunError
from pipelines.files import atomic_json

try:
    import fcntl
except ImportError:  # not a POSIX system, so no SLURM either
    fcntl = None  # type: ignore[assignment]

VERSION = 1


@dataclass(frozen=True)
class Submitted:
    """A job that SLURM has, or had.

    Attributes:
        submission: the name that SLURM knows its array by.
        index: its place in the array.
        command: what it runs.
        id: SLURM's; None: not known yet.
    """

    submission: str
    index: int
    command: tuple[str, ...]
    id: str | None = None


@dataclass(frozen=True)
class Ledger:
    """The submitted jobs of a launcher's folder."""

    folder: Path

    @property
    def path(self) -> Path:
        """Where the jobs are written down."""
        return self.folder / "jobs.json"

    def end_of(self, job: Submitted) -> Path:
        """Return the file in which a job tells how it ended."""
        return self.folder / "ended" / f"{job.submission}-{job.index}.json"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from submitting within a `with` block."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("a") as file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def read(self) -> dict[str, Submitted]:
        """Return the jobs by name; none if nothing was submitted.

        Raises:
            RunError: the file is damaged or of another version.
        """
        try:
            values = json.loads(self.path.read_text(encoding="utf-8"))
            if values["version"] != VERSION:
                raise RunError(f"{self.path}: found version {values['version']}, not {VERSION}.")
            return {
                name: Submitted(
                    submission=str(job["submission"]),
                    index=int(job["index"]),
                    command=tuple(map(str, job["command"])),
                    id=None if job["id"] is None else str(job["id"]),
                )
                for name, job in values["jobs"].items()
            }
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(
                f"{self.path}: found a damaged list of submitted jobs: {error!r}.\n"
                "See what still runs (squeue --me), cancel it (scancel), and remove the file."
            ) from error

    def write(self, jobs: dict[str, Submitted]) -> None:
        """Replace the list; hold the lock."""
        values = {name: asdict(job) for name, job in jobs.items()}
        atomic_json(self.path, {"version": VERSION, "jobs": values})

    def forget(self, name: str, job: Submitted) -> None:
        """Take a job off the list, unless it was submitted again."""
        with self.lock():
            jobs = self.read()
            if name in jobs and jobs[name].submission == job.submission:
                del jobs[name]
                self.write(jobs)
