"""Find how far each row and seed of a study is, and estimate what is left.

A run belongs to a row and a seed if it has their settings and data, whatever its name. A step
takes its arithmetic over this machine's speed, which comes from finished runs of this machine, in
the same precision, that did about as much a block, else from a few timed steps of the first row.
"""

from __future__ import annotations

import json
import math
import platform
import statistics
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.bench import OURS, Case, measure_case
from pipelines.config import TrainConfig
from pipelines.data.blocks import trained_blocks
from pipelines.data.store import Store
from pipelines.errors import DeepGCNError, RunError
from pipelines.model.figures import step_flop
from pipelines.progress import Progress, counted
from pipelines.reports.scores import known_scores
from pipelines.runs.directory import METRICS, Run, find_runs
from pipelines.runs.resume import identity
from pipelines.train import open_samplers
from pipelines.training.memory import estimate_memory, fit_memory

from . import Row
from .plan import Plan

STATES = ("scored", "trained", "running", "interrupted", "failed", "waiting", "impossible")
ORDER = ("failed", "interrupted", "running", "finished")  # of several runs, the last is taken
STARTED = "Row "  # how a job's part of its log begins
TAIL = 4096  # bytes of metrics.jsonl that hold its last record
MEASURED_FLOP = 5e10  # of a timed step at most: about a second on one core
SIMILAR = 4.0  # times more or less arithmetic a block; much smaller networks do less a second
MEASURE_SECONDS = 120.0  # after which a timed step is given up; the first on a machine compiles


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
        return self.row.cell(self.seed)


def gather(plan: Plan) -> list[Cell]:
    """Return every row and seed as it is now, in the order of the plan."""
    known = KnownRuns(plan.runs)
    return [match_run(plan, known, row, seed) for row in plan.rows for seed in plan.seeds]


def match_run(plan: Plan, known: KnownRuns, row: Row, seed: int) -> Cell:
    """Return a row and seed as it is now, with the run that belongs to it."""
    if row.config is None:
        return Cell(row, seed, "impossible", error=row.error.partition("\n")[0])
    run = known.match(row.seeded(seed), plan.fingerprint)
    logged = logged_error(plan.log(row.cell(seed)))
    if run is None:
        return Cell(row, seed, "failed" if logged else "waiting", error=logged)
    try:
        state, status = run.state, run.status
    except DeepGCNError as error:
        return Cell(row, seed, "failed", run, error=str(error).partition("\n")[0])
    if state == "finished":
        scores = known_scores(run, plan.evaluation, plan.evaluation.protocols[0], plan.fingerprint)
        if scores is not None:
            return Cell(row, seed, "scored", run, scores=scores)
        return Cell(row, seed, "failed" if logged else "trained", run, error=logged)
    if state == "failed":
        return Cell(row, seed, state, run, str(status.get("error") or logged).partition("\n")[0])
    return Cell(row, seed, state, run)


def logged_error(log: Path) -> str:
    """Return the error that a cell's last process ended with; "" for none."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    for line in reversed(lines):
        if line.startswith("Error: "):
            return line.removeprefix("Error: ")
        if line.startswith(STARTED):
            break
    return ""


def position(run: Run) -> tuple[int, int | None]:
    """Return how many steps a run has taken by its metrics log, and how many it has in all."""
    try:
        status, config = run.status, run.config
    except DeepGCNError:
        return 0, None
    logged, log = 0, run.path / METRICS
    no_record = (FileNotFoundError, IndexError, KeyError, ValueError)  # or only part of one
    with suppress(*no_record), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL))
        logged = int(json.loads(file.read().split(b"\n")[-2])["step"])
    return max(logged, int(status.get("step") or 0)), status.get("steps_total") or config.max_steps


def fraction(run: Run | None) -> float:
    """Return how much of its training a run has done; its scoring is the last hundredth."""
    done, total = position(run) if run else (0, None)
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

        A run's micro-batch counts only if `config` sets one: otherwise the machine chose it, and of
        two runs that are as far the one of whole batches is taken.
        """
        runs = self.found.get(identity(config, fingerprint), [])
        if config.micro_batch is not None:
            runs = [run for run in runs if run.config.micro_batch == config.micro_batch]
        return max(runs, key=lambda run: (_progress(run), not run.config.micro_batch), default=None)


def _progress(run: Run) -> tuple[int, int]:
    with suppress(DeepGCNError):
        if run.state in ORDER:
            return ORDER.index(run.state), int(run.status.get("step") or 0)
    return -1, 0


@dataclass(frozen=True)
class RowEstimate:
    """What one row will take; None where that is unknown."""

    row: Row
    runs: int = 0  # that are not scored yet
    steps: int | None = None  # of each run
    seconds: float | None = None  # of all its runs, one after the other, scoring not counted
    memory: int | None = None  # bytes at the highest, of one run


@dataclass(frozen=True)
class StudyEstimate:
    """What a study will take."""

    study: str
    rows: tuple[RowEstimate, ...]
    seconds: float | None  # of all rows, one run after the other; None if a row's is unknown
    source: str  # what the times were taken from
    notes: tuple[str, ...]  # of the plan


def estimate(
    plan: Plan, cells: Sequence[Cell], store: Store, device: str, progress: Progress
) -> StudyEstimate:
    """Estimate what the rest of a study takes on `device` ("cpu" or "cuda")."""
    speed, source = _machine_speed(plan, device, progress)
    blocks: dict[tuple[object, ...], int] = {}  # of a training, by the settings that choose them
    rows = []
    for row in plan.rows:
        if (config := row.config) is None:
            rows.append(RowEstimate(row))
            continue
        key = (
            *(config.test_area, config.block_side, config.num_points),
            *(config.val_fraction, config.val_fold),
        )
        if key not in blocks:
            blocks[key] = 0
            with suppress(DeepGCNError):  # there are no blocks
                blocks[key] = len(open_samplers(config, store, progress)[0])
        most = config.epochs * math.ceil(blocks[key] / config.batch_size)
        steps = min(most, config.max_steps or most) or None
        left = [cell for cell in cells if cell.row.name == row.name and cell.state != "scored"]
        seconds = None
        if speed is not None and steps is not None:
            trained = trained_blocks(steps, blocks[key], config.batch_size)
            each = trained * _block_flop(config) / speed
            seconds = sum(each * (1 - fraction(cell.run)) for cell in left)
        memory = estimate_memory(fit_memory(config, device), device)
        rows.append(RowEstimate(row, len(left), steps, seconds, memory))
    times = [row.seconds for row in rows if row.row.config is not None]
    total = None if None in times else sum(time for time in times if time is not None)
    return StudyEstimate(plan.name, tuple(rows), total, source, plan.notes)


def _block_flop(config: TrainConfig) -> float:
    return step_flop(config.model, config.num_points)


def _machine_speed(plan: Plan, device: str, progress: Progress) -> tuple[float | None, str]:
    """Return floating-point operations a second in training, and where the figure is from."""
    config = next((row.config for row in plan.rows if row.config is not None), None)
    if config is None:
        return None, "nothing: no row can be trained"
    known = [speed for run in find_runs(plan.runs) if (speed := _speed_of(run, device, config))]
    if known:
        runs = counted(len(known), "run")
        return statistics.median(known), f"the pace of {runs} of this machine in {plan.runs}"
    return _timed(config, device, progress)


def _speed_of(run: Run, device: str, like: TrainConfig) -> float | None:
    """Return a finished run's arithmetic a second; None if it ran elsewhere or is not similar."""
    try:
        status, environment, config = run.status, run.environment, run.config
        here = environment.get("host") == platform.node() and environment.get("device") == device
        pace = float(status.get("blocks_per_second") or 0)
        # An estimate imports no class that only another run names: importing runs code.
        foreign = set(config.model.own_classes) - set(like.model.own_classes)
        other = foreign or config.precision != like.precision
        if not here or status.get("state") != "finished" or not pace or other:
            return None
        flop = _block_flop(config)
    except DeepGCNError:  # damaged, or of a network that is unknown here
        return None
    return pace * flop if 1 / SIMILAR <= flop / _block_flop(like) <= SIMILAR else None


def _timed(config: TrainConfig, device: str, progress: Progress) -> tuple[float | None, str]:
    """Time steps of a training, most often of the reference, in a process of their own."""
    blocks = min(config.batch_size, max(1, int(MEASURED_FLOP / _block_flop(config))))
    case = Case(
        *(config.model, "step", blocks, config.num_points, device, config.threads),
        repeats=2,
        precision=config.precision,
    )
    with progress.task(f"Timing steps of {counted(blocks, 'block')}"):
        try:
            times = measure_case(OURS, case, MEASURE_SECONDS).times
        except subprocess.TimeoutExpired:
            return None, f"nothing: three steps took more than {MEASURE_SECONDS:.0f} s"
        except RunError as error:
            progress.warn(f"no time estimates: {str(error).splitlines()[-1]}")
            return None, "nothing: a timed step failed"
    return blocks * _block_flop(config) / min(times), "timed steps of the first row"
