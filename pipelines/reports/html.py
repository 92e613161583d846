"""Scores and studies as one HTML file each: sortable tables, charts, pictures; nothing is fetched.

The templates escape whatever they are given. Without JavaScript everything is there in its first
order; on paper the tables keep their colours.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipelines.errors import RunError
from pipelines.metrics import Scores, scores

from .failures import confused_pairs
from .plots import figure_svg, training_curves
from .tables import Report, Table, percent

WORST = 20  # the most rooms to list
UNITS = {"h": 3600, "min": 60, "s": 1}  # seconds; as `studies.duration` writes them
MAGIC = b"\x89PNG\r\n\x1a\n"


def html_report(
    report: Report, *, pictures: Sequence[Path] = (), history: Sequence[Mapping[str, Any]] = ()
) -> str:
    """Return a report as one self-contained page.

    Args:
        report: of its values are used `confusion` (C, C), rows ground truth, and `rooms`, if there
            are any: a matrix (C, C) for each name.
        pictures: PNG files to embed, in order.
        history: the "epoch" records of the run; fewer than two are not drawn.

    Raises:
        RunError: a picture is missing or no PNG file.
    """
    classes = report.classes
    matrix = np.asarray(report.values["confusion"], np.int64).reshape(len(classes), len(classes))
    found = scores(matrix, classes)
    totals = (matrix.sum(axis=1).tolist(), matrix.sum(axis=0).tolist())
    rooms = report.values.get("rooms", {})
    curves = figure_svg(training_curves(history)) if len(history) > 1 else None
    return (
        _environment()
        .get_template("scores.html")
        .render(
            title=report.title,
            report=report,
            classes=list(zip(classes, found.iou, found.accuracy, *totals, strict=True)),
            confusion=list(zip(classes, matrix.tolist(), strict=True)),
            curves=curves and _data_uri("image/svg+xml", curves),
            rooms=_worst_rooms(rooms, classes),
            room_count=len(rooms),
            pictures=[_embedded(picture) for picture in pictures],
        )
    )


def html_tables(title: str, tables: Sequence[Table], pictures: Sequence[Path] = ()) -> str:
    """Return tables and PNG files as one page; RunError: a picture is missing or no PNG file."""
    drawn = [_embedded(picture) for picture in pictures]
    template = _environment().get_template("study.html")
    return template.render(title=title, tables=tables, pictures=drawn)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "sort_value": _sort_value}
    return environment


def _worst_rooms(
    rooms: Mapping[str, Sequence[Sequence[int]]], classes: Sequence[str]
) -> list[tuple[str, Scores, str]]:
    """Return the rooms of least mIoU, their scores and the most frequent mistake of each."""
    matrices = {name: np.asarray(counts, np.int64) for name, counts in rooms.items()}
    found = {name: scores(matrix, classes) for name, matrix in matrices.items()}
    worst = sorted(found, key=lambda name: (found[name].miou, name))[:WORST]
    return [(name, found[name], _worst_pair(matrices[name], classes)) for name in worst]


def _worst_pair(matrix: np.ndarray, classes: Sequence[str]) -> str:
    for actual, predicted, count, _ in confused_pairs(matrix, classes, most=1):
        return f"{actual} as {predicted}: {100 * count / matrix.sum():.1f} % of its points"
    return "none"


def _embedded(picture: Path) -> tuple[str, str]:
    """Return a picture's name and its content as a data URI."""
    try:
        data = picture.read_bytes()
    except OSError as error:
        raise RunError(f"{picture}: cannot be read ({error.strerror}), expected a PNG.") from error
    if not data.startswith(MAGIC):
        raise RunError(f"{picture}: found no PNG file, expected one. Draw it again: deepgcn eval")
    return picture.stem.replace("_", " "), _data_uri("image/png", data)


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _sort_value(text: str) -> float | None:
    """Return the number that a text is or begins with, a duration in seconds; None: a word."""
    if begins := re.match(r"([+-]?\d+(\.\d+)?)( ±| \[| †| [A-Z]+$)", text):
        return float(begins[1])
    if re.fullmatch(r"-?[\d,]+(\.\d+)?", text):
        return float(text.replace(",", ""))
    if re.fullmatch(r"(\d+ (h|min|s) ?)+", text):
        return float(sum(int(n) * UNITS[unit] for n, unit in re.findall(r"(\d+) (\w+)", text)))
    return None
