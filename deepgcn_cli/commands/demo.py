"""`deepgcn demo`: a made scan labelled at once, then a building through every stage, in minutes.

demo/demo.json      the settings, which mark the folder as made here
demo/scan.ply       a room of the test area, as a scan without labels
demo/first.ply      the same with labels by the weights inside the package; .html and .png show it
demo/raw/           the building, as files in the raw S3DIS layout
demo/data/          the prepared data
demo/runs/tuned/    the weights fine-tuned on its other areas, their scores and pictures
demo/runs/weights/  the scores of the weights before that
demo/tuned.ply      the scan with labels by the tuned weights; .html and .png show it
"""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from deepgcn_cli.display import MEANS, Table, percent, print_part
from deepgcn_cli.errors import interruptible
from deepgcn_cli.options import Flags, subcommand
from pipelines.config import SEED, EvalConfig, PredictConfig, PrepareConfig, TrainConfig
from pipelines.config.options import COUNT, check_options, option
from pipelines.errors import ConfigError, command
from pipelines.files import atomic_json
from pipelines.progress import Progress, counted
from pipelines.runs.directory import CONFIG, Run
from pipelines.serialization import from_plain

if TYPE_CHECKING:
    from pipelines.runs.weights import NamedWeights

TEST_AREA = 4
PROTOCOL = EvalConfig.protocols[0]
FLOP = 3e12  # of the fine-tuning: half a minute on two CPU cores
LEAST_STEPS = 20
# What a demo makes, in its folder.
SCAN, FIRST, RAW, DATA, RUN = "scan.ply", "first.ply", "raw", "data", "runs/tuned"
UNTUNED, TUNED, SETTINGS = "runs/weights", "tuned.ply", "demo.json"
FIRST_SHOWN, TUNED_SHOWN = ("first.html", "first.png"), ("tuned.html", "tuned.png")
MADE = (SCAN, FIRST, *FIRST_SHOWN, RAW, DATA, RUN, UNTUNED, TUNED, *TUNED_SHOWN, SETTINGS)
NEXT = """
A room of the test area: {picture}
Its scan with labels:    {labelled}; look at it in 3-D: {page}

With your own scans:
  deepgcn predict SCAN.ply --view
With labelled rooms of your own, or S3DIS:
  deepgcn prepare --dataset rooms.yaml        (or: deepgcn prepare S3DIS.zip --area 5)
  deepgcn train --auto --data data-rooms      (or without --data)
  deepgcn eval --report md"""


@dataclass(frozen=True)
class Settings:
    """The settings of a demo; other settings need another folder or a fresh start."""

    seed: int = option(0, "Seed of everything.", within=SEED)
    steps: int | None = option(
        None, "Training steps. [default: half a minute's on two CPU cores]", within=COUNT
    )

    def __post_init__(self) -> None:
        check_options(self)


@subcommand("deepgcn demo", "deepgcn demo elsewhere --seed 1")
def demo(
    *,
    folder: Path = option(Path("demo"), "Folder to work in. [default: demo]", "[DIR]", flag=""),
    flags: Annotated[Flags, Settings],
    fresh: bool = option(False, "Start over."),
    progress: Progress,
) -> None:
    """Label a made scan with the weights inside this package, then fine-tune and score them.

    The first labels take half a minute, all of it about four minutes on two CPU cores: predict,
    synth, prepare, train, eval, predict. Stages that are finished are not repeated.
    """
    from pipelines.runs.weights import packaged_weights

    settings, weights = claim(folder, flags, fresh=fresh), packaged_weights()
    with interruptible(f"resume with: {command('demo', folder)}"):
        _label_first(folder, settings, weights.name, progress)
        _make_data(folder, settings, progress)
        _train(folder, settings, weights, progress)
        _score_and_label(folder, weights, progress)
    show(folder, weights)


def claim(folder: Path, given: Flags, *, fresh: bool) -> Settings:
    """Return the settings of a demo's folder, which is created if it is missing.

    Raises:
        ConfigError: the folder holds something else, or a demo with other settings.
    """
    path = folder / SETTINGS
    if path.is_file():
        made = _read_settings(path)  # before anything is removed: it marks the folder as ours
        if not fresh:
            for name, value in given.items():
                if value != (was := getattr(made, name)):
                    had = f"without --{name}" if was is None else f"with --{name} {was}"
                    raise ConfigError(
                        f"{folder}: found a demo {had}, asked for {value}.\n"
                        "Start over with --fresh, or give another folder."
                    )
            return made
        for ours in (folder / name for name in MADE):  # and nothing else; the settings last
            shutil.rmtree(ours) if ours.is_dir() else ours.unlink(missing_ok=True)
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise _not_ours(folder, "files", folder)
    settings = Settings(**given)
    atomic_json(path, asdict(settings))
    return settings


def _read_settings(path: Path) -> Settings:
    with suppress(ValueError, RecursionError, ConfigError):
        values = json.loads(path.read_text("utf-8"))
        settings: Settings = from_plain(Settings, values)
        if asdict(settings) == values:
            return settings
    raise _not_ours(path, "a file", path.parent)


def _not_ours(path: Path, what: str, folder: Path) -> ConfigError:
    return ConfigError(
        f"{path}: found {what} that no demo has made; nothing was changed.\n"
        f"Give another folder: {command('demo', f'{folder}-2')}"
    )


def _begin(progress: Progress, stage: str, *, finished: bool = False) -> bool:
    """Return whether a stage has to be done, after announcing it."""
    progress.say(f"{stage}: already done" if finished else stage)
    return not finished


def _label_first(folder: Path, settings: Settings, weights: str, progress: Progress) -> None:
    """Label a scan of the first room of the test area, with the weights inside the package."""
    from pipelines.predict import predict
    from pipelines.scans.ply import write_points
    from pipelines.synth import demo_scan

    scan, out = folder / SCAN, folder / FIRST
    page, picture = (folder / name for name in FIRST_SHOWN)
    if not _begin(progress, f"1/6 predict: labels by {weights}", finished=picture.is_file()):
        return
    write_points(scan, *demo_scan(TEST_AREA, settings.seed))
    label = PredictConfig(
        scans=(scan,), weights=(weights,), out=out, view=True, picture=True, device="cpu"
    )
    predict(label, progress=progress)
    progress.say(
        f"{out}: the labels; look at them in a browser, {page}, or as a picture, {picture}"
    )


def _make_data(folder: Path, settings: Settings, progress: Progress) -> None:
    from pipelines.prepare import prepare
    from pipelines.synth import MARKER, demo_building, synth

    raw, marker = folder / RAW, folder / RAW / MARKER
    rooms = json.loads(marker.read_text("utf-8"))["rooms"] if marker.is_file() else ()
    finished = marker.is_file() and all((raw / room).is_dir() for room in rooms)
    if _begin(progress, "2/6 synth: a synthetic building", finished=finished):
        made = synth(demo_building(raw, settings.seed), progress=progress)
        progress.say(f"{made.out}: {counted(made.rooms, 'room')}, {counted(made.points, 'point')}")
    _begin(progress, "3/6 prepare: its rooms as blocks")  # `prepare` keeps finished rooms
    config = PrepareConfig(raw=raw, data=folder / DATA, test_area=TEST_AREA)
    prepared = prepare(config, progress=progress)
    progress.say(
        f"{prepared.data}: {counted(prepared.rooms, 'room')}, {counted(prepared.points, 'point')}"
    )


def _train(folder: Path, settings: Settings, weights: NamedWeights, progress: Progress) -> None:
    """Fine-tune the weights for a short time on the rooms outside the test area."""
    from pipelines.train import train

    run = Run(folder / RUN)
    begun = (run.path / CONFIG).is_file()
    finished = begun and run.state == "finished"
    if _begin(progress, f"4/6 train: {weights.name} for this building", finished=finished):
        config = run.config if begun else _tuning(folder, settings, weights)
        train(config, resume=run.path if begun else None, progress=progress)


def _tuning(folder: Path, settings: Settings, weights: NamedWeights) -> TrainConfig:
    """Return a fine-tuning of FLOP floating-point operations, if no steps are asked for."""
    from pipelines.model.figures import step_flop

    model, batch_size = weights.load(), 4
    work = batch_size * step_flop(model.config, model.num_points)
    return TrainConfig(
        weights=weights.name,
        data=folder / DATA,
        runs=(folder / RUN).parent,
        name=Path(RUN).name,
        recipe="modern",
        without=("smoothing",),
        extra=("frozen-norm",),  # statistics of a few dozen small batches are worse than theirs
        epochs=1000,  # the steps end it
        max_steps=settings.steps or max(LEAST_STEPS, int(FLOP / work)),
        batch_size=batch_size,
        num_points=model.num_points,
        lr=3e-4,
        val_fraction=0.1,
        val_blocks=8,
        seed=settings.seed,
        device="cpu",
    )


def _score_and_label(folder: Path, weights: NamedWeights, progress: Progress) -> None:
    """Score the weights before and after their tuning, and label the scan with the tuned ones."""
    from pipelines.evaluate import evaluate
    from pipelines.predict import predict

    run, out = folder / RUN, folder / TUNED
    same: dict[str, Any] = {"data": folder / DATA, "runs": run.parent, "device": "cpu"}
    finished = Run(run).scores(PROTOCOL) is not None and _untuned(folder, weights) is not None
    if _begin(progress, "5/6 eval: before and after, on the area left out", finished=finished):
        before = EvalConfig(weights=(weights.name,), test_area=TEST_AREA, pictures=False, **same)
        evaluate(before, progress=progress)
        evaluate(EvalConfig(run_dirs=(run,), **same), progress=progress)
    shown = [folder / name for name in TUNED_SHOWN]
    if _begin(progress, "6/6 predict: the scan again", finished=shown[-1].is_file()):
        label = PredictConfig(
            scans=(folder / SCAN,), run=run, out=out, view=True, picture=True, device="cpu"
        )
        predict(label, progress=progress)


def _untuned(folder: Path, weights: NamedWeights) -> dict[str, Any] | None:
    """Return the scores of the weights before their tuning; None: there are none yet."""
    own = f"{weights.name}-{weights.sha256[:8]}"
    found = (folder / UNTUNED / own).glob(f"*/{PROTOCOL}/scores.json")
    return next((json.loads(path.read_text("utf-8")) for path in found), None)


def show(folder: Path, weights: NamedWeights) -> None:
    """Print the scores, where the pictures are, and what to do with data of one's own."""
    run = Run(folder / RUN)
    tuned, untuned = run.scores(PROTOCOL) or {}, _untuned(folder, weights) or {}
    each = (untuned, tuned, tuned["baseline"])
    rows = [(name, *(percent(values[key]) for values in each)) for name, key in MEANS]
    for number, name in enumerate(tuned["classes"]):
        rows.append((f"IoU {name}", *(percent(values["iou"][number]) for values in each)))
    print_part(Table(("in %", weights.name, "fine-tuned", "height alone"), rows))
    picture = min((run.path / "eval" / PROTOCOL).glob("room_*.png"))
    page = folder / TUNED_SHOWN[0]
    print_part(NEXT.format(picture=picture, labelled=folder / TUNED, page=page))
