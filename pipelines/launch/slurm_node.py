"""What runs on a SLURM node: one command, stopped in time to save, and queued again.

submitit pickles a `NodeJob` into the launcher's folder and loads it on the node. The pickle is made
by us, of plain values, in a folder of the person who starts it; nothing else is ever unpickled.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from pipelines.files import atomic_json

from . import process_guard as guard

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

REQUEUE = 5.0  # seconds, after SIGTERM has ended the command, for a signal to requeue the job
MARGIN = 5.0  # seconds of the time to save that are left to requeue the job


@dataclass
class NodeJob:
    """A command with all that it needs, callable by submitit.

    Attributes:
        command: the program and its arguments.
        log: the file that its output is appended to.
        cwd: the folder to run in.
        environment: variables added to the node's.
        end: the file that tells the submitting side how the command ended. A job that is stopped
            to be queued again, and one that is cancelled, writes none.
        save_seconds: between the request to stop and SIGKILL.
    """

    command: tuple[str, ...]
    log: str
    cwd: str
    environment: dict[str, str]
    end: str
    save_seconds: float
    stopped: bool = field(default=False, init=False)
    process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)

    def __call__(self) -> None:
        """Run the command; exit as it does."""
        Path(self.end).unlink(missing_ok=True)
        began = time.monotonic()
        try:
            code, reason = self.run()
            if self.stopped and code:
                time.sleep(REQUEUE)  # where SIGUSR2 follows, `checkpoint` is called here
            else:
                self.tell(code, time.monotonic() - began, reason)
        except Exception as error:  # submitit's "no more requeues", raised where the signal came
            self.tell(1, time.monotonic() - began, str(error))
            raise
        if code:
            sys.exit(code if code > 0 else 128 - code)

    def run(self) -> tuple[int, str]:
        """Run the command under a guard; return its code and why it could not be started."""
        process = self.process = self.start()
        signal.signal(signal.SIGTERM, self.handle_term)
        assert process.stdout is not None
        told = b""
        # Bare reads: handlers run between them, and a waiting Popen cannot be asked twice.
        while part := os.read(process.stdout.fileno(), 4096):
            told += part
        code, _, reason = told.decode().strip().partition(" ")
        return (int(code), reason) if code else (1, "the process that watched it was killed")

    def start(self) -> subprocess.Popen[bytes]:
        """Start the command under a guard."""
        # SLURM signals every process of a job. SIGUSR2 is for this one; others would die of it.
        numbers = (signal.SIGUSR1, signal.SIGUSR2)
        before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
        Path(self.log).parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(self.log, "ab") as log:
                grace = str(self.save_seconds - MARGIN)
                return subprocess.Popen(
                    [sys.executable, "-I", "-S", guard.__file__, grace, "-", *self.command],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd=self.cwd,
                    env={**os.environ, **self.environment},
                )
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_term(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Stop the command: SLURM cancels the job, or takes the node to give it to another."""
        self.stopped = True
        self.stop()

    def stop(self) -> None:
        """Ask the guard to end the command."""
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()

    def checkpoint(self) -> DelayedSubmission:
        """Let the command save and end; return what is to run when the job is queued again.

        Called by submitit on SIGUSR2: the time limit is near, or the job is pre-empted.
        """
        from submitit.core.utils import DelayedSubmission

        self.stop()
        if self.process is not None:
            self.process.wait()
        return DelayedSubmission(dataclasses.replace(self))

    def tell(self, code: int, seconds: float, reason: str) -> None:
        """Tell the submitting side how the command ended."""
        atomic_json(Path(self.end), {"returncode": code, "seconds": seconds, "reason": reason})
