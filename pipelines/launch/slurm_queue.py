"""What SLURM says about jobs, asked of its own commands.

`squeue` and `scontrol` answer on every cluster; `sacct` only where accounting is set up, so it is
asked last, about jobs that SLURM has forgotten otherwise.
"""

from __future__ import annotations

import subprocess
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from pipelines.errors import RunError

SECONDS = 60.0  # for a busy controller to answer


@dataclass(frozen=True)
class Queued:
    """A job in the queue: its id ("12_3", "12"), name, place in its array, and state."""

    id: str
    name: str
    index: int
    state: str


@dataclass(frozen=True)
class Outcome:
    """How a job ended, in SLURM's words: "TIMEOUT", "NODE_FAIL"; 0 where it gives no code."""

    state: str
    returncode: int


def queued(names: Collection[str]) -> list[Queued]:
    """Return this user's jobs in the queue, waiting or running, that have one of `names`.

    Raises:
        RunError: SLURM does not answer.
    """
    if not names:
        return []
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i|%j|%T"]
    found = [line.split("|") for line in _ask(command).splitlines()]
    return [
        Queued(job, name, int(job.partition("_")[2] or 0), state)
        for job, name, state in found
        if name in names
    ]


def outcome(job: str) -> Outcome | None:
    """Return how a job ended that is no longer in the queue; None: nobody knows."""
    try:
        facts = _ask(["scontrol", "show", "job", "--oneliner", job]).split()
        told = dict(fact.partition("=")[::2] for fact in facts)
        return Outcome(told["JobState"], _returncode(told["ExitCode"]))
    except (RunError, KeyError):
        pass  # forgotten, MinJobAge after its end
    try:
        line = _ask(["sacct", "-n", "-P", "-X", "-j", job, "-o", "State,ExitCode"]).splitlines()[0]
        state, _, code = line.partition("|")
        return Outcome(state.split()[0], _returncode(code))
    except (RunError, IndexError, ValueError):
        return None  # no accounting


def cancel(jobs: Iterable[str]) -> None:
    """Cancel jobs by their ids.

    Raises:
        RunError: SLURM does not answer.
    """
    chosen = list(jobs)
    if chosen:
        _ask(["scancel", *chosen])


def _returncode(text: str) -> int:
    """Return a code from SLURM's "code:signal"."""
    code, _, number = text.partition(":")
    return int(code) or -int(number or 0)


def _ask(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=SECONDS)
    except FileNotFoundError:
        raise RunError(f"{command[0]}: found no such command, expected SLURM's.") from None
    except subprocess.TimeoutExpired:
        raise RunError(f"{command[0]}: found no answer from SLURM in {SECONDS:g} s.") from None
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip() or f"exit status {error.returncode}").splitlines()[0]
        raise RunError(f"{command[0]}: SLURM said: {said}") from None
    return done.stdout
