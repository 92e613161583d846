"""The evaluate stage: runs → scores on the area that their training left out.

For each run: open its network and the rooms of its test area; under each protocol
(`inference.protocols`) sum the confusion counts over the rooms; write scores, reports and pictures
into the run directory (`reports.scores`). Every figure follows from the counts (`metrics`). The
same weights, data and seed give the same counts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipelines.data.store import Room
from pipelines.inference.protocols import (
    EvalTarget,
    RoomPrediction,
    count_blocks,
    learn_height_bands,
    predict_rooms,
    score_height_bands,
)
from pipelines.metrics import Scores, confusion, scores
from pipelines.reports.failures import find_failures, no_failures
from pipelines.reports.plots import room_picture, save_figure
from pipelines.reports.scores import (
    Counts,
    Evaluation,
    build_report,
    score_record,
    write_protocols,
    write_scores,
)
from pipelines.reports.tables import Report
from pipelines.reports.viewer import SAFE_COLORS, write_viewer
from pipelines.runs.directory import Run, changing, latest_finished, named_run
from pipelines.runs.resume import open_data
from pipelines.runtime.device import pick_device
from pipelines.weights.safetensors import load_weights

from .config import EvalConfig
from .errors import DatasetError, RunError
from .progress import SILENT, Progress

PICTURES = 4  # the most rooms to draw


@dataclass(frozen=True)
class RunScores:
    """One run under one protocol."""

    run: Path  # its directory
    area: int  # the test area
    protocol: str  # a key of PROTOCOLS
    scores: Scores  # of the network
    baseline: Scores  # of predicting by height bands, under protocol `room`
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

    Raises:
        RunError: there is no finished run, or a run has no weights.
        DatasetError: the store is missing, has other classes or no rooms of the test area.

    Examples:
        >>> result = evaluate(EvalConfig(run_dirs=(Path("runs/mine"),)))  # doctest: +SKIP
        >>> result.results[0].scores.miou  # doctest: +SKIP
        0.52
    """
    device = pick_device(config.device, progress)
    results = []
    for run in chosen_runs(config, progress):
        evaluation = _open(config, run, device, progress)
        bands = _count_height_bands(evaluation, progress)
        found = [_score(evaluation, name, bands, progress) for name in config.protocols]
        if len(found) > 1:
            write_protocols(run.path, [(each.protocol, each.scores) for each in found])
        results += found
    return EvalResult(tuple(results))


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


def _open(config: EvalConfig, run: Run, device: torch.device, progress: Progress) -> Evaluation:
    trained = run.config
    if trained.test_area is None:
        raise RunError(f"{run.path}: found no test area in its configuration, expected one.")
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
        progress.warn(f"{run.path}: trained on other data than what {store.path} holds now.")
    model = load_weights(run.weights(config.checkpoint), classes=trained.model.own_classes)
    target = EvalTarget(
        model=model.to(device),
        store=store,
        rooms=tuple(rooms),
        num_points=trained.num_points,
        batch_size=config.batch_size,
        seed=config.seed,
        votes=config.votes,
    )
    return Evaluation(run, trained, target, config)


def _count_height_bands(evaluation: Evaluation, progress: Progress) -> np.ndarray:
    """Return the counts of the height-band baseline, learned on all areas but the test area."""
    store = evaluation.target.store
    classes = len(store.classes)
    training = [info for info in store.rooms() if info.area != evaluation.config.test_area]
    with progress.task("Height bands", total=len(training), unit="rooms") as task:

        def read() -> Iterator[Room]:
            for info in training:
                yield store.read(info)
                task.advance()

        best = learn_height_bands(read(), classes)
    rooms = (store.read(info) for info in evaluation.target.rooms)
    return np.sum([score_height_bands(best, room, classes) for room in rooms], axis=0)


def _score(
    evaluation: Evaluation, protocol: str, bands: np.ndarray, progress: Progress
) -> RunScores:
    """Score a run under one protocol and write its files."""
    classes, options = evaluation.target.store.classes, evaluation.options
    folder = evaluation.run.path / "eval" / protocol
    if protocol == "room":
        counts = _count_rooms(evaluation, folder, progress)
    else:
        start = time.monotonic()
        rooms, blocks = count_blocks(evaluation.target, protocol, progress)
        counts = Counts(rooms, blocks, time.monotonic() - start)
    found = scores(counts.matrix, classes, absent_as=options.absent)
    baseline = scores(bands, classes, absent_as=options.absent)
    values = score_record(evaluation, protocol, counts, found, baseline)
    report = build_report(evaluation, counts, found, baseline, values)
    history = [record for record in evaluation.run.metrics() if record["event"] == "epoch"]
    with changing(evaluation.run):
        files = write_scores(folder, report, options, counts.failures, counts.pictures, history)
    return RunScores(
        run=evaluation.run.path,
        area=evaluation.config.test_area or 0,
        protocol=protocol,
        scores=found,
        baseline=baseline,
        report=report,
        files=files,
        blocks=counts.blocks,
        seconds=counts.seconds,
    )


def _count_rooms(evaluation: Evaluation, folder: Path, progress: Progress) -> Counts:
    """Count the predictions for every point of each room; draw the first rooms."""
    target, options = evaluation.target, evaluation.options
    classes = len(target.store.classes)
    rooms: dict[str, np.ndarray] = {}
    first = np.zeros((classes, classes), np.int64)
    failures, blocks, seconds = no_failures(), 0, 0.0
    drawn: list[Path] = []
    for number, found in enumerate(predict_rooms(target, progress)):
        room = found.room
        rooms[room.name] = confusion(room.label, found.predicted, classes)
        first += confusion(room.label, found.first, classes)
        failures += find_failures(room.pos, room.label, found.predicted)
        blocks, seconds = blocks + found.blocks, seconds + found.seconds
        if options.pictures and number < PICTURES:
            drawn.append(_draw(evaluation, folder, found))
        if options.view and number < PICTURES:
            drawn.append(_write_view(evaluation, folder, found))
    once = first if target.votes > 1 else None
    return Counts(rooms, blocks, seconds, once, failures, tuple(sorted(drawn)))


def _draw(evaluation: Evaluation, folder: Path, found: RoomPrediction) -> Path:
    room, store = found.room, evaluation.target.store
    path = folder / f"room_{room.name}.png"
    safe = evaluation.options.palette == "safe" and len(store.classes) <= len(SAFE_COLORS)
    colors = SAFE_COLORS if safe else store.class_colors
    title = f"Area {room.area}, {room.name} (without ceiling)"
    save_figure(path, room_picture(room, found.predicted, store.classes, colors, title))
    return path


def _write_view(evaluation: Evaluation, folder: Path, found: RoomPrediction) -> Path:
    room, store = found.room, evaluation.target.store
    path = folder / f"view_{room.name}.html"
    write_viewer(
        *(path, room.pos, room.color),
        classes=store.classes,
        class_colors=store.class_colors,
        title=f"Area {room.area}, {room.name}",
        facts={"run": evaluation.run.name, "network": evaluation.config.model.label},
        label=room.label,
        predicted=found.predicted,
        confidence=found.confidence,
    )
    return path
