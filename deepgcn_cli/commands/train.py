"""`deepgcn train`: prepared data → a run."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import typer

from deepgcn_cli.display import Answer, show_parts
from deepgcn_cli.errors import interruptible
from deepgcn_cli.options import PRESET, Flags, ModelFlags, TrainFlags, chosen_model, subcommand
from deepgcn_cli.plans import plan_parts
from pipelines.config import PlanConfig, TrainConfig
from pipelines.config.budget import LEAST, seconds_of
from pipelines.config.model import OWN_CLASSES, unnamed_class
from pipelines.config.options import LENGTH, PROCESSES, SPEED, Bounds, flag_of, option, options_of
from pipelines.config.studies import CANDIDATES
from pipelines.errors import ConfigError, DiskFullError, EverywhereError, RunError, command
from pipelines.files import check_place
from pipelines.progress import Progress, counted
from pipelines.runs.directory import (
    CONFIG,
    PLAN,
    Run,
    any_runs,
    default_name,
    find_runs,
    named_run,
    new_path,
    open_run,
    resume_command,
)
from pipelines.runs.lock import was_locked_here
from pipelines.serialization import to_plain

if TYPE_CHECKING:
    from pipelines.planning.file import Plan
    from pipelines.train import TrainResult


FOLDS = Bounds(1, 10)


def flags_that_shape(*shapes: str) -> str:
    """Return the options of a training that shape one of `shapes`, as "--a, --b and --c"."""
    options = options_of(TrainConfig, "train").items()
    *others, last = (flag_of(name, each) for name, each in options if each.shapes in shapes)
    return f"{', '.join(others)} and {last}" if others else last


@subcommand(
    "deepgcn train --arch densegcn --depth 28",
    "deepgcn train --preset resgcn-28w --area 5 --epochs 50",
    "deepgcn train --recipe modern --without color-drop",
    "deepgcn train --logger mlflow --logger wandb",
    "deepgcn train --recipe modern --without adamw --with sgd",
    "deepgcn train --weights dgcnn-s3dis-area5 --recipe modern --lr 3e-4 --freeze 1",
    "deepgcn train --synth --recipe modern",
    "deepgcn train --auto --time 30m --data data-rooms",
    "deepgcn train --plan plan.json --batch-size 8",
    "deepgcn train --devices 4 --sync-bn --precision bf16",
    "deepgcn train --depth 1001 -k 3 --batch-size 4",
    "deepgcn train --resume",
    "deepgcn train --resume mine-fold2 --folds 3",
    free=flags_that_shape(LENGTH, SPEED),
    processes=flags_that_shape(PROCESSES),
)
def train(
    *,
    run: str | None = option(None, "With --resume: the run's name or folder.", "[RUN]", flag=""),
    preset: str | None = PRESET,
    model: ModelFlags,
    own: TrainFlags,
    resume: bool = option(False, "Resume RUN, or the latest unfinished run."),
    plan: Path | None = option(
        None, "Train by a plan of deepgcn plan; other flags change it.", "FILE"
    ),
    auto: bool = option(False, "Plan first: choose every option that is not given."),
    time: str | None = option(
        None, f"With --auto: what it may take. [default: {PlanConfig.time}]", "TIME"
    ),
    candidates: int = option(
        1,
        "With --auto: first train so many variants for a tenth of the time each, and keep what the "
        "validation rooms prefer.",
    ),
    folds: int = option(
        1,
        "With --plan or --auto: so many trainings, each validated on another part of the rooms, "
        "whose networks label together. They share --time; each takes that of a --plan. With "
        "--resume: the same after an interruption.",
        within=FOLDS,
    ),
    dry_run: bool = option(False, "With --plan or --auto: only show the plan."),
    own_classes: tuple[str, ...] = OWN_CLASSES,
    progress: Progress,
) -> Answer:
    """Train a network on every prepared area but one.

    With --synth it trains on synthetic rooms without end and needs no data. Ctrl-C stops after the
    step, with everything saved; --resume continues. A resumed run keeps its own settings: only
    {free} may change, and {processes} with --sync-bn.

    With --auto it plans first, as deepgcn plan does, so that the training fits the data, the
    machine and --time. --weights none then starts from nothing.
    """
    by_plan = plan is not None or auto
    CANDIDATES.check("--candidates", candidates)
    FOLDS.check("--folds", folds)
    timed = "--time" if time is not None else "--candidates" if candidates > 1 else ""
    only_planned = "--dry-run" if dry_run else "--folds" if folds > 1 else ""
    asked: Any = {"timed": timed, "only_planned": only_planned, "folds": folds}
    _check(run, resume, plan, own, auto=auto, **asked)
    if candidates > 1:
        from pipelines.plan import check_alone

        check_alone(candidates)  # in all of them, or the others would wait
    rank = _rank()
    planned: Plan | None = None
    look = resume and rank == 0  # the others take rank 0's configuration
    folder = _run_to_resume(own.get("runs", TrainConfig.runs), run) if look else None
    parts: list[tuple[TrainConfig, Path | None]] = []  # what is trained, with the run to resume
    if folder:
        # A run's own configuration, changed by flags; the stage says which may change.
        from pipelines.runs.resume import check_named

        def resumed(path: Path) -> TrainConfig:
            known = open_run(path).config
            check_named(Run(path), (*own_classes, *model.values()))
            changed = chosen_model(preset, model) if preset else replace(known.model, **model)
            return replace(known, **{**own, "model": changed, "runs": path.parent})

        config = resumed(folder)
        parts = [(config, folder)]
        if folds > 1:
            parts = _resumed_folds(folder, folds, resumed)
            planned = _plan_of_folds([begun for _, begun in parts if begun])
    elif by_plan and rank == 0:
        from pipelines.planning.blocks import check_validation
        from pipelines.planning.settings import planned_config
        from pipelines.training.start import resolve_start

        given = {**(vars(chosen_model(preset, model)) if preset else model), **own}
        given |= {"val_fold": f"1/{folds}"} if folds > 1 else {}
        check_place(own.get("runs", TrainConfig.runs), "--runs", folder=True)
        if (name := own.get("name")) is not None:  # before the time that planning takes
            for each in _folds(TrainConfig(name=name), folds):
                new_path(own.get("runs", TrainConfig.runs), each.name or name)
        how: Any = {"own_classes": own_classes, "measure": not dry_run}
        planned = _planned(plan, given, progress, time, candidates, folds, **how)
        shown = list(plan_parts(planned))
        config = planned_config(planned, given)
        if folds > 1:
            config = replace(config, name=config.name or default_name(config))
        for each in _folds(config, folds):  # not after hours of the folds before
            check_validation(each)
        if dry_run:
            resolve_start(config)  # an error of the training is one of its plan
            return Answer(planned, shown, "Next: the same command without --dry-run")
        show_parts(shown, progress)
        if folds > 1 and plan:
            progress.say(f"The plan's time is that of each of the {folds} trainings.")
    elif not by_plan and (weights := own.pop("weights", None)) is not None:
        from pipelines.training.start import start_config

        changes = vars(chosen_model(preset, model)) if preset else model
        config = start_config(weights, changes, own, own_classes)
    else:
        config = TrainConfig() if by_plan else TrainConfig(model=chosen_model(preset, model), **own)

    from pipelines.train import train as stage

    before = _run_folders(config.runs)

    def how_to_resume() -> str:
        return _how_to_resume(folder, _run_folders(config.runs) - before, folds)

    with interruptible(how_to_resume):
        kept = to_plain(planned) if planned else None
        try:
            results = [
                stage(each, resume=begun, plan=kept, progress=progress)
                for each, begun in parts or [(each, None) for each in _folds(config, folds)]
            ]
        except DiskFullError as error:
            if folds == 1:
                raise
            again = f"Free some space, then {how_to_resume()}"
            raise DiskFullError(f"{str(error).splitlines()[0]}\n{again}") from error
        except EverywhereError:
            if rank == 0:
                raise
            raise typer.Exit(1) from None  # rank 0 reports it
    if rank > 0:
        raise typer.Exit  # rank 0 shows the result
    texts = []
    for result in results:
        best = result.best_miou
        chosen = "no validation" if best is None else f"best validation mIoU {100 * best:.2f} %"
        length = f"{counted(result.steps, 'step')}, {counted(result.epochs, 'epoch')}"
        texts.append(f"{result.run}: {length}, {chosen}")
    hint = _keep_next(planned, config, results) if planned else _what_next(config, results[0])
    return Answer(results[0] if folds == 1 else results, texts, hint)


def _folds(config: TrainConfig, folds: int) -> list[TrainConfig]:
    """Return a training for each part of the rooms that validates."""
    if folds == 1:
        return [config]
    return [
        replace(config, val_fold=f"{n}/{folds}", name=config.name and f"{config.name}-fold{n}")
        for n in range(1, folds + 1)
    ]


def _resumed_folds(
    run: Path, folds: int, resumed: Callable[[Path], TrainConfig]
) -> list[tuple[TrainConfig, Path | None]]:
    """Return the trainings of which a run is one, each with its run if it has begun.

    RunError: it, or a run that has the name of another of them, is not one of so many.
    """
    name, parent = run.resolve().name, run.parent if run.name else run.resolve().parent
    paths = [parent / re.sub(r"-fold\d+$", f"-fold{n}", name) for n in range(1, folds + 1)]
    parts = {path: f"{n}/{folds}" for n, path in enumerate(paths, start=1)}
    begun = {path: resumed(path) for path in parts if (path / CONFIG).is_file()}
    wrong = [path for path, config in begun.items() if config.val_fold != parts[path]]
    if parent / name not in begun or wrong:
        raise RunError(
            f"--folds: found {(wrong or [run])[0]}, expected one of the {folds} runs of train "
            f"--folds {folds}.\nTo resume a run alone: {resume_command(run)}"
        )
    new = begun[parent / name]
    return [
        (begun[path], path)
        if path in begun
        else (replace(new, val_fold=part, name=path.name), None)
        for path, part in parts.items()
    ]


def _plan_of_folds(runs: Sequence[Path]) -> Plan:
    """Return the plan that runs were trained by; RunError: none of them has one."""
    from pipelines.planning.file import read_plan

    for run in runs:
        with suppress(ConfigError):  # missing or damaged: the others have the same
            return read_plan(run / PLAN)
    raise RunError(
        f"{runs[0]}: found no {PLAN} that can be read, expected a run of train --folds.\n"
        f"To resume it alone: {resume_command(runs[0])}"
    )


def _what_next(config: TrainConfig, result: TrainResult) -> str:
    """Return what to type next."""
    where: tuple[object, ...] = () if config.runs == TrainConfig.runs else ("--runs", config.runs)
    for name in config.model.own_classes:
        where = (*where, "--own-class", name)
    ahead = ("eval", "--report", "md") if result.test_area else ("predict", "SCAN.ply")
    score = command("eval", "--data", "DIR", *where)  # no area of its own was left out
    scored = f"\nScore it on prepared rooms: {score}" if config.synth else ""
    return f"Next: {command(*ahead, *where)}{scored}"


def _keep_next(planned: Plan, config: TrainConfig, results: Sequence[TrainResult]) -> str:
    """Return how the runs of a plan are scored and label scans; their plans keep the latter."""
    from pipelines.planning.file import write_plan

    runs = [result.run for result in results]
    how = [word for run in runs for word in ("--weights", run)]
    own = [word for name in config.model.own_classes for word in ("--own-class", name)]
    score = command("eval", *runs, *own)
    label = command("predict", "SCAN.ply", "--run", runs[0], *own)
    if len(runs) > 1:
        area = results[0].test_area
        score = command("eval", *how, "--average", "--data", config.data, "--area", area, *own)
        label = command("predict", "SCAN.ply", *how, *own)
    for run in runs:
        write_plan(run / PLAN, replace(planned, predict=label))
    scored = f"Score it: {score}\n" if results[0].test_area else ""
    return f"{scored}Label a scan: {label}"


def _check(
    run: str | None,
    resume: bool,
    plan: Path | None,
    own: Flags,
    *,
    auto: bool,
    timed: str,
    only_planned: str,
    folds: int,
) -> None:
    """Raise BadParameter if options were typed that do not go together."""
    how = "--plan" if plan else "--auto"
    if run is not None and not resume:
        raise typer.BadParameter(f"found {run!r}; to resume a run, add --resume.")
    if resume and "name" in own:
        raise typer.BadParameter("found --name with --resume; a run keeps its name.")
    if plan and auto:
        raise typer.BadParameter("found --plan and --auto, expected one of them.")
    if (plan or auto) and resume:
        raise typer.BadParameter(f"found {how} with --resume; a run keeps its settings.")
    if (plan or auto) and own.get("synth"):
        raise typer.BadParameter(f"found {how} with --synth; a plan is for prepared data.")
    if timed and not auto:
        raise typer.BadParameter(f"found {timed} without --auto, which plans.")
    if folds > 1 and "val_fold" in own:
        raise typer.BadParameter("found --folds and --val-fold, expected one of them.")
    if only_planned and not (plan or auto or (resume and only_planned == "--folds")):
        others = "--plan, --auto or --resume" if only_planned == "--folds" else "--plan or --auto"
        raise typer.BadParameter(f"found {only_planned} without {others}.")


def _planned(
    file: Path | None,
    given: Flags,
    progress: Progress,
    time: str | None,
    candidates: int,
    folds: int,
    *,
    own_classes: Sequence[str],
    measure: bool,
) -> Plan:
    """Return the plan of a file, changed by flags, or a new one for an equal part of the time."""
    from pipelines.plan import plan as stage
    from pipelines.planning.changes import changed_plan
    from pipelines.planning.file import read_plan
    from pipelines.training.start import named_classes

    if file is not None:
        made = read_plan(file)
        if refusal := unnamed_class(named_classes(made.settings), (*own_classes, *given.values())):
            raise ConfigError(f"{file}: {refusal}")
        return changed_plan(made, given, progress)
    places: Flags = {name: given[name] for name in ("data", "runs") if name in given}
    each = seconds_of(time or PlanConfig.time) / folds
    if each < LEAST:
        raise ConfigError(f"--folds: found {folds} in {time}, expected a second for each at least.")
    config = PlanConfig(f"{each:.0f}s", candidates=candidates, base=given, **places)
    tried = "no run had begun; the same command goes on with the candidates"
    with interruptible("no run had begun" if candidates == 1 else tried):
        return stage(config, measure=measure, began=monotonic(), progress=progress)


def _rank() -> int:
    """Return this process's number among those that torchrun or srun started; else 0."""
    if not {"WORLD_SIZE", "SLURM_PROCID"} & {*os.environ}:
        return 0
    from pipelines.training.distributed import read_ranks

    return read_ranks().rank


def _run_to_resume(runs: Path, run: str | None) -> Path:
    """Return the folder of the run to resume: the named one, or the latest unfinished."""
    if run is not None:
        return named_run(Path(run), runs).path
    wanted = ("interrupted", "failed")
    unfinished = [found for found in find_runs(runs) if found.state_or_broken in wanted]
    if not unfinished:
        raise RunError(
            f"{runs}: found no unfinished run to resume.\n"
            "Name one (deepgcn runs list), or start a new one: deepgcn train"
        )
    return unfinished[-1].path


def _run_folders(runs: Path) -> set[Path]:
    return {run.path for run in any_runs(runs)}


def _how_to_resume(folder: Path | None, begun: set[Path], folds: int) -> str:
    """Return how to continue the resumed run, or our last among those that began meanwhile."""
    folder = max(filter(was_locked_here, begun), default=folder)
    if folder is None:
        return "no run had begun"
    others = f" --folds {folds}" if folds > 1 else ""
    return f"resume with: {resume_command(folder)}{others}"
