"""A plan with options that are given in the place of its own."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.config import ModelConfig, TrainConfig
from pipelines.config.model import BLOCK_SIZE
from pipelines.config.options import check_choice
from pipelines.config.recipes import FROM_WEIGHTS, RECIPES, parts_of
from pipelines.data.blocks import trained_blocks
from pipelines.data.store import Store
from pipelines.progress import SILENT, Progress

from . import rules
from .choices import GIVEN, MODEL, NAMES, NOTHING, Choice
from .file import Estimate, Plan

# Options that change what a step takes, or the validation after an epoch.
SPEED_SHAPES = (
    *(*MODEL, "weights", "num_points", "voxel", "batch_size", "micro_batch", "checkpoint_layers"),
    *("val_fraction", "val_blocks", "precision", "device", "devices", "threads"),
)
OF_THE_PLAN = "as planned, but for what was given"


def changed_plan(made: Plan, given: Mapping[str, Any], progress: Progress = SILENT) -> Plan:
    """Return a plan with options that are given, by field, in the place of its own.

    What cannot stay beside them follows: epochs that would end the training before its steps, or
    steps before its epochs, and the rate if it starts from weights, or from nothing, instead, or
    by another recipe.
    It warns if the data is another one than the plan was made for.
    """
    settings = _with_parts(made.settings, given)
    followed = _following(made, settings, given)
    settings |= {name: value for name, (value, _) in followed.items()}
    if "epochs" in given and "max_steps" not in given:
        settings.pop("max_steps", None)
    known = {choice.field: choice for choice in made.choices}
    reasons = dict.fromkeys(settings, OF_THE_PLAN) | dict.fromkeys(given, GIVEN)
    reasons |= {name: reason for name, (_, reason) in followed.items()}
    choices = [
        known[field]
        if field in known and known[field].value == value
        else Choice(NAMES[field], value, reasons[field])
        for field, value in settings.items()
        if field in NAMES and (value != () or field in known)
    ]
    data = Path(given.get("data", made.data.path))
    store, about = Store.open(data), dataclasses.replace(made.data, path=str(data))
    if store.fingerprint != about.fingerprint:
        about = dataclasses.replace(about, test_area=store.test_area)
        progress.warn(f"{data}: is other data than {made.data.path} was when it was planned for.")
    area = settings.get("test_area", about.test_area)
    if area != about.test_area:
        planned_for, left_out = (f"area {n}" if n else "none" for n in (about.test_area, area))
        progress.say(f"The plan is for the rooms outside {planned_for}; left out is {left_out}.")
        about = dataclasses.replace(about, test_area=area)
    # Of a dataclass, vars has the defaults.
    before = {**vars(ModelConfig), **vars(TrainConfig), **made.settings}
    typed = [field for field in SPEED_SHAPES if field in given and field in NAMES]
    others = [field for field in typed if given[field] != before.get(field)]
    if others:
        names = ", ".join(NAMES[field] for field in others)
        progress.say(f"The plan's steps are for its own options; given are others: {names}.")
    estimate = _for_length(made, settings)
    return dataclasses.replace(made, choices=tuple(choices), data=about, estimate=estimate)


def _following(
    made: Plan, settings: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, tuple[Any, str]]:
    """Return what follows from given options, by field: a value and its reason."""
    found: dict[str, tuple[Any, str]] = {}
    steps = settings.get("max_steps")
    if steps and "epochs" not in given and {"max_steps", "batch_size", "block_size"} & {*given}:
        found["epochs"] = rules.beyond(_trained(made, settings, steps) / _blocks(made, settings))
    started, parts = _is_started(settings), _parts(settings)
    sgd, before = "sgd" in parts, made.settings
    other = started != _is_started(before) or sgd != ("sgd" in _parts(before))
    other = other or settings.get("recipe") != before.get("recipe")
    if before.get("lr") is not None and "lr" not in given and other:
        rate = rules.rate_of_parts(parts, steps or rules.LR_STEPS, from_weights=started)
        found["lr"] = rate, f"from {'weights' if started else 'nothing'}{', by sgd' if sgd else ''}"
    return found


def _for_length(made: Plan, settings: Mapping[str, Any]) -> Estimate:
    """Return a plan's estimate for the steps of other settings, at the planned pace."""
    before, estimate, blocks = made.settings, made.estimate, _blocks(made, settings)
    batch, planned = _batch(settings), _trained(made, before, estimate.steps)
    steps = settings.get("max_steps") or estimate.steps
    if (epochs := settings.get("epochs")) is not None:
        ending = epochs * math.ceil(blocks / batch)
        steps = ending if settings.get("max_steps") is None else min(steps, ending)
    if not planned:
        return estimate
    trained = _trained(made, settings, steps)
    longer = estimate.training * (trained / planned)
    return dataclasses.replace(estimate, steps=steps, epochs=trained / blocks, training=longer)


def _batch(settings: Mapping[str, Any]) -> int:
    return int(settings.get("batch_size", TrainConfig.batch_size))


def _trained(made: Plan, settings: Mapping[str, Any], steps: int) -> float:
    """Return about how many blocks so many steps train on."""
    return trained_blocks(steps, _blocks(made, settings), _batch(settings))


def _blocks(made: Plan, settings: Mapping[str, Any]) -> float:
    """Return about how many blocks an epoch has: of other sides as many as fill the ground."""
    old, new = (each.get("block_size") or BLOCK_SIZE for each in (made.settings, settings))
    return max(1.0, made.data.blocks * (old / new) ** 2)


def _is_started(settings: Mapping[str, Any]) -> bool:
    return settings.get("weights") not in (None, NOTHING)


def _parts(settings: Mapping[str, Any]) -> tuple[str, ...]:
    recipe = settings.get("recipe", TrainConfig.recipe)
    return parts_of(recipe, settings.get("without", ()), settings.get("extra", ()))


def _with_parts(settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return planned settings changed by given ones, which bring or take what belongs to them.

    Parts of the recipe that are left out or added are so besides the planned ones, but for those
    that another recipe does not have; weights bring their network and blocks.
    """
    kept = dict(settings)
    named = given.get("weights")
    if named not in (None, kept.get("weights")):
        kept["extra"] = tuple(part for part in kept.get("extra", ()) if part not in FROM_WEIGHTS)
    if named not in (None, NOTHING, kept.get("weights")):
        theirs = (*MODEL, "block_size", "voxel")
        kept = {name: value for name, value in kept.items() if name not in theirs}
    if "val_fold" in given:
        kept.pop("val_fraction", None)
    if given.get("recipe", kept.get("recipe")) != kept.get("recipe"):
        check_choice("recipe", given["recipe"], tuple(RECIPES), flag="--recipe")
        own = RECIPES[given["recipe"]]
        kept["without"] = tuple(part for part in kept.get("without", ()) if part in own)
        # The others may be an optimizer, of which the recipe has one.
        kept["extra"] = tuple(part for part in kept.get("extra", ()) if part in FROM_WEIGHTS)
    merged = {**kept, **given}
    planned = tuple(kept.get("extra", ()))
    added = dict.fromkeys((*planned, *given.get("extra", ())))
    left = dict.fromkeys((*kept.get("without", ()), *given.get("without", ())))
    merged["extra"] = tuple(part for part in added if part not in given.get("without", ()))
    # To leave out a part that the plan added is to add it no longer: the recipe may not have it.
    own, here = (*planned, *FROM_WEIGHTS), RECIPES.get(merged.get("recipe", TrainConfig.recipe), ())
    merged["without"] = tuple(
        part
        for part in left
        if part not in given.get("extra", ()) and (part in here or part not in own)
    )
    return merged
