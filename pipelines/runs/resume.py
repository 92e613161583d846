"""Whether a run can be gone on with: its configuration and data must be what they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipelines.config import TrainConfig
from pipelines.config.options import (
    LENGTH,
    MEMORY,
    PLACE,
    PROCESSES,
    RECIPE,
    RESULT,
    SPEED,
    options_of,
)
from pipelines.data.store import Store
from pipelines.errors import DatasetError, RunError
from pipelines.serialization import to_plain

from .directory import Run, resume_command

# The run's directory says its name; the store's fingerprint, not its path, says which data it is;
# a recipe is its parts, whatever it is called.
NO_RESULT = (SPEED, PLACE, RECIPE)
SHAPES = {name: option.shapes for name, option in options_of(TrainConfig).items()}
FREE = tuple(name for name, shapes in SHAPES.items() if shapes in (SPEED, PLACE))


def open_data(run: Run, data: Path | None) -> Store:
    """Open the store in `data`; None: the one that `run` was trained on.

    Raises:
        DatasetError: it is not where the run says, or as for `Store.open`.
    """
    told = run.config.data
    if data in (None, told) and not told.exists():
        begun = "" if told.is_absolute() else ", from the folder that the training began in"
        raise DatasetError(
            f"{told}: found no such folder; it is where {run.path} had its data{begun}.\n"
            f"Say where the data is: --data DIR{'' if told.is_absolute() else ', or go there'}"
        )
    return Store.open(data or told)


def check_same(run: Run, config: TrainConfig, store: Store) -> None:
    """Check that going on with `run` under `config` continues the same training.

    Args:
        run: the run to go on with.
        config: resolved, as asked for now.
        store: to train on now.

    Raises:
        RunError: a setting that shapes the result, or the data, is another one; says which.
    """
    free = {*(() if "cosine" in config.parts else (LENGTH,))}
    free |= {*((PROCESSES,) if config.sync_bn else ())}
    found = differences(to_plain(run.config), to_plain(config))
    changed = [text for text in found if SHAPES.get(text.split()[0]) not in free]
    if changed:
        raise RunError(
            f"{run.path}: cannot go on with other settings: {'; '.join(changed)}.\n"
            f"Leave them out ({resume_command(run.path)}), or start a new run without --resume."
        )
    before = run.environment.get("store", {}).get("fingerprint")
    if before != store.fingerprint:
        raise RunError(
            f"{run.path}: cannot go on with other data: the run began on {_short(before)}, "
            f"{config.data} is {_short(store.fingerprint)}"
            f"{room_differences(run.environment.get('rooms', {}), room_checksums(store))}.\n"
            "Give the store that it began on with --data, or start a new run without --resume."
        )


def identity(config: TrainConfig, fingerprint: str) -> str:
    """Return a text that two trainings share if and only if they give the same result.

    It has what `check_same` compares, and the length: a run of half the steps is another one. Not
    told apart is how a step was made to fit the memory.

    Args:
        config: resolved.
        fingerprint: of the store.
    """
    settings = to_plain(config).items()
    apart = (*NO_RESULT, MEMORY)
    values = {name: value for name, value in settings if SHAPES.get(name, RESULT) not in apart}
    return json.dumps([values, fingerprint], sort_keys=True)


def differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """Return "model.k was 16, now 8" for each setting that shapes the result and differs."""
    found = []
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if not prefix and SHAPES.get(name, RESULT) in NO_RESULT:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, prefix=f"{name}.")
        elif old != new:
            found.append(f"{prefix}{name} was {old}, now {new}")
    return found


def room_checksums(store: Store) -> dict[str, str]:
    """Return what each room's points are told by, "Area_1/office_1" → 12 hexadecimal digits."""
    return {f"Area_{room.area}/{room.name}": _short(room.checksum) for room in store.rooms()}


def room_differences(before: dict[str, str], now: dict[str, str]) -> str:
    """Return " (2 rooms changed: Area_1/office_1, Area_1/office_2; 1 room new: …)", or nothing."""
    changed = [name for name in before if name in now and now[name] != before[name]]
    gone, new = [n for n in before if n not in now], [n for n in now if n not in before]
    kinds = {"changed": changed, "gone": gone, "new": new} if before else {}
    found = [f"{_rooms(names)} {kind}: {_some(names)}" for kind, names in kinds.items() if names]
    return f" ({'; '.join(found)})" if found else ""


def _rooms(names: list[str]) -> str:
    return f"{len(names)} room{'s' if len(names) > 1 else ''}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _short(fingerprint: object) -> str:
    return str(fingerprint)[:12]
