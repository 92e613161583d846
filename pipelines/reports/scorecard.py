"""What an evaluation says: the record that scores.json keeps, and the report for people."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.config import EvalConfig, TrainConfig
from pipelines.inference.protocols import Subject
from pipelines.metrics import Scores, scores
from pipelines.model.presets import PRESETS, published_as
from pipelines.runs.directory import Run
from pipelines.runtime.environment import describe_environment
from pipelines.weights.safetensors import describe

from .failures import TITLES, UNITS, Failures, confused_pairs
from .tables import DAGGER, Report, Row, Table, absent_notes, hardware_text, percent, software_text


@dataclass(frozen=True)
class Evaluation:
    """What is being evaluated, and how: a run, its network on its test rooms, the options."""

    run: Run
    config: TrainConfig
    subject: Subject
    options: EvalConfig


@dataclass(frozen=True)
class Counts:
    """What a protocol came to.

    Attributes:
        rooms: confusion counts (C, C) by room.
        first: counts of the first vote, summed; None without votes.
        failures: where points are wrong; None but under protocol `room`.
        pictures: what was drawn of rooms, and pages to look at them.
        blocks: draws that the network saw.
        seconds: what they took, reading and drawing included, pictures not.
    """

    rooms: dict[str, np.ndarray]
    first: np.ndarray | None
    failures: Failures | None
    pictures: tuple[Path, ...]
    blocks: int
    seconds: float

    @property
    def matrix(self) -> np.ndarray:
        """The counts of all rooms."""
        return np.sum(list(self.rooms.values()), axis=0)


def record_scores(
    evaluation: Evaluation,
    protocol: str,
    counts: Counts,
    found: Scores,
    baseline: Scores,
) -> dict[str, Any]:
    """Return everything that scores.json records."""
    subject, options = evaluation.subject, evaluation.options
    device = next(subject.model.parameters()).device
    values = {
        "run": evaluation.run.name,
        "protocol": protocol,
        "test_area": evaluation.config.test_area,
        "checkpoint": options.checkpoint,
        "seed": options.seed,
        "votes": options.votes if protocol == "room" else 1,
        "num_points": subject.num_points,
        "classes": list(subject.store.classes),
        **asdict(found),
        "baseline": asdict(baseline),
        "confusion": counts.matrix.tolist(),
        "rooms": {name: matrix.tolist() for name, matrix in counts.rooms.items()},
        "blocks": counts.blocks,
        "seconds": counts.seconds,
        "store": {"path": str(subject.store.path), "fingerprint": subject.store.fingerprint},
        "store_rooms": len(subject.store.rooms()),
        "training": evaluation.run.environment,
        "environment": describe_environment(device),
    }
    if counts.first is not None:
        once = scores(counts.first, subject.store.classes, absent_as=options.absent)
        values["first_vote"] = asdict(once)
    if counts.failures is not None:
        values["failures"] = counts.failures.plain()
    return values


def build_report(
    evaluation: Evaluation,
    protocol: str,
    counts: Counts,
    found: Scores,
    baseline: Scores,
    values: dict[str, Any],
) -> Report:
    model, subject, run = evaluation.config.model, evaluation.subject, evaluation.run
    rows = [Row.of(f"{run.name}: {describe(model)}", found)]
    notes = _notes(subject, found)
    if "first_vote" in values:
        once = values["first_vote"]
        rows.append(Row("without votes", once["miou"], once["oa"], once["macc"], once["iou"]))
        gain = 100 * (found.miou - once["miou"])
        notes.append(
            f"{subject.votes} votes changed mIoU by {gain:+.2f} points for {subject.votes} times "
            "the work."
        )
    rows.append(Row.of("height bands, no network", baseline))
    preset = PRESETS.get(published_as(model) or "")
    of_s3dis = subject.store.published_rooms and evaluation.config.test_area == 5
    if preset and preset.published and of_s3dis:
        mark = "" if preset.cited else f" {DAGGER}"
        rows.append(Row(f"published, S3DIS Area 5{mark}", preset.published / 100))
        if mark:
            notes.append(f"{DAGGER} recalled from the paper, not read again.")
    facts = _facts(evaluation, protocol, found, values)
    title = f"{run.name} on Area {evaluation.config.test_area}, protocol {protocol}"
    tables = _failure_tables(subject, counts)
    return Report(title, subject.store.classes, tuple(rows), facts, tuple(notes), values, tables)


def _facts(
    evaluation: Evaluation, protocol: str, found: Scores, values: dict[str, Any]
) -> dict[str, str]:
    """Return what the scores were made with."""
    config, options, subject = evaluation.config, evaluation.options, evaluation.subject
    votes = f", {subject.votes} votes" if values["votes"] > 1 else ""
    environment, store = values["environment"], subject.store
    return {
        "protocol": f"{protocol}{votes}, seed {options.seed}, {found.points:,} points scored",
        "test area": f"{config.test_area}, {len(subject.rooms)} rooms",
        "run": f"{evaluation.run.name}, checkpoint {options.checkpoint}, "
        f"seed {config.seed}, recipe {config.recipe_text} ({config.model.layout} layout)",
        "data": f"{store.path}, fingerprint {store.fingerprint[:12]}",
        "hardware": hardware_text(environment),
        "software": software_text(environment),
        "time": f"{values['seconds']:.1f} s for {values['blocks']} blocks",
    }


def _notes(subject: Subject, found: Scores) -> list[str]:
    notes = ["Scores in percent; IoU per class.", *absent_notes(found)]
    rooms, published = len(subject.store.rooms()), subject.store.published_rooms
    if rooms < published:
        notes.append(
            f"This is not the whole of S3DIS: {rooms} rooms of {published}. Published figures "
            "are of the whole and do not compare."
        )
    return notes


def _failure_tables(subject: Subject, counts: Counts) -> tuple[Table, ...]:
    """Return where the network fails: the pairs confused most, and errors by attribute."""
    if counts.failures is None:
        return ()
    pairs = confused_pairs(counts.matrix, subject.store.classes)
    lines = ((a, b, f"{count:,}", percent(share)) for a, b, count, share in pairs)
    tables = [
        Table("Most confused", ("ground truth", "taken for", "points", "% of it"), tuple(lines))
    ]
    for name, title in TITLES.items():
        rows = counts.failures.rows(name)
        shown = ((label, f"{points:,}", percent(share)) for label, points, share in rows)
        columns = (UNITS[name], "points", "% wrong")
        tables.append(Table(f"Errors by {title}", columns, tuple(shown)))
    return tuple(tables)
