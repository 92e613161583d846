"""Scores as text: Markdown for a paper or an issue, CSV, JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .metrics import Scores

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
class Report:
    """What a report says.

    Attributes:
        title: heading.
        classes: names, in the order of the IoUs.
        rows: the lines of the table, ours first.
        facts: what the scores were made with, in order.
        notes: sentences below the table.
        values: everything again, for JSON.
    """

    title: str
    classes: tuple[str, ...]
    rows: tuple[Row, ...]
    facts: Mapping[str, str]
    notes: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)

    def as_markdown(self) -> str:
        """Return the report as Markdown."""
        parts = [f"# {self.title}", markdown_table(*self.table())]
        parts += list(self.notes)
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


def percent(value: float | None) -> str:
    """Return a score in percent with one decimal; – where there is none."""
    return "–" if value is None else f"{100 * value:.1f}"


def markdown_table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with its first column to the left and numbers to the right."""
    rule = ["---", *["---:"] * (len(columns) - 1)]
    rows = [columns, rule, *lines]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows
    )
