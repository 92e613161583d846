"""Whether a run can be resumed: its configuration and data must be what they were."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.config import TrainConfig, options
from pipelines.config.model import unnamed_class
from pipelines.config.recipes import SCHEDULES
from pipelines.data.store import Store
from pipelines.errors import DatasetError, RunError, command
from pipelines.serialization import to_plain

from .directory import Run, resume_command

# A run's name is its directory, its data is known by the fingerprint, and a recipe by its parts.
NO_RESULT = (options.SPEED, options.PLACE, options.RECIPE)
SHAPES = {name: option.shapes for name, option in options.options_of(TrainConfig).items()}
FREE = tuple(name for name, shapes in SHAPES.items() if shapes in (options.SPEED, options.PLACE))


def open_data(run: Run, data: Path | None) -> Store:
    """Open the store in `data`; None: the one that `run` was trained on, else DatasetError."""
    if run.config.synth and data is None:
        raise DatasetError(
            f"{run.path}: was trained on synthetic rooms, so it has no data of its own.\n"
            f"Say on which it is scored: {command('eval', run.path, '--data', 'DIR')}"
        )
    known = run.config.data
    if data in (None, known) and not known.exists():
        begun = "" if known.is_absolute() else ", from the folder that the training began in"
        raise DatasetError(
            f"{known}: found no such folder; it is where {run.path} had its data{begun}.\n"
            f"Say where the data is: --data DIR{'' if known.is_absolute() else ', or go there'}"
        )
    return Store.open(data or known)


def check_named(run: Run, named: Collection[str]) -> None:
    """Raise RunError if a run's configuration asks for an own class that the user has not named."""
    if refusal := unnamed_class(run.config.model.own_classes, named):
        raise RunError(f"{run.path}: {refusal}")


def check_same(run: Run, config: TrainConfig, store: Store) -> None:
    """Raise a RunError unless `run` under `config`, resolved, on `store` is the same training."""
    schedules = [part for part in SCHEDULES if part in config.parts]
    always = [options.PROCESSES] if config.sync_bn else []
    free = always if schedules else [options.LENGTH, *always]
    before, now = to_plain(run.config), to_plain(config)
    if changed := differences(before, now, free=free):
        why = ""
        if changed != differences(before, now, free=[options.LENGTH, *always]):
            why = f" The learning rate of {' and '.join(schedules)} depends on the length."
        raise RunError(
            f"{run.path}: cannot resume with other settings: {'; '.join(changed)}.{why}\n"
            f"Leave them out ({resume_command(run.path)}), or start a new run without --resume."
        )
    began_on = run.environment.get("store", {}).get("fingerprint")
    if began_on != store.fingerprint:
        raise RunError(
            f"{run.path}: cannot resume with other data: the run began on {_short(began_on)}, "
            f"{config.data} is {_short(store.fingerprint)}"
            f"{_room_differences(run.environment.get('rooms', {}), room_checksums(store))}.\n"
            "Give the store that it began on with --data, or start a new run without --resume."
        )


def identity(config: TrainConfig, fingerprint: str) -> str:
    """Return a text that is equal for two trainings if and only if they give the same result.

    `config` is resolved, `fingerprint` is the store's. The text holds what `check_same` compares,
    and the length; how a step is made to fit the memory is left out.
    """
    values = to_plain(config)
    for name, shapes in SHAPES.items():
        if shapes in (*NO_RESULT, options.MEMORY):
            values.pop(name, None)
    return json.dumps([values, fingerprint], sort_keys=True)


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], *, free: Sequence[str] = ()
) -> list[str]:
    """Return "model.k was 16, now 8" for each differing setting of a kind that is not `free`."""
    return [
        f"{name} was {old}, now {new}"
        for name, (old, new) in sorted(different_settings([before, now], ignored=()).items())
        if SHAPES.get(name.partition(".")[0], options.RESULT) not in (*NO_RESULT, *free)
    ]


def different_settings(
    configs: Sequence[Mapping[str, Any]], ignored: Sequence[str] = ("name",)
) -> dict[str, list[Any]]:
    """Return the settings in which configurations differ: dotted name → value of each.

    Examples:
        >>> different_settings([{"model": {"k": 16}}, {"model": {"k": 8}}])
        {'model.k': [16, 8]}
    """
    flat = [_flatten(config) for config in configs]
    names = dict.fromkeys(name for values in flat for name in values)
    found = {name: [values.get(name) for values in flat] for name in names if name not in ignored}
    return {name: values for name, values in found.items() if any(v != values[0] for v in values)}


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        nested = isinstance(value, Mapping)
        found |= _flatten(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return found


def room_checksums(store: Store) -> dict[str, str]:
    """Return a checksum of each room's points, "Area_1/office_1" → 12 hexadecimal digits."""
    return {f"Area_{room.area}/{room.name}": _short(room.checksum) for room in store.rooms()}


def _room_differences(before: dict[str, str], now: dict[str, str]) -> str:
    """Return " (2 rooms changed: Area_1/office_1, Area_1/office_2; 1 room new: …)", or nothing."""
    kinds = {
        "changed": [name for name in before if now.get(name, before[name]) != before[name]],
        "gone": [name for name in before if name not in now],
        "new": [name for name in now if before and name not in before],
    }
    found = []
    for kind, names in kinds.items():
        rooms = "room" if len(names) == 1 else "rooms"
        shown = ", ".join([*names[:3], *(["…"] if len(names) > 3 else [])])
        found += [f"{len(names)} {rooms} {kind}: {shown}"] if names else []
    return f" ({'; '.join(found)})" if found else ""


def _short(fingerprint: object) -> str:
    return str(fingerprint)[:12]
