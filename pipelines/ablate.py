"""The ablate stage: variations of a base → run directories and one table.

Every run is a process of its own (`ablate_job`), so that one that fails does not stop the others.
The run directories are the only state: the same command takes what is finished as it is, goes on
with what was interrupted and trains what is missing.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import cast

from pipelines.data.store import Store
from pipelines.launch.local import Ended, Job, Launcher, local_launcher
from pipelines.launch.slurm import SlurmOptions, slurm_launcher
from pipelines.reports.studies import duration
from pipelines.runs.resume import differences
from pipelines.runtime.device import gpu_names, pick_device
from pipelines.runtime.interruption import Interruption, watch_for_interruption
from pipelines.runtime.own_process import python_command
from pipelines.studies.estimates import StudyEstimate, estimate
from pipelines.studies.gather import STATES, Cell, fraction, gather, log_path, logged_error
from pipelines.studies.matching import KnownRuns
from pipelines.studies.plan import make_plan
from pipelines.studies.study_file import FILE, Plan, load_plan, save_plan, seeded
from pipelines.studies.summary import AblateResult, summed_up

from .config import AblateConfig, TrainConfig
from .errors import RunError
from .progress import SILENT, Progress, Task
from .serialization import to_plain

LOOK = 5.0  # seconds between two looks at how far the runs are
LEAST_SHARE = 0.05  # of a run that has to be done before the rest is estimated from it


def ablate(config: AblateConfig, *, progress: Progress = SILENT) -> AblateResult:
    """Train and score every row and seed of a study that is not finished yet, and make its table.

    Raises:
        ConfigError: the study does not exist or does not fit.
        DatasetError: the store is missing or broken.
        RunError: the folder has a study of this name with other settings.
        KeyboardInterrupt: SIGINT or SIGTERM came; the runs are saved.
    """
    plan = make_plan(config, Store.open(config.data))
    for note in plan.notes:
        progress.say(note)
    _check_same_study(plan)
    save_plan(plan)
    cells = gather(plan)
    todo = [cell for cell in cells if cell.state != "scored" and cell.row.config is not None]
    progress.say(_overview(plan, cells, todo))
    if todo:
        with watch_for_interruption() as interruption:
            _run(plan, config, cells, todo, interruption, progress)
    return summed_up(plan, gather(plan), config.reports, pictures=config.pictures)


def dry_run(config: AblateConfig, *, progress: Progress = SILENT) -> StudyEstimate:
    """Return what a study will take; nothing is trained or written.

    Raises:
        ConfigError: the study does not exist or does not fit.
        DatasetError: the store is missing or broken.
    """
    store = Store.open(config.data)
    plan = make_plan(config, store)
    device = pick_device(str(config.base.get("device", TrainConfig.device))).type
    return estimate(plan, gather(plan), store, device, progress)


def _check_same_study(plan: Plan) -> None:
    """Raise RunError if the study file that is there has the same rows with other settings."""
    path = plan.folder / FILE
    if not path.is_file():
        return
    before = load_plan(path)
    rows = {row.name: row for row in before.rows}
    for row in plan.rows:
        known = rows.get(row.name)
        if known is None or known.config is None or row.config is None:
            continue
        found = differences(to_plain(known.config), to_plain(row.config))
        if found:
            raise RunError(
                f"{path}: found the study with other settings: {row.name}'s {'; '.join(found)}.\n"
                f"Give this one a name of its own: --name NAME, or the same settings as before."
            )


def _overview(plan: Plan, cells: Sequence[Cell], todo: Sequence[Cell]) -> str:
    rows, seeds = len({cell.row.name for cell in cells}), len(plan.seeds)
    found = f"{plan.name}: {rows} rows × {seeds} seed{'' if seeds == 1 else 's'}"
    states = {state: sum(cell.state == state for cell in cells) for state in STATES}
    facts = [f"{number} {state}" for state, number in states.items() if number]
    return f"{found}; {', '.join(facts)}; {len(todo)} to run"


# --- running -------------------------------------------------------------------------------------


class Bar:
    """The progress of all cells as one bar: finished ones, and the share of those under way."""

    def __init__(self, task: Task, plan: Plan, cells: Sequence[Cell]) -> None:
        self.task, self.plan = task, plan
        self.done = {cell.name: 1.0 for cell in cells if cell.state == "scored"}
        self.running: dict[str, Cell] = {}
        self.looked, self.began = 0.0, time.monotonic()
        for cell in cells:
            self.done.setdefault(cell.name, fraction(cell.run))
        self.before = sum(self.done.values())
        task.advance(self.before)

    def start(self, cell: Cell) -> None:
        """Note that a cell's process has begun."""
        self.running[cell.name] = cell

    def end(self, cell: Cell) -> None:
        """Note that a cell's process has ended, well or not: it is not waited for any more."""
        self.running.pop(cell.name, None)
        self._advance({cell.name: 1.0})

    def look(self) -> None:
        """Look how far the running cells are, every few seconds."""
        if time.monotonic() - self.looked < LOOK:
            return
        self.looked = time.monotonic()
        known = KnownRuns(self.plan.runs)
        found = {
            name: fraction(known.match(seeded(cell.row, cell.seed), self.plan.fingerprint))
            for name, cell in self.running.items()
        }
        self._advance({name: max(share, self.done[name]) for name, share in found.items()})

    def _advance(self, shares: Mapping[str, float]) -> None:
        gained = sum(share - self.done[name] for name, share in shares.items())
        self.done.update(shares)
        now = ", ".join(f"{name} {100 * self.done[name]:.0f} %" for name in self.running)
        self.task.advance(gained, left=self.left(), now=now or "–")

    def left(self) -> str:
        """Return how long the rest will take if it goes on as since the beginning.

        The figure of a bar's own is that of the last half minute, in which a run may have begun.
        """
        done = sum(self.done.values())
        if done - self.before < LEAST_SHARE:
            return "–"
        passed = time.monotonic() - self.began
        return duration(passed * (len(self.done) - done) / (done - self.before))


def _run(
    plan: Plan,
    config: AblateConfig,
    cells: Sequence[Cell],
    todo: Sequence[Cell],
    interruption: Interruption,
    progress: Progress,
) -> None:
    """Bring the cells in `todo` to their end, `config.workers` at a time."""
    jobs = {cell.name: (cell, _job(plan, cell)) for cell in todo}
    launcher = _launcher(plan, config)
    total = sum(cell.row.config is not None for cell in cells)
    with progress.task("Ablation", total=total, unit="runs") as task:
        bar = Bar(task, plan, [cell for cell in cells if cell.row.config is not None])

        def tick() -> None:
            if interruption.requested is not None:
                raise KeyboardInterrupt
            bar.look()

        endings = launcher.run(
            [job for _, job in jobs.values()],
            on_start=lambda job: bar.start(jobs[job.name][0]),
            tick=tick,
        )
        # Closing stops the jobs, which save.
        with closing(cast("Generator[Ended, None, None]", endings)):
            for end in endings:
                cell = jobs[end.job.name][0]
                bar.end(cell)
                _say_end(cell, end, progress)


def _job(plan: Plan, cell: Cell) -> Job:
    arguments = ("ablate-job", str(plan.folder / FILE), cell.row.name, str(cell.seed))
    command = python_command("deepgcn_cli", *arguments)
    return Job(cell.name, command, log_path(plan, cell.name), cwd=Path.cwd())


def _launcher(plan: Plan, config: AblateConfig) -> Launcher:
    """Return what runs the jobs: SLURM, or this machine with a GPU or a share of its cores each."""
    if config.launcher == "slurm":
        options = dict(config.slurm)
        if config.workers is not None:
            options["at_most"] = config.workers
        return slurm_launcher(SlurmOptions(plan.folder / "slurm", **options))
    devices = () if config.base.get("device") == "cpu" else gpu_names()
    return local_launcher(config.workers or 1, devices, config.base.get("threads"))


def _say_end(cell: Cell, end: Ended, progress: Progress) -> None:
    if end.returncode == 0:
        progress.say(f"{cell.name}: done in {end.seconds:.0f} s")
        return
    killed = f"killed by signal {-end.returncode}" if end.returncode < 0 else ""
    reason = logged_error(end.job.log) or end.reason or killed or f"exit code {end.returncode}"
    progress.warn(f"{cell.name} failed: {reason} (see {end.job.log})")
