"""`deepgcn train`: prepared data → a run."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import typer

from deepgcn_cli.display import Answer
from deepgcn_cli.errors import interruptible
from deepgcn_cli.options import PRESET, ModelFlags, TrainFlags, chosen_model, subcommand
from pipelines.config import TrainConfig
from pipelines.config.options import LENGTH, PROCESSES, SPEED, flag_of, option, options_of
from pipelines.errors import EverywhereError, RunError, command
from pipelines.progress import Progress, counted
from pipelines.runs.directory import find_runs, named_run, open_run, resume_command
from pipelines.runs.lock import was_locked_here


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
    "deepgcn train --devices 4 --sync-bn --precision bf16",
    "deepgcn train --depth 1001 -k 3 --batch-size 4",
    "deepgcn train --resume",
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
    progress: Progress,
) -> Answer:
    """Train a network on every prepared area but one.

    With --synth it trains on synthetic rooms without end and needs no data. Ctrl-C stops after the
    step, with everything saved; --resume continues. A resumed run keeps its own settings: only
    {free} may change, and {processes} with --sync-bn.
    """
    if run is not None and not resume:
        raise typer.BadParameter(f"found {run!r}; to resume a run, add --resume.")
    if resume and "name" in own:
        raise typer.BadParameter("found --name with --resume; a run keeps its name.")
    rank = _rank()
    look = resume and rank == 0  # the others take rank 0's configuration
    folder = _run_to_resume(own.get("runs", TrainConfig.runs), run) if look else None
    if folder:
        # The run's own configuration, changed by flags; the stage says which may change.
        known = open_run(folder).config
        changed = chosen_model(preset, model) if preset else replace(known.model, **model)
        config = replace(known, **{**own, "model": changed, "runs": folder.parent})
    elif (weights := own.pop("weights", None)) is not None:
        from pipelines.training.start import start_config

        changes = vars(chosen_model(preset, model)) if preset else model
        config = start_config(weights, changes, own)
    else:
        config = TrainConfig(model=chosen_model(preset, model), **own)

    from pipelines.train import train as stage

    before = _run_folders(config.runs)
    with interruptible(lambda: _how_to_resume(folder, _run_folders(config.runs) - before)):
        try:
            result = stage(config, resume=folder, progress=progress)
        except EverywhereError:
            if rank == 0:
                raise
            raise typer.Exit(1) from None  # rank 0 reports it
    if rank > 0:
        raise typer.Exit  # rank 0 shows the result
    where: tuple[object, ...] = () if config.runs == TrainConfig.runs else ("--runs", config.runs)
    where = (*where, "--data", "DIR") if config.synth else where
    best = result.best_miou
    chosen = "no validation" if best is None else f"best validation mIoU {100 * best:.2f} %"
    length = f"{counted(result.steps, 'step')}, {counted(result.epochs, 'epoch')}"
    text = f"{result.run}: {length}, {chosen}"
    ahead = ("eval", "--report", "md") if result.test_area else ("predict", "SCAN.ply")
    return Answer(result, [text], f"Next: {command(*ahead, *where)}")


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
    unfinished = [found for found in find_runs(runs) if found.state in ("interrupted", "failed")]
    if not unfinished:
        raise RunError(
            f"{runs}: found no unfinished run to resume.\n"
            "Name one (deepgcn runs list), or start a new one: deepgcn train"
        )
    return unfinished[-1].path


def _run_folders(runs: Path) -> set[Path]:
    return {run.path for run in find_runs(runs)}


def _how_to_resume(folder: Path | None, begun: set[Path]) -> str:
    """Return how to continue the resumed run, or our own among those that began meanwhile."""
    folder = folder or next(filter(was_locked_here, begun), None)
    return f"resume with: {resume_command(folder)}" if folder else "no run had begun"
