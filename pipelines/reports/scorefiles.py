"""The files of an evaluation: runs/<run>/eval/<protocol>/ …

scores.json (everything), confusion.csv, report.<format>, and the pictures confusion.png, iou.png,
failures.png, training.png, room_<name>.png.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.config import EvalConfig
from pipelines.errors import RunError
from pipelines.files import atomic_json, atomic_text
from pipelines.metrics import Scores
from pipelines.runs.directory import Run

from .failures import Failures
from .html import write_html_report
from .plots import confusion_picture, failure_plot, iou_bars, training_curve
from .tables import Report, Row, markdown_table, percent

PLOTS = ("confusion.png", "iou.png", "failures.png", "training.png")


def write_scores(
    folder: Path,
    report: Report,
    matrix: np.ndarray,
    *,
    reports: Sequence[str],
    pictures: bool,
    failures: Failures | None,
    rooms: Sequence[Path],
    history: Sequence[Mapping[str, Any]],
) -> tuple[Path, ...]:
    """Write an evaluation's files and return them, with the pictures of rooms that belong to it.

    Those are what it drew itself, and what an earlier one with the same counts did. Pictures that
    show other predictions are removed: they would stand beside scores that are not theirs.

    Args:
        folder: runs/<run>/eval/<protocol>.
        report: the table and all values.
        matrix: (C, C) confusion counts.
        reports: formats, some of REPORTS.
        pictures: whether to draw.
        failures: where points are wrong, if that is known.
        rooms: pictures and pages of rooms that this evaluation has drawn in the folder.
        history: the run's "epoch" records.
    """
    files = [folder / "scores.json", folder / "confusion.csv"]
    counts = confusion_csv(matrix, report.classes)
    _remove_outdated(files[1], counts, keep=rooms)
    atomic_json(files[0], report.values)
    atomic_text(files[1], counts)
    if pictures:
        files += _draw(folder, report, matrix, failures, history)
    pictures_of_rooms = sorted(folder.glob("room_*.png"))
    texts: dict[str, Callable[[], str]] = {
        "md": report.as_markdown,
        "csv": report.as_csv,
        "json": report.as_json,
        "tex": report.as_latex,
    }
    for kind in dict.fromkeys(reports):
        files.append(folder / f"report.{kind}")
        if kind == "html":
            write_html_report(
                files[-1],
                dict(report.values),
                report=report,
                pictures=pictures_of_rooms,
                history=list(history),
            )
        else:
            atomic_text(files[-1], texts[kind]())
    return (*files, *pictures_of_rooms, *sorted(folder.glob("view_*.html")))


def _remove_outdated(confusion: Path, counts: str, *, keep: Sequence[Path]) -> None:
    """Remove the pictures beside `confusion` if it holds other counts than those to be written."""
    if not confusion.is_file() or confusion.read_text(encoding="utf-8") == counts:
        return
    for pattern in (*PLOTS, "room_*.png", "view_*.html"):
        for path in confusion.parent.glob(pattern):
            if path not in keep:
                path.unlink(missing_ok=True)


def known_scores(
    run: Run, config: EvalConfig, protocol: str, fingerprint: str
) -> dict[str, Any] | None:
    """Return a run's scores.json if it was made of its weights as `config` would make it now.

    Else None: it was never scored, or with other settings, on other data than the store of that
    `fingerprint`, or of other weights than it has now.
    """
    path = run.path / "eval" / protocol / "scores.json"
    weights = run.checkpoint_path(config.checkpoint)
    wanted = {
        **{"seed": config.seed, "checkpoint": config.checkpoint, "protocol": protocol},
        "absent_as": config.absent,
    }
    if protocol == "room":
        wanted["votes"] = config.votes
    try:
        known = run.scores(protocol)
        whole = known is not None and path.stat().st_mtime > weights.stat().st_mtime
    except (RunError, FileNotFoundError):
        return None
    same = known and all(known.get(name) == value for name, value in wanted.items())
    there = known and (known.get("store") or {}).get("fingerprint") == fingerprint
    return known if whole and same and there else None


def _draw(
    folder: Path,
    report: Report,
    matrix: np.ndarray,
    failures: Failures | None,
    history: Sequence[Mapping[str, Any]],
) -> list[Path]:
    counts, bars, wrong, course = (folder / name for name in PLOTS)
    files = [counts, bars]
    confusion_picture(counts, matrix, report.classes, report.title)
    iou_bars(bars, _bars(report.rows), report.classes)
    if failures is not None:
        files.append(wrong)
        failure_plot(wrong, failures)
    if len(history) > 1:
        files.append(course)
        training_curve(course, history)
    return files


def _bars(rows: Sequence[Row]) -> list[tuple[str, Sequence[float | None]]]:
    return [(row.name, row.iou) for row in rows if row.iou is not None]


def confusion_csv(matrix: np.ndarray, classes: Sequence[str]) -> str:
    """Return confusion counts as CSV: rows ground truth, columns prediction."""
    lines = [",".join([name, *map(str, row)]) for name, row in zip(classes, matrix, strict=True)]
    return "\n".join([",".join(["", *classes]), *lines]) + "\n"


def write_protocols(run: Path, found: Sequence[tuple[str, Scores]]) -> Path:
    """Write eval/protocols.md: the same run under several protocols, side by side."""
    lines = [
        [name, f"{s.points:,}", *(percent(value) for value in (s.oa, s.macc, s.miou))]
        for name, s in found
    ]
    table = markdown_table(["protocol", "points scored", "OA", "mAcc", "mIoU"], lines)
    path = run / "eval" / "protocols.md"
    atomic_text(path, f"# {run.name} under each protocol\n\n{table}\n\nScores in percent.\n")
    return path
