"""The options that are chosen, each with its reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.config import ModelConfig
from pipelines.config.options import options_of
from pipelines.config.settings import SETTINGS

GIVEN = "given"
NAMES = {field: name for name, field in SETTINGS.items()}
MODEL = tuple(options_of(ModelConfig))  # fields of the network
PARTS = ("without", "extra")  # of the recipe: what is given adds to what is chosen
NOTHING = "none"  # instead of weights: the training starts from nothing


@dataclass(frozen=True)
class Choice:
    """An option of a training, named as it is typed but for the dashes, and why it has its value.

    Several values of a repeatable option are a tuple.
    """

    option: str
    value: Any
    reason: str

    @property
    def field(self) -> str:
        """The field of TrainConfig or ModelConfig that it sets."""
        return SETTINGS[self.option]


class Choices:
    """The choices so far; an option that was given is not chosen.

    >>> choices = Choices({"depth": 7})
    >>> choices.make("depth", 28, "as published"), choices.make("k", 8, "a rule")
    (7, 8)
    >>> choices.made[0].reason
    'given'
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.given = given  # by field
        self._made: dict[str, Choice] = {}

    def make(self, field: str, value: Any, reason: str) -> Any:
        """Choose a value unless one was given; return the one that holds."""
        if field in self.given and field not in PARTS:
            value, reason = self.given[field], GIVEN
        self._made[field] = Choice(NAMES[field], value, reason)
        return value

    def forget(self, *fields: str) -> None:
        """Leave options open again, which may or may not be chosen anew."""
        for field in fields:
            self._made.pop(field, None)

    def get(self, field: str, default: Any = None) -> Any:
        """Return what was chosen or given, else `default`."""
        made = self._made.get(field)
        return self.given.get(field, default) if made is None else made.value

    @property
    def made(self) -> tuple[Choice, ...]:
        """All choices, in their order, and then what else was given."""
        rest = (field for field in self.given if field not in self._made and field in NAMES)
        return (*self._made.values(), *(Choice(NAMES[f], self.given[f], GIVEN) for f in rest))

    @property
    def settings(self) -> dict[str, Any]:
        """All values by field."""
        return {choice.field: choice.value for choice in self.made}

    def network(self, base: ModelConfig | None = None) -> ModelConfig:
        """Return the network of these settings; `base` has the others, None: as published."""
        own = {name: value for name, value in self.settings.items() if name in MODEL}
        if base is not None:
            return dataclasses.replace(base, **own)
        return ModelConfig.published(**{"arch": ModelConfig.arch, **own})
