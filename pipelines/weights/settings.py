"""Settings of a training that stand beside its weights, read as data.

The TensorFlow release writes its options as `Namespace(gcn='edgeconv', …)` into the first line of
`log_train.txt` beside the checkpoints, and evaluates that line to build the network again. Here
only the literals in it are read.
"""

from __future__ import annotations

import ast
import json
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.config import ModelConfig
from pipelines.errors import ConfigError, WeightsError
from pipelines.serialization import to_plain

from .published import Untold
from .safetensors import parse_config, parse_num_points

LOG = "log_train.txt"
LONGEST_LINE = 1 << 16
CONFIG = "deepgcn_config"  # where an export under published names keeps the configuration
LOG_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("gcn", "edge_lay", "skip_connect"), (str,)),
    **dict.fromkeys(("num_neighbors", "dilations"), (list,)),  # of int
    "sto_dilated_epsilon": (float, int),
    "num_points": (int,),
}
ARCHS = {"residual": "resgcn", "dense": "densegcn", "none": "plaingcn"}


def read_log(path: Path) -> Untold:
    """Return what the first line of `log_train.txt` tells of the network.

    Raises:
        WeightsError: it tells of a network that is not of the published kinds.
    """
    with path.open(encoding="utf-8", errors="replace") as opened:
        options = literals(opened.readline(LONGEST_LINE))
    if not options:
        return Untold()
    _check_kinds(path, options)
    dilated = options.get("edge_lay", "dilated") == "dilated"
    dilations = options.get("dilations", [-1])
    if dilated and dilations[:1] != [-1] and set(dilations) != {1}:
        raise WeightsError(
            f"{path}: found dilations {dilations}, expected 1, 1, 2, 3, … ([-1]) or none."
        )
    dilated = dilated and set(dilations) != {1}
    stochastic = dilated and options.get("stochastic_dilation", False)
    try:
        return Untold(
            k=_same(path, "num_neighbors", options),
            conv=_conv(options),
            arch=ARCHS.get(options.get("skip_connect", "")),
            knn="dynamic",
            dilation=dilated,
            epsilon=float(options.get("sto_dilated_epsilon", 0.2)) if stochastic else 0.0,
            num_points=options.get("num_points"),
        )
    except ConfigError as error:
        raise WeightsError(f"{path}: {error}") from error


def _check_kinds(path: Path, options: Mapping[str, Any]) -> None:
    """Refuse options of other types than the release writes."""
    for name, kinds in LOG_KINDS.items():
        value = options.get(name)
        right = name not in options or type(value) in kinds
        if not right or (isinstance(value, list) and {*map(type, value)} - {int}):
            raise WeightsError(
                f"{path}: found {name} {reprlib.repr(value)}, expected the release's "
                f"{' or '.join(kind.__name__ for kind in kinds)}."
            )


def _conv(options: Mapping[str, Any]) -> str | None:
    sage = "sage-n" if options.get("normalize_sage") else "sage"
    gin = "gin-0" if options.get("zero_epsilon_gin") else "gin"
    names = {"edgeconv": "edge", "mrgcn": "mr", "graphsage": sage, "gin": gin}
    return names.get(options.get("gcn", ""))


def _same(path: Path, name: str, options: Mapping[str, Any]) -> int | None:
    """Return the one value of an option that may differ between layers."""
    values = options.get(name, [])
    if len(set(values)) > 1:
        raise WeightsError(f"{path}: found {name} {values}, expected the same for every layer.")
    return values[0] if values else None


def literals(line: str) -> dict[str, Any]:
    """Return the keywords of a line like `Namespace(a=1, b='x')`; none if it is none."""
    try:
        call = ast.parse(line.strip(), mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            return {}
        return {item.arg: ast.literal_eval(item.value) for item in call.keywords if item.arg}
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}


def config_facts(config: ModelConfig) -> dict[str, str]:
    """Return what an export under published names keeps of the configuration."""
    return {CONFIG: json.dumps(to_plain(config))}


def read_facts(facts: Mapping[str, str]) -> Untold:
    """Return what `config_facts` kept; nothing where there is none.

    Raises:
        WeightsError: what is there is damaged.
    """
    if CONFIG not in facts:
        return Untold()
    try:
        config, num_points = parse_config(facts[CONFIG]), parse_num_points(facts)
    except ConfigError as error:
        raise WeightsError(f"its {CONFIG} is damaged: {error}") from error
    names = ("k", "conv", "arch", "layout", "knn", "dilation", "epsilon")
    return Untold(**{name: getattr(config, name) for name in names}, num_points=num_points)
