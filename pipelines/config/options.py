"""What a field of a configuration carries beside its default (standard library only).

The options of `deepgcn`, the checks, the settings of `ablate --grid` and what may change when a
run is resumed all follow from this.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from pipelines.errors import ConfigError, did_you_mean

# What a setting of a training shapes, and so whether it may change when a run is resumed.
RESULT = "result"  # the weights that come out: never
LENGTH = "length"  # how long it trains: yes, unless the learning rate follows from the length
PROCESSES = "processes"  # the batch that each one normalises: yes, with synchronised batch norm
MEMORY = "memory"  # how a step fits into memory: no, but trainings may differ in it alone
RECIPE = "recipe"  # the recipe's parts, which are compared instead of it
SPEED = "speed"  # how fast and where it is computed, and who is notified: yes
PLACE = "place"  # where its files are: yes
DATA = "data"  # which rooms it is about: never, and a study has its own


@dataclass(frozen=True)
class Bounds:
    """The numbers that a value can be."""

    least: float
    most: float | None = None
    unit: str = "a number"
    exclusive: bool = False  # whether `least` and `most` themselves are out of bounds
    step: float | None = None  # of which it is a multiple
    or_zero: bool = False  # whether it can also be 0, below `least`

    def check(self, flag: str, value: float) -> None:
        """Raise ConfigError, naming the option, unless `value` is within the bounds."""
        if self.or_zero and value == 0:
            return
        inside = value >= self.least and (self.most is None or value <= self.most)
        between = inside and self.step is not None and value % self.step != 0
        if not inside or between or (self.exclusive and value in (self.least, self.most)):
            raise ConfigError(f"{flag}: found {value:,}, expected {self}.")

    def __str__(self) -> str:
        if self.exclusive:
            above = f"{self.unit} above {self.least}"
            return above if self.most is None else f"{above} and below {self.most}"
        if self.most is None:
            return f"at least {self.least}"
        steps = "" if self.step is None else f" in steps of {self.step}"
        zero = "0, or " if self.or_zero else ""
        return f"{zero}{self.unit} from {self.least} to {self.most:,}{steps}"


COUNT = Bounds(1)
FRACTION = Bounds(0, 1)


@dataclass(frozen=True)
class Option:
    """The option of a field, and the values that the field takes."""

    help: str  # what it does; `{}` stands for the choices
    metavar: str | None = None  # what its value is called in the help; None: as its type is
    flag: str | None = None  # how it is typed; None: as the field is called; "": an argument
    choices: tuple[str, ...] = ()  # what a text, or each text of several, can be
    own_class: bool = False  # whether it can be a class of the user's own, "package.module:Class"
    noun: str | None = None  # what messages call a choice; None: what the option is called
    within: Bounds | None = None  # the numbers that it can be
    shapes: str = RESULT  # what the setting shapes: RESULT, LENGTH, …
    commands: tuple[str, ...] | None = None  # those that have it; None: all that take the class


def option(default: Any, help: str, metavar: str | None = None, **about: Any) -> Any:
    """Return a dataclass field that is an option; `about` has further fields of `Option`."""
    metadata = {"option": Option(help, metavar, **about)}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def options_of(config: Any, command: str | None = None) -> dict[str, Option]:
    """Return the options of a configuration's fields; of `command` alone, if one is named."""
    found = {field.name: field.metadata.get("option") for field in dataclasses.fields(config)}
    return {
        name: option
        for name, option in found.items()
        if option and (command is None or option.commands is None or command in option.commands)
    }


def flag_of(name: str, option: Option) -> str:
    """Return the option of a field as it is typed, such as "--batch-size"."""
    return option.flag.partition("/")[0] if option.flag else f"--{name.replace('_', '-')}"


def check_options(config: Any) -> None:
    """Raise ConfigError unless the fields' values are among their choices or within bounds."""
    for name, option in options_of(config).items():
        check_option(flag_of(name, option), option, getattr(config, name))


def check_option(flag: str, option: Option, value: Any) -> None:
    """Raise ConfigError, naming the option as `flag`, unless it can be `value`; None: not given."""
    if value is None:
        return
    if option.within:
        option.within.check(flag, value)
    noun = option.noun or flag.strip("-")
    for each in value if isinstance(value, tuple) else (value,):
        # A list has nothing but such classes. Nothing is imported.
        if option.own_class and (":" in each or isinstance(value, tuple)):
            module, _, name = each.partition(":")
            if not all(part.isidentifier() for part in (*module.split("."), name)):
                raise ConfigError(
                    f"{flag}: found {each!r}, expected the form package.module:Class."
                )
        elif option.choices:
            check_choice(noun, each, option.choices, flag=flag)


def check_choice(noun: str, value: str, choices: tuple[str, ...], *, flag: str) -> None:
    """Raise ConfigError, with the nearest choice, unless `value` is one of `choices`."""
    if value not in choices:
        raise ConfigError(
            f"{flag}: found the unknown {noun} {value!r}.{did_you_mean(value, choices)}\n"
            f"Expected one of: {', '.join(choices)}."
        )
