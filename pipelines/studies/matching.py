"""Which run belongs to a row and a seed: the one with its settings and data, whatever its name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipelines.config import TrainConfig
from pipelines.errors import DeepGCNError
from pipelines.runs.directory import Run, find_runs
from pipelines.runs.resume import identity

# The further a run is, the sooner it is taken.
ORDER = ("failed", "interrupted", "running", "finished")


class KnownRuns:
    """The runs in a folder by what they train, as they were when this was made."""

    def __init__(self, runs: Path) -> None:
        self.found: dict[str, list[Run]] = {}
        for run in find_runs(runs):
            key = identity_of(run)
            if key is not None:
                self.found.setdefault(key, []).append(run)

    def match(self, config: TrainConfig, fingerprint: str) -> Run | None:
        """Return the run that trains `config` (resolved) on that data, the furthest of several.

        A micro-batch that nobody asked for is what the machine has decided.
        """
        runs = self.found.get(identity(config, fingerprint), [])
        if config.micro_batch is not None:
            runs = [run for run in runs if run.config.micro_batch == config.micro_batch]
        return max(runs, key=_progress, default=None)


def identity_of(run: Run) -> str | None:
    """Return what `identity` gives for a run; None for one that cannot be read."""
    try:
        return identity(run.config, run.environment["store"]["fingerprint"])
    except (DeepGCNError, KeyError, TypeError):
        return None  # a broken run belongs to no row


def _progress(run: Run) -> tuple[int, int]:
    try:
        status, state = run.status, run.state
    except DeepGCNError:
        return -1, 0
    return ORDER.index(state) if state in ORDER else -1, int(status.get("step") or 0)


def free_name(runs: Path, wanted: str, others: Sequence[str] = ()) -> str:
    """Return `wanted`, with a number behind it where something else has the name already."""
    name, number = wanted, 1
    while name in others or (runs / name).exists():
        number += 1
        name = f"{wanted}-{number}"
    return name
