"""Scores as text: Markdown and LaTeX for a paper or an issue, CSV, JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.metrics import Scores

DAGGER = "†"


@dataclass(frozen=True)
class Row:
    """One line of a result table: a name and its scores; `iou` None for a published mIoU alone."""

    name: str
    miou: float
    oa: float | None = None
    macc: float | None = None
    iou: tuple[float | None, ...] | None = None

    @classmethod
    def of(cls, name: str, found: Scores) -> Row:
        """Return the line of scores."""
        return cls(name, found.miou, found.oa, found.macc, found.iou)


@dataclass(frozen=True)
class Table:
    """A further table of a report: its title, column names and lines of texts."""

    title: str
    columns: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Report:
    """What a report says.

    Attributes:
        title: heading.
        classes: names, in the order of the IoUs.
        rows: the lines of the table, ours first.
        facts: what the scores were made with, in order.
        notes: sentences below the table.
        values: everything again, for JSON.
        tables: further tables, in Markdown only.
    """

    title: str
    classes: tuple[str, ...]
    rows: tuple[Row, ...]
    facts: Mapping[str, str]
    notes: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    tables: tuple[Table, ...] = ()

    def as_markdown(self) -> str:
        """Return the report as Markdown."""
        parts = [f"# {self.title}", markdown_table(*self.table())]
        parts += list(self.notes)
        for table in self.tables:
            parts += [f"## {table.title}", markdown_table(table.columns, table.lines)]
        parts.append("\n".join(f"- {name}: {value}" for name, value in self.facts.items()))
        return "\n\n".join(part for part in parts if part) + "\n"

    def as_csv(self) -> str:
        """Return the table as CSV, scores from 0 to 1, empty where there is none."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["name", "oa", "macc", "miou", *self.classes])
        for row in self.rows:
            iou = row.iou or (None,) * len(self.classes)
            values = (row.oa, row.macc, row.miou, *iou)
            writer.writerow([row.name, *("" if v is None else f"{v:.6f}" for v in values)])
        return text.getvalue()

    def as_latex(self) -> str:
        """Return the table as LaTeX, for the package booktabs; notes and facts as comments."""
        columns, lines = self.table()
        rows = [" & ".join(escape_latex(cell) for cell in line) + r" \\" for line in lines]
        heads = [rf"\rotatebox{{90}}{{{escape_latex(name)}}}" for name in self.classes]
        head = " & ".join([*columns[:4], *heads]) + r" \\"
        remarks = [*self.notes, *(f"{name}: {value}" for name, value in self.facts.items())]
        return "\n".join(
            [
                *(f"% {remark}" for remark in remarks),
                r"% needs \usepackage{booktabs,graphicx}",
                r"\begin{table*}",
                r"\centering\small",
                rf"\caption{{{escape_latex(self.title)}. IoU per class, in percent.}}",
                rf"\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}",
                r"\toprule",
                head,
                r"\midrule",
                *rows,
                r"\bottomrule",
                r"\end{tabular}",
                r"\end{table*}",
                "",
            ]
        )

    def as_json(self) -> str:
        """Return all values as JSON."""
        return json.dumps(self.values, indent=2, ensure_ascii=False) + "\n"

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return the column names and the lines, scores in percent."""
        lines = []
        for row in self.rows:
            iou = row.iou or (None,) * len(self.classes)
            lines.append([row.name, *(percent(v) for v in (row.oa, row.macc, row.miou, *iou))])
        return ["", "OA", "mAcc", "mIoU", *self.classes], lines


def hardware_text(environment: Mapping[str, Any]) -> str:
    """Return what computed, for people."""
    return str(environment["gpu"] or f"{environment['cpu']}, {environment['threads']} threads")


def software_text(environment: Mapping[str, Any]) -> str:
    """Return what it was computed with, for people."""
    return f"torch {environment['packages']['torch']}, commit {environment['commit']}"


def absent_notes(found: Scores) -> list[str]:
    """Return a sentence on what absent classes count as in the means; nothing without any."""
    if not found.absent:
        return []
    names = ", ".join(found.absent)
    if found.absent_as == "exclude":
        return [
            f"Absent classes, left out of the means: {names}. "
            "Means over other classes do not compare."
        ]
    return [
        f"Absent classes ({names}) count as {found.absent_as} in the means, "
        "to compare with code that does so; the default leaves them out."
    ]


def percent(value: float | None) -> str:
    """Return a score in percent with one decimal; – where there is none."""
    return "–" if value is None else f"{100 * value:.1f}"


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


def markdown_table(
    columns: Sequence[str], lines: Sequence[Sequence[str]], *, texts: int = 1
) -> str:
    """Return a Markdown table with its first `texts` columns to the left, numbers to the right."""
    rule = [*["---"] * texts, *["---:"] * (len(columns) - texts)]
    rows = [columns, rule, *lines]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows
    )
