"""From a study's rows to whole configurations, checked before anything is trained."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from pipelines.config import AblateConfig, EvalConfig, ModelConfig, TrainConfig
from pipelines.config.options import flag_of, options_of
from pipelines.config.recipes import ADAM_LR
from pipelines.data.store import Store
from pipelines.errors import ConfigError, did_you_mean
from pipelines.model.deepgcn import DeepGCN
from pipelines.model.presets import PRESETS
from pipelines.runs.resume import identity
from pipelines.train import resolve
from pipelines.training.summary import count_parameters
from pipelines.weights.safetensors import describe

from .grid import read_grid
from .presets import Row, Section, Study, study
from .study_file import Plan, PlannedRow, PlannedSection

SETTINGS = {**options_of(TrainConfig), **options_of(ModelConfig)}
MODEL = tuple(options_of(ModelConfig))
LEAST = {"depth": 2, "width": 1, "k": 1}
PUBLISHED_AREA = 5
BUDGET = ("epochs", "max_steps", "batch_size", "num_points")


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
        rows = _chosen(section, config.rows)
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
        evaluation=_evaluation(config, base),
        fingerprint=store.fingerprint,
        runs=config.runs,
        notes=tuple(notes),
    )


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
    known = [row.name for row in found.rows]
    for row in config.rows:
        if row not in known:
            raise ConfigError(
                f"--rows: found the unknown row {row!r}.{did_you_mean(row, known)}\n"
                f"Expected some of: {', '.join(known)}."
            )
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
    model = {name: value for name, value in settings.items() if name in MODEL}
    other = {name: value for name, value in settings.items() if name not in MODEL}
    arch, depth = model.pop("arch", ModelConfig.arch), model.pop("depth", None)
    return TrainConfig(
        model=ModelConfig.published(arch, depth, **model),
        **{"data": config.data, "runs": config.runs, **other},
    )


def changed(base: TrainConfig, row: Row) -> TrainConfig:
    """Return `base` with a row's changes.

    Raises:
        ConfigError: the result cannot work.
    """
    values = dict(row.changes)
    for name, factor in row.factors.items():
        scaled = getattr(base.model, name) * factor
        values[name] = max(LEAST[name], math.floor(scaled + Fraction(1, 2)))
    model = {name: value for name, value in values.items() if name in MODEL}
    other = {name: value for name, value in values.items() if name not in MODEL}
    return dataclasses.replace(base, model=dataclasses.replace(base.model, **model), **other)


def _chosen(section: Section, names: tuple[str, ...]) -> list[Row]:
    """Return the rows asked for, and their reference."""
    rows = [row for row in section.rows if not names or row.name in names]
    if rows and section.reference is not None:
        rows = [row for row in section.rows if row in rows or row.name == section.reference]
    return rows


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
    first: dict[str, str] = {}
    kept = []
    for row in rows:
        if row.name == reference and row.config is not None:
            first[identity(row.config, store.fingerprint)] = row.name
    for row in rows:
        if row.config is not None:
            twin = first.setdefault(identity(row.config, store.fingerprint), row.name)
            if twin != row.name:
                notes.append(f"{row.name}: left out; with these settings it is the same as {twin}.")
                continue
        kept.append(row)
    return tuple(kept)


def _evaluation(config: AblateConfig, base: TrainConfig) -> EvalConfig:
    return EvalConfig(
        data=config.data,
        runs=config.runs,
        protocols=(config.protocol,),
        reports=(),
        checkpoint=config.checkpoint,
        votes=config.votes,
        pictures=False,
        device=base.device,
    )
