"""Configurations and results as plain values for JSON, and configurations back from them."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import Any

from .errors import ConfigError, did_you_mean


def to_plain(config: Any) -> Any:
    """Return a configuration or result as JSON-ready values; `from_plain` turns the first back."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, Path):
            return str(value)
        if isinstance(value, (tuple, list)):
            return [plain(item) for item in value]
        if isinstance(value, dict):
            return {name: plain(item) for name, item in value.items()}
        return value

    return plain(config)


def from_plain(cls: type, values: dict[str, Any]) -> Any:
    """Build the configuration `cls` from what `to_plain` gave.

    Raises:
        ConfigError: a value's name is not a field of `cls`, or a check fails.
    """
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ConfigError(
            f"{cls.__name__}: found the unknown setting {unknown[0]!r}."
            + did_you_mean(unknown[0], hints)
        )
    return cls(**{name: _typed(hints[name], value) for name, value in values.items()})


def _typed(hint: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, dict):
        return from_plain(hint, value)
    if value is not None and Path in (hint, *typing.get_args(hint)):
        return tuple(Path(v) for v in value) if isinstance(value, list) else Path(value)
    return tuple(value) if isinstance(value, list) else value
