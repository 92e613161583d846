"""`deepgcn demo`: a synthetic building through every stage, in minutes.

demo/demo.json      the settings, which mark the folder as made here
demo/raw/           the building, as files in the raw S3DIS layout
demo/data/          the prepared data
demo/runs/demo/     the trained network, its scores and pictures
demo/scan.ply       a room of the test area, as a scan without labels
demo/labelled.ply   what `predict` made of it
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from deepgcn_cli.display import percent, print_table, print_text
from deepgcn_cli.errors import interruptible
from deepgcn_cli.options import Flags, Quiet, subcommand
from deepgcn_cli.progress import open_progress
from pipelines.config import (
    SEED,
    EvalConfig,
    ModelConfig,
    PredictConfig,
    PrepareConfig,
    TrainConfig,
)
from pipelines.config.options import COUNT, check_options, option
from pipelines.errors import ConfigError, command
from pipelines.files import atomic_json
from pipelines.progress import Progress
from pipelines.serialization import from_plain

FOLDER = Path("demo")
TEST_AREA = 4
PROTOCOL = EvalConfig.protocols[0]
MEANS = (("OA", "oa"), ("mAcc", "macc"), ("mIoU", "miou"))
# What a demo makes, in its folder.
RAW, DATA, RUN, SCAN, LABELLED = "raw", "data", "runs/demo", "scan.ply", "labelled.ply"
SETTINGS = "demo.json"
MADE = (RAW, DATA, RUN, SCAN, LABELLED, SETTINGS)
NEXT = """  {predict}   (this network: for a try only)
  deepgcn prepare S3DIS.zip --area 5
  deepgcn train --arch resgcn --depth 28
  deepgcn eval --report md
  deepgcn predict SCAN.ply"""


@dataclass(frozen=True)
class Settings:
    """What a demo is made with; another one needs another folder or a fresh start."""

    seed: int = option(0, "Seed of everything.", within=SEED)
    steps: int = option(500, "Training steps.", within=COUNT)

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class Demo:
    """A demo's folder, its settings and its progress display."""

    folder: Path
    settings: Settings
    progress: Progress

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.folder / RUN

    @property
    def training(self) -> TrainConfig:
        """A training of a few minutes: a narrow, shallow ResGCN on thin blocks."""
        return TrainConfig(
            model=ModelConfig.published("resgcn", 7, width=32, k=8),
            data=self.folder / DATA,
            runs=self.run.parent,
            name=self.run.name,
            extra=("resample",),  # many epochs over few blocks
            epochs=1000,  # `steps` ends it
            max_steps=self.settings.steps,
            batch_size=8,
            num_points=1024,
            val_fraction=0.1,
            seed=self.settings.seed,
            device="cpu",
        )


@subcommand("deepgcn demo", "deepgcn demo elsewhere --seed 1", takes=(Settings,))
def demo(
    *,
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder to work in.", show_default=True)
    ] = FOLDER,
    flags: Flags,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over.")] = False,
    quiet: Quiet = False,
) -> None:
    """Try everything on a synthetic building: synth, prepare, train, eval, predict.

    Takes about four minutes on two CPU cores. Stages that are finished are not repeated.
    """
    settings = claim(folder, flags, fresh=fresh)
    tour = Demo(folder, settings, open_progress(quiet=quiet))
    with interruptible(f"resume with: {command('demo', folder)}"):
        for number, (name, finished, work) in enumerate(STAGES, 1):
            if finished(tour):
                tour.progress.say(f"{number}/{len(STAGES)} {name}: already done")
            else:
                tour.progress.say(f"{number}/{len(STAGES)} {name}")
                work(tour)
    show(tour)


def claim(folder: Path, given: dict[str, int], *, fresh: bool) -> Settings:
    """Return the folder's settings, after making it a demo's folder if it is none yet.

    Raises:
        ConfigError: the folder holds something else, or a demo with other settings.
    """
    path = folder / SETTINGS
    if path.is_file():
        made = read_settings(path)  # before anything is removed: it marks the folder as ours
        if not fresh:
            check_same(folder, made, given)
            return made
        remove(folder)
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise not_ours(folder, "files", folder)
    settings = Settings(**given)
    atomic_json(path, asdict(settings))
    return settings


def read_settings(path: Path) -> Settings:
    """Return the settings of an earlier demo.

    Raises:
        ConfigError: no demo has written this file.
    """
    try:
        values = json.loads(path.read_text("utf-8"))
        settings = from_plain(Settings, values)
    except (ValueError, RecursionError, ConfigError):
        raise not_ours(path, "a file", path.parent) from None
    if asdict(settings) != values:
        raise not_ours(path, "a file", path.parent)
    return settings


def not_ours(path: Path, what: str, folder: Path) -> ConfigError:
    """Return the error for something that no demo has made."""
    return ConfigError(
        f"{path}: found {what} that no demo has made; nothing was changed.\n"
        f"Give another folder: {command('demo', f'{folder}-2')}"
    )


def check_same(folder: Path, made: Settings, given: dict[str, int]) -> None:
    """Raise ConfigError if an earlier demo was made with other settings than those given."""
    for name, value in given.items():
        if value != getattr(made, name):
            raise ConfigError(
                f"{folder}: found a demo with --{name} {getattr(made, name)}, asked for {value}.\n"
                "Start over with --fresh, or give another folder."
            )


def remove(folder: Path) -> None:
    """Remove what the demo wrote, and nothing else; the settings last."""
    for name in MADE:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def is_built(tour: Demo) -> bool:
    """Whether every room of the building is there."""
    from pipelines.synth import MARKER

    try:
        rooms = json.loads((tour.folder / RAW / MARKER).read_text("utf-8"))["rooms"]
    except FileNotFoundError:
        return False
    return all((tour.folder / RAW / room).is_dir() for room in rooms)


def build(tour: Demo) -> None:
    """Write the synthetic building."""
    from pipelines.synth import demo_building, synth

    result = synth(demo_building(tour.folder / RAW, tour.settings.seed), progress=tour.progress)
    tour.progress.say(f"{result.out}: {result.rooms} rooms, {result.points:,} points")


def prepare_data(tour: Demo) -> None:
    """Prepare the building; what is prepared already is kept."""
    from pipelines.prepare import prepare

    config = PrepareConfig(raw=tour.folder / RAW, data=tour.folder / DATA, test_area=TEST_AREA)
    result = prepare(config, progress=tour.progress)
    tour.progress.say(f"{result.data}: {result.rooms} rooms, {result.points:,} points")


def is_trained(tour: Demo) -> bool:
    """Whether the training has ended."""
    from pipelines.runs.directory import CONFIG, Run

    return (tour.run / CONFIG).is_file() and Run(tour.run).state == "finished"


def train_network(tour: Demo) -> None:
    """Train, or go on with a training that was stopped."""
    from pipelines.runs.directory import CONFIG
    from pipelines.train import train

    resume = tour.run if (tour.run / CONFIG).is_file() else None
    train(tour.training, resume=resume, progress=tour.progress)


def is_scored(tour: Demo) -> bool:
    """Whether the network has been scored."""
    from pipelines.runs.directory import Run

    return Run(tour.run).scores(PROTOCOL) is not None


def score(tour: Demo) -> None:
    """Score the network on the rooms that it has never seen."""
    from pipelines.evaluate import evaluate

    config = EvalConfig(run_dirs=(tour.run,), data=tour.folder / DATA, device="cpu")
    evaluate(config, progress=tour.progress)


def label(tour: Demo) -> None:
    """Write a room of the test area as a scan without labels, and label it."""
    from pipelines.data.store import Store
    from pipelines.predict import predict
    from pipelines.scans.ply import write_points

    store = Store.open(tour.folder / DATA)
    room = store.read(store.rooms(TEST_AREA)[0])
    write_points(tour.folder / SCAN, room.pos, room.color)
    config = PredictConfig(
        scans=(tour.folder / SCAN,), run=tour.run, out=tour.folder / LABELLED, device="cpu"
    )
    predict(config, progress=tour.progress)


def show(tour: Demo) -> None:
    """Print the scores, where the pictures are, and how to go on with one's own data."""
    from pipelines.runs.directory import Run

    values = Run(tour.run).scores(PROTOCOL) or {}
    bands = values["baseline"]
    rows = [(name, percent(values[key]), percent(bands[key])) for name, key in MEANS]
    per_class = zip(values["classes"], values["iou"], bands["iou"], strict=True)
    rows += [(f"IoU {name}", percent(ours), percent(theirs)) for name, ours, theirs in per_class]
    print_table(("in %", "network", "height alone"), rows)
    print_text(f"\nA room of the test area: {picture(tour)}")
    print_text(f"Its scan with labels:    {tour.folder / LABELLED}")
    predict = command("predict", "SCAN.ply", "--run", tour.run)
    print_text(f"\nWith your own scans:\n{NEXT.format(predict=predict)}")


def picture(tour: Demo) -> Path:
    """Return the picture of the first room: scan, ground truth and prediction side by side."""
    return min((tour.run / "eval" / PROTOCOL).glob("room_*.png"))


# Name, whether it is done, and what does it. `prepare` itself keeps what is done.
STAGES: tuple[tuple[str, Callable[[Demo], bool], Callable[[Demo], None]], ...] = (
    ("synth: a synthetic building", is_built, build),
    ("prepare: its rooms as blocks", lambda _tour: False, prepare_data),
    ("train: a small ResGCN", is_trained, train_network),
    ("eval: scores on the area left out", is_scored, score),
    ("predict: labels for a scan", lambda tour: (tour.folder / LABELLED).is_file(), label),
)
