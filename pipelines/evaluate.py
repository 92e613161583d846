"""The evaluate stage: runs → scores on the area that they never saw.

Protocols (M are confusion counts, summed over all rooms of the test area):

`room`      Every point of every room once. Disjoint 1 m blocks; a block's points are dealt out
            into draws of `num_points`, so each point is drawn at least once; the logits of a point
            that is drawn again are summed; M counts the largest logit of every point.
`block-s1`  The published block protocol of the TensorFlow release: blocks of stride 1 m, those
            under 100 points dropped, one draw of `num_points` each (with repetition where there
            are fewer); M counts every drawn point.

Both are deterministic: the same weights, store and seed give the same counts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .config import EvalConfig, TrainConfig
from .data.s3dis import PUBLISHED_ROOMS
from .data.sampler import BlockSampler
from .data.store import Room, RoomInfo, Store
from .errors import DatasetError, RunError
from .files import atomic_json, atomic_text
from .inference import block_logits
from .model.deepgcn import DeepGCN
from .model.presets import PRESETS, published_as
from .model.weights import describe, load_weights
from .progress import SILENT, Progress
from .results.baseline import learn_height_bands, score_height_bands
from .results.metrics import Scores, confusion, scores
from .results.plots import confusion_picture, room_picture
from .results.report import DAGGER, Report, Row
from .results.runs import Run, latest_finished, open_run
from .runtime.device import pick_device
from .runtime.environment import describe_environment
from .runtime.loop import predict_batches

PICTURES = 4  # rooms drawn at most


@dataclass(frozen=True)
class RunScores:
    """One run under one protocol.

    Attributes:
        run: its directory.
        area: the test area.
        protocol: what was scored.
        scores: the figures.
        baseline: the scores of answering by height bands, under protocol `room`.
        report: the table and what belongs to it.
        files: what was written.
        blocks: network passes, in blocks.
        seconds: wall time.
    """

    run: Path
    area: int
    protocol: str
    scores: Scores
    baseline: Scores
    report: Report
    files: tuple[Path, ...]
    blocks: int
    seconds: float


@dataclass(frozen=True)
class EvalResult:
    """The scores of every run under every protocol asked for."""

    results: tuple[RunScores, ...]


@dataclass(frozen=True)
class _Subject:
    """What is being evaluated: a run's network on its test rooms."""

    run: Run
    config: TrainConfig
    model: DeepGCN
    store: Store
    rooms: list[RoomInfo]
    options: EvalConfig


@dataclass(frozen=True)
class _Counted:
    """One room's confusion counts, and the prediction for each point where there is one."""

    room: str
    matrix: np.ndarray
    blocks: int


def evaluate(config: EvalConfig, *, progress: Progress = SILENT) -> EvalResult:
    """Score runs on their held-out areas and write scores, reports and pictures beside them.

    Raises:
        RunError: there is no finished run, or a run has no weights.
        DatasetError: the store is missing, has other classes or no rooms of the test area.
    """
    device = pick_device(config.device)
    results = []
    for run in _runs(config, progress):
        subject = _open(config, run, device, progress)
        baseline = _baseline(subject, progress)
        for protocol in config.protocols:
            results.append(_score(subject, protocol, baseline, progress))
    return EvalResult(tuple(results))


def _runs(config: EvalConfig, progress: Progress) -> list[Run]:
    if not config.run_dirs:
        run = latest_finished(config.runs)
        progress.say(f"{run.path}: the latest finished run")
        return [run]
    found = [path if path.is_dir() else config.runs / path for path in config.run_dirs]
    runs = [
        open_run(folder if folder.is_dir() else path)
        for folder, path in zip(found, config.run_dirs, strict=True)
    ]
    for run in runs:
        if run.state != "finished":
            progress.warn(f"{run.path}: the run is {run.state}; its scores are not final.")
    return runs


def _open(config: EvalConfig, run: Run, device: torch.device, progress: Progress) -> _Subject:
    trained = run.config
    if trained.test_area is None:
        raise RunError(f"{run.path}: found no test area in its configuration, expected one.")
    store = Store.open(config.data or trained.data)
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
    model = load_weights(run.weights(config.checkpoint)).to(device)
    return _Subject(run, trained, model, store, rooms, config)


def _baseline(subject: _Subject, progress: Progress) -> Scores:
    """Return the scores of height bands, learned on all areas but the test area."""
    store, classes = subject.store, len(subject.store.classes)
    training = [info for info in store.rooms() if info.area != subject.config.test_area]
    with progress.task("Height bands", total=len(training), unit="rooms") as task:

        def read() -> Iterator[Room]:
            for info in training:
                yield store.read(info)
                task.advance()

        best = learn_height_bands(read(), classes)
    matrix = sum(score_height_bands(best, store.read(info), classes) for info in subject.rooms)
    return scores(np.asarray(matrix), store.classes)


def _score(subject: _Subject, protocol: str, baseline: Scores, progress: Progress) -> RunScores:
    start = time.monotonic()
    count = _count_rooms if protocol == "room" else _count_blocks
    folder = subject.run.path / "eval" / protocol
    counted = list(count(subject, folder, progress))
    seconds = time.monotonic() - start
    matrix = np.sum([room.matrix for room in counted], axis=0)
    found = scores(matrix, subject.store.classes)
    values = _values(subject, protocol, counted, matrix, found, baseline, seconds)
    report = _report(subject, protocol, found, baseline, values)
    files = _write(subject, folder, report, values, matrix)
    return RunScores(
        run=subject.run.path,
        area=subject.config.test_area or 0,
        protocol=protocol,
        scores=found,
        baseline=baseline,
        report=report,
        files=files,
        blocks=sum(room.blocks for room in counted),
        seconds=seconds,
    )


# --- protocols ---------------------------------------------------------------------------------


def _count_rooms(subject: _Subject, folder: Path, progress: Progress) -> Iterator[_Counted]:
    """Score every point of each room; draw the first rooms."""
    total = sum(info.points for info in subject.rooms)
    classes = subject.store.classes
    with progress.task("Scoring rooms", total=total, unit="points") as task:
        for number, info in enumerate(subject.rooms):
            room = subject.store.read(info)
            predicted = np.zeros(len(room.pos), np.uint8)
            blocks = 0
            for block in block_logits(
                subject.model,
                room.pos,
                room.color,
                room.grid,
                room.extent,
                num_points=subject.config.num_points,
                batch_size=subject.options.batch_size,
                seed=subject.options.seed,
                task=task,
            ):
                predicted[block.points] = block.logits.argmax(axis=1)
                blocks += -(-len(block.points) // subject.config.num_points)
            if subject.options.pictures and number < PICTURES:
                _draw(subject, folder, room, predicted)
            yield _Counted(room.name, confusion(room.label, predicted, len(classes)), blocks)


def _draw(subject: _Subject, folder: Path, room: Room, predicted: np.ndarray) -> None:
    room_picture(
        folder / f"room_{room.name}.png",
        room.pos,
        room.color,
        room.label,
        predicted,
        classes=subject.store.classes,
        class_colors=subject.store.class_colors,
        title=f"Area {room.area}, {room.name} (without ceiling)",
    )


def _count_blocks(subject: _Subject, _folder: Path, progress: Progress) -> Iterator[_Counted]:
    """Score one draw of each block."""
    config, options, classes = subject.config, subject.options, len(subject.store.classes)
    with progress.task("Scoring blocks", total=len(subject.rooms), unit="rooms") as task:
        for info in subject.rooms:
            sampler = BlockSampler(
                subject.store, [info], config.num_points, options.seed, 1.0, config.model.layout
            )
            matrix = np.zeros((classes, classes), np.int64)
            batches = (sampler.batch(0, b) for b in sampler.in_order(options.batch_size))
            for label, predicted in predict_batches(subject.model, batches):
                matrix += confusion(label, predicted, classes)
            task.advance()
            yield _Counted(info.name, matrix, len(sampler))


# --- what is written ---------------------------------------------------------------------------


def _values(
    subject: _Subject,
    protocol: str,
    counted: list[_Counted],
    matrix: np.ndarray,
    found: Scores,
    baseline: Scores,
    seconds: float,
) -> dict[str, Any]:
    """Return everything that scores.json records."""
    device = next(subject.model.parameters()).device
    return {
        "run": subject.run.name,
        "protocol": protocol,
        "test_area": subject.config.test_area,
        "checkpoint": subject.options.checkpoint,
        "seed": subject.options.seed,
        "num_points": subject.config.num_points,
        "classes": list(subject.store.classes),
        **asdict(found),
        "baseline": asdict(baseline),
        "confusion": matrix.tolist(),
        "rooms": {room.room: room.matrix.tolist() for room in counted},
        "blocks": sum(room.blocks for room in counted),
        "seconds": seconds,
        "store": {"path": str(subject.store.path), "fingerprint": subject.store.fingerprint},
        "store_rooms": len(subject.store.rooms()),
        "training": subject.run.environment,
        "environment": describe_environment(device),
    }


def _report(
    subject: _Subject, protocol: str, found: Scores, baseline: Scores, values: dict[str, Any]
) -> Report:
    model = subject.config.model
    rows = [Row.of(f"{subject.run.name}: {describe(model)}", found)]
    rows.append(Row.of("height bands, no network", baseline))
    notes = _notes(subject, found)
    preset = PRESETS.get(published_as(model) or "")
    if preset and preset.published and subject.config.test_area == 5:
        mark = "" if preset.cited else f" {DAGGER}"
        rows.append(Row(f"published, S3DIS Area 5{mark}", preset.published / 100))
        if mark:
            notes.append(f"{DAGGER} recalled from the paper, not read again.")
    environment = values["environment"]
    facts = {
        "protocol": f"{protocol}, seed {subject.options.seed}, {found.points:,} points scored",
        "test area": f"{subject.config.test_area}, {len(subject.rooms)} rooms",
        "run": f"{subject.run.name}, checkpoint {subject.options.checkpoint}, "
        f"seed {subject.config.seed}, recipe {subject.config.recipe} ({model.layout} layout)",
        "data": f"{subject.store.path}, fingerprint {subject.store.fingerprint[:12]}",
        "hardware": environment["gpu"] or f"{environment['cpu']}, {environment['threads']} threads",
        "software": f"torch {environment['packages']['torch']}, commit {environment['commit']}",
        "time": f"{values['seconds']:.1f} s for {values['blocks']} blocks",
    }
    title = f"{subject.run.name} on Area {subject.config.test_area}, protocol {protocol}"
    return Report(title, subject.store.classes, tuple(rows), facts, tuple(notes), values)


def _notes(subject: _Subject, found: Scores) -> list[str]:
    notes = ["Scores in percent; IoU per class."]
    if found.absent:
        notes.append(
            f"Absent classes, left out of the means: {', '.join(found.absent)}. "
            "Means over other classes do not compare."
        )
    rooms, published = len(subject.store.rooms()), sum(PUBLISHED_ROOMS.values())
    if rooms < published:
        notes.append(
            f"This is not the whole of S3DIS: {rooms} rooms of {published}. Published figures "
            "stand beside it for orientation only."
        )
    return notes


def _write(
    subject: _Subject, folder: Path, report: Report, values: dict[str, Any], matrix: np.ndarray
) -> tuple[Path, ...]:
    classes = subject.store.classes
    texts = {"md": report.as_markdown, "csv": report.as_csv, "json": report.as_json}
    files = [folder / "scores.json"]
    atomic_json(files[0], values)
    for kind in dict.fromkeys(subject.options.reports):
        files.append(folder / f"report.{kind}")
        atomic_text(files[-1], texts[kind]())
    files.append(folder / "confusion.csv")
    lines = [",".join([name, *map(str, row)]) for name, row in zip(classes, matrix, strict=True)]
    atomic_text(files[-1], "\n".join([",".join(["", *classes]), *lines]) + "\n")
    if subject.options.pictures:
        files.append(folder / "confusion.png")
        confusion_picture(files[-1], matrix, classes, report.title)
        files += sorted(folder.glob("room_*.png"))
    return tuple(files)
