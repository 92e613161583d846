"""Run many functions, each in its own process, on this machine (`local`) or on SLURM (`slurm`).

Both launchers hand a `Job` to submitit, which pickles it into a folder of this user and unpickles
it in the new process. A job holds plain values only. Nothing else is ever unpickled: results are
read from the files that a job writes.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Job:
    """A function to call in a process of its own.

    It returns an exit code. If it was stopped and is called again, it resumes its work.
    """

    name: str  # unique among the jobs of a study
    function: str  # "package.module:name", imported in the new process
    arguments: tuple[Any, ...]  # plain values
    log: Path  # the file that all output is appended to

    def call(self) -> int:
        """Call the function with all output in the log, and return its exit code."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            os.dup2(log.fileno(), sys.stdout.fileno())
            os.dup2(log.fileno(), sys.stderr.fileno())
        module, _, name = self.function.partition(":")
        return int(getattr(importlib.import_module(module), name)(*self.arguments))


@dataclass(frozen=True)
class JobUpdate:
    """The names of the jobs that are running, and of those that ended since the last update."""

    running: tuple[str, ...]
    ended: tuple[str, ...]


Updates = Generator[JobUpdate, None, None]  # closing it stops local jobs
