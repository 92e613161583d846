"""The options of `deepgcn train` as settings in files: grids of studies, plans."""

from __future__ import annotations

import typing
from typing import Any

from pipelines.documents import shown
from pipelines.errors import ConfigError
from pipelines.serialization import fits

from . import ModelConfig, TrainConfig
from .options import DATA, PLACE, check_choice, check_option, flag_of, options_of

# Names, as typed without the dashes in front, and the fields that they set. Who reads such a file
# has its own rooms, files and seeds.
SETTINGS = {
    flag_of(name, option).lstrip("-"): name
    for config in (ModelConfig, TrainConfig)
    for name, option in options_of(config, "train").items()
    if option.shapes not in (PLACE, DATA) and name not in ("seed", "synth_workers")
}
OPTIONS = {**options_of(ModelConfig), **options_of(TrainConfig)}
HINTS = {**typing.get_type_hints(ModelConfig), **typing.get_type_hints(TrainConfig)}
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def setting_field(name: str, where: str) -> str:
    """Return the field that a setting's name means; ConfigError, with the nearest name: none.

    >>> setting_field("batch-size", "grid.yaml")
    'batch_size'
    """
    dashed = name.replace("_", "-")
    check_choice("setting", dashed, tuple(SETTINGS), flag=where)
    return SETTINGS[dashed]


def setting_value(field: str, value: Any, where: str) -> Any:
    """Convert a plain value to its field's type; ConfigError, naming `where`: it cannot be that.

    >>> setting_value("lr", 1, "grid.yaml")
    1.0
    """
    hint = HINTS[field]
    kinds = typing.get_args(hint) or (hint,)
    if typing.get_origin(hint) is tuple:
        many = value if isinstance(value, (list, tuple)) else [value]
        if not all(isinstance(each, str) for each in many):
            raise ConfigError(f"{where}: found {shown(value)}, expected a list of texts.")
        value = tuple(many)
    elif not fits(hint, value):
        wanted = " or ".join(KINDS[kind] for kind in kinds if kind in KINDS)
        raise ConfigError(f"{where}: found {shown(value)}, expected {wanted}.")
    elif float in kinds and type(value) is int:
        value = float(value)
    check_option(where, OPTIONS[field], value)
    return value
