"""From the settings of a plan, by field, to the configuration of its training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.config import ModelConfig, TrainConfig
from pipelines.training.start import start_config

from .choices import MODEL, NOTHING
from .file import Plan


def planned_config(made: Plan, given: Mapping[str, Any]) -> TrainConfig:
    """Return the training of a plan; `given` has options by field that a plan has not."""
    own = {"data": Path(made.data.path), "test_area": made.data.test_area}
    return training({**own, **given, **made.settings})


def training(settings: Mapping[str, Any]) -> TrainConfig:
    """Return the training of settings by field; weights of "none" are none."""
    model = {name: value for name, value in settings.items() if name in MODEL}
    own = {name: value for name, value in settings.items() if name not in MODEL}
    if (named := own.pop("weights", None)) not in (None, NOTHING):
        return start_config(named, model, own)
    arch = {"arch": ModelConfig.arch}
    return TrainConfig(model=ModelConfig.published(**{**arch, **model}), **own)
