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
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines.config.options import check_choice
from pipelines.config.settings import setting_field, setting_value
from pipelines.documents import read_yaml, shown
from pipelines.errors import ConfigError
from pipelines.progress import counted

from . import TITLE, Row, Section, Study

MOST_RUNS = 10_000
MOST_COMPARISONS = 1_000_000  # of a combination with what is to be left out
KEYS = ("name", "title", "base", "axes", "rows", "exclude", "reference", "seeds")
PLAIN = re.compile(r"[^\W_][\w.+-]*")
LONGEST = 200  # bytes of a row's name, which is part of names of files


def read_grid(path: Path) -> Study:
    """Return the study that a file describes; raise ConfigError with the place of what is wrong."""
    values = _mapping(read_yaml(path, "--grid"), f"{path}")
    for name in values:
        check_choice("key", name, KEYS, flag=f"{path}")
    named = _mapping(values.get("rows") or {}, f"{path}: rows")
    axes: dict[str, list[Any]] = {}
    for name, choices in _mapping(values.get("axes") or {}, f"{path}: axes").items():
        field = _new_field(name, axes, f"{path}: axes")
        axes[field] = _choices(field, choices, f"{path}: axes.{name}")
    seeds = values.get("seeds", 1)
    if type(seeds) is not int or seeds < 1:
        raise ConfigError(f"{path}: seeds: found {shown(seeds)}, expected a whole number from 1.")
    exclude = values.get("exclude") or []
    if not isinstance(exclude, list):
        raise ConfigError(f"{path}: exclude: found {shown(exclude)}, expected a list.")
    _check_size(path, axes, len(named), seeds, len(exclude))
    excluded = [_settings(e, f"{path}: exclude {n}", axes) for n, e in enumerate(exclude, start=1)]
    rows = list(_combinations(axes, excluded)) if axes else []
    rows += [Row(n, "named", _settings(each, f"{path}: rows.{n}")) for n, each in named.items()]
    reference = None if values.get("reference") is None else str(values["reference"])
    _check_names(path, rows, reference)
    name = str(values.get("name") or path.stem)
    title = str(values.get("title") or name)
    section = Section(TITLE, tuple(rows), reference)
    base = _settings(values.get("base"), f"{path}: base")
    return Study(name, title, (section,), base, seeds=seeds)


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: found {type(value).__name__}, expected names with values.")
    return {str(name): each for name, each in value.items()}


def _settings(
    values: Any, where: str, axes: Mapping[str, list[Any]] | None = None
) -> dict[str, Any]:
    """Return settings as fields and checked values; with `axes`, only values of theirs."""
    found: dict[str, Any] = {}
    for name, value in _mapping(values or {}, where).items():
        field = _new_field(name, found, where)
        found[field] = setting_value(field, value, f"{where}.{name}")
        if axes is not None and found[field] not in axes.get(field, ()):
            raise ConfigError(f"{where}: found {field} {shown(found[field])}, which no axis has.")
    return found


def _new_field(name: str, before: Collection[str], where: str) -> str:
    """Return the field of a setting's name; raise ConfigError if another name has set it before."""
    field = setting_field(name, where)
    if field in before:
        raise ConfigError(f"{where}: found {field} twice, the second time as {name!r}.")
    return field


def _choices(field: str, choices: Any, where: str) -> list[Any]:
    """Return the checked values of an axis."""
    if not isinstance(choices, list) or not choices:
        raise ConfigError(f"{where}: found {shown(choices)}, expected a list of values.")
    found = [setting_value(field, choice, where) for choice in choices]
    if len(set(found)) < len(found):
        raise ConfigError(f"{where}: found a value twice in {shown(choices)}.")
    return found


def _check_size(
    path: Path, axes: Mapping[str, list[Any]], named: int, seeds: int, excluded: int
) -> None:
    product = math.prod(map(len, axes.values())) if axes else 0
    runs = (product + named) * seeds
    if runs > MOST_RUNS:
        raise ConfigError(
            f"{path}: found {runs:,} runs ({product:,} combinations of axes, "
            f"{counted(named, 'row')}, {counted(seeds, 'seed')}), expected {MOST_RUNS:,} at most."
        )
    if excluded * product > MOST_COMPARISONS:
        raise ConfigError(
            f"{path}: exclude: found {excluded:,} entries for {product:,} combinations, expected "
            f"{MOST_COMPARISONS // product:,} at most.\nName the axes in common in fewer entries."
        )
    if not runs:
        raise ConfigError(f"{path}: found neither axes nor rows, expected one of them.")


def _combinations(axes: Mapping[str, list[Any]], excluded: list[dict[str, Any]]) -> Iterator[Row]:
    for values in itertools.product(*axes.values()):
        found = dict(zip(axes, values, strict=True))
        if not any(each.items() <= found.items() for each in excluded):
            name = "-".join(f"{_plain(name)}-{_plain(value)}" for name, value in found.items())
            yield Row(name, "grid", found, axes=found)


def _plain(value: Any) -> str:
    """Return a value as part of a plain name."""
    if isinstance(value, bool):
        return "on" if value else "off"
    text = f"{value:g}" if isinstance(value, float) else f"{value}"
    if isinstance(value, tuple):
        text = "+".join(value) or "none"
    return re.sub(r"[^A-Za-z0-9.+]", "-", text)


def _check_names(path: Path, rows: list[Row], reference: str | None) -> None:
    names: set[str] = set()
    for name in (row.name for row in rows):
        if not PLAIN.fullmatch(name) or len(name.encode()) > LONGEST:
            raise ConfigError(
                f"{path}: found the row {name[:60]!r}, expected a letter or digit, then letters, "
                f"digits and -._+, at most {LONGEST} bytes in all."
            )
        if name in names:
            raise ConfigError(f"{path}: found the row {name!r} twice.")
        names.add(name)
    if reference is not None:
        check_choice("row", reference, tuple(names), flag=f"{path}: reference")
