"""Many function calls, each in a process of its own: on this machine (`local`) or on SLURM.

Both launchers hand a `Job` to submitit, which pickles it into a folder of this user and unpickles
it in the new process. A job holds plain values alone, and nothing else is ever unpickled: what a
job came to is read from the files that it writes.
"""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Job:
    """A function to call in a process of its own.

    Attributes:
        name: unique among the jobs of a study.
        function: "package.module:name", imported in the new process. It returns an exit code, may
            be called again after it was stopped, and then goes on with what it began.
        arguments: plain values.
        log: the file that all output is appended to.
    """

    name: str
    function: str
    arguments: tuple[Any, ...]
    log: Path

    def call(self) -> int:
        """Call the function with all output in the log, and return its exit code."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            os.dup2(log.fileno(), sys.stdout.fileno())
            os.dup2(log.fileno(), sys.stderr.fileno())
        module, _, name = self.function.partition(":")
        return int(getattr(importlib.import_module(module), name)(*self.arguments))


@dataclass(frozen=True)
class Look:
    """What a launcher sees about once a second: the names of the jobs that run, or just ended."""

    running: tuple[str, ...]
    ended: tuple[str, ...]
