"""A run's scores as one HTML file: tables that sort, charts, pictures; nothing is fetched.

Without JavaScript everything is there in its first order; on paper the tables keep their colours.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.errors import RunError
from pipelines.files import atomic_text
from pipelines.metrics import scores

from .charts import bar, curves
from .tables import Report, Row, Table, percent

HERE = Path(__file__).parent / "assets"
WORST = 20  # rooms listed at most
SORTS = "A click on a column's name sorts the rows."
UNITS = {"h": 3600, "min": 60, "s": 1}  # seconds; as `study_table.duration` writes them
MAGIC = b"\x89PNG\r\n\x1a\n"


def write_html_report(
    path: Path,
    values: Mapping[str, Any],
    *,
    report: Report,
    pictures: Sequence[Path] = (),
    history: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write one self-contained page.

    Args:
        path: HTML file to write.
        values: what scores.json records; of it are used `classes`, `confusion` (C, C) with rows
            ground truth and, if there, `rooms`: a matrix (C, C) for each name.
        report: title, table, facts, notes and further tables.
        pictures: PNG files to embed, in order.
        history: the epoch records of the run's metrics.jsonl.

    Raises:
        RunError: a picture is missing or no PNG file.
    """
    classes = list(values["classes"])
    matrix = np.asarray(values["confusion"], dtype=np.int64).reshape(len(classes), len(classes))
    rooms = {
        name: np.asarray(counts, dtype=np.int64).reshape(matrix.shape)
        for name, counts in values.get("rooms", {}).items()
    }
    body = (
        ("Scores", _summary(report)),
        ("Classes", _class_table(matrix, classes)),
        ("Confusion", _confusion_table(matrix, classes)),
        ("Training", _training(history)),
        ("Worst rooms", _room_table(rooms, classes)),
        ("Failures", _further_tables(report.tables)),
        ("Pictures", "".join(_figure(picture) for picture in pictures)),
        ("Facts", _facts(report.facts)),
    )
    _write_page(path, report.title, body)


def write_html_tables(
    path: Path,
    title: str,
    tables: Sequence[tuple[Table, Sequence[str], Mapping[str, str]]],
    pictures: Sequence[Path] = (),
) -> None:
    """Write tables that sort, each with its notes and facts, and pictures as one page.

    Raises:
        RunError: a picture is missing or no PNG file.
    """
    body = [
        (
            table.title,
            _table(table.columns, [list(map(_any_cell, line)) for line in table.lines], SORTS)
            + "".join(f"<p>{html.escape(note)}</p>" for note in notes)
            + _facts(facts),
        )
        for table, notes, facts in tables
    ]
    drawn = "".join(_figure(picture) for picture in pictures)
    _write_page(path, title, [*body, ("Pictures", drawn)], wide=True)


def _write_page(
    path: Path, title: str, body: Iterable[tuple[str, str]], *, wide: bool = False
) -> None:
    """Fill the page's frame with sections: (name, content); one without content is left out.

    A `wide` page takes the whole window, for tables of many columns.
    """
    parts = {
        "title": html.escape(title),
        "width": "wide" if wide else "",
        "style": (HERE / "report.css").read_text(encoding="utf-8"),
        "script": (HERE / "report.js").read_text(encoding="utf-8"),
        "sections": "".join(_section(name, content) for name, content in body if content),
    }
    page = (HERE / "report.html").read_text(encoding="utf-8")
    atomic_text(path, re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], page))


# --- sections ----------------------------------------------------------------------------------


def _section(name: str, content: str) -> str:
    key = html.escape(name.lower().replace(" ", "-"))
    heading = f'<h2 id="{key}">{html.escape(name)}</h2>'
    return f'<section aria-labelledby="{key}">{heading}{content}</section>'


def _summary(report: Report) -> str:
    """Return the report's own table without the classes, which have one of their own, and notes."""
    rows = [_summary_row(row) for row in report.rows]
    table = _table(
        ["Network", "OA, %", "mAcc, %", "mIoU, %"], rows, "Means over all points or classes"
    )
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in report.notes)
    return table + notes


def _summary_row(row: Row) -> list[str]:
    return [_cell(row.name), *(_number(percent(v), v) for v in (row.oa, row.macc, row.miou))]


def _class_table(matrix: np.ndarray, classes: Sequence[str]) -> str:
    """Return IoU as bars, accuracy and points of each class."""
    lines, found = [], scores(matrix, classes)
    totals = zip(matrix.sum(axis=1).tolist(), matrix.sum(axis=0).tolist(), strict=True)
    scored = zip(classes, found.iou, found.accuracy, totals, strict=True)
    for name, iou, accuracy, (actual, guessed) in scored:
        lines.append(
            [
                _cell(name),
                f'<td class="bar" aria-hidden="true">{bar(iou or 0.0)}</td>',
                _number(percent(iou), iou),
                _number(percent(accuracy), accuracy),
                _number(f"{actual:,}", actual),
                _number(f"{guessed:,}", guessed),
            ]
        )
    columns = ["Class", "|IoU", "IoU, %", "Accuracy, %", "Points", "Predicted"]
    return _table(columns, lines, "Scores of each class; – where a class does not occur")


def _confusion_table(matrix: np.ndarray, classes: Sequence[str]) -> str:
    """Return the matrix in percent of each row; the counts stand in the cells' titles."""
    lines = []
    for name, counts in zip(classes, matrix.tolist(), strict=True):
        total = sum(counts)
        cells = [
            _share_cell(count, total, name, other)
            for count, other in zip(counts, classes, strict=True)
        ]
        lines.append([_cell(name), *cells, _number(f"{total:,}", total)])
    caption = "Rows are ground truth, in percent of the row; columns are predictions"
    return _table(["Ground truth", *classes, "Points"], lines, caption, "confusion")


def _share_cell(count: int, total: int, actual: str, guessed: str) -> str:
    if not total:
        return '<td class="number">–</td>'
    share = count / total
    shown = f"{100 * share:.0f}" if share >= 0.005 else "·"
    tone = "white" if share > 0.73 else "black"
    # From white to a dark blue: readable in grey, the same to all eyes.
    red, green, blue = (round(255 - share * (255 - end)) for end in (8, 69, 148))
    title = html.escape(f"{count:,} points of {actual} predicted as {guessed}")
    style = f"background:rgb({red},{green},{blue});color:{tone}"
    return (
        f'<td class="number" data-value="{share:.6f}" style="{style}" title="{title}">{shown}</td>'
    )


def _training(history: Sequence[Mapping[str, Any]]) -> str:
    """Return the loss and the validation scores over the epochs; nothing without two epochs."""
    epochs = [record for record in history if record.get("event", "epoch") == "epoch"]
    if len(epochs) < 2:
        return ""
    steps = [float(record.get("step", number + 1)) for number, record in enumerate(epochs)]
    loss = {"training loss": [record.get("loss") for record in epochs]}
    names = {"val_miou": "mIoU", "val_macc": "mAcc", "val_oa": "OA"}
    validation = {
        f"validation {shown}, %": [_percent_value(record.get(name)) for record in epochs]
        for name, shown in names.items()
        if any(record.get(name) is not None for record in epochs)
    }
    charts = [curves(steps, loss, "Training loss over steps")]
    if validation:
        charts.append(curves(steps, validation, "Validation scores over steps", top=100.0))
    return f'<div class="charts">{"".join(charts)}</div>'


def _percent_value(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _room_table(rooms: Mapping[str, np.ndarray], classes: Sequence[str]) -> str:
    """Return the rooms of least mIoU and what each mistakes most."""
    if not rooms:
        return ""
    found = {name: scores(matrix, classes) for name, matrix in rooms.items()}
    worst = sorted(found, key=lambda name: (found[name].miou, name))[:WORST]
    lines = [
        [
            _cell(name),
            _number(percent(found[name].miou), found[name].miou),
            _number(percent(found[name].oa), found[name].oa),
            _number(f"{found[name].points:,}", found[name].points),
            _cell(_worst_pair(rooms[name], classes)),
        ]
        for name in worst
    ]
    caption = f"The {len(worst)} rooms of least mIoU, of {len(rooms)}; each mean is over the "
    caption += "classes that occur in the room"
    return _table(["Room", "mIoU, %", "OA, %", "Points", "Most frequent mistake"], lines, caption)


def _worst_pair(matrix: np.ndarray, classes: Sequence[str]) -> str:
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    if not wrong.any():
        return "none"
    row, column = np.unravel_index(wrong.argmax(), wrong.shape)
    share = wrong[row, column] / matrix.sum()
    return f"{classes[row]} as {classes[column]}: {100 * share:.1f} % of its points"


def _further_tables(tables: Sequence[Table]) -> str:
    """Return ready tables side by side; nothing if there are none."""
    drawn = (
        _table(table.columns, [list(map(_any_cell, line)) for line in table.lines], table.title)
        for table in tables
    )
    return f'<div class="side">{"".join(drawn)}</div>' if tables else ""


def _figure(picture: Path) -> str:
    try:
        data = picture.read_bytes()
    except OSError as error:
        raise RunError(f"{picture}: cannot be read ({error.strerror}), expected a PNG.") from error
    if not data.startswith(MAGIC):
        raise RunError(f"{picture}: found no PNG file, expected one. Draw it again: deepgcn eval")
    name = html.escape(picture.stem.replace("_", " "))
    source = f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"
    return f'<figure><img src="{source}" alt="{name}"><figcaption>{name}</figcaption></figure>'


def _facts(facts: Mapping[str, str]) -> str:
    pairs = ((html.escape(str(name)), html.escape(str(value))) for name, value in facts.items())
    return f"<dl>{''.join(f'<dt>{name}</dt><dd>{value}</dd>' for name, value in pairs)}</dl>"


# --- tables ------------------------------------------------------------------------------------


def _table(
    columns: Sequence[str], lines: Iterable[Sequence[str]], caption: str, kind: str = "plain"
) -> str:
    """Return a table of ready cells; the first column is the row's heading.

    A column whose name starts with | is not sorted.
    """
    heads = "".join(
        f'<th scope="col"{" data-fixed" if name.startswith("|") else ""}>'
        f"{html.escape(name.lstrip('|'))}</th>"
        for name in columns
    )
    body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in map(_with_heading, lines))
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(caption)}">'
        f'<table class="{kind}"><caption>{html.escape(caption)}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _with_heading(cells: Sequence[str]) -> list[str]:
    first = cells[0].removeprefix("<td>").removesuffix("</td>")
    return [f'<th scope="row">{first}</th>', *cells[1:]]


def _cell(text: str) -> str:
    return f"<td>{html.escape(text)}</td>"


def _any_cell(text: str) -> str:
    """Return the cell of a ready text, which sorts by the number that it is or begins with."""
    begins = re.match(r"([+-]?\d+(\.\d+)?)( ±| \[| †| [A-Z]+$)", text)
    if begins:
        return _number(html.escape(text), float(begins[1]))
    if re.fullmatch(r"-?[\d,]+(\.\d+)?", text):
        return _number(text, float(text.replace(",", "")))
    if (seconds := _seconds(text)) is not None:
        return _number(text, seconds)
    return _number(text, None) if text == "–" else _cell(text)


def _seconds(text: str) -> float | None:
    """Return the seconds of a duration like "3 min 5 s"; None for any other text."""
    if not re.fullmatch(r"(\d+ (h|min|s) ?)+", text):
        return None
    return float(sum(int(n) * UNITS[unit] for n, unit in re.findall(r"(\d+) (\w+)", text)))


def _number(shown: str, value: float | None) -> str:
    """Return a cell that sorts by its value; one without a value goes last."""
    sorting = "" if value is None else f' data-value="{value:.10g}"'
    return f'<td class="number"{sorting}>{shown}</td>'
