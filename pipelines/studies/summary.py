"""What a study has come to, from its file and its runs; nothing is trained here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.reports.studies import StudyTable, write_study

from .gather import Cell, gather
from .study_file import FILE, Plan, load_plan, study_folder
from .tables import study_tables


@dataclass(frozen=True)
class AblateResult:
    """What a study has come to.

    Attributes:
        study: its name.
        tables: one a section.
        files: what was written.
        runs: of the study.
        finished: how many of them are trained and scored.
        failed: how many of them ended with an error.
    """

    study: str
    tables: tuple[StudyTable, ...]
    files: tuple[Path, ...]
    runs: int
    finished: int
    failed: int


def study_so_far(
    runs: Path, name: str, reports: tuple[str, ...] = (), *, pictures: bool = False
) -> AblateResult:
    """Return the table of a study as its runs are now; nothing is trained or scored.

    Raises:
        RunError: there is no such study.
    """
    plan = load_plan(study_folder(runs, name) / FILE)
    cells = gather(plan)
    return summed_up(plan, cells, reports, pictures=pictures)


def summed_up(
    plan: Plan, cells: Sequence[Cell], reports: Sequence[str], *, pictures: bool
) -> AblateResult:
    """Make the tables of a study as its cells are, and write them in the formats asked for."""
    tables = study_tables(plan, cells)
    files = write_study(plan.folder, tables, reports=reports, pictures=pictures)
    return AblateResult(
        study=plan.name,
        tables=tables,
        files=files,
        runs=len(cells),
        finished=sum(cell.state == "scored" for cell in cells),
        failed=sum(cell.state in ("failed", "impossible") for cell in cells),
    )
