"""From the runs of a study to its tables: samples, paired differences, published figures."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.config import AREAS
from pipelines.errors import RunError
from pipelines.model.presets import PRESETS
from pipelines.progress import counted
from pipelines.reports.comparison import DRAWS, SIX_FOLD, bootstrap_interval, few_rooms, pool
from pipelines.reports.studies import Delta, Line, Published, Sample, StudyTable, write_study
from pipelines.reports.tables import DAGGER
from pipelines.runs.directory import Run

from . import Row, Section
from .plan import PUBLISHED_AREA, Plan, label_parts
from .state import Cell, gather, position

PUBLISHED_FOLDS = "ResGCN-28"  # of SIX_FOLD
SCORES = ("oa", "macc", "miou")


@dataclass(frozen=True)
class AblateResult:
    """The result of a study so far."""

    study: str  # its name
    tables: tuple[StudyTable, ...]  # one a section
    files: tuple[Path, ...]  # what was written
    runs: int  # of the study, or of the rows that were asked for
    finished: int  # how many of them are trained and scored
    failed: int  # how many of them ended with an error


def summarize(
    plan: Plan,
    reports: Sequence[str] = (),
    *,
    pictures: bool = False,
    page_columns: int = 1,
    asked: Plan | None = None,
) -> AblateResult:
    """Make the tables of a study as its runs are now, and write them in the formats asked for.

    LaTeX is for pages of so many columns of text. `asked` has the rows whose runs are counted;
    None: all.
    """
    cells = gather(plan)
    rows = {row.name: [cell for cell in cells if cell.row is row] for row in plan.rows}
    tables = tuple(_table(plan, section, rows) for section in plan.sections)
    part = asked or plan
    names = {row.cell(seed) for row in part.rows for seed in part.seeds}
    cells = [cell for cell in cells if cell.name in names]
    return AblateResult(
        study=plan.name,
        tables=tables,
        files=write_study(
            *(plan.file.parent, tables),
            reports=reports,
            pictures=pictures,
            page_columns=page_columns,
        ),
        runs=len(cells),
        finished=sum(cell.state == "scored" for cell in cells),
        failed=sum(cell.state in ("failed", "impossible") for cell in cells),
    )


def _table(plan: Plan, section: Section, cells: dict[str, list[Cell]]) -> StudyTable:
    lines = [_line(row, section, cells) for row in section.rows]
    if section.folds:
        lines += _fold_lines(section, cells)
    return StudyTable(
        study=plan.name,
        title=section.title,
        reference=section.reference,
        lines=tuple(lines),
        summary=_summary(plan, section),
        notes=tuple(_notes(plan, lines)),
        study_title=plan.title,
    )


def _line(row: Row, section: Section, cells: dict[str, list[Cell]]) -> Line:
    own = cells[row.name]
    reference = [] if row.name == section.reference else cells.get(section.reference or "", [])
    return Line(
        name=row.name,
        group=row.group,
        label=row.label,
        samples=tuple(_sample(c.run, c.seed, c.scores) for c in own if c.run and c.scores),
        delta=paired(reference, own),
        parameters=row.parameters,
        published=_published(row, section),
        remark=_remark(own),
        axes=row.axes,
        network=dataclasses.asdict(row.config.model) if row.config else {},
    )


def _fold_lines(section: Section, cells: dict[str, list[Cell]]) -> list[Line]:
    """Return the scores of the summed counts and the areas' mean, as `eval --six-fold` does.

    They are of the seeds of which every fold is scored.
    """
    pooled: list[Sample] = []
    mean: list[Sample] = []
    for fold in zip(*(cells[row.name] for row in section.rows), strict=True):
        values = {cell.scores["test_area"]: cell.scores for cell in fold if cell.scores}
        if len(values) == len(fold):
            _, summed, averaged = pool(values)
            for samples, found in ((pooled, summed), (mean, averaged)):
                scores = {name: getattr(found, name) for name in SCORES}
                samples.append(Sample(fold[0].seed, "", **scores))
    whole = len(section.rows) == len(AREAS) and all(row.full_size for row in section.rows)
    paper = next(row for row in SIX_FOLD if row.name == PUBLISHED_FOLDS)
    published = Published(paper.miou, None, paper.cited, comparable=whole)
    label = counted(len(section.rows), "area")
    return [
        Line("pooled", "all areas", label, tuple(pooled), published=published),
        Line("mean", "all areas", label, tuple(mean)),
    ]


def _sample(run: Run, seed: int, scores: dict[str, Any]) -> Sample:
    losses: list[float] = []
    with suppress(RunError):  # a damaged log takes its loss from a row, and no score
        steps = [record for record in run.metrics() if record.get("event") == "step"]
        losses = [record["loss"] for record in steps if record.get("loss") is not None]
    last = losses[-max(1, len(losses) // 10) :]  # the last tenth
    return Sample(
        seed=seed,
        run=run.name,
        **{name: float(scores[name]) for name in SCORES},
        seconds=run.status.get("seconds"),
        peak_memory=run.status.get("peak_memory"),
        loss=statistics.fmean(last) if last else None,
    )


def paired(reference: Sequence[Cell], own: Sequence[Cell]) -> Delta | None:
    """Return a row's difference to its reference over the seeds that both have scores of.

    None if no seed has both, or if they were scored on other rooms or classes.
    """
    theirs = {cell.seed: cell.scores for cell in reference if cell.scores is not None}
    ours = {cell.seed: cell.scores for cell in own if cell.scores is not None}
    pairs = [(theirs[seed], ours[seed]) for seed in theirs if seed in ours]
    of = ("test_area", "classes")
    same = [
        first["rooms"].keys() == other["rooms"].keys() and all(first[n] == other[n] for n in of)
        for first, other in pairs
    ]
    if not pairs or not all(same):
        return None
    rooms = sorted(pairs[0][0]["rooms"])
    first, other = (
        np.array([[scores["rooms"][room] for room in rooms] for scores in side])
        for side in zip(*pairs, strict=True)
    )
    single = len(rooms) == 1 and len(pairs) == 1
    low, high = (None, None) if single else bootstrap_interval(first, other)
    miou = float(np.mean([ours["miou"] - theirs["miou"] for theirs, ours in pairs]))
    return Delta(miou, low, high, rooms=len(rooms), seeds=len(pairs))


def _published(row: Row, section: Section) -> Published | None:
    """Return the paper's figure for a row, and its difference to that of the reference row."""
    other_fold = section.folds and row.config and row.config.test_area != PUBLISHED_AREA
    if row.published is None or row.config is None or other_fold:
        return None
    preset = PRESETS[row.published]
    if preset.published is None:
        return None
    names = [r.published for r in section.rows if r.name == section.reference and r is not row]
    base = PRESETS[names[0]].published if names and names[0] is not None else None
    delta = None if base is None else preset.published - base
    return Published(preset.published, delta, preset.cited, row.full_size)


def _remark(cells: Sequence[Cell]) -> str:
    """Return what is not finished, or went wrong, over the seeds of a row."""
    if cells[0].state == "impossible":
        return f"not trained: {cells[0].error}"
    remarks = {cell.seed: text for cell in cells if (text := _cell_remark(cell))}
    if len(remarks) == len(cells) and len(set(remarks.values())) == 1:
        return next(iter(remarks.values()))
    return "; ".join(f"seed {seed} {text}" for seed, text in remarks.items())


def _cell_remark(cell: Cell) -> str:
    if cell.state == "scored":
        assert cell.run is not None
        assert cell.row.config is not None
        # Where memory made a run take its steps in micro-batches, batch norm counts each alone.
        found, remarks = cell.run.config.micro_batch, []
        if found != cell.row.config.micro_batch:
            remarks.append(f"in micro-batches of {found}")
        if (cell.scores or {}).get("seen"):
            remarks.append("its weights were trained on the test area")
        return ", ".join(remarks)
    text = cell.state
    if cell.run is not None and cell.state in ("running", "interrupted"):
        done, total = position(cell.run)
        text += f" at step {done:,}" + (f" of {total:,}" if total else "")
    return text + (f": {cell.error}" if cell.error else "")


def _summary(plan: Plan, section: Section) -> dict[str, str]:
    evaluation = plan.evaluation
    votes = f", {plan.votes} votes" if plan.votes > 1 else ""
    summary = {
        "study": f"{plan.name}; seeds {', '.join(map(str, plan.seeds))}",
        "scored": f"protocol {evaluation.protocols[0]}{votes}, {evaluation.checkpoint} checkpoint",
    }
    rows = [(label_parts(row.config), row) for row in section.rows if row.config is not None]
    if not rows:
        return summary
    shared = {name: _shared(name, rows) for name in rows[0][0]}
    area = shared.pop("area").removeprefix("area ")
    if not section.folds:
        summary["test area"] = area
    summary["budget"] = ", ".join(shared.values())
    data = next(row.config.data for _, row in rows if row.config is not None)
    summary["data"] = f"{data} ({plan.fingerprint[:12]})"
    return summary


def _shared(name: str, rows: Sequence[tuple[Mapping[str, str], Row]]) -> str:
    """Return the text of all rows, or of those whose labels say no other one."""
    if len({parts[name] for parts, _ in rows}) == 1:
        return rows[0][0][name]
    unsaid = [parts[name] for parts, row in rows if parts[name] not in row.label.split(", ")]
    if not unsaid:
        return f"{name} as in the rows"
    return f"{' or '.join(dict.fromkeys(unsaid))} unless the row says another"


def _notes(plan: Plan, lines: Sequence[Line]) -> list[str]:
    notes = ["Scores in percent, mean ± standard deviation over the seeds."]
    deltas = [line.delta for line in lines if line.delta is not None]
    if deltas:
        notes.append(
            f"Δ: to the reference row, seed by seed; in brackets 95 % of {DRAWS:,} bootstrap draws "
            f"of the {counted(deltas[0].rooms, 'test room')} and the seeds."
        )
        notes += few_rooms(deltas[0].rooms)
    published = [line.published for line in lines if line.published is not None]
    if any(each.delta is not None and not each.comparable for each in published):
        notes.append(
            "Published, full size: the paper's difference to its own reference row; network, "
            "recipe, budget or data here are other ones."
        )
    if any(not each.cited for each in published):
        notes.append(f"{DAGGER} quoted from memory, not checked against the paper.")
    return [*notes, *plan.notes]
