"""Studies of the user's own from a YAML file.

    base: {arch: resgcn, depth: 14, width: 32}     # settings of every row
    axes: {k: [4, 8], epsilon: [0, 0.2]}           # every combination is a row
    rows: {plain: {arch: plaingcn, dilation: false}}
    exclude: [{k: 4, epsilon: 0.2}]                # combinations to leave out
    reference: k-8-epsilon-0                       # the row that the others are compared with
    seeds: 3

Settings are named as the options of `deepgcn train`, without the dashes in front.
"""

from __future__ import annotations

import itertools
import math
import re
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines.config import ModelConfig, TrainConfig
from pipelines.config.options import PLACE, check_choice, check_option, flag_of, options_of
from pipelines.errors import ConfigError
from pipelines.serialization import fits

from .presets import TITLE, Row, Section, Study

MOST_RUNS = 10_000
KEYS = ("name", "title", "base", "axes", "rows", "exclude", "reference", "seeds")
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
# The options of `deepgcn train` by name and the fields that they set. A study has its own files
# and seeds.
SETTINGS = {
    flag_of(name, option).lstrip("-"): name
    for config in (ModelConfig, TrainConfig)
    for name, option in options_of(config, "train").items()
    if option.shapes != PLACE and name != "seed"
}
OPTIONS = {**options_of(ModelConfig), **options_of(TrainConfig)}
HINTS = {**typing.get_type_hints(ModelConfig), **typing.get_type_hints(TrainConfig)}
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def read_grid(path: Path) -> Study:
    """Return the study that a file describes; raise ConfigError with the place of what is wrong."""
    values = _mapping(_load(path), f"{path}")
    for name in values:
        check_choice("key", name, KEYS, flag=f"{path}")
    named = _mapping(values.get("rows") or {}, f"{path}: rows")
    axes = {
        _setting(name, f"{path}: axes"): _axis(choices, name, f"{path}: axes.{name}")
        for name, choices in _mapping(values.get("axes") or {}, f"{path}: axes").items()
    }
    seeds = values.get("seeds", 1)
    if type(seeds) is not int or seeds < 1:
        raise ConfigError(f"{path}: seeds: found {seeds!r}, expected a whole number from 1.")
    _check_size(path, axes, len(named), seeds)
    exclude = values.get("exclude") or []
    if not isinstance(exclude, list):
        raise ConfigError(f"{path}: exclude: found {exclude!r}, expected a list.")
    excluded = [
        _excluded(each, axes, f"{path}: exclude {number}")
        for number, each in enumerate(exclude, start=1)
    ]
    rows = list(_combinations(axes, excluded))
    for name, changes in named.items():
        rows.append(Row(name, "named", _settings(changes, f"{path}: rows.{name}")))
    reference = None if values.get("reference") is None else str(values["reference"])
    _check_names(path, rows, reference)
    title = str(values.get("title") or path.stem)
    section = Section(TITLE, tuple(rows), reference)
    base = _settings(values.get("base"), f"{path}: base")
    return Study(str(values.get("name") or path.stem), title, (section,), base, seeds=seeds)


def _load(path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"--grid: found no file {path}.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: found no YAML that can be read: {reason}") from error


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: found {type(value).__name__}, expected names with values.")
    return {str(name): each for name, each in value.items()}


def _setting(name: str, where: str) -> str:
    """Return the field that a setting's name means."""
    dashed = name.replace("_", "-")
    check_choice("setting", dashed, tuple(SETTINGS), flag=where)
    return SETTINGS[dashed]


def _settings(values: Any, where: str) -> dict[str, Any]:
    """Return settings as fields and checked values."""
    return {
        _setting(name, where): _value(name, value, f"{where}.{name}")
        for name, value in _mapping(values or {}, where).items()
    }


def _value(name: str, value: Any, where: str) -> Any:
    """Return a setting's value if its field can have it."""
    field = _setting(name, where)
    found = _typed(value, HINTS[field], where)
    check_option(where, OPTIONS[field], found)
    return found


def _typed(value: Any, hint: Any, where: str) -> Any:
    """Return a value as the type `hint` has it: a number as float, a list as tuple."""
    kinds = typing.get_args(hint) or (hint,)
    if typing.get_origin(hint) is tuple:
        many = value if isinstance(value, list) else [value]
        if not all(isinstance(each, str) for each in many):
            raise ConfigError(f"{where}: found {value!r}, expected a list of texts.")
        return tuple(many)
    if float in kinds and type(value) is int:
        return float(value)
    if not fits(hint, value):
        wanted = " or ".join(KINDS[kind] for kind in kinds if kind in KINDS)
        raise ConfigError(f"{where}: found {value!r}, expected {wanted}.")
    return value


def _axis(choices: Any, name: str, where: str) -> list[Any]:
    if not isinstance(choices, list) or not choices:
        raise ConfigError(f"{where}: found {choices!r}, expected a list of values.")
    found = [_value(name, choice, where) for choice in choices]
    if len(set(found)) < len(found):
        raise ConfigError(f"{where}: found a value twice in {choices!r}.")
    return found


def _check_size(path: Path, axes: Mapping[str, list[Any]], named: int, seeds: int) -> None:
    product = math.prod(len(choices) for choices in axes.values()) if axes else 0
    runs = (product + named) * seeds
    if runs > MOST_RUNS:
        raise ConfigError(
            f"{path}: found {runs:,} runs ({product:,} combinations of axes, {named} rows, "
            f"{seeds} seeds), expected {MOST_RUNS:,} at most."
        )
    if not runs:
        raise ConfigError(f"{path}: found neither axes nor rows, expected one of them.")


def _excluded(each: Any, axes: Mapping[str, list[Any]], where: str) -> dict[str, Any]:
    found = _settings(each, where)
    for name, value in found.items():
        if value not in axes.get(name, ()):
            raise ConfigError(f"{where}: found {name} {value!r}, which no axis has.")
    return found


def _combinations(axes: Mapping[str, list[Any]], excluded: list[dict[str, Any]]) -> Iterator[Row]:
    if not axes:
        return
    for values in itertools.product(*axes.values()):
        found = dict(zip(axes, values, strict=True))
        if any(each.items() <= found.items() for each in excluded):
            continue
        name = "-".join(f"{_plain(name)}-{_plain(value)}" for name, value in found.items())
        yield Row(name, "grid", found, axes=found)


def _plain(value: Any) -> str:
    """Return a value as part of a plain name."""
    if isinstance(value, bool):
        return "on" if value else "off"
    text = "+".join(map(str, value)) or "none" if isinstance(value, tuple) else f"{value}"
    if isinstance(value, float):
        text = f"{value:g}"
    return re.sub(r"[^A-Za-z0-9.+]", "-", text)


def _check_names(path: Path, rows: list[Row], reference: str | None) -> None:
    names = [row.name for row in rows]
    for number, name in enumerate(names):
        if not PLAIN.fullmatch(name) or len(name) > 200:
            raise ConfigError(f"{path}: found the row {name!r}, expected letters, digits and -._+")
        if name in names[:number]:
            raise ConfigError(f"{path}: found the row {name!r} twice.")
    if reference is not None:
        check_choice("row", reference, tuple(names), flag=f"{path}: reference")
