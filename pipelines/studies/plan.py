"""From a study's rows to whole configurations, checked before anything is trained.

The plan is saved as runs/studies/<study>/study.json. What was trained and scored is not in it, but
in the run directories; which run belongs to which row follows from the settings (`state`).
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from pipelines.config import BLOCK_SIZE, AblateConfig, EvalConfig, ModelConfig, TrainConfig
from pipelines.config.model import unnamed_class
from pipelines.config.options import check_choice, flag_of, options_of
from pipelines.config.recipes import ADAM_LR
from pipelines.config.settings import OPTIONS
from pipelines.data.store import Store
from pipelines.errors import ConfigError, RunError, WeightsError, did_you_mean
from pipelines.files import atomic_json
from pipelines.model.deepgcn import DeepGCN
from pipelines.model.presets import PRESETS
from pipelines.progress import counted
from pipelines.runs.directory import STUDIES, check_name
from pipelines.runs.resume import identity
from pipelines.serialization import from_plain, to_plain
from pipelines.train import resolve
from pipelines.training.start import named_classes, start_config
from pipelines.training.summary import count_parameters

from . import Row, Section, Study, study
from .grid import read_grid

FILE = "study.json"
VERSION = 1
MODEL = tuple(options_of(ModelConfig))
LEAST = {"depth": 2, "width": 1, "k": 1}
PUBLISHED_AREA = 5
BUDGET = ("epochs", "max_steps", "batch_size", "num_points")


@dataclass(frozen=True)
class Plan:
    """A study, resolved against a store."""

    name: str
    title: str
    sections: tuple[Section, ...]
    seeds: tuple[int, ...]  # of each row
    evaluation: EvalConfig  # how every run is scored, by one protocol; its `run_dirs` are empty
    fingerprint: str  # of the store
    runs: Path  # the folder of the runs
    notes: tuple[str, ...] = ()  # what was left out, and why

    @property
    def file(self) -> Path:
        """Where the plan is saved."""
        return study_file(self.runs, self.name)

    @property
    def votes(self) -> int:
        """How many votes score a run: protocols of single blocks know none."""
        return self.evaluation.votes if self.evaluation.protocols[0] == "room" else 1

    def log(self, name: str) -> Path:
        """Return the log of the processes that train and score the cell `name`."""
        return self.file.parent / "logs" / f"{name}.log"

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows of all tables."""
        return tuple(row for section in self.sections for row in section.rows)

    def row(self, name: str) -> Row:
        """Return the row `name`; raise ConfigError if there is none of that name."""
        rows = {row.name: row for row in self.rows}
        check_choice("row", name, tuple(rows), flag=self.name)
        return rows[name]


def study_file(runs: Path, name: str) -> Path:
    """Return where the plan of a study is."""
    return runs / STUDIES / name / FILE


def save_plan(plan: Plan) -> None:
    """Write the study file, whole or not at all."""
    values = to_plain(plan)
    values.pop("runs")  # known from the file's path
    atomic_json(plan.file, {"version": VERSION, **values})


def load_plan(path: Path) -> Plan:
    """Return the plan in a study file; raise RunError if it is missing or damaged."""
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
            f"{path}: found a damaged study ({error}).\n"
            "Delete it and run the same deepgcn ablate again: the runs are kept."
        ) from error


def with_other_rows(plan: Plan, before: Plan) -> Plan:
    """Return a plan of some rows with those too that the study has had before, and their seeds."""
    chosen = {row.name: row for row in plan.rows}
    sections = []
    for section in before.sections:
        kept = [chosen.pop(row.name, row) for row in section.rows]
        new = [s for s in plan.sections if s.title == section.title]
        kept += [chosen.pop(row.name) for s in new for row in s.rows if row.name in chosen]
        sections.append(dataclasses.replace(section, rows=tuple(kept)))
    for section in plan.sections:
        if rows := tuple(row for row in section.rows if row.name in chosen):
            sections.append(dataclasses.replace(section, rows=rows))
    return dataclasses.replace(
        plan,
        sections=tuple(sections),
        seeds=max(plan.seeds, before.seeds, key=len),
        notes=tuple(dict.fromkeys((*before.notes, *plan.notes))),
    )


def latest_study(runs: Path) -> str:
    """Return the name of the study that was started last; raise RunError if there is none."""
    found = list((runs / STUDIES).glob(f"*/{FILE}"))
    if not found:
        raise RunError(f"{runs}: found no study.\nStart one: deepgcn ablate --preset smoke")
    return max(found, key=lambda path: path.stat().st_mtime).parent.name


def make_plan(config: AblateConfig, store: Store) -> Plan:
    """Resolve the study that `config` asks for against a store.

    A row that cannot be built stays, with the reason; one like another of its table is left out.
    """
    wanted = _chosen_study(config)
    own = own_classes(config)
    for settings in (wanted.base, *(r.changes for each in wanted.sections for r in each.rows)):
        if refusal := unnamed_class(named_classes(settings), own):
            raise ConfigError(f"{config.grid}: {refusal}")
    base = base_config({**wanted.base, **config.base}, config)
    notes: list[str] = []
    same = {name: getattr(config, name) for name in ("data", "runs", "checkpoint", "votes")}
    scored: dict[str, Any] = {**same, "protocols": (config.protocol,), "device": base.device}
    evaluation = EvalConfig(reports=(), pictures=False, **scored)
    sections = []
    for section in wanted.sections:
        rows = [row for row in section.rows if not config.rows or row.name in config.rows]
        if rows:
            rows = [r for r in section.rows if r in rows or r.name == section.reference]
        if section.folds:
            lacking = [row.name for row in rows if row.changes["test_area"] not in store.areas]
            rows = [row for row in rows if row.name not in lacking]
            if lacking:
                notes.append(f"Not six folds: {store.path} does not hold {', '.join(lacking)}.")
        how: Any = (base, store, evaluation, own)
        planned = [_planned(row, *how, folds=section.folds) for row in rows]
        kept = _without_twins(planned, section.reference, store, notes)
        sections.append(dataclasses.replace(section, rows=kept))
    if not any(section.rows for section in sections):
        raise ConfigError(f"{config.name or wanted.name}: found no row. {' '.join(notes)}".rstrip())
    return Plan(
        name=config.name or wanted.name,
        title=wanted.title if wanted.title != wanted.name else config.name or wanted.name,
        sections=tuple(section for section in sections if section.rows),
        seeds=tuple(range(config.seeds or wanted.seeds)),
        evaluation=evaluation,
        fingerprint=store.fingerprint,
        runs=config.runs,
        notes=tuple(notes),
    )


def _chosen_study(config: AblateConfig) -> Study:
    """Return the named study, or the one in the grid file, if name, rows and base fit it."""
    if config.preset is not None:
        found = study(config.preset, deepest=config.deepest)
    else:
        assert config.grid is not None
        found = read_grid(config.grid)
    check_name(config.name or found.name, "--name" if config.name else f"{config.grid}: name")
    names = tuple(row.name for section in found.sections for row in section.rows)
    for row in config.rows:
        check_choice("row", row, names, flag="--rows")
    for setting in found.fixed:
        if setting in config.base:
            flag = flag_of(setting, OPTIONS[setting])
            raise ConfigError(
                f"{flag}: found {config.base[setting]}, but the rows of {found.name} choose it.\n"
                f"Leave it out; choose rows with --rows."
            )
    return found


def base_config(settings: Mapping[str, Any], config: AblateConfig) -> TrainConfig:
    """Return the configuration that the rows change: `settings` applied to the defaults."""
    model, other = _split(settings)
    training = {"data": config.data, "runs": config.runs, **other}
    if weights := training.pop("weights", None):
        return start_config(weights, model, training, config.own_classes)
    arch, depth = model.pop("arch", ModelConfig.arch), model.pop("depth", None)
    return TrainConfig(model=ModelConfig.published(arch, depth, **model), **training)


def own_classes(config: AblateConfig) -> tuple[str, ...]:
    """Return the own classes that the user has named: in options, not in files."""
    return (*config.own_classes, *named_classes(config.base))


def changed(
    base: TrainConfig, changes: Mapping[str, Any], own: Collection[str] = ()
) -> TrainConfig:
    """Return `base` with a row's changes, without fractions.

    A row that starts from other weights has their network, which may have the classes `own`, and
    their blocks.
    """
    model, other = _split(changes)
    if other.get("weights") not in (None, base.weights):
        start = start_config(other["weights"], {}, {"runs": base.runs}, own)
        own = {name: getattr(start, name) for name in ("model", "block_size", "voxel", "weights")}
        base = dataclasses.replace(base, **own)
    elif "weights" in other and not other["weights"]:
        other.setdefault("freeze", 0)
    return dataclasses.replace(base, model=base.model.changed(**model), **other)


def absolute(changes: Mapping[str, Any], base: TrainConfig) -> dict[str, Any]:
    """Return a row's changes with values in place of fractions of the base's values."""
    found = dict(changes)
    for name, value in changes.items():
        if isinstance(value, Fraction):
            half_up = math.floor(getattr(base.model, name) * value + Fraction(1, 2))
            found[name] = max(LEAST[name], half_up)
    return found


def _split(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of the network, and the others."""
    model = {name: value for name, value in settings.items() if name in MODEL}
    return model, {name: value for name, value in settings.items() if name not in MODEL}


def _planned(
    row: Row,
    base: TrainConfig,
    store: Store,
    evaluation: EvalConfig,
    own: Collection[str],
    *,
    folds: bool,
) -> Row:
    """Return a row with what it trains, or why it cannot be trained."""
    changes = absolute(row.changes, base)
    try:
        config = resolve(changed(base, changes, own), store)
        evaluation.check_blocks(row.name, config.block_side, config.voxel_side)
    except (ConfigError, RunError, WeightsError) as error:
        return dataclasses.replace(row, changes=changes, error=str(error))
    with torch.device("meta"):  # nothing is allocated
        parameters = count_parameters(DeepGCN(config.model))
    own = {name: getattr(config.model, name) for name, value in row.axes.items() if value is None}
    usual = config.test_area  # the names of folds tell their areas
    if not folds:
        usual = store.test_area if base.test_area is None else base.test_area
    return dataclasses.replace(
        row,
        changes=changes,
        axes={**row.axes, **own},
        label=_label(config, dataclasses.replace(base, test_area=usual)),
        config=config,
        full_size=_is_full_size(config, row.published, store, folds=folds),
        parameters=parameters,
    )


def _label(config: TrainConfig, base: TrainConfig) -> str:
    """Return the network for people, with what its name does not tell and what else differs."""
    model, parts = config.model, [config.label]
    if model.knn != "fixed":  # its one graph has no dilation
        if not model.dilation:
            parts.append("not dilated")
        elif not model.epsilon:
            parts.append("not stochastic")
    if config.weights != base.weights or config.weights:
        parts.append(f"from {config.weights or 'nothing'}")
    if config.freeze:
        parts.append(f"{config.freeze} frozen")
    if config.recipe_text != "paper":
        parts.append(config.recipe_text)
    usual = label_parts(base)
    parts += [text for name, text in label_parts(config).items() if text != usual[name]]
    if config.max_steps == base.max_steps is not None and config.epochs != base.epochs:
        parts.append(counted(config.epochs, "epoch"))  # which may end before the steps do
    if config.micro_batch != base.micro_batch:
        parts.append(f"micro-batches of {config.micro_batch}")
    return ", ".join(parts)


def label_parts(config: TrainConfig) -> dict[str, str]:
    """Return what labels say where it differs from the base, and tables where it does not."""
    steps, epochs = config.max_steps, counted(config.epochs, "epoch")
    return {
        "area": f"area {config.test_area}",
        "length": counted(steps, "step") if steps else epochs,
        "batch": f"batch {config.batch_size}",
        "points": f"{config.num_points} points",
        "lr": f"lr {config.first_lr:g}",
        "layout": f"{config.model.layout} layout",
    }


def _is_full_size(config: TrainConfig, published: str | None, store: Store, *, folds: bool) -> bool:
    """Whether network, recipe, budget and data are those of the published figure."""
    if published is None:
        return False
    network = PRESETS[published].config
    return (
        dataclasses.replace(network, num_classes=config.model.num_classes) == config.model
        and not config.parts
        and all(getattr(config, name) == getattr(TrainConfig, name) for name in BUDGET)
        and (config.block_side, config.voxel_side) == (BLOCK_SIZE, 0)
        and config.first_lr == ADAM_LR
        and (folds or config.test_area == PUBLISHED_AREA)  # the folds' figure is of all areas
        and len(store.rooms()) == store.published_rooms
    )


def _without_twins(
    rows: Sequence[Row], reference: str | None, store: Store, notes: list[str]
) -> tuple[Row, ...]:
    """Return the rows that train something of their own; say which ones do not."""
    # Batch norm counts each micro-batch alone, so that they shape the result; see `KnownRuns`.
    # Where a row leaves them open, any run will do: also that of a row that sets them.
    first: dict[str, dict[int | None, str]] = {}  # by what it trains and its micro-batch
    twins: dict[str, str] = {}
    configs = {row.name: row.config for row in rows if row.config}
    for name in sorted(
        configs, key=lambda name: (name != reference, configs[name].micro_batch is None)
    ):
        size = configs[name].micro_batch
        alike = first.setdefault(identity(configs[name], store.fingerprint), {})
        if size in alike:
            twins[name] = f"with these settings it is the same as {alike[size]}."
        elif alike and (size is None or None in alike):
            other = next(iter(alike.values()))
            twins[name] = (
                f"it differs from {other} only in the micro-batch, which one of the two leaves "
                "open. To train both, set micro-batch in both: the whole batch is one, too."
            )
        else:
            alike[size] = name
    notes += [f"{name}: left out; {twins[name]}" for name in configs if name in twins]
    return tuple(row for row in rows if row.name not in twins)
