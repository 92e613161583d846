"""The files of a study: runs/studies/<study>/table.<format> and plot.png."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from pipelines.files import atomic_text

from .html import write_html_tables
from .study_plot import study_plot
from .study_table import StudyTable, tables_csv, tables_values

PLOT = "plot.png"


def write_study(
    folder: Path, tables: Sequence[StudyTable], *, reports: Sequence[str], pictures: bool
) -> tuple[Path, ...]:
    """Write a study's tables in the formats asked for and return the files.

    Args:
        folder: runs/studies/<study>.
        tables: one a section.
        reports: formats, some of REPORTS.
        pictures: whether to draw.
    """
    texts: dict[str, Callable[[], str]] = {
        "md": lambda: tables_markdown(tables),
        "csv": lambda: tables_csv(tables),
        "json": lambda: json.dumps(tables_values(tables), indent=2, ensure_ascii=False) + "\n",
        "tex": lambda: "\n".join(table.as_latex() for table in tables),
    }
    plot = folder / PLOT
    drawn = [plot] if pictures and study_plot(plot, tables) else []
    files = []
    for kind in dict.fromkeys(reports):
        files.append(folder / f"table.{kind}")
        if kind == "html":
            parts = [(table.table(), table.notes, table.facts) for table in tables]
            write_html_tables(files[-1], tables[0].study, parts, drawn)
        else:
            atomic_text(files[-1], texts[kind]())
    return (*files, *drawn)


def tables_markdown(tables: Sequence[StudyTable]) -> str:
    """Return all tables of a study as one Markdown document."""
    return "\n".join([f"# {tables[0].study}\n", *(table.as_markdown() for table in tables)])
