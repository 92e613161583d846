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
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.config import EvalConfig, ModelConfig, PredictConfig, PrepareConfig, TrainConfig
from pipelines.errors import ConfigError, DatasetError, RunError
from pipelines.files import atomic_json
from pipelines.progress import Progress

from .options import Quiet, examples, option

if TYPE_CHECKING:
    from pipelines.evaluate import EvalResult

FOLDER = Path("demo")
SETTINGS = "demo.json"
TEST_AREA = 3
RUN = "demo"
MADE = ("raw", "data", f"runs/{RUN}", "scan.ply", "labelled.ply", SETTINGS)


@dataclass(frozen=True)
class Settings:
    """What a demo is made with; another one needs another folder or a fresh start."""

    seed: int = 0
    steps: int = 250


@dataclass(frozen=True)
class Demo:
    """A demo's folder, its settings and who listens."""

    folder: Path
    settings: Settings
    progress: Progress

    @property
    def raw(self) -> Path:
        """The synthetic building."""
        return self.folder / "raw"

    @property
    def data(self) -> Path:
        """The prepared data."""
        return self.folder / "data"

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.folder / "runs" / RUN

    @property
    def scan(self) -> Path:
        """The scan to label."""
        return self.folder / "scan.ply"

    @property
    def labelled(self) -> Path:
        """The labelled scan."""
        return self.folder / "labelled.ply"

    @property
    def training(self) -> TrainConfig:
        """A training of a few minutes: a narrow, shallow ResGCN on thin blocks."""
        return TrainConfig(
            model=ModelConfig.published("resgcn", 7, width=32, k=8),
            data=self.data,
            runs=self.run.parent,
            name=RUN,
            epochs=1000,  # `steps` ends it
            max_steps=self.settings.steps,
            batch_size=8,
            num_points=1024,
            val_fraction=0.25,
            seed=self.settings.seed,
            device="cpu",
        )


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command(epilog=examples("deepgcn demo", "deepgcn demo elsewhere --seed 1"))(demo)


def demo(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder to work in.", show_default=True)
    ] = FOLDER,
    seed: Annotated[
        int | None, option("Seed of everything.", default=Settings.seed, metavar="N")
    ] = None,
    steps: Annotated[
        int | None, option("Training steps.", default=Settings.steps, metavar="N")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over.")] = False,
    quiet: Quiet = False,
) -> None:
    """Try everything on a synthetic building: synth, prepare, train, eval, predict.

    Takes about four minutes on two CPU cores. Stages that are finished are not repeated.
    """
    from .interruption import interruptible
    from .progress import open_progress

    given = {name: value for name, value in (("seed", seed), ("steps", steps)) if value is not None}
    settings = claim(folder, given, fresh=fresh)
    tour = Demo(folder, settings, open_progress(quiet=quiet))
    with interruptible(f"resume with: deepgcn demo {folder}"):
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
    if not path.is_file():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(
                f"{folder}: found files that no demo has made; nothing was changed.\n"
                f"Give another folder: deepgcn demo {folder}-2"
            )
    elif fresh:
        remove(folder)
    else:
        return same_settings(folder, Settings(**json.loads(path.read_text("utf-8"))), given)
    settings = Settings(**given)
    atomic_json(path, asdict(settings))
    return settings


def same_settings(folder: Path, made: Settings, given: dict[str, int]) -> Settings:
    """Return the settings of an earlier demo if those given now agree with them."""
    for name, value in given.items():
        if value != getattr(made, name):
            raise ConfigError(
                f"{folder}: found a demo with --{name} {getattr(made, name)}, asked for {value}.\n"
                "Start over with --fresh, or give another folder."
            )
    return made


def remove(folder: Path) -> None:
    """Remove what the demo wrote, and nothing else; the settings last."""
    for name in MADE:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

STAGES = ()
def show(tour): ...
