"""`deepgcn demo`: a synthetic building through every stage, in minutes.

demo/demo.json      the settings, which mark the folder as made here
demo/raw/           the building, as files in the raw S3DIS layout
demo/data/          the prepared data
demo/runs/demo/     the trained network, its scores and pictures
demo/scan.ply       a room of the test area, as a scan without labels
demo/labelled.ply   the same with the labels of `predict`
"""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from deepgcn_cli.display import MEANS, Table, percent, print_part
from deepgcn_cli.errors import interruptible
from deepgcn_cli.options import Flags, subcommand
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
from pipelines.progress import Progress, counted
from pipelines.runs.directory import CONFIG, Run
from pipelines.serialization import from_plain

TEST_AREA = 4
PROTOCOL = EvalConfig.protocols[0]
# What a demo makes, in its folder.
RAW, DATA, RUN, SCAN, LABELLED = "raw", "data", "runs/demo", "scan.ply", "labelled.ply"
SETTINGS = "demo.json"
MADE = (RAW, DATA, RUN, SCAN, LABELLED, SETTINGS)
NEXT = """
A room of the test area: {picture}
Its scan with labels:    {labelled}

With your own scans:
  {predict}   (this network: for a try only)
  deepgcn prepare S3DIS.zip --area 5
  deepgcn train --arch resgcn --depth 28
  deepgcn eval --report md
  deepgcn predict SCAN.ply"""


@dataclass(frozen=True)
class Settings:
    """The settings of a demo; other settings need another folder or a fresh start."""

    seed: int = option(0, "Seed of everything.", within=SEED)
    steps: int = option(500, "Training steps.", within=COUNT)

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
    """Try everything on a synthetic building: synth, prepare, train, eval, predict.

    Takes about four minutes on two CPU cores. Stages that are finished are not repeated.
    """
    settings = claim(folder, flags, fresh=fresh)
    with interruptible(f"resume with: {command('demo', folder)}"):
        _make_data(folder, settings, progress)
        _train(folder, settings, progress)
        _score_and_label(folder, progress)
    show(folder)


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
                if value != getattr(made, name):
                    raise ConfigError(
                        f"{folder}: found a demo with --{name} {getattr(made, name)}, asked for "
                        f"{value}.\nStart over with --fresh, or give another folder."
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


def _make_data(folder: Path, settings: Settings, progress: Progress) -> None:
    from pipelines.prepare import prepare
    from pipelines.synth import MARKER, demo_building, synth

    raw, marker = folder / RAW, folder / RAW / MARKER
    rooms = json.loads(marker.read_text("utf-8"))["rooms"] if marker.is_file() else ()
    finished = marker.is_file() and all((raw / room).is_dir() for room in rooms)
    if _begin(progress, "1/5 synth: a synthetic building", finished=finished):
        made = synth(demo_building(raw, settings.seed), progress=progress)
        progress.say(f"{made.out}: {counted(made.rooms, 'room')}, {made.points:,} points")
    _begin(progress, "2/5 prepare: its rooms as blocks")  # `prepare` keeps finished rooms
    config = PrepareConfig(raw=raw, data=folder / DATA, test_area=TEST_AREA)
    prepared = prepare(config, progress=progress)
    progress.say(f"{prepared.data}: {counted(prepared.rooms, 'room')}, {prepared.points:,} points")


def _train(folder: Path, settings: Settings, progress: Progress) -> None:
    """Train for a few minutes: a narrow, shallow ResGCN on thin blocks."""
    from pipelines.train import train

    run = Run(folder / RUN)
    begun = (run.path / CONFIG).is_file()
    finished = begun and run.state == "finished"
    if _begin(progress, "3/5 train: a small ResGCN", finished=finished):
        config = TrainConfig(
            model=ModelConfig.published("resgcn", 7, width=32, k=8),
            data=folder / DATA,
            runs=run.path.parent,
            name=run.name,
            extra=("resample",),  # many epochs over few blocks
            epochs=1000,  # `steps` ends it
            max_steps=settings.steps,
            batch_size=8,
            num_points=1024,
            val_fraction=0.1,
            seed=settings.seed,
            device="cpu",
        )
        train(config, resume=run.path if begun else None, progress=progress)


def _score_and_label(folder: Path, progress: Progress) -> None:
    """Score the network, write a room of the test area as a scan without labels, and label it."""
    from pipelines.data.store import Store
    from pipelines.evaluate import evaluate
    from pipelines.predict import predict
    from pipelines.scans.ply import write_points

    run, scan, out = folder / RUN, folder / SCAN, folder / LABELLED
    finished = Run(run).scores(PROTOCOL) is not None
    if _begin(progress, "4/5 eval: scores on the area left out", finished=finished):
        scored = EvalConfig(run_dirs=(run,), data=folder / DATA, device="cpu")
        evaluate(scored, progress=progress)
    if _begin(progress, "5/5 predict: labels for a scan", finished=out.is_file()):
        store = Store.open(folder / DATA)
        room = store.read(store.rooms(TEST_AREA)[0])
        write_points(scan, room.pos, room.color)
        predict(PredictConfig(scans=(scan,), run=run, out=out, device="cpu"), progress=progress)


def show(folder: Path) -> None:
    """Print the scores, where the pictures are, and what to do with data of one's own."""
    run = Run(folder / RUN)
    values = run.scores(PROTOCOL) or {}
    bands = values["baseline"]
    rows = [(name, percent(values[key]), percent(bands[key])) for name, key in MEANS]
    per_class = zip(values["classes"], values["iou"], bands["iou"], strict=True)
    rows += [(f"IoU {name}", percent(ours), percent(theirs)) for name, ours, theirs in per_class]
    print_part(Table(("in %", "network", "height alone"), rows))
    picture = min((run.path / "eval" / PROTOCOL).glob("room_*.png"))
    predict = command("predict", "SCAN.ply", "--run", run.path)
    print_part(NEXT.format(picture=picture, labelled=folder / LABELLED, predict=predict))
