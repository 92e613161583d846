"""The ablate stage: variations of a base → run directories and one table.

Every run has its own process, so that a failing run does not stop the others. The run directories
are the only state: the same command keeps finished runs, resumes interrupted ones and trains the
missing ones.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from pipelines.data.store import Store
from pipelines.launch import Job, LocalLauncher, Updates, divide_machine
from pipelines.launch.slurm import SlurmLauncher, SlurmOptions
from pipelines.reports.studies import duration
from pipelines.runs.directory import Run, numbered
from pipelines.runs.lock import is_locked
from pipelines.runs.resume import FREE, differences, different_settings
from pipelines.runtime.device import cpu_threads, gpu_names, pick_device
from pipelines.runtime.process import watch_for_interruption
from pipelines.studies import state
from pipelines.studies.plan import (
    Plan,
    load_plan,
    make_plan,
    own_classes,
    save_plan,
    with_other_rows,
)
from pipelines.studies.state import Cell, KnownRuns
from pipelines.studies.tables import AblateResult, summarize

from .config import AblateConfig, TrainConfig
from .config.model import unnamed_class
from .errors import ConfigError, RunError, TakenError
from .evaluate import scores_of
from .files import check_place
from .progress import SILENT, Progress, Task, counted
from .serialization import to_plain
from .train import train

REFRESH = 5.0  # seconds between two readings of how far the runs are
LEAST_DONE = 0.05  # of a run, before the time left is estimated from it
POLL = 5.0  # seconds between two checks of a run that another process is training


def ablate(config: AblateConfig, *, progress: Progress = SILENT) -> AblateResult:
    """Train and score every row and seed of a study that is not finished yet, and make its table.

    Raises:
        ConfigError: the study does not exist or does not fit.
        DatasetError: the store is missing or broken.
        RunError: the folder has a study of this name with other settings.
        KeyboardInterrupt: SIGINT or SIGTERM came; the runs are saved.

    >>> config = AblateConfig(preset="depth", seeds=3)  # `ablate(config).tables` compares depths
    """
    check_place(config.runs, "--runs", folder=True)
    plan = make_plan(config, Store.open(config.data))
    for note in plan.notes:
        progress.say(note)
    before = _study_before(plan)
    whole = with_other_rows(plan, before) if before and config.rows else plan
    save_plan(whole)
    cells = state.gather(plan)
    todo = [cell for cell in cells if cell.state not in ("scored", "impossible")]
    progress.say(_overview(plan, cells, todo))
    if todo:
        _run(plan, config, [cell for cell in cells if cell.state != "impossible"], progress)
    pictures, page_columns = config.pictures, config.page_columns
    return summarize(
        whole, config.reports, pictures=pictures, page_columns=page_columns, asked=plan
    )


def dry_run(config: AblateConfig, *, progress: Progress = SILENT) -> state.StudyEstimate:
    """Estimate what a study takes, without training or writing; the errors are `ablate`'s.

    >>> left = dry_run(AblateConfig(preset="smoke", rows=("reference",), seeds=2))
    >>> left.rows[0].runs
    2
    """
    store = Store.open(config.data)
    plan = make_plan(config, store)
    _study_before(plan)
    device = pick_device(plan.evaluation.device).type
    return state.estimate(plan, state.gather(plan), store, device, progress)


def _study_before(plan: Plan) -> Plan | None:
    """Return the study of a plan's name, if there is one; RunError: it has other settings."""
    if not plan.file.is_file():
        return None
    before = load_plan(plan.file)
    known = {row.name: to_plain(row.config) for row in before.rows if row.config is not None}
    for row in plan.rows:
        if row.config is None or row.name not in known:
            continue
        if found := differences(known[row.name], to_plain(row.config)):
            raise _other_study(plan, f"settings: {row.name}'s {'; '.join(found)}")
    if before.fingerprint != plan.fingerprint:
        old, new = before.fingerprint[:12], plan.fingerprint[:12]
        raise _other_study(plan, f"data: it began on {old}, {plan.evaluation.data} is {new}")
    if changed := different_settings([_scoring(before), _scoring(plan)]):
        found = [f"{name} was {old}, now {new}" for name, (old, new) in changed.items()]
        raise _other_study(plan, f"scores: {'; '.join(found)}")
    return before


def _scoring(plan: Plan) -> dict[str, object]:
    how = plan.evaluation
    return {"protocol": how.protocols[0], "votes": plan.votes, "checkpoint": how.checkpoint}


def _other_study(plan: Plan, what: str) -> RunError:
    return RunError(
        f"{plan.file}: found the study with other {what}.\n"
        "Give this one another name (--name NAME), or the same settings as before."
    )


def _overview(plan: Plan, cells: Sequence[Cell], todo: Sequence[Cell]) -> str:
    counts, seeds = Counter(cell.state for cell in cells), len(plan.seeds)
    shown = ", ".join(f"{counts[each]} {each}" for each in state.STATES if counts[each])
    size = f"{counted(len(plan.rows), 'row')} × {counted(seeds, 'seed')}"
    return f"{plan.name}: {size}; {shown}; {len(todo)} to run"


def _run(plan: Plan, config: AblateConfig, cells: Sequence[Cell], progress: Progress) -> None:
    """Train and score all cells, `config.workers` at a time."""
    with (
        watch_for_interruption() as interruption,
        progress.task("Ablation", total=len(cells), unit="runs") as task,
        closing(_launched(plan, config, cells)) as updates,  # which makes local jobs save and stop
    ):
        meter = _StudyMeter(task, plan, cells)
        for running, ended in updates:
            meter.update(running, ended)
            for name in ended:
                _report_end(plan, meter.cells[name], progress)
            if interruption.requested is not None:
                raise KeyboardInterrupt


def _launched(plan: Plan, config: AblateConfig, cells: Sequence[Cell]) -> Updates:
    """Run `ablate_job` for each cell, on SLURM or on this machine, each on its own GPU or cores."""
    study, run = str(plan.file.absolute()), "deepgcn_cli.__main__:run"  # has its error messages
    own = [word for name in own_classes(config) for word in ("--own-class", name)]
    jobs = []
    for cell in cells:
        if cell.state != "scored":
            arguments = ["ablate-job", study, cell.row.name, str(cell.seed), *own]
            log, command = plan.log(cell.name).absolute(), ("deepgcn", *arguments)
            jobs.append(Job(cell.name, run, (arguments,), log, command))
    if config.launcher == "slurm":
        options = dict(config.slurm)
        if config.workers is not None:
            options["at_most"] = config.workers
        return SlurmLauncher(plan.file.parent / "slurm", SlurmOptions(**options)).run(jobs)
    configs = [row.config for row in plan.rows if row.config is not None]
    devices = () if {each.device for each in configs} == {"cpu"} else gpu_names()
    threads = max((each.threads or 0 for each in configs), default=0) or None
    workers = divide_machine(config.workers or 1, devices, threads)
    return LocalLauncher(workers).run(jobs)


def _report_end(plan: Plan, cell: Cell, progress: Progress) -> None:
    """Report how a cell's process ended, by the run directory and the log."""
    found = state.match_run(plan, KnownRuns(plan.runs), cell.row, cell.seed)
    if found.state == "scored":
        return progress.say(f"{cell.name}: done")
    reason = state.logged_error(log := plan.log(cell.name))
    reason = reason or "its process ended without a result; it may have been killed"
    progress.warn(f"{cell.name} failed: {reason} (see {log})")


class _StudyMeter:
    """The progress of all cells as one bar: each counts by the fraction that is done."""

    def __init__(self, task: Task, plan: Plan, cells: Sequence[Cell]) -> None:
        self.task, self.plan = task, plan
        self.cells = {cell.name: cell for cell in cells}
        self.done = {
            cell.name: 1.0 if cell.state == "scored" else state.fraction(cell.run) for cell in cells
        }
        self.read = self.began = time.monotonic()
        self.before = sum(self.done.values())
        task.advance(self.before)

    def update(self, running: Sequence[str], ended: Sequence[str]) -> None:
        """Show how far the running cells are, every few seconds and when one has ended."""
        if not ended and time.monotonic() - self.read < REFRESH:
            return
        self.read = time.monotonic()
        before, known = sum(self.done.values()), KnownRuns(self.plan.runs)
        for name in running:
            cell = self.cells[name]
            run = known.match(cell.row.seeded(cell.seed), self.plan.fingerprint)
            self.done[name] = max(self.done[name], state.fraction(run))
        self.done.update(dict.fromkeys(ended, 1.0))  # failed or not
        now = ", ".join(f"{name} {100 * self.done[name]:.0f} %" for name in running)
        self.task.advance(sum(self.done.values()) - before, left=self.left(), now=now or "–")

    def left(self) -> str:
        """Return how long the rest will take at the average pace so far.

        A bar's own figure is the pace of the last half minute, in which a run may have started.
        """
        done = sum(self.done.values())
        if done - self.before < LEAST_DONE:
            return "–"
        passed = time.monotonic() - self.began
        return duration(passed * (len(self.done) - done) / (done - self.before))


def ablate_job(
    study: Path,
    row: str,
    seed: int,
    *,
    own: tuple[str, ...] = (),
    progress: Progress = SILENT,
) -> Path:
    """Train and score a row and seed of the study in a file, and return the run directory.

    A finished run with these settings is scored, an unfinished one is resumed first; if there is
    none, a new one is trained. While another process trains it, this one waits. `own` has the own
    classes that may be imported, whatever the file says.

    Raises:
        ConfigError: the row does not exist or cannot be trained.
        RunError: the study file is missing or damaged, or the run fails.
        DatasetError: the store is missing or broken.

    >>> ablate_job(Path("runs/studies/smoke/study.json"), "reference", 0)
    Traceback (most recent call last):
    pipelines.errors.RunError: smoke: found no such study in runs; ...
    """
    progress.say(f"{state.STARTED}{row}, seed {seed}")
    plan = load_plan(study)
    planned = plan.row(row)
    if planned.config is None:
        raise ConfigError(planned.error)
    config = planned.seeded(seed)
    if refusal := unnamed_class(config.model.own_classes, own):
        raise ConfigError(f"{study}: {refusal}")
    run = _trained(config, f"{plan.name}-{planned.cell(seed)}", plan, progress)
    options = dataclasses.replace(plan.evaluation, data=config.data, own_classes=own)
    with cpu_threads(config.threads):
        scores_of(options, options.protocols[0], run, progress)
    return run.path


def _trained(config: TrainConfig, wanted: str, plan: Plan, progress: Progress) -> Run:
    """Return the finished run of a row and seed, trained or resumed here or by another process."""
    while True:
        run = KnownRuns(config.runs).match(config, plan.fingerprint)
        if run is not None and is_locked(run.path):
            progress.say(f"{run.path}: another process is training it; waiting")
            while is_locked(run.path):
                time.sleep(POLL)
            continue
        try:
            return _trained_here(run, config, wanted, progress)
        except TakenError:  # another process was faster; its run is found once it has begun
            time.sleep(POLL)


def _trained_here(run: Run | None, config: TrainConfig, wanted: str, progress: Progress) -> Run:
    """Return the run, resumed if it has not finished; None: a new one of the wanted name."""
    if run is None:
        name = next(p.name for p in numbered(config.runs / wanted) if not p.exists())
        return Run(train(dataclasses.replace(config, name=name), progress=progress).run)
    if run.state == "finished":
        progress.say(f"{run.path}: trained before")
        return run
    progress.say(f"{run.path}: {run.state}; resuming it")
    # The settings that shape the result are the same; the others are the row's.
    free = {name: getattr(config, name) for name in FREE if name != "name"}
    own = dataclasses.replace(run.config, **free)
    return Run(train(own, resume=run.path, progress=progress).run)
