"""The earlier place of `from_reference`, so that code that imports it from here still runs."""

from __future__ import annotations

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    """Import it when it is first used: `pipelines.weights` builds on the model."""
    if name == "from_reference":
        return importlib.import_module("pipelines.weights.published").from_reference
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
