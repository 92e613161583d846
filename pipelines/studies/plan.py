"""From a study's rows to whole configurations, checked before anything is trained.

The plan is saved as runs/studies/<study>/study.json. It is a plan and nothing more: what was
trained and scored is in the run directories, and which run belongs to which row follows from the
settings (`state`).
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from pipelines.config import AblateConfig, EvalConfig, ModelConfig, TrainConfig
from pipelines.config.options import check_choice, flag_of, options_of
from pipelines.config.recipes import ADAM_LR
from pipelines.data.store import Store
from pipelines.errors import ConfigError, RunError, did_you_mean
from pipelines.files import atomic_json
from pipelines.model.deepgcn import DeepGCN
from pipelines.model.presets import PRESETS
from pipelines.runs.resume import identity
from pipelines.serialization import from_plain, to_plain
from pipelines.train import resolve
from pipelines.training.summary import count_parameters
from pipelines.weights.safetensors import describe

from .grid import read_grid
from .presets import Row, Study, study

STUDIES, FILE = "studies", "study.json"
VERSION = 1
SETTINGS = {**options_of(TrainConfig), **options_of(ModelConfig)}
MODEL = tuple(options_of(ModelConfig))
LEAST = {"depth": 2, "width": 1, "k": 1}
PUBLISHED_AREA = 5
BUDGET = ("epochs", "max_steps", "batch_size", "num_points")


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
    """The rows of one table; see `presets.Section`."""

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
    def file(self) -> Path:
        """Where the plan is saved."""
        return study_file(self.runs, self.name)

    @property
    def folder(self) -> Path:
        """Where the study's own files are."""
        return self.file.parent

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
        rows = {row.name: row for row in self.rows}
        check_choice("row", name, tuple(rows), flag=self.name)
        return rows[name]


def seeded(row: PlannedRow, seed: int) -> TrainConfig:
    """Return what is trained for a row and a seed."""
    assert row.config is not None, "a row that cannot be trained has no runs"
    return dataclasses.replace(row.config, seed=seed)


def study_file(runs: Path, name: str) -> Path:
    """Return where the plan of a study is."""
    return runs / STUDIES / name / FILE


def save_plan(plan: Plan) -> None:
    """Write the study file, whole or not at all."""
    values = to_plain(plan)
    values.pop("runs")  # where it lies says that
    atomic_json(plan.file, {"version": VERSION, **values})


def load_plan(path: Path) -> Plan:
    """Return the plan in a study file.

    Raises:
        RunError: there is none, or it is damaged.
    """
    runs, name = path.parents[2], path.parent.name
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if (version := values.pop("version")) != VERSION:
            raise RunError(f"{path}: found version {version} of the file, expected {VERSION}.")
        return from_plain(Plan, {**values, "runs": str(runs)})
    except FileNotFoundError:
        known = sorted(found.parent.name for found in (runs / STUDIES).glob(f"*/{FILE}"))
        there = f"its studies: {', '.join(known)}." if known else "no study was started there."
        raise RunError(
            f"{name}: found no such study in {runs}; {there}{did_you_mean(name, known)}\n"
            "Start one: deepgcn ablate --preset smoke"
        ) from None
    except (ValueError, AttributeError, KeyError, TypeError, ConfigError) as error:
        raise RunError(
            f"{path}: found a damaged study ({error}).\nRun the same deepgcn ablate again."
        ) from error


def latest_study(runs: Path) -> str:
    """Return the name of the study that was started last.

    Raises:
        RunError: there is none.
    """
    found = list((runs / STUDIES).glob(f"*/{FILE}"))
    if not found:
        raise RunError(f"{runs}: found no study.\nStart one: deepgcn ablate --preset smoke")
    return max(found, key=lambda path: path.stat().st_mtime).parent.name


def make_plan(config: AblateConfig, store: Store) -> Plan:
    """Resolve the study that `config` asks for against a store.

    A row that cannot be built stays, with the reason; one that comes out the same as another of
    its table is left out and named.

    Raises:
        ConfigError: the study, a row's name or the base does not exist or does not fit.
    """
    wanted = chosen_study(config)
    _check_base(config, wanted)
    base = base_config({**wanted.base, **config.base}, config)
    notes: list[str] = []
    sections = []
    for section in wanted.sections:
        rows = [row for row in section.rows if not config.rows or row.name in config.rows]
        if rows:
            rows = [r for r in section.rows if r in rows or r.name == section.reference]
        if section.folds:
            rows = _in_store(rows, store, notes)
        planned = [_planned(row, base, store, folds=section.folds) for row in rows]
        kept = _without_twins(planned, section.reference, store, notes)
        sections.append(PlannedSection(section.title, section.reference, section.folds, kept))
    return Plan(
        name=config.name or wanted.name,
        title=wanted.title,
        sections=tuple(section for section in sections if section.rows),
        seeds=tuple(range(config.seeds or wanted.seeds)),
        evaluation=_evaluation(config, base.device),
        fingerprint=store.fingerprint,
        runs=config.runs,
        notes=tuple(notes),
    )


def _evaluation(config: AblateConfig, device: str) -> EvalConfig:
    same = {name: getattr(config, name) for name in ("data", "runs", "checkpoint", "votes")}
    protocols = (config.protocol,)
    return EvalConfig(**same, protocols=protocols, reports=(), pictures=False, device=device)


def chosen_study(config: AblateConfig) -> Study:
    """Return the named study, or the one in the grid file, with the rows that were asked for.

    Raises:
        ConfigError: a row that was asked for does not exist.
    """
    if config.grid is not None:
        found = read_grid(config.grid)
    else:
        assert config.preset is not None
        found = study(config.preset, deepest=config.deepest)
    name = config.name or found.name
    if name in ("", ".", "..") or Path(name).name != name:
        raise ConfigError(f"--name: found {name!r}, expected a name without slashes.")
    for row in config.rows:
        check_choice("row", row, tuple(row.name for row in found.rows), flag="--rows")
    return found


def _check_base(config: AblateConfig, wanted: Study) -> None:
    for name in config.base:
        if name in wanted.fixed:
            flag = flag_of(name, SETTINGS[name])
            raise ConfigError(
                f"{flag}: found {config.base[name]}, but the rows of {wanted.name} choose it.\n"
                f"Leave it out; choose rows with --rows."
            )


def base_config(settings: Mapping[str, Any], config: AblateConfig) -> TrainConfig:
    """Return the configuration that the rows change, `settings` applied to the defaults.

    Raises:
        ConfigError: a setting cannot work.
    """
    model, other = _split(settings)
    arch, depth = model.pop("arch", ModelConfig.arch), model.pop("depth", None)
    network = ModelConfig.published(arch, depth, **model)
    return TrainConfig(model=network, **{"data": config.data, "runs": config.runs, **other})


def changed(base: TrainConfig, row: Row) -> TrainConfig:
    """Return `base` with a row's changes.

    Raises:
        ConfigError: the result cannot work.
    """
    model, other = _split(row.changes)
    for name, factor in row.factors.items():
        scaled = getattr(base.model, name) * factor
        model[name] = max(LEAST[name], math.floor(scaled + Fraction(1, 2)))
    return dataclasses.replace(base, model=dataclasses.replace(base.model, **model), **other)


def _split(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of the network, and the others."""
    model = {name: value for name, value in settings.items() if name in MODEL}
    return model, {name: value for name, value in settings.items() if name not in MODEL}


def _planned(row: Row, base: TrainConfig, store: Store, *, folds: bool) -> PlannedRow:
    facts: dict[str, Any] = {"name": row.name, "group": row.group, "published": row.published}
    try:
        config = resolve(changed(base, row), store)
    except ConfigError as error:
        return PlannedRow(**facts, label="–", config=None, error=str(error), axes=row.axes)
    axes = {
        name: getattr(config.model, name) if value is None else value
        for name, value in row.axes.items()
    }
    return PlannedRow(
        **facts,
        label=_label(config, base),
        config=config,
        full_size=_is_full_size(config, row.published, store, folds=folds),
        parameters=parameters_of(config.model),
        axes=axes,
    )


def parameters_of(model: ModelConfig) -> int:
    """Return the trainable values of a network, which is not allocated for that."""
    with torch.device("meta"):
        return count_parameters(DeepGCN(model))


def _label(config: TrainConfig, base: TrainConfig) -> str:
    """Return the network for people, with those of its settings that its name does not tell."""
    model, parts = config.model, [describe(config.model)]
    if model.knn != "dynamic":
        parts.append("fixed k-NN")
    elif not model.dilation:
        parts.append("not dilated")
    elif not model.epsilon:
        parts.append("not stochastic")
    if config.recipe_text != "paper":
        parts.append(config.recipe_text)
    if config.test_area != base.test_area and base.test_area is not None:
        parts.append(f"area {config.test_area}")
    return ", ".join(parts)


def _is_full_size(config: TrainConfig, published: str | None, store: Store, *, folds: bool) -> bool:
    """Whether a training is the published one: network, recipe, budget and data.

    The figures are of area 5, those of `folds` of every area.
    """
    if published is None:
        return False
    network = PRESETS[published].config
    return (
        dataclasses.replace(network, num_classes=config.model.num_classes) == config.model
        and not config.parts
        and all(getattr(config, name) == getattr(TrainConfig, name) for name in BUDGET)
        and config.first_lr == ADAM_LR
        and (folds or config.test_area == PUBLISHED_AREA)
        and len(store.rooms()) == store.published_rooms
    )


def _in_store(rows: list[Row], store: Store, notes: list[str]) -> list[Row]:
    """Return the folds whose test area the store has; say which ones it lacks."""
    lacking = [row for row in rows if row.changes["test_area"] not in store.areas]
    if lacking:
        names = ", ".join(row.name for row in lacking)
        notes.append(f"Not six folds: {store.path} does not hold {names}.")
    return [row for row in rows if row not in lacking]


def _without_twins(
    rows: list[PlannedRow], reference: str | None, store: Store, notes: list[str]
) -> tuple[PlannedRow, ...]:
    """Return the rows that train something of their own; say which ones do not."""
    trained = {row.name: identity(row.config, store.fingerprint) for row in rows if row.config}
    first: dict[str, str] = {}
    for name in sorted(trained, key=lambda name: name != reference):
        first.setdefault(trained[name], name)
    left_out = {name: first[what] for name, what in trained.items() if first[what] != name}
    notes += [
        f"{name}: left out; with these settings it is the same as {twin}."
        for name, twin in left_out.items()
    ]
    return tuple(row for row in rows if row.name not in left_out)
