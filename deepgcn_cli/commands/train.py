"""`deepgcn train`: prepared data → a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from deepgcn_cli.options import (
    Arch,
    BatchSize,
    CheckpointLayers,
    Conv,
    Data,
    Depth,
    Device,
    Devices,
    Dilation,
    Dropout,
    Epochs,
    Epsilon,
    FusionChannels,
    Json,
    Knn,
    Layout,
    LearningRate,
    MaxSteps,
    MicroBatch,
    Neighbors,
    NumPoints,
    Precision,
    Preset,
    Quiet,
    Recipe,
    Runs,
    Seed,
    SyncBatchNorm,
    TestArea,
    Threads,
    ValFraction,
    Width,
    With,
    Without,
    examples,
    given,
    option,
)
from pipelines.config import LOGGERS, ModelConfig, TrainConfig
from pipelines.errors import RunError, command


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command(
        epilog=examples(
            "deepgcn train --arch densegcn --depth 28",
            "deepgcn train --preset resgcn-28w --area 5 --epochs 50",
            "deepgcn train --recipe modern --without color-drop",
            "deepgcn train --logger mlflow --logger wandb",
            "deepgcn train --recipe modern --without adamw --with sgd",
            "deepgcn train --devices 4 --sync-bn --precision bf16",
            "deepgcn train --depth 1001 -k 3 --batch-size 4",
            "deepgcn train --resume",
        )
    )(train)


def train(
    run: Annotated[
        str | None,
        typer.Argument(metavar="RUN", help="With --resume: the run's name or folder."),
    ] = None,
    arch: Arch = None,
    depth: Depth = None,
    preset: Preset = None,
    conv: Conv = None,
    width: Width = None,
    fusion_channels: FusionChannels = None,
    k: Neighbors = None,
    dilation: Dilation = None,
    epsilon: Epsilon = None,
    knn: Knn = None,
    layout: Layout = None,
    dropout: Dropout = None,
    test_area: TestArea = None,
    recipe: Recipe = None,
    without: Without = None,
    extra: With = None,
    epochs: Epochs = None,
    max_steps: MaxSteps = None,
    batch_size: BatchSize = None,
    micro_batch: MicroBatch = None,
    checkpoint_layers: CheckpointLayers = None,
    num_points: NumPoints = None,
    lr: LearningRate = None,
    val_fraction: ValFraction = None,
    seed: Seed = None,
    device: Device = None,
    devices: Devices = None,
    sync_bn: SyncBatchNorm = None,
    precision: Precision = None,
    threads: Threads = None,
    workers: Annotated[
        int | None,
        option("Threads that prepare batches.", default=TrainConfig.workers, metavar="N"),
    ] = None,
    loggers: Annotated[
        list[str] | None,
        option(
            f"Also log to {' or '.join(LOGGERS)}, repeatable; TensorBoard always.",
            "--logger",
            metavar="NAME",
        ),
    ] = None,
    data: Data = None,
    runs: Runs = None,
    name: Annotated[
        str | None,
        option("Name of the run. [default: network, area and time]", "--name", metavar="NAME"),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with RUN, or with the latest unfinished run."),
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a network on every prepared area but one.

    Ctrl-C stops after the step, with everything saved; --resume goes on. A resumed run keeps its
    own settings: only --epochs, --max-steps, --device, --workers, --threads and --logger may
    change, and --devices with --sync-bn.
    """
    flags = locals()
    _check_usage(resume=resume, run=run, name=name)
    _follow_another()
    folder = _run_to_resume(runs or TrainConfig.runs, run) if resume else None
    config = _resumed(folder, flags) if folder else _fresh(flags)

    from deepgcn_cli.display import print_json, print_text
    from deepgcn_cli.interruption import interruptible
    from deepgcn_cli.progress import open_progress
    from pipelines.train import train as stage

    progress = open_progress(quiet=quiet)
    known = _run_folders(config.runs) if folder is None else set()
    with interruptible(lambda: _how_to_resume(folder, _run_folders(config.runs) - known)):
        result = stage(config, resume=folder, progress=progress)
    if as_json:
        return print_json(result)
    print_text(
        f"{result.run}: {result.steps:,} steps, {result.epochs} epochs, "
        f"best validation mIoU {100 * result.best_miou:.2f} %"
    )
    where = () if config.runs == TrainConfig.runs else ("--runs", config.runs)
    progress.say(f"Next: {command('eval', '--report', 'md', *where)}")


def _follow_another() -> None:
    """Leave the rest to rank 0 if torchrun or srun started this process as another one.

    Raises:
        typer.Exit: this was another one; its part of the training is done.
    """
    from pipelines.training.placement import find_place

    if find_place().rank > 0:
        from pipelines.training.follow import follow

        raise typer.Exit(follow())


def _check_usage(*, resume: bool, run: str | None, name: str | None) -> None:
    if run is not None and not resume:
        raise typer.BadParameter(f"found {run!r}; to go on with a run, add --resume.")
    if resume and name is not None:
        raise typer.BadParameter("found --name with --resume; a run keeps its name.")


def _fresh(flags: Mapping[str, Any]) -> TrainConfig:
    """Return the configuration of a new run."""
    changes = given(TrainConfig, flags)
    return TrainConfig(model=chosen_model(flags), **changes)


def chosen_model(flags: Mapping[str, Any]) -> ModelConfig:
    """Return the preset's network or the published one of the given depth, changed by flags."""
    changes = given(ModelConfig, flags)
    if flags["preset"] is not None:
        from pipelines.model.presets import preset

        return dataclasses.replace(preset(flags["preset"]).config, **changes)
    arch, depth = changes.pop("arch", ModelConfig.arch), changes.pop("depth", None)
    return ModelConfig.published(arch, depth, **changes)


def _resumed(folder: Path, flags: Mapping[str, Any]) -> TrainConfig:
    """Return the run's own configuration, changed by flags; the stage says which may change."""
    from pipelines.runs.directory import open_run

    config = open_run(folder).config
    model = dataclasses.replace(config.model, **given(ModelConfig, flags))
    if flags["preset"] is not None:
        model = chosen_model(flags)
    changes = {**given(TrainConfig, flags), "runs": folder.parent}
    return dataclasses.replace(config, model=model, **changes)


def _run_to_resume(runs: Path, run: str | None) -> Path:
    """Return the folder of the run that `--resume [RUN]` means.

    Raises:
        RunError: no run is unfinished.
    """
    from pipelines.runs.directory import find_runs, named_run

    if run is not None:
        return named_run(Path(run), runs).path
    unfinished = [found for found in find_runs(runs) if found.state in ("interrupted", "failed")]
    if not unfinished:
        raise RunError(
            f"{runs}: found no unfinished run to go on with.\n"
            "Name one (deepgcn runs list), or start a new one: deepgcn train"
        )
    return unfinished[-1].path


def _run_folders(runs: Path) -> set[Path]:
    from pipelines.runs.directory import find_runs

    return {run.path for run in find_runs(runs)}


def _how_to_resume(folder: Path | None, begun: set[Path]) -> str:
    """Return how to go on with the resumed run `folder`, or with our own of those begun.

    Another training may have begun its own in the same folder meanwhile.
    """
    from pipelines.runs.directory import resume_command
    from pipelines.runs.lock import was_locked_here

    folder = folder or next(filter(was_locked_here, begun), None)
    return f"resume with: {resume_command(folder)}" if folder else "no run had begun"
