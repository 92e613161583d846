"""Settings of a network that stand beside its weights, read as data.

The TensorFlow release writes its options as `Namespace(gcn='edgeconv', …)` into the first line of
`log_train.txt` beside the checkpoints, and evaluates that line to build the network again. Here
only its literals are read. Our own exports under published names hold the configuration as JSON.
"""

from __future__ import annotations

import ast
import json
import re
import reprlib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from pipelines.config import POINTS, ModelConfig
from pipelines.config.model import Hints
from pipelines.errors import ConfigError, WeightsError
from pipelines.serialization import from_plain, to_plain

LOG = "log_train.txt"
LONGEST_LINE = 1 << 16
CONFIG = "deepgcn_config"  # the metadata of our exports that holds the configuration
OPTIONS: dict[str, tuple[Any, tuple[type, ...]]] = {  # of the log: the release's default, types
    "gcn": ("", (str,)),
    "edge_lay": ("dilated", (str,)),
    "skip_connect": ("", (str,)),
    "num_neighbors": ([], (list,)),  # of int
    "dilations": ([-1], (list,)),  # of int
    "stochastic_dilation": (False, (bool,)),
    "sto_dilated_epsilon": (0.2, (float, int)),
    "num_points": (None, (int, type(None))),
    "normalize_sage": (False, (bool,)),
    "zero_epsilon_gin": (False, (bool,)),
}
SKIPS = {"residual": "resgcn", "dense": "densegcn", "none": "plaingcn"}


def read_log(path: Path) -> Hints:
    """Return the settings in the first line of `log_train.txt`."""
    with path.open(encoding="utf-8", errors="replace") as opened:
        found = literals(opened.readline(LONGEST_LINE))
    if not found:
        return Hints()
    options = {name: _option(path, name, found) for name in OPTIONS}
    neighbors, dilations = options["num_neighbors"], options["dilations"]
    if len(set(neighbors)) > 1:
        raise WeightsError(
            f"{path}: found num_neighbors {neighbors}, expected the same for every layer."
        )
    dilated = options["edge_lay"] == "dilated"
    if dilated and dilations[:1] != [-1] and set(dilations) != {1}:
        raise WeightsError(
            f"{path}: found dilations {dilations}, expected 1, 1, 2, 3, … ([-1]) or none."
        )
    dilated = dilated and set(dilations) != {1}
    stochastic = dilated and options["stochastic_dilation"]
    try:
        return Hints(
            k=neighbors[0] if neighbors else None,
            conv=_conv(options),
            arch=SKIPS.get(options["skip_connect"]),
            knn="dynamic",
            dilation=dilated,
            epsilon=float(options["sto_dilated_epsilon"]) if stochastic else 0.0,
            num_points=options["num_points"],
        )
    except ConfigError as error:
        raise WeightsError(f"{path}: {error}") from error


def _option(path: Path, name: str, found: Mapping[str, Any]) -> Any:
    """Return an option of the log, or its default; refuse another type than the release writes."""
    default, types = OPTIONS[name]
    value = found.get(name, default)
    if type(value) not in types or (isinstance(value, list) and {*map(type, value)} - {int}):
        raise WeightsError(
            f"{path}: found {name} {reprlib.repr(value)}, expected the release's "
            f"{types[0].__name__}."
        )
    return value


def _conv(options: Mapping[str, Any]) -> str | None:
    sage = "sage-n" if options["normalize_sage"] else "sage"
    gin = "gin-0" if options["zero_epsilon_gin"] else "gin"
    names = {"edgeconv": "edge", "mrgcn": "mr", "graphsage": sage, "gin": gin}
    return names.get(options["gcn"])


def literals(line: str) -> dict[str, Any]:
    """Return the keywords of a line such as a `Namespace`; an empty dictionary of any other line.

    >>> literals("Namespace(gcn='edgeconv', num_neighbors=[16])")
    {'gcn': 'edgeconv', 'num_neighbors': [16]}
    """
    try:
        call = ast.parse(line.strip(), mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            return {}
        return {item.arg: ast.literal_eval(item.value) for item in call.keywords if item.arg}
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}


def config_metadata(config: ModelConfig) -> dict[str, str]:
    """Return the metadata with the configuration in an export under published names."""
    return {CONFIG: json.dumps(to_plain(config))}


def read_config(metadata: Mapping[str, str]) -> Hints:
    """Return the settings of `config_metadata`; no hints if there are none."""
    if CONFIG not in metadata:
        return Hints()
    try:
        config, num_points = parse_config(metadata, CONFIG)
    except ConfigError as error:
        raise WeightsError(f"its {CONFIG} is damaged: {error}") from error
    names = (field.name for field in fields(Hints) if hasattr(config, field.name))
    return Hints(**{name: getattr(config, name) for name in names}, num_points=num_points)


def parse_config(metadata: Mapping[str, str], key: str) -> tuple[ModelConfig, int | None]:
    """Return the configuration that metadata holds as JSON, and the points of a block in training.

    Raises:
        ConfigError: the text is no configuration, or no block can have as many points.
    """
    try:
        values = json.loads(metadata.get(key, ""))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"found no JSON ({error}).") from error
    config: ModelConfig = from_plain(ModelConfig, values)
    text = metadata.get("num_points")
    if text is None:
        return config, None
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise ConfigError(f"num_points: found {reprlib.repr(text)}, expected a number of points.")
    POINTS.check("num_points", int(text))
    return config, int(text)
