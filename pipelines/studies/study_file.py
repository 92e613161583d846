"""The study file, runs/studies/<study>/study.json: what a study's rows are, resolved.

It is a plan and nothing more. What was trained and scored is in the run directories, and which
run belongs to which row follows from the settings (`matching`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.config import EvalConfig, TrainConfig
from pipelines.errors import ConfigError, RunError, did_you_mean
from pipelines.files import atomic_json
from pipelines.serialization import from_plain, to_plain

STUDIES, FILE = "studies", "study.json"
VERSION = 1


@dataclass(frozen=True)
class PlannedRow:
    """A row with its whole configuration.

    Attributes:
        name: plain, part of the runs' names.
        group: what kind of change it is.
        label: the network and what else the row changes, for people.
        config: what is trained, for the first seed; None where that cannot be, see `error`.
        error: why it cannot be trained.
        published: the preset whose published figure stands beside it.
        full_size: whether network, recipe, budget and data are the published ones.
        parameters: trainable values of the network.
        axes: where the row stands in plots.
    """

    name: str
    group: str
    label: str
    config: TrainConfig | None
    error: str = ""
    published: str | None = None
    full_size: bool = False
    parameters: int | None = None
    axes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PlannedSection:
    """The rows of one table; see `studies.Section`."""

    title: str
    reference: str | None
    folds: bool
    rows: tuple[PlannedRow, ...]


@dataclass(frozen=True)
class Plan:
    """A study, resolved against a store.

    Attributes:
        name: of the study.
        title: heading.
        sections: its tables.
        seeds: of each row.
        evaluation: how every run is scored; its `run_dirs` are empty.
        fingerprint: of the store.
        runs: the folder of the runs.
        notes: what was left out, and why.
    """

    name: str
    title: str
    sections: tuple[PlannedSection, ...]
    seeds: tuple[int, ...]
    evaluation: EvalConfig
    fingerprint: str
    runs: Path
    notes: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where the study's own files are."""
        return study_folder(self.runs, self.name)

    @property
    def rows(self) -> tuple[PlannedRow, ...]:
        """The rows of all tables."""
        return tuple(row for section in self.sections for row in section.rows)

    @property
    def protocol(self) -> str:
        """What every run is scored under."""
        return self.evaluation.protocols[0]

    def row(self, name: str) -> PlannedRow:
        """Return the row `name`.

        Raises:
            ConfigError: there is none of that name.
        """
        for row in self.rows:
            if row.name == name:
                return row
        names = [row.name for row in self.rows]
        raise ConfigError(f"{name!r}: found no such row in {self.name}.{did_you_mean(name, names)}")


def seeded(row: PlannedRow, seed: int) -> TrainConfig:
    """Return what is trained for a row and a seed."""
    assert row.config is not None, "a row that cannot be trained has no runs"
    return dataclasses.replace(row.config, seed=seed)


def study_folder(runs: Path, name: str) -> Path:
    """Return where a study's own files are."""
    return runs / STUDIES / name


def save_plan(plan: Plan) -> Path:
    """Write the study file, whole or not at all, and return its path."""
    path = plan.folder / FILE
    values = to_plain(plan)
    values.pop("runs")  # where it lies says that
    atomic_json(path, {"version": VERSION, **values})
    return path


def load_plan(path: Path) -> Plan:
    """Return the plan in a study file.

    Raises:
        RunError: there is none, or it is damaged.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _missing(path) from None
    except ValueError as error:
        raise RunError(f"{path}: found a damaged file, expected JSON: {error}.") from error
    try:
        if values.pop("version") != VERSION:
            raise RunError(f"{path}: found another version of the file, expected {VERSION}.")
        sections = tuple(_section(section) for section in values.pop("sections"))
        evaluation = from_plain(EvalConfig, values.pop("evaluation"))
        seeds, notes = tuple(values.pop("seeds")), tuple(values.pop("notes"))
        return Plan(
            sections=sections,
            evaluation=evaluation,
            seeds=seeds,
            notes=notes,
            runs=path.parents[2],
            **values,
        )
    except (AttributeError, KeyError, TypeError, ConfigError) as error:
        raise RunError(
            f"{path}: found a damaged study ({error}).\nRun the same deepgcn ablate again."
        ) from error


def _section(values: dict[str, Any]) -> PlannedSection:
    rows = tuple(_row(row) for row in values.pop("rows"))
    return PlannedSection(rows=rows, **values)


def _row(values: dict[str, Any]) -> PlannedRow:
    config = values.pop("config")
    return PlannedRow(config=config and from_plain(TrainConfig, config), **values)


def _missing(path: Path) -> RunError:
    runs = path.parents[2]
    known = sorted(found.parent.name for found in (runs / STUDIES).glob(f"*/{FILE}"))
    there = f"its studies: {', '.join(known)}." if known else "no study was started there."
    return RunError(
        f"{path.parent.name}: found no such study in {runs}; {there}"
        f"{did_you_mean(path.parent.name, known)}\nStart one: deepgcn ablate --preset smoke"
    )


def latest_study(runs: Path) -> str:
    """Return the name of the study that was started last.

    Raises:
        RunError: there is none.
    """
    found = list((runs / STUDIES).glob(f"*/{FILE}"))
    if not found:
        raise RunError(f"{runs}: found no study.\nStart one: deepgcn ablate --preset smoke")
    return max(found, key=lambda path: path.stat().st_mtime).parent.name
