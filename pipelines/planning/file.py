"""A plan, and its file: plain values, checked when they are read."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.config import TrainConfig
from pipelines.config.settings import setting_field, setting_value
from pipelines.data.statistics import Spread, Statistics, describe
from pipelines.data.store import Store
from pipelines.errors import ConfigError
from pipelines.files import atomic_json
from pipelines.serialization import from_plain, to_plain

from .choices import Choice
from .machine import Machine
from .rules import points_of_blocks

VERSION = 1
LARGEST = 1 << 18  # bytes
LONGEST = 1e18  # seconds, steps or bytes of an estimate


@dataclass(frozen=True)
class PlannedData:
    """What the plan was made for: the training rooms of a store."""

    path: str
    fingerprint: str
    test_area: int  # left out; 0: none
    rooms: int  # to train on and to validate
    points: int
    blocks: int  # that train in an epoch, about
    width: float  # m, the median of the rooms' shorter sides
    height: float  # m, median
    density: float | None  # points per m² of surface, median
    noise: float | None  # m, median
    distinct: float | None  # different points of a block of the planned side, median
    colored: float  # fraction of the points
    text: str  # the statistics for people


@dataclass(frozen=True)
class Estimate:
    """What the training is going to take."""

    block: float  # s of a step for each block
    source: str  # what that is from
    steps: int
    epochs: float
    training: float  # s, validation included
    scoring: float  # s, of the test area
    memory: int  # bytes at the highest, beyond the start of the process


@dataclass(frozen=True)
class Plan:
    """Choices for a training, each with its reason, and what they follow from."""

    choices: tuple[Choice, ...]
    data: PlannedData
    machine: Machine
    budget: float  # s
    estimate: Estimate
    notes: tuple[str, ...] = ()  # what else to know
    predict: str = ""  # the command that labels scans with what was trained by it
    version: int = VERSION

    @property
    def settings(self) -> dict[str, Any]:
        """The choices' values, by the fields of TrainConfig and ModelConfig."""
        return {choice.field: choice.value for choice in self.choices}


def about_data(
    store: Store, test_area: int, found: Statistics, blocks: int, config: TrainConfig
) -> PlannedData:
    """Return what a plan records of the data."""
    return PlannedData(
        path=str(config.data),
        fingerprint=store.fingerprint,
        test_area=test_area,
        rooms=found.rooms,
        points=found.points,
        blocks=blocks,
        width=found.width.p50,
        height=found.height.p50,
        density=_median(found.density),
        noise=_median(found.noise),
        distinct=_median(points_of_blocks(found, config.block_side)),
        colored=found.colored,
        text=describe(found),
    )


def _median(spread: Spread | None) -> float | None:
    return None if spread is None else spread.p50


def write_plan(path: Path, plan: Plan) -> None:
    """Write a plan as JSON, whole or not at all."""
    atomic_json(path, to_plain(plan))


def check_replaced(path: Path) -> None:
    """Raise ConfigError if a file that is no plan would be replaced by one."""
    if not path.is_file():
        return
    try:
        found = json.loads(path.read_bytes()) if path.stat().st_size <= LARGEST else None
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or "choices" not in found:
        raise ConfigError(
            f"--out {path}: found a file that is no plan, which would be lost.\nGive another path."
        )


def read_plan(path: Path) -> Plan:
    """Return the plan in a file.

    Raises:
        ConfigError: it is missing, damaged, of another version, or has an option or a value that
            `train` has not.

    >>> read_plan(Path("mine.json"))
    Traceback (most recent call last):
    pipelines.errors.ConfigError: --plan: found no file mine.json, ...
    """
    if not path.is_file():
        raise ConfigError(
            f"--plan: found no file {path}, expected a plan.\nMake one: deepgcn plan --out {path}"
        )
    if (size := path.stat().st_size) > LARGEST:
        raise ConfigError(f"{path}: found {size:,} bytes, expected a plan of at most {LARGEST:,}.")
    try:
        values = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
        if not isinstance(values, dict):
            raise ValueError("it is no JSON object")
        version = values.get("version")
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, error) from error
    if version != VERSION:
        raise ConfigError(
            f"{path}: found version {version!r:.40} of the file, expected {VERSION}.\n"
            f"Make it again: deepgcn plan --out {path}"
        )
    try:
        plan: Plan = from_plain(Plan, values)
    except (ConfigError, TypeError, OverflowError) as error:
        raise _damaged(path, error) from error
    checked, where = [], f"{path}: choices"
    for choice in plan.choices:
        field = setting_field(choice.option, where)
        value = setting_value(field, choice.value, f"{where}.{choice.option}")
        checked.append(dataclasses.replace(choice, value=value))
    numbers = {"budget": plan.budget, **dataclasses.asdict(plan.estimate)}
    for name, number in numbers.items():
        least = 1e-12 if name in ("budget", "block") else 0
        if isinstance(number, (int, float)) and not least <= number <= LONGEST:
            raise _damaged(path, f"{name} is {number:.3g}")
    return dataclasses.replace(plan, choices=tuple(checked))


def _refuse(constant: str) -> None:
    raise ValueError(f"found {constant}")


def _damaged(path: Path, reason: object) -> ConfigError:
    return ConfigError(
        f"{path}: found no plan that can be read ({str(reason).splitlines()[0]}).\n"
        f"Make it again: deepgcn plan --out {path}"
    )
