"""Configurations and results as plain values, for JSON and CSV; configurations back from them."""

from __future__ import annotations

import dataclasses
import functools
import reprlib
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import ConfigError, did_you_mean

FORMULA = ("=", "+", "-", "@", "\t", "\n")  # what a cell may not begin with


def to_plain(value: Any) -> Any:
    """Return a configuration or result as JSON-ready values; `from_plain` turns the first back.

    >>> from pipelines.config import SynthConfig
    >>> to_plain(SynthConfig(Path("raw"), areas=1))["out"]
    'raw'
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (tuple, list)):
        return [to_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: to_plain(item) for name, item in value.items()}
    return value


def csv_cell(value: Any) -> Any:
    """Return a value for a CSV file: a text that is a formula to spreadsheets begins with ', then.

    A name from a file could otherwise run a command on the machine of whoever opens the table.

    >>> csv_cell("=cmd|' /C calc'!A0"), csv_cell("wall"), csv_cell(-1.5)
    ("'=cmd|' /C calc'!A0", 'wall', -1.5)
    """
    if not isinstance(value, str):
        return value
    text = value.replace("\r\n", "\n").replace("\r", "\n")  # a bare one would begin a row
    return f"'{text}" if text.startswith(FORMULA) else text


def from_plain(cls: type, values: Any) -> Any:
    """Build the configuration `cls` from what `to_plain` gave.

    >>> from pipelines.config import SynthConfig
    >>> from_plain(SynthConfig, {"out": "raw", "areas": 1}).out.name
    'raw'

    Raises:
        ConfigError: a value's name is not a field of `cls`, its type is not the field's, or a
            check fails.
    """
    if not isinstance(values, dict):
        found = reprlib.repr(values)
        raise ConfigError(f"{cls.__name__}: found {found}, expected its settings by name.")
    hints = _hints(cls)
    if unknown := sorted(set(values) - set(hints)):
        close = did_you_mean(unknown[0], hints)
        raise ConfigError(f"{cls.__name__}: found the unknown setting {unknown[0]!r}.{close}")
    typed = {name: _typed(name, hints[name], value) for name, value in values.items()}
    return cls.from_saved(typed) if hasattr(cls, "from_saved") else cls(**typed)


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    # Evaluating them takes a millisecond; an index of runs reads thousands of configurations.
    return typing.get_type_hints(cls)


def fits(hint: Any, value: Any) -> bool:
    """Return whether a plain value is of the type `hint`; a number must fit into a float.

    >>> fits(int | None, 3), fits(int, True), fits(tuple[str, ...], ["a", "b"])
    (True, False, True)
    """
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(fits(each, value) for each in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return isinstance(value, list) and all(fits(typing.get_args(hint)[0], v) for v in value)
    if hint is Any or dataclasses.is_dataclass(hint):
        return True  # what a dataclass takes is checked when it is built
    if typing.get_origin(hint) is Mapping:
        return isinstance(value, dict)
    if type(value) is int and abs(value) > sys.float_info.max:
        return False
    kinds = {Path: (str,), float: (float, int)}.get(hint, (hint,))
    return type(value) in kinds  # True is an int to Python, not to a user


def _typed(name: str, hint: Any, value: Any) -> Any:
    """Convert the setting `name` to its field's type: tuples and paths from lists and strings."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_plain(hint, value)
    if not fits(hint, value):
        wanted = hint.__name__ if isinstance(hint, type) else str(hint)
        raise ConfigError(f"{name}: found {reprlib.repr(value)}, expected {wanted}.")
    kinds = [kind for kind in typing.get_args(hint) if dataclasses.is_dataclass(kind)]
    if kinds and value is not None:  # several of a dataclass, or an optional one
        cls = typing.cast("type", kinds[0])
        many = isinstance(value, list)
        return tuple(from_plain(cls, one) for one in value) if many else from_plain(cls, value)
    paths = Path in (hint, *typing.get_args(hint))
    if isinstance(value, list):
        return tuple(Path(each) if paths else each for each in value)
    return Path(value) if paths and isinstance(value, str) else value
