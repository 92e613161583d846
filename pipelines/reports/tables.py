"""Scores as text: Markdown and LaTeX for a paper or an issue, CSV, JSON; pages in HTML.

A page is one file, and nothing is fetched: sortable tables, charts, pictures. The templates escape
whatever they are given. Without JavaScript everything is there in its first order; on paper the
tables keep their colours.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipelines.errors import RunError
from pipelines.files import atomic_text
from pipelines.metrics import Scores
from pipelines.progress import counted
from pipelines.serialization import csv_cell

from .latex import latex_table
from .policy import page_policy

DAGGER = "†"
NONE = "–"  # in place of a missing value
SECONDS = {"h": 3600, "min": 60, "s": 1}  # as `studies.duration` writes them


@dataclass(frozen=True)
class Row:
    """One row of a result table: a name and its scores; a published row may have mIoU only."""

    name: str
    miou: float
    oa: float | None = None
    macc: float | None = None
    iou: tuple[float | None, ...] | None = None

    @classmethod
    def of(cls, name: str, found: Scores) -> Row:
        """Return the row of scores."""
        return cls(name, found.miou, found.oa, found.macc, found.iou)

    def values(self, classes: int) -> list[float | None]:
        """Return OA, mAcc, mIoU and the IoU of each class."""
        return [self.oa, self.macc, self.miou, *(self.iou or (None,) * classes)]


@dataclass(frozen=True)
class Table:
    """A table of texts; the first `texts` columns hold no numbers."""

    title: str
    columns: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    texts: int = 1
    key: int = 0  # the column that names a line
    notes: tuple[str, ...] = ()  # sentences below the table
    summary: Mapping[str, str] = field(default_factory=dict)  # what it was made with, in order

    def as_markdown(self) -> str:
        """Return the table alone as Markdown, numbers aligned to the right."""
        rule = [*["---"] * self.texts, *["---:"] * (len(self.columns) - self.texts)]
        return "\n".join(
            "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
            for row in (self.columns, rule, *self.lines)
        )

    def as_section(self, heading: str, further: Sequence[Table] = ()) -> str:
        """Return title, table, notes, further tables and summary as Markdown."""
        parts = [f"{heading} {self.title}", self.as_markdown(), *self.notes]
        parts += [text for each in further for text in (f"## {each.title}", each.as_markdown())]
        parts += ["\n".join(f"- {name}: {value}" for name, value in self.summary.items())]
        return "\n\n".join(filter(None, parts)) + "\n"


@dataclass(frozen=True)
class Report:
    """Scores for people to read."""

    title: str  # heading
    classes: tuple[str, ...]  # names, in the order of the IoUs
    rows: tuple[Row, ...]  # the rows of the table, ours first
    summary: Mapping[str, str]  # what the scores were made with, in order
    notes: tuple[str, ...] = ()  # sentences below the table
    values: Mapping[str, Any] = field(default_factory=dict)  # what scores.json records
    tables: tuple[Table, ...] = ()  # further tables, for Markdown and HTML

    def table(self) -> Table:
        """Return the table of texts, scores in percent."""
        lines = tuple((row.name, *map(percent, row.values(len(self.classes)))) for row in self.rows)
        columns = ("", "OA", "mAcc", "mIoU", *self.classes)
        return Table(self.title, columns, lines, notes=self.notes, summary=self.summary)

    def texts(self, page_columns: int = 1) -> dict[str, Callable[[], str]]:
        """Return the report in each format but HTML; CSV has scores from 0 to 1.

        LaTeX is for pages of so many columns of text.
        """
        table, columns = self.table(), ["name", "oa", "macc", "miou", *self.classes]
        rows = [[row.name, *row.values(len(self.classes))] for row in self.rows]
        return {
            "md": lambda: table.as_section("#", self.tables),
            "csv": lambda: csv_text(columns, rows),
            "json": lambda: json_text(self.values),
            "tex": lambda: latex_table(
                table, " IoU per class, in percent.", upright=4, page_columns=page_columns
            ),
        }


def write_formats(
    path: Path, kinds: Sequence[str], texts: Mapping[str, Callable[[], str]]
) -> list[Path]:
    """Write `path`.md, `path`.csv, … for each of `kinds`, whole or not at all, and return them."""
    files = {path.with_name(f"{path.name}.{kind}"): texts[kind] for kind in kinds}
    for file, text in files.items():
        atomic_text(file, text())
    return list(files)


def machines(environments: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the hardware and the software of environment records, each once."""
    hardware = [
        str(e["gpu"] or f"{e['cpu']}, {counted(e['threads'], 'thread')}") for e in environments
    ]
    software = [f"torch {e['packages']['torch']}, commit {e['commit']}" for e in environments]
    both = {"hardware": hardware, "software": software}
    return {name: "; ".join(dict.fromkeys(texts)) for name, texts in both.items()}


def absent_notes(found: Scores) -> list[str]:
    """Return a sentence on how absent classes count in the means; none without any."""
    if not found.absent:
        return []
    names = ", ".join(found.absent)
    left_out = f"left out of the means: {names}. Means over other classes do not compare."
    counted = (
        f"Absent classes ({names}) count as {found.absent_as} in the means, "
        "to compare with code that does so; the default leaves them out."
    )
    notes = [f"Absent classes, {left_out}" if found.absent_as == "exclude" else counted]
    if predicted := ", ".join(found.only_predicted):
        notes.append(f"Predicted for some points, but not in the ground truth: {predicted}.")
    return notes


def percent(value: float | None) -> str:
    """Return a score in percent with one decimal.

    Examples:
        >>> percent(0.6004), percent(None)
        ('60.0', '–')
    """
    return NONE if value is None else f"{100 * value:.1f}"


def csv_text(columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return a table as CSV: floats with six decimals, None empty, texts as of `csv_cell`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in (columns, *rows):
        writer.writerow([f"{v:.6f}" if isinstance(v, float) else csv_cell(v) for v in row])
    return text.getvalue()


def json_text(values: Any) -> str:
    """Return JSON, indented."""
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def render_page(template: str, title: str, pictures: Sequence[Path] = (), **values: Any) -> str:
    """Return the page of a template, with PNG files; RunError: one is missing or no PNG file."""
    found = []
    for path in pictures:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise RunError(f"{path}: cannot be read ({error.strerror}), expected a PNG.") from error
        if not data.startswith(b"\x89PNG\r\n\x1a\n"):
            raise RunError(f"{path}: found no PNG file, expected one. Draw it again: deepgcn eval")
        found.append((path.stem.replace("_", " "), data_uri("image/png", data)))
    environment = _environment()
    script = environment.get_template("report.js").render()
    page = environment.get_template(template)
    return page.render(
        title=title, pictures=found, script=script, policy=page_policy(script), **values
    )


def data_uri(kind: str, data: bytes) -> str:
    """Return data as a URI that holds it."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


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


def _sort_value(text: str) -> float | None:
    """Return the number that a text is or begins with, a duration in seconds; None: a word."""
    if begins := re.match(r"([+-]?\d+(\.\d+)?)( ±| \[| †| [A-Z]+$)", text):
        return float(begins[1])
    if re.fullmatch(r"-?[\d,]+(\.\d+)?", text):
        return float(text.replace(",", ""))
    if re.fullmatch(r"(\d+ (h|min|s) ?)+", text):
        return float(sum(int(n) * SECONDS[unit] for n, unit in re.findall(r"(\d+) (\w+)", text)))
    return None
