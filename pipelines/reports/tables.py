"""Scores as text: Markdown and LaTeX for a paper or an issue, CSV, JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.files import atomic_text
from pipelines.metrics import Scores

DAGGER = "†"
NONE = "–"  # in place of a missing value


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


@dataclass(frozen=True)
class Table:
    """A table of texts; the first `texts` columns hold no numbers."""

    title: str
    columns: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    texts: int = 1
    notes: tuple[str, ...] = ()  # sentences below the table
    facts: Mapping[str, str] = field(default_factory=dict)  # what it was made with, in order

    def as_markdown(self) -> str:
        """Return the table alone as Markdown, numbers aligned to the right."""
        rule = [*["---"] * self.texts, *["---:"] * (len(self.columns) - self.texts)]
        return "\n".join(
            "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
            for row in (self.columns, rule, *self.lines)
        )

    def as_section(self, heading: str, further: Sequence[Table] = ()) -> str:
        """Return title, table, notes, further tables and facts as Markdown."""
        parts = [f"{heading} {self.title}", self.as_markdown(), *self.notes]
        parts += [text for each in further for text in (f"## {each.title}", each.as_markdown())]
        parts += ["\n".join(f"- {name}: {value}" for name, value in self.facts.items())]
        return "\n\n".join(filter(None, parts)) + "\n"

    def as_latex(self, caption: str, *, upright: int | None = None) -> str:
        """Return the table as LaTeX, for the package booktabs; notes and facts are comments.

        All but the first `upright` headings are rotated; None: no heading is.
        """
        heads = [escape_latex(name) for name in self.columns]
        if upright is not None:
            heads[upright:] = [rf"\rotatebox{{90}}{{{name}}}" for name in heads[upright:]]
        rows = [heads, *(map(escape_latex, line) for line in self.lines)]
        head, *body = (" & ".join(row) + r" \\" for row in rows)
        columns = "l" * self.texts + "r" * (len(heads) - self.texts)
        remarks = [*self.notes, *(f"{name}: {value}" for name, value in self.facts.items())]
        return "\n".join(
            [
                *(f"% {remark}" for remark in remarks),
                rf"% needs \usepackage{{booktabs{'' if upright is None else ',graphicx'}}}",
                r"\begin{table*}",
                r"\centering\small",
                rf"\caption{{{escape_latex(caption)}}}",
                rf"\begin{{tabular}}{{{columns}}}",
                r"\toprule",
                head,
                r"\midrule",
                *body,
                r"\bottomrule",
                r"\end{tabular}",
                r"\end{table*}",
                "",
            ]
        )


@dataclass(frozen=True)
class Report:
    """Scores as a person reads them."""

    title: str  # heading
    classes: tuple[str, ...]  # names, in the order of the IoUs
    rows: tuple[Row, ...]  # the rows of the table, ours first
    facts: Mapping[str, str]  # what the scores were made with, in order
    notes: tuple[str, ...] = ()  # sentences below the table
    # What scores.json records, for JSON and HTML.
    values: Mapping[str, Any] = field(default_factory=dict)
    tables: tuple[Table, ...] = ()  # further tables, for Markdown and HTML

    def as_markdown(self) -> str:
        """Return the report as Markdown."""
        return self.table().as_section("#", self.tables)

    def as_csv(self) -> str:
        """Return the table as CSV, scores from 0 to 1."""
        columns = ["name", "oa", "macc", "miou", *self.classes]
        return csv_text(columns, [[row.name, *self._values(row)] for row in self.rows])

    def as_latex(self) -> str:
        """Return the table as LaTeX."""
        return self.table().as_latex(f"{self.title}. IoU per class, in percent.", upright=4)

    def as_json(self) -> str:
        """Return all values as JSON."""
        return json_text(self.values)

    def table(self) -> Table:
        """Return the table of texts, scores in percent."""
        lines = tuple((row.name, *map(percent, self._values(row))) for row in self.rows)
        columns = ("", "OA", "mAcc", "mIoU", *self.classes)
        return Table(self.title, columns, lines, notes=self.notes, facts=self.facts)

    def _values(self, row: Row) -> list[float | None]:
        return [row.oa, row.macc, row.miou, *(row.iou or (None,) * len(self.classes))]


def write_formats(
    path: Path, kinds: Sequence[str], texts: Mapping[str, Callable[[], str]]
) -> list[Path]:
    """Write `path`.md, `path`.csv, … for each of `kinds`, whole or not at all, and return them."""
    files = {path.with_name(f"{path.name}.{kind}"): texts[kind] for kind in kinds}
    for file, text in files.items():
        atomic_text(file, text())
    return list(files)


def hardware_text(environment: Mapping[str, Any]) -> str:
    """Return the GPU or processor of an environment record."""
    return str(environment["gpu"] or f"{environment['cpu']}, {environment['threads']} threads")


def software_text(environment: Mapping[str, Any]) -> str:
    """Return the PyTorch version and commit of an environment record."""
    return f"torch {environment['packages']['torch']}, commit {environment['commit']}"


def absent_notes(found: Scores) -> list[str]:
    """Return a sentence on how absent classes count in the means; none without any."""
    if not found.absent:
        return []
    names = ", ".join(found.absent)
    if found.absent_as == "exclude":
        how = "left out of the means"
        return [f"Absent classes, {how}: {names}. Means over other classes do not compare."]
    return [
        f"Absent classes ({names}) count as {found.absent_as} in the means, "
        "to compare with code that does so; the default leaves them out."
    ]


def percent(value: float | None) -> str:
    """Return a score in percent with one decimal.

    Examples:
        >>> percent(0.6004), percent(None)
        ('60.0', '–')
    """
    return NONE if value is None else f"{100 * value:.1f}"


def csv_text(columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return a table as CSV: floats with six decimals, None empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([f"{v:.6f}" if isinstance(v, float) else v for v in row] for row in rows)
    return text.getvalue()


def json_text(values: Any) -> str:
    """Return JSON, indented."""
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


_LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    DAGGER: r"$\dagger$",
    "–": "--",
    "±": r"$\pm$",
    "×": r"$\times$",
    "ε": r"$\varepsilon$",
    "Δ": r"$\Delta$",
    "−": "$-$",
}


def escape_latex(text: str) -> str:
    """Return text that LaTeX shows as it is."""
    return "".join(_LATEX.get(sign, sign) for sign in text)
