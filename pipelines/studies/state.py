"""How far each row and seed of a study is, read from the run directories.

A run belongs to a row and a seed if it has their settings and data, whatever its name.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.config import TrainConfig
from pipelines.errors import DeepGCNError
from pipelines.reports.scores import known_scores
from pipelines.runs.directory import METRICS, Run, find_runs
from pipelines.runs.resume import identity

from .plan import Plan, seeded
from .presets import Row

STATES = ("scored", "trained", "running", "interrupted", "failed", "waiting", "impossible")
ORDER = ("failed", "interrupted", "running", "finished")  # the further a run, the sooner taken
STARTED = "Row "  # how a job's part of its log begins
TAIL = 4096  # bytes of metrics.jsonl that hold its last record


@dataclass(frozen=True)
class Cell:
    """A row and a seed of a study, as they are now."""

    row: Row
    seed: int
    state: str  # one of STATES
    run: Run | None = None
    error: str = ""  # the first line of what went wrong
    scores: dict[str, Any] | None = None  # its scores.json

    @property
    def name(self) -> str:
        """The row and the seed, as a plain file name."""
        return cell_name(self.row.name, self.seed)


def cell_name(row: str, seed: int) -> str:
    """Return the name of a row and seed within its study."""
    return f"{row}-s{seed}"


def log_path(plan: Plan, name: str) -> Path:
    """Return the log of the processes that train and score a cell."""
    return plan.folder / "logs" / f"{name}.log"


def gather(plan: Plan) -> list[Cell]:
    """Return every row and seed as it is now, in the order of the plan."""
    known = KnownRuns(plan.runs)
    return [match_run(plan, known, row, seed) for row in plan.rows for seed in plan.seeds]


def match_run(plan: Plan, known: KnownRuns, row: Row, seed: int) -> Cell:
    """Return a row and seed as it is now, with the run that belongs to it."""
    if row.config is None:
        return Cell(row, seed, "impossible", error=_first_line(row.error))
    run = known.match(seeded(row, seed), plan.fingerprint)
    logged = logged_error(log_path(plan, cell_name(row.name, seed)))
    if run is None:
        return Cell(row, seed, "failed" if logged else "waiting", error=logged)
    try:
        state, status = run.state, run.status
    except DeepGCNError as error:
        return Cell(row, seed, "failed", run, error=_first_line(str(error)))
    if state == "finished":
        scores = known_scores(run, plan.evaluation, plan.protocol, plan.fingerprint)
        if scores is not None:
            return Cell(row, seed, "scored", run, scores=scores)
        return Cell(row, seed, "failed" if logged else "trained", run, error=logged)
    if state == "failed":
        return Cell(row, seed, state, run, error=_first_line(str(status.get("error") or logged)))
    return Cell(row, seed, state, run)


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else ""


def logged_error(log: Path) -> str:
    """Return the error that a cell's last process ended with; "" for none."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    starts = [number for number, line in enumerate(lines) if line.startswith(STARTED)]
    last = lines[starts[-1] :] if starts else lines
    found = [line for line in last if line.startswith("Error: ")]
    return found[-1].removeprefix("Error: ") if found else ""


def position(run: Run) -> tuple[int, int | None]:
    """Return how many steps a run has taken by its metrics log, and how many it has in all."""
    try:
        status, config = run.status, run.config
    except DeepGCNError:
        return 0, None
    total = status.get("steps_total") or config.max_steps
    return max(_last_step(run.path / METRICS), int(status.get("step") or 0)), total


def _last_step(log: Path) -> int:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL))
            lines = file.read().split(b"\n")[:-1]
        return int(json.loads(lines[-1])["step"])
    except (FileNotFoundError, IndexError, KeyError, ValueError):
        return 0  # no whole record yet


def fraction(run: Run | None) -> float:
    """Return how much of its training a run has done; its scoring is the last hundredth."""
    if run is None:
        return 0.0
    done, total = position(run)
    return min(0.99, done / total) if total else 0.0


class KnownRuns:
    """The runs in a folder by what they train, as they were when this was made."""

    def __init__(self, runs: Path) -> None:
        self.found: dict[str, list[Run]] = {}
        for run in find_runs(runs):
            with suppress(DeepGCNError, KeyError, TypeError):  # a broken run belongs to no row
                key = identity(run.config, run.environment["store"]["fingerprint"])
                self.found.setdefault(key, []).append(run)

    def match(self, config: TrainConfig, fingerprint: str) -> Run | None:
        """Return the run that trains `config` (resolved) on that data; of several, the furthest.

        A run's micro-batch counts only if `config` sets one: otherwise the machine chose it.
        """
        runs = self.found.get(identity(config, fingerprint), [])
        if config.micro_batch is not None:
            runs = [run for run in runs if run.config.micro_batch == config.micro_batch]
        return max(runs, key=_progress, default=None)


def _progress(run: Run) -> tuple[int, int]:
    try:
        status, state = run.status, run.state
    except DeepGCNError:
        return -1, 0
    return ORDER.index(state) if state in ORDER else -1, int(status.get("step") or 0)


def free_name(runs: Path, wanted: str) -> str:
    """Return `wanted`, with a number behind it if something else has the name."""
    name, number = wanted, 1
    while (runs / name).exists():
        number += 1
        name = f"{wanted}-{number}"
    return name
