"""The result of an evaluation: the record that scores.json keeps, the report, and their files.

runs/<run>/eval/<protocol>/, of weights runs/weights/<name>/<data>/<protocol>/
    scores.json, confusion.csv, report.<format>
    confusion.png, iou.png, failures.png, training.png, room_<name>.png, view_<name>.html
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.config import EvalConfig
from pipelines.config.choices import REPORTS
from pipelines.data.store import Store
from pipelines.errors import RunError
from pipelines.files import atomic_json, atomic_text, remove_of_ended
from pipelines.inference.protocols import Evaluation
from pipelines.metrics import RULE, Scores, mean_iou, scores
from pipelines.model.presets import PRESETS, published_as
from pipelines.progress import counted
from pipelines.runs.directory import Run
from pipelines.runs.weights import weights_of
from pipelines.runtime.device import describe_environment
from pipelines.weights.provenance import describe

from . import plots, tables
from .failures import EDGES, UNITS, by_attribute, confused_pairs, failure_tables
from .tables import Report, Row, Table, percent

DRAWN = (
    "Rooms were put together from the published blocks, so protocol room scores only the points "
    "that these have drawn; block-s1 and block-s05 score as published (--protocol)."
)
WORST = 20  # the most rooms to list
# What the figures of reports follow from: the counts, how means are made, and the other rows.
FIGURES = ("confusion", "absent_as", "first_vote", "baseline", "pooled")
PROTOCOLS = "protocols.md"
SCORES_PLOT = "iou.png"
PLOTS = ("confusion.png", "failures.png", "training.png")


@dataclass(frozen=True)
class Counts:
    """What was counted under one protocol."""

    rooms: dict[str, np.ndarray]  # confusion counts (C, C) by room
    blocks: int  # draws passed through the network
    seconds: float  # wall time, with reading and drawing points, without pictures
    first: np.ndarray | None = None  # counts of the first vote, summed; None without votes
    failures: np.ndarray | None = None  # where points are wrong; under protocol `room` only
    pictures: tuple[Path, ...] = ()  # pictures and viewer pages of rooms

    @property
    def matrix(self) -> np.ndarray:
        """The counts of all rooms."""
        return np.sum(list(self.rooms.values()), axis=0)


def score_record(
    evaluation: Evaluation, protocol: str, counts: Counts, found: Scores, baseline: Scores | None
) -> dict[str, Any]:
    """Return everything that scores.json records."""
    store, options, run = evaluation.store, evaluation.options, evaluation.run
    areas = evaluation.areas
    values = {
        "run": evaluation.name,
        "weights": [each.provenance for each in evaluation.weights],
        "protocol": protocol,
        "test_area": areas[0] if len(areas) == 1 else None,
        "areas": list(areas),
        "seen": list(evaluation.seen),
        "checkpoint": options.checkpoint,
        "seed": options.seed,
        "votes": options.votes if protocol == "room" else 1,
        "num_points": evaluation.model.num_points,
        "block_size": evaluation.model.block_size,
        "voxel": evaluation.model.voxel,
        "classes": list(store.classes),
        **asdict(found),
        "baseline": asdict(baseline) if baseline else None,
        "confusion": counts.matrix.tolist(),
        "rooms": {name: matrix.tolist() for name, matrix in counts.rooms.items()},
        "blocks": counts.blocks,
        "seconds": counts.seconds,
        "store": {"path": str(store.path), "fingerprint": store.fingerprint},
        "store_rooms": len(store.rooms()),
        "training": run.environment if run else None,
        "environment": describe_environment(next(evaluation.model.parameters()).device),
    }
    if counts.first is not None:
        values["first_vote"] = asdict(scores(counts.first, store.classes, absent_as=options.absent))
    if counts.failures is not None:
        values["failures"] = {
            name: {"edges": list(EDGES[name]), "unit": UNITS[name], "counts": each.tolist()}
            for name, each in by_attribute(counts.failures).items()
        }
    return values


def build_report(
    evaluation: Evaluation,
    counts: Counts,
    found: Scores,
    baseline: Scores | None,
    values: dict[str, Any],
) -> Report:
    """Return the report of the record `values`: our rows, then the baseline and published ones."""
    model, name, store = evaluation.model.config, evaluation.name, evaluation.store
    several = len(evaluation.weights) > 1  # then the name says which
    rows = [Row.of(name if several else f"{name}: {evaluation.model.label}", found)]
    notes = ["Scores in percent; IoU per class.", *tables.absent_notes(found)]
    notes += seen_notes(values["seen"])
    notes += store_notes(store, values["protocol"])
    if "first_vote" in values:
        once = values["first_vote"]
        rows.append(Row("without votes", once["miou"], once["oa"], once["macc"], once["iou"]))
        notes.append(votes_note(counts, evaluation.options.votes, found, once))
    if baseline is not None:
        # Block protocols score drawn points, and the bands all of them.
        where = "" if values["protocol"] == "room" else " (protocol room)"
        rows.append(Row.of(f"height bands{where}, no network", baseline))
    areas = ", ".join(map(str, evaluation.areas))
    preset = PRESETS.get(published_as(model) or "")
    if preset and preset.published and store.published_rooms and values["test_area"] == 5:
        mark = "" if preset.cited else f" {tables.DAGGER}"
        rows.append(Row(f"published, S3DIS Area 5{mark}", preset.published / 100))
        if mark:
            notes.append(f"{tables.DAGGER} quoted from memory, not checked against the paper.")
    return Report(
        title=f"{name} on Area {areas}, protocol {values['protocol']}",
        classes=store.classes,
        rows=tuple(rows),
        summary=_summary(evaluation, values),
        notes=tuple(notes),
        values=values,
        tables=failure_tables(counts.failures, counts.matrix, store.classes),
    )


def seen_notes(areas: Sequence[int]) -> list[str]:
    """Return the caution on scored areas that were trained on, if any."""
    if not areas:
        return []
    some = f"{'area' if len(areas) == 1 else 'areas'} {', '.join(map(str, areas))}"
    return [
        f"Not unseen: {some} of this data was trained on before, by these weights or by those that "
        "their training started from."
    ]


def store_notes(store: Store, protocol: str) -> list[str]:
    """Return the cautions on prepared data that is not all of what it was published as."""
    notes = []
    rooms, published = len(store.rooms()), store.published_rooms
    if rooms < published:
        notes.append(
            f"This is not the whole of S3DIS: {counted(rooms, 'room')} of {published}. Published "
            "figures are for the whole and cannot be compared."
        )
    if store.drawn and protocol == "room":
        notes.append(DRAWN)
    return notes


def votes_note(counts: Counts, votes: int, found: Scores, once: Mapping[str, Any]) -> str:
    """Return what the votes changed, apart from how absent classes are counted in the rows."""
    assert counts.first is not None
    gain = 100 * float(mean_iou(counts.matrix) - mean_iou(counts.first))
    note = f"{votes} votes changed mIoU by {gain:+.2f} points for {votes} times the work."
    shown = 100 * (found.miou - once["miou"])
    if round(shown, 2) == round(gain, 2):
        return note
    note += f" That is over the classes of the ground truth; the rows differ by {shown:+.2f}, as "
    note += "they count absent classes"
    predicted, before = len(found.only_predicted), len(once["only_predicted"])
    if predicted != before:
        note += f", of which the votes predict {predicted} and the first one {before}"
    return f"{note}."


def _summary(evaluation: Evaluation, values: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings, data and machine behind the scores."""
    options, store, run = evaluation.options, evaluation.store, evaluation.run
    votes = f", {options.votes} votes" if values["votes"] > 1 else ""
    origins = (f"{describe(w)}; SHA-256 {w['sha256'][:12]}" for w in values["weights"])
    made = {"weights": " + ".join(origins)}
    if run is not None:
        trained = run.config
        made["run"] = (
            f"{run.name}, checkpoint {options.checkpoint}, seed {trained.seed}, "
            f"recipe {trained.recipe_text} ({trained.model.layout} layout)"
        )
    return {
        "protocol": f"{values['protocol']}{votes}, seed {options.seed}, "
        f"{counted(values['points'], 'point')} scored",
        "test area": f"{', '.join(map(str, evaluation.areas))}, "
        f"{counted(len(evaluation.rooms), 'room')}",
        **made,
        "data": f"{store.path}, fingerprint {store.fingerprint[:12]}",
        **tables.machines([values["environment"]]),
        "time": f"{values['seconds']:.1f} s for {counted(values['blocks'], 'block')}",
    }


def write_scores(
    folder: Path,
    report: Report,
    options: EvalConfig,
    failures: np.ndarray | None = None,
    rooms: Sequence[Path] = (),
    history: Sequence[Mapping[str, Any]] = (),
) -> tuple[Path, ...]:
    """Write an evaluation's files and return them, with the pictures of its rooms.

    `folder` is runs/<run>/eval/<protocol>; `rooms` are the pictures and viewer pages that this
    evaluation wrote there. Pictures and reports of an earlier one, also `protocols.md` beside the
    folder, stay only if they do not contradict these scores: what is drawn of the predictions, if
    the counts are the same; tables of scores, if the scores are, too. `history` has the run's
    "epoch" records.

    `scores.json` comes last: where it is, everything else is.
    """
    remove_of_ended(folder)  # another evaluation of the same run may be writing here
    matrix, classes = np.array(report.values["confusion"]), report.classes
    confusion = folder / "confusion.csv"
    lines = ([name, *row] for name, row in zip(classes, matrix, strict=True))
    counts = tables.csv_text(["", *classes], lines)
    same_counts = confusion.is_file() and confusion.read_text(encoding="utf-8") == counts
    old = () if same_counts else (*PLOTS, "room_*.png", "view_*.html")
    if not (same_counts and _same_figures(folder, report.values)):
        old = (*old, SCORES_PLOT, *(f"report.{form}" for form in REPORTS), f"../{PROTOCOLS}")
    for path in {path for pattern in old for path in folder.glob(pattern)} - {*rooms}:
        path.unlink(missing_ok=True)
    atomic_text(confusion, counts)
    figures = {}
    if options.pictures:
        figures["confusion.png"] = plots.confusion_figure(matrix, classes, report.title)
        figures["iou.png"] = plots.iou_figure(report.rows, classes)
    if options.pictures and failures is not None:
        figures["failures.png"] = plots.failure_figure(failures)
    if options.pictures and len(history) > 1:
        figures["training.png"] = plots.training_curves(history)
    for name, figure in figures.items():
        plots.save_figure(folder / name, figure)
    pictures = sorted(folder.glob("room_*.png"))
    html = partial(html_report, report, pictures=pictures, history=history)
    texts = report.texts(options.page_columns)
    pages = tables.write_formats(folder / "report", options.reports, {**texts, "html": html})
    atomic_json(folder / "scores.json", report.values)
    return (
        *(folder / name for name in ("scores.json", "confusion.csv", *figures)),
        *pages,
        *pictures,
        *sorted(folder.glob("view_*.html")),
    )


def _same_figures(folder: Path, values: Mapping[str, Any]) -> bool:
    """Return whether the scores.json there has the figures of the record `values`."""
    try:
        known = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
        mine = json.loads(json.dumps({name: values.get(name) for name in FIGURES}))
        return all(known.get(name) == mine[name] for name in FIGURES)
    except (OSError, ValueError, AttributeError):
        return False


def html_report(
    report: Report, *, pictures: Sequence[Path] = (), history: Sequence[Mapping[str, Any]] = ()
) -> str:
    """Return a report as one self-contained page; RunError: a picture is no PNG file.

    The page shows its values `confusion` (C, C), with ground truth in rows, and `rooms`, a matrix
    for each, if any. `history` has the run's "epoch" records; fewer than two are not drawn.
    """
    classes = report.classes
    matrix = np.asarray(report.values["confusion"], np.int64).reshape(len(classes), len(classes))
    found = scores(matrix, classes)
    totals = (matrix.sum(axis=1).tolist(), matrix.sum(axis=0).tolist())
    rooms = report.values.get("rooms", {})
    drawn = plots.figure_svg(plots.training_curves(history)) if len(history) > 1 else None
    return tables.render_page(
        "scores.html",
        report.title,
        pictures,
        report=report,
        classes=list(zip(classes, found.iou, found.accuracy, *totals, strict=True)),
        confusion=list(zip(classes, matrix.tolist(), strict=True)),
        curves=drawn and tables.data_uri("image/svg+xml", drawn),
        rooms=_worst_rooms(rooms, classes),
        room_count=len(rooms),
    )


def _worst_rooms(
    rooms: Mapping[str, Sequence[Sequence[int]]], classes: Sequence[str]
) -> list[tuple[str, Scores, str]]:
    """Return the rooms of least mIoU, their scores and the most frequent mistake of each."""
    found = []
    for name, counts in rooms.items():
        matrix, mistake = np.asarray(counts, np.int64), "none"
        for actual, predicted, count, _ in confused_pairs(matrix, classes, most=1):
            percentage = 100 * count / matrix.sum()
            mistake = f"{actual} as {predicted}: {percentage:.1f} % of its points"
        found.append((name, scores(matrix, classes), mistake))
    return sorted(found, key=lambda room: (room[1].miou, room[0]))[:WORST]


def known_scores(
    run: Run, config: EvalConfig, protocol: str, fingerprint: str
) -> dict[str, Any] | None:
    """Return a run's scores.json if `evaluate(config)` would give the same scores now, else None.

    That is: the same settings, data of that `fingerprint`, and the same weights. Earlier versions
    wrote scores of 0 points, which are no scores, and did not say what was seen before.
    """
    wanted = {"seed": config.seed, "checkpoint": run.chosen(config.checkpoint)}
    wanted |= {"absent_as": config.absent, "protocol": protocol, "means_over": RULE}
    wanted |= {"votes": config.votes} if protocol == "room" else {}
    try:
        known = run.scores(protocol) or {}
        same = bool(known.get("points")) and "seen" in known  # else of an earlier version
        same &= (known.get("store") or {}).get("fingerprint") == fingerprint
        same &= all(known.get(name) == value for name, value in wanted.items())
        # Not by times: a clock that was set back would take old scores for those of new weights.
        same = same and known["weights"][0]["sha256"] == weights_of(run, config.checkpoint).sha256
    except (RunError, OSError, LookupError, TypeError, AttributeError):
        return None
    return known if same else None


def write_protocols(folder: Path, name: str, found: Sequence[tuple[str, Scores]]) -> Path:
    """Write protocols.md: the same run or weights under several protocols, side by side."""
    lines = tuple(
        (name, f"{s.points:,}", *map(percent, (s.oa, s.macc, s.miou))) for name, s in found
    )
    table = Table(name, ("protocol", "points scored", "OA", "mAcc", "mIoU"), lines)
    path = folder / PROTOCOLS
    title = f"# {name} under each protocol"
    atomic_text(path, f"{title}\n\n{table.as_markdown()}\n\nScores in percent.\n")
    return path
