"""The evaluate stage: runs → scores on the area that their training left out; weights → scores.

`evaluate` opens each run's network and the rooms of its test area; under each protocol
(`inference.protocols`) it sums the confusion counts over the rooms, and writes scores, reports and
pictures into the run directory (`reports.scores`). Every figure follows from the counts
(`metrics`). The same weights, data and seed give the same counts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines.data.store import Store
from pipelines.inference import protocols
from pipelines.inference.protocols import Evaluation, RoomPrediction
from pipelines.model.deepgcn import DeepGCN
from pipelines.reports.failures import find_failures, no_failures
from pipelines.reports.plots import room_picture, save_figure
from pipelines.reports.scores import (
    DRAWN,
    Counts,
    build_report,
    known_scores,
    score_record,
    write_protocols,
    write_scores,
)
from pipelines.reports.tables import Report
from pipelines.reports.viewer import SAFE_COLORS, write_viewer
from pipelines.runs.directory import CHANGING, Run, changing, latest_finished, named_run
from pipelines.runs.resume import open_data
from pipelines.runs.weights import NamedWeights, distinctly_named, find_weights, weights_of
from pipelines.runtime.compiling import compile_beside
from pipelines.runtime.device import pick_device
from pipelines.runtime.waiting import sleep_if_crowded

from .config import EvalConfig, TrainConfig
from .errors import ConfigError, DatasetError, NothingScoredError, RunError, command
from .metrics import Scores, confusion, scores
from .progress import SILENT, Progress, counted

PICTURES = 4  # the most rooms to draw


@dataclass(frozen=True)
class RunScores:
    """One run, or some weights, under one protocol."""

    name: str  # of the run or the weights
    run: Path  # the run's directory; of weights the folder of their scores on this data
    area: int | None  # that is scored; None: several
    protocol: str  # a key of PROTOCOLS
    scores: Scores  # of the network
    baseline: Scores | None  # of height bands, under protocol `room`; None: no other area
    report: Report  # the table and what belongs to it
    files: tuple[Path, ...]  # what was written
    blocks: int  # draws passed through the network
    seconds: float  # wall time


@dataclass(frozen=True)
class EvalResult:
    """The scores of every run under every protocol asked for."""

    results: tuple[RunScores, ...]


def evaluate(config: EvalConfig, *, progress: Progress = SILENT) -> EvalResult:
    """Score runs on their held-out areas and write scores, reports and pictures beside them.

    Weights are scored on the area of `config.data` that is named, or on all that they were not
    trained on. Their files are in `runs/weights/<name>-<hash>/<data>-<fingerprint>[-area<n>]`.

    Raises:
        ConfigError: the weights were trained on every area of the data, or on blocks of another
            side than those of a published protocol.
        RunError: there is no finished run, or a run has no weights.
        WeightsError: the weights cannot be found or read.
        DatasetError: the store is missing, has other classes or no rooms of the test area;
            NothingScoredError: these have no labelled point, or no block of the protocol.

    >>> (found,) = evaluate(EvalConfig(run_dirs=(Path("runs/tiny"),), pictures=False)).results
    >>> found.area, found.scores.points, found.files[0]
    (3, 2400, PosixPath('runs/tiny/eval/room/scores.json'))
    """
    device = pick_device(config.device, progress)
    say_what_votes_do(config, progress)
    results = []
    for evaluation in _evaluations(config, device, progress):
        for weights, model in zip(evaluation.weights, evaluation.models, strict=True):
            config.check_blocks(weights.name, model.block_size, model.voxel)
        _check_labelled(evaluation)
        bands = protocols.count_height_bands(evaluation, progress)
        with sleep_if_crowded():
            found = [_score(evaluation, name, bands, progress) for name in config.protocols]
        if len(found) > 1:
            each = [(one.protocol, one.scores) for one in found]
            write_protocols(evaluation.folder, evaluation.name, each)
        results += found
    return EvalResult(tuple(results))


def say_what_votes_do(config: EvalConfig, progress: Progress) -> None:
    """Warn of protocols that are scored without the votes that were asked for."""
    once = " and ".join(protocol for protocol in config.protocols if protocol != "room")
    if config.votes > 1 and once:
        progress.warn(f"--votes {config.votes}: {once} scored once; votes are for protocol room.")


def chosen_runs(config: EvalConfig, progress: Progress) -> list[Run]:
    """Return the runs that the configuration names, by folder or name; else the latest finished."""
    if not config.run_dirs:
        run = latest_finished(config.runs)
        progress.say(f"{run.path}: the latest finished run")
        return [run]
    runs = [named_run(path, config.runs) for path in config.run_dirs]
    for run in runs:
        if run.state != "finished":
            progress.warn(f"{run.path}: the run is {run.state}; its scores are not final.")
    return runs


def _evaluations(
    config: EvalConfig, device: torch.device, progress: Progress
) -> Iterator[Evaluation]:
    """Yield what is to be scored: runs, or weights each and perhaps together."""
    if not config.weights:
        for run in chosen_runs(config, progress):
            if run.config.synth:  # no area was left out: it is scored as weights are
                open_data(run, config.data)  # says what is missing
                named = dataclasses.replace(config, run_dirs=(), weights=(str(run.path),))
                yield from _evaluations(named, device, progress)
            else:
                yield _open_run(config, run, device, progress)
        return
    store = Store.open(config.data or TrainConfig.data)
    weights = distinctly_named(
        [
            find_weights(each, config.runs, checkpoint=config.checkpoint, progress=progress)
            for each in config.weights
        ]
    )
    models = [_load(each, store, config).to(device) for each in weights]
    compile_beside(models[0].config, device)
    for found, model in zip(weights, models, strict=True):
        yield _open_weights(config, (found,), (model,), store, progress)
    if config.average:
        yield _open_weights(config, tuple(weights), tuple(models), store, progress)


def _open_run(config: EvalConfig, run: Run, device: torch.device, progress: Progress) -> Evaluation:
    trained = run.config
    config = dataclasses.replace(config, checkpoint=run.chosen(config.checkpoint))
    area_of(run)
    store = open_data(run, config.data)
    rooms = store.rooms(trained.test_area)
    if not rooms:
        raise DatasetError(
            f"{store.path}: found no rooms of {run.name}'s test area {trained.test_area}; "
            f"its areas are {', '.join(map(str, store.areas))}."
        )
    known = run.environment.get("store", {})
    if tuple(known.get("classes", store.classes)) != store.classes:
        raise DatasetError(
            f"{store.path}: found the classes {', '.join(store.classes)}, "
            f"expected those of {run.name}: {', '.join(known['classes'])}."
        )
    if known.get("fingerprint") != store.fingerprint:
        progress.warn(f"{run.path}: trained on other data than {store.path} holds now.")
    weights = weights_of(run, config.checkpoint)
    models = (weights.load(config.own_classes).to(device),)
    compile_beside(models[0].config, device)
    folder = run.path / "eval"
    found = Evaluation(run.name, folder, (weights,), models, config, store, tuple(rooms))
    if found.seen:
        progress.warn(
            f"{run.path}: started from weights that were trained on its test area, "
            f"{trained.test_area}; its rooms are not unseen."
        )
    return found


def _load(weights: NamedWeights, store: Store, config: EvalConfig) -> DeepGCN:
    """Return the network of weights, which have to predict the store's classes."""
    model = weights.load_for_points(config.own_classes)
    classes = weights.class_names(model.config.num_classes)
    if classes != store.classes:
        raise DatasetError(
            f"{store.path}: found the classes {', '.join(store.classes)}, "
            f"expected those of {weights.name}: {', '.join(classes)}.\n"
            f"Train a classifier of these classes first: "
            f"{command('train', '--weights', weights.argument, '--data', store.path)}"
        )
    return model


def _open_weights(
    config: EvalConfig,
    weights: tuple[NamedWeights, ...],
    models: tuple[DeepGCN, ...],
    store: Store,
    progress: Progress,
) -> Evaluation:
    unseen = set(store.areas).intersection(*(each.unseen_areas(store) for each in weights))
    each_name = [each.name for each in weights]
    names = " and ".join(each_name)
    area = config.test_area
    if area is None and not unseen:
        raise ConfigError(
            f"{store.path}: found no area that {names} was not trained on.\n"
            "To score one all the same, name it with --area."
        )
    if area is not None and area in store.areas and area not in unseen:
        progress.warn(f"{names}: trained on area {area} of this data; its rooms are not unseen.")
    rooms = [info for info in store.rooms(area) if area is not None or info.area in unseen]
    if not rooms:
        raise DatasetError(
            f"{store.path}: found no rooms of area {area}; "
            f"its areas are {', '.join(map(str, store.areas))}."
        )
    name, sha256 = weights[0].name, weights[0].sha256
    if len(weights) > 1:
        joined = " ".join(each.sha256 for each in weights)
        name = f"average of {len(weights)}: {' + '.join(each_name)}"
        sha256 = hashlib.sha256(joined.encode()).hexdigest()
    data = f"{store.path.resolve().name}-{store.fingerprint[:8]}"
    data += "" if area is None else f"-area{area}"
    # The same alone and beside others of one name; a folder's name is of 255 bytes at most.
    shorts = (w.run.name if w.run else w.name if w.listed else w.file.stem for w in weights)
    short = "+".join(shorts).replace(" ", "-")[:60]
    folder = config.runs / "weights" / f"{short}-{sha256[:8]}" / data
    return Evaluation(name, folder, weights, models, config, store, tuple(rooms))


def _check_labelled(evaluation: Evaluation) -> None:
    """Raise NothingScoredError if no point of the rooms has a class."""
    if not any(sum(info.counts) for info in evaluation.rooms):
        points = counted(sum(info.points for info in evaluation.rooms), "point")
        raise NothingScoredError(
            f"{evaluation.store.path}: found no labelled point in {_areas(evaluation)} ({points}), "
            "expected some; what has no label cannot be scored.\n"
            "Prepare rooms of it that have labels, or score another area."
        )


def _areas(evaluation: Evaluation) -> str:
    return f"area {', '.join(map(str, evaluation.areas))}"


def _score(
    evaluation: Evaluation, protocol: str, bands: np.ndarray | None, progress: Progress
) -> RunScores:
    """Score a run or weights under one protocol and write the files."""
    run, options, classes = evaluation.run, evaluation.options, evaluation.store.classes
    folder = evaluation.folder / protocol
    if protocol == "room":
        if evaluation.store.drawn:
            progress.warn(f"{evaluation.store.path}: {DRAWN}")
        counts = _count_rooms(evaluation, folder, progress)
    else:
        start = time.monotonic()
        rooms, blocks = protocols.count_blocks(evaluation, protocol, progress)
        if not any(matrix.any() for matrix in rooms.values()):
            found_none = f"labelled point in {counted(blocks, 'block')}" if blocks else "block"
            raise NothingScoredError(
                f"{evaluation.store.path}: found no {found_none} of {_areas(evaluation)} to score, "
                f"expected some; protocol {protocol} scores blocks of 1 m with 100 points or more."
                "\nScore every point: --protocol room"
            )
        counts = Counts(rooms, blocks, time.monotonic() - start)
    found = scores(counts.matrix, classes, absent_as=options.absent)
    baseline = None if bands is None else scores(bands, classes, absent_as=options.absent)
    values = score_record(evaluation, protocol, counts, found, baseline)
    report = build_report(evaluation, counts, found, baseline, values)
    history = _epochs(run, progress) if run else []
    with changing(run) if run else nullcontext():
        files = write_scores(folder, report, options, counts.failures, counts.pictures, history)
    name, where = evaluation.name, run.path if run else evaluation.folder
    scored = protocol, found, baseline, report, files, counts.blocks, counts.seconds
    return RunScores(name, where, values["test_area"], *scored)


def _epochs(run: Run, progress: Progress) -> list[dict[str, Any]]:
    """Return what a run logged after each epoch; nothing, with a warning, if that is damaged."""
    try:
        return [each for each in run.metrics() if each.get("event") == "epoch"]
    except RunError as error:
        progress.warn(f"{error}\nIts training curves are left out.")
        return []


def _count_rooms(evaluation: Evaluation, folder: Path, progress: Progress) -> Counts:
    """Count the predictions for every point of each room; show the first rooms."""
    classes = len(evaluation.store.classes)
    rooms: dict[str, np.ndarray] = {}
    first = np.zeros((classes, classes), np.int64)
    failures, blocks, seconds = no_failures(), 0, 0.0
    shown: list[Path] = []
    options = evaluation.options
    if options.palette == "safe" and options.pictures and classes > len(SAFE_COLORS):
        progress.warn(
            f"--palette safe: found {classes} classes, and colours for {len(SAFE_COLORS)} that "
            "stay apart; pictures have the colours of the data."
        )
    for number, found in enumerate(protocols.predict_rooms(evaluation, progress)):
        room = found.room
        rooms[evaluation.title_of(room)] = confusion(room.label, found.predicted, classes)
        first += confusion(room.label, found.first, classes)
        failures += find_failures(room.pos, room.label, found.predicted)
        blocks, seconds = blocks + found.blocks, seconds + found.seconds
        if number < PICTURES:
            shown += _show(evaluation, folder, found)
    once = first if evaluation.options.votes > 1 else None
    return Counts(rooms, blocks, seconds, once, failures, tuple(sorted(shown)))


def _show(evaluation: Evaluation, folder: Path, found: RoomPrediction) -> Iterator[Path]:
    """Draw a room, write its viewer page, or both, as the options say; yield the files."""
    room, store, options = found.room, evaluation.store, evaluation.options
    classes, title = store.classes, f"Area {room.area}, {room.name}"
    name = evaluation.title_of(room)
    if options.pictures:
        safe = options.palette == "safe" and len(classes) <= len(SAFE_COLORS)
        colors = SAFE_COLORS if safe else store.class_colors
        drawn = room_picture(room, found.predicted, classes, colors, f"{title} (without ceiling)")
        save_figure(path := folder / f"room_{name}.png", drawn)
        yield path
    if options.view:
        path = folder / f"view_{name}.html"
        write_viewer(
            # A page that holds stray points shows the room as a dot.
            *(path, np.where(room.stray[:, None], np.nan, room.pos), room.color),
            classes=classes,
            class_colors=store.class_colors,
            title=title,
            summary={"run": evaluation.name, "network": evaluation.model.label},
            label=room.label,
            predicted=found.predicted,
            confidence=found.confidence,
        )
        yield path


def area_of(run: Run) -> int:
    """Return a run's test area; RunError: it has none."""
    area = run.config.test_area
    if not area:
        raise RunError(
            f"{run.path}: found no test area: every area was trained on, so none can be scored.\n"
            "Score it on other rooms that you have prepared: "
            f"{command('eval', '--weights', run.path, '--data', 'DIR')}\n"
            "Or train with an area held out: deepgcn train --area N"
        )
    return area


def scores_of(config: EvalConfig, protocol: str, run: Run, progress: Progress) -> dict[str, Any]:
    """Return a run's scores.json, made now unless one with the same settings is there.

    >>> scores_of(EvalConfig(pictures=False), "room", Run(Path("runs/tiny")), SILENT)["points"]
    2400
    """
    run.weights(config.checkpoint)  # raises if there are none
    store = open_data(run, config.data)
    known = known_scores(run, config, protocol, store.fingerprint)
    if known is not None:
        progress.say(f"{run.path}: scored before")
        if (run.path / CHANGING).exists():
            with changing(run):  # the marker of a process that was killed as it ended goes
                return known
        return known
    votes = config.votes if protocol == "room" else 1
    one = dataclasses.replace(config, run_dirs=(run.path,), protocols=(protocol,), votes=votes)
    evaluate(one, progress=progress)
    made = run.scores(protocol)
    assert made is not None, "evaluate writes them"
    return made
