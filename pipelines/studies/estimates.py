"""Estimates of what a study will take, before anything is trained: time and memory.

The time of a step is its arithmetic over this machine's speed at such arithmetic. The speed comes
from finished runs of this machine that did about as much a block, if there are any, else from a few
timed steps of the first row.
"""

from __future__ import annotations

import json
import math
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.config import TrainConfig
from pipelines.data.store import Store
from pipelines.errors import DeepGCNError
from pipelines.model.figures import step_flop
from pipelines.progress import Progress
from pipelines.runs.directory import Run, find_runs
from pipelines.runtime.own_process import python_command
from pipelines.serialization import to_plain
from pipelines.train import open_samplers
from pipelines.training.memory import estimate_memory, fit_memory

from .plan import Plan
from .presets import Row
from .state import Cell, fraction

MEASURED_FLOP = 5e10  # of a timed step at most: about a second on one core
SIMILAR = 4.0  # times more or less arithmetic a block; far smaller networks are slower at theirs
MEASURE_SECONDS = 120.0  # after which a timed step is given up; the first on a machine compiles


@dataclass(frozen=True)
class RowEstimate:
    """What one row will take; None if that is unknown."""

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
    """Return what is left of a study will take on `device` ("cpu" or "cuda")."""
    speed, source = _machine_speed(plan, device, progress)
    blocks: dict[tuple[object, ...], int | None] = {}
    rows = []
    for row in plan.rows:
        if row.config is None:
            rows.append(RowEstimate(row))
            continue
        left = [cell for cell in cells if cell.row.name == row.name and cell.state != "scored"]
        steps = _steps(row.config, store, blocks, progress)
        seconds = None
        if speed is not None and steps is not None:
            each = steps * row.config.batch_size * _block_flop(row.config) / speed
            seconds = sum(each * (1 - fraction(cell.run)) for cell in left)
        memory = estimate_memory(fit_memory(row.config, device), device=device).total
        rows.append(RowEstimate(row, len(left), steps, seconds, memory))
    times = [row.seconds for row in rows if row.row.config is not None]
    known = [time for time in times if time is not None]
    total = sum(known) if len(known) == len(times) else None
    return StudyEstimate(plan.name, tuple(rows), total, source, plan.notes)


def _block_flop(config: TrainConfig) -> float:
    return step_flop(config.model, config.num_points)


def _steps(
    config: TrainConfig,
    store: Store,
    blocks: dict[tuple[object, ...], int | None],
    progress: Progress,
) -> int | None:
    """Return the steps of a training, None without blocks; `blocks` caches their number."""
    key = (config.test_area, config.num_points, config.val_fraction, config.model.layout)
    if key not in blocks:
        try:
            blocks[key] = len(open_samplers(config, store, progress)[0])
        except DeepGCNError:
            blocks[key] = None
    if (count := blocks[key]) is None:
        return None
    steps = config.epochs * math.ceil(count / config.batch_size)
    return min(steps, config.max_steps or steps)


def _machine_speed(plan: Plan, device: str, progress: Progress) -> tuple[float | None, str]:
    """Return floating-point operations a second in training, and where the figure is from."""
    config = next((row.config for row in plan.rows if row.config is not None), None)
    if config is None:
        return None, "nothing: no row can be trained"
    known = [speed for run in find_runs(plan.runs) if (speed := _speed_of(run, device, config))]
    if known:
        runs = f"{len(known)} run{'' if len(known) == 1 else 's'}"
        return statistics.median(known), f"the pace of {runs} of this machine in {plan.runs}"
    return _timed(config, device, progress)


def _speed_of(run: Run, device: str, like: TrainConfig) -> float | None:
    """Return a finished run's arithmetic a second; None if it is not of this machine or unlike."""
    try:
        status, environment, config = run.status, run.environment, run.config
    except DeepGCNError:
        return None
    here = environment.get("host") == platform.node() and environment.get("device") == device
    pace = float(status.get("blocks_per_second") or 0)
    if not here or status.get("state") != "finished" or not pace:
        return None
    similar = 1 / SIMILAR <= _block_flop(config) / _block_flop(like) <= SIMILAR
    return pace * _block_flop(config) if similar else None


def _timed(config: TrainConfig, device: str, progress: Progress) -> tuple[float | None, str]:
    """Time steps of a training, most often of the reference, in a process of their own."""
    blocks = min(config.batch_size, max(1, int(MEASURED_FLOP / _block_flop(config))))
    case = {
        "model": to_plain(config.model),
        **{"work": "step", "batch_size": blocks, "num_points": config.num_points},
        **{"device": device, "threads": config.threads, "repeats": 2},
    }
    command = python_command("pipelines.bench.timing", json.dumps(case))
    with progress.task(f"Timing steps of {blocks} block{'' if blocks == 1 else 's'}"):
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=MEASURE_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            return None, f"nothing: three steps took more than {MEASURE_SECONDS:.0f} s"
    if done.returncode:
        progress.warn(f"no time estimates: {(done.stderr.strip() or '–').splitlines()[-1]}")
        return None, "nothing: a timed step failed"
    seconds = min(json.loads(done.stdout.splitlines()[-1])["times"])
    return blocks * _block_flop(config) / seconds, "timed steps of the first row"
